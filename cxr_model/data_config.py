"""Settings of the films: where they come from, what they are called, how they are dealt out."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cxr_model.config_checks import STRICT, require, require_seed
from cxr_model.errors import ConfigError


def default_patterns() -> dict[str, list[str]]:
    """Folder-name patterns of the three default classes, in the order of the output units."""
    return {"normal": ["normal*"], "pneumonia": ["pneumonia*"], "covid": ["covid*"]}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    source: str = "phantom"
    """phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or s3://bucket/prefix."""
    size_px: int = 192
    """Side of the square that every film is resized to."""
    color: Literal["grey", "rgb"] = "grey"
    """Channels kept by the cache: one, or three for image sets whose colour carries meaning."""
    patient_pattern: str = r"^(\d{8})_\d{3}(?!\d)"
    """Regular expression on the file name whose first group is the patient; the default is
    the NIH rule (``00000061_012.jpg`` is patient 00000061). Empty: no patient rule."""
    series_pattern: str = (
        r"^(.{4,}?)(?:(?<=\d)[a-h]|[-_.](?!f\d)[a-h]\d?|[-_.]day[-_]?\d+|[-_.]\d+[-_.](?:days|hours)"
        r"|[-_.]admission)(?:[-_.](?:PA|AP))?\.\w+$"
    )
    """For films without a patient: file names of one folder whose first group is the same
    are of one series, and stay together (``case2a.jpg`` and ``case2b.jpg``, ``fig5-day0.png``
    and ``fig5-day4.png``). Empty: no series rule."""
    max_unreadable_fraction: float = 0.01
    """A run stops when more than this share of the films cannot be decoded."""
    max_extracted_gb: float = 50.0
    """Archives that would unpack to more are refused."""
    max_extracted_files: int = 500_000
    """Archives that hold more members are refused."""

    def __post_init__(self) -> None:
        require(bool(self.source), "data.source", self.source, "name a data source")
        require(32 <= self.size_px <= 1024, "data.size_px", self.size_px, "use 32 to 1024")
        require(
            0 <= self.max_unreadable_fraction <= 1,
            "data.max_unreadable_fraction",
            self.max_unreadable_fraction,
            "use 0 to 1",
        )
        for name in ("max_extracted_gb", "max_extracted_files"):
            value = getattr(self, name)
            require(value > 0, f"data.{name}", value, "use more than 0")
        for name in ("patient_pattern", "series_pattern"):
            pattern = getattr(self, name)
            try:
                num_groups = re.compile(pattern).groups
            except re.error as error:
                raise ConfigError(
                    f"data.{name}={pattern!r}: {error}; correct the expression"
                ) from error
            require(
                not pattern or num_groups >= 1,
                f"data.{name}",
                pattern,
                "put the part that is the same in parentheses",
            )


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """What the drawn data set holds, and which sins are planted in it on request."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    num_films: int = 600
    seed: int = 0
    films_per_patient: int = 1
    """Films that share a patient number in their NIH-style file name."""
    num_exact_duplicates: int = 0
    """Films written a second time, byte for byte, under another name."""
    num_near_duplicates: int = 0
    """Films written a second time after a small crop, gamma and re-encoding."""
    num_unreadable: int = 0
    """Files whose bytes are cut short or are no image at all."""
    num_wrong_labels: int = 0
    """Films that stand in the folder of another class."""
    marker_class: str = ""
    """Class whose films all carry a bright corner marker; empty: none."""

    def __post_init__(self) -> None:
        require_seed("phantom.seed", self.seed)
        require(
            self.marker_class in ("", *default_patterns()),
            "phantom.marker_class",
            self.marker_class,
            f"use one of {', '.join(default_patterns())}",
        )
        require(self.num_films >= 15, "phantom.num_films", self.num_films, "use at least 15")
        require(
            self.films_per_patient >= 1,
            "phantom.films_per_patient",
            self.films_per_patient,
            "use at least 1",
        )
        for name in ("exact_duplicates", "near_duplicates", "unreadable", "wrong_labels"):
            count = getattr(self, f"num_{name}")
            require(
                0 <= count <= self.num_films,
                f"phantom.num_{name}",
                count,
                f"use 0 to phantom.num_films ({self.num_films})",
            )


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    mode: Literal["patterns", "folders", "csv"] = "patterns"
    """``patterns``: folder names are matched; ``folders``: each folder is a class;
    ``csv``: a table names the films and their labels."""
    patterns: dict[str, list[str]] = field(default_factory=default_patterns)
    """Class name to shell-style patterns of folder names, case-insensitive."""
    ignore: list[str] = field(default_factory=lambda: ["mask*"])
    """Patterns of folder names whose files are no films (lesion masks, for one)."""
    csv: str = ""
    """For ``mode=csv``: the table's file, absolute or relative to the data's root."""
    path_column: str = "path"
    label_column: str = "label"
    separator: str = ""
    """In a table, what stands between the labels of a film of several classes (the NIH's: |);
    such films are left out."""
    drop: list[str] = field(default_factory=list)
    """Classes of a table or of folders that are left out; ``labels.CLASS=none`` adds one."""

    def __post_init__(self) -> None:
        if self.mode == "patterns":
            require(
                len(self.patterns) >= 2,
                "labels.patterns",
                sorted(self.patterns),
                "a classifier needs two classes or more",
            )
        require(
            self.mode != "csv" or bool(self.csv),
            "labels.csv",
            self.csv,
            "labels.mode=csv needs the table's file name",
        )
        require(
            self.mode == "csv" or not self.csv, "labels.csv", self.csv, "set labels.mode=csv too"
        )


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    validation_fraction: float = 0.2
    holdout_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed("split.seed", self.seed)
        for name in ("validation_fraction", "holdout_fraction"):
            value = getattr(self, name)
            require(0 < value < 1, f"split.{name}", value, "use a share between 0 and 1")
        require(
            self.validation_fraction + self.holdout_fraction < 1,
            "split.validation_fraction",
            self.validation_fraction,
            "validation and holdout together must leave films to train on",
        )
