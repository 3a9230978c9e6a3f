"""Settings of the films: where they come from, what they are called, how they are dealt out."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cxr_model.config_checks import STRICT, Bounds, Seed, check_bounds, require
from cxr_model.errors import ConfigError


def default_patterns() -> dict[str, list[str]]:
    """Folder-name patterns of the three default classes, in the order of the output units."""
    return {"normal": ["normal*"], "pneumonia": ["pneumonia*"], "covid": ["covid*"]}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    source: str = "phantom"
    """phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or s3://bucket/prefix."""
    size_px: Annotated[int, Bounds(least=32, most=1024)] = 192
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
    max_unreadable_fraction: Annotated[float, Bounds(least=0, most=1)] = 0.01
    """A run stops when more than this share of the films cannot be decoded."""
    max_extracted_gb: Annotated[float, Bounds(above=0)] = 50.0
    """Archives that would unpack to more are refused."""
    max_extracted_files: Annotated[int, Bounds(above=0)] = 500_000
    """Archives that hold more members are refused."""

    def __post_init__(self) -> None:
        check_bounds(self, "data")
        require(bool(self.source), "data.source", self.source, "name a data source")
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

    num_films: Annotated[int, Bounds(least=15)] = 600
    seed: Seed = 0
    films_per_patient: Annotated[int, Bounds(least=1)] = 1
    """Films that share a patient number in their NIH-style file name."""
    num_exact_duplicates: Annotated[int, Bounds(least=0)] = 0
    """Films written a second time, byte for byte, under another name."""
    num_near_duplicates: Annotated[int, Bounds(least=0)] = 0
    """Films written a second time after a small crop, gamma and re-encoding."""
    num_unreadable: Annotated[int, Bounds(least=0)] = 0
    """Files whose bytes are cut short or are no image at all."""
    num_wrong_labels: Annotated[int, Bounds(least=0)] = 0
    """Films that stand in the folder of another class."""
    marker_class: str = ""
    """Class whose films all carry a bright corner marker; empty: none."""

    def __post_init__(self) -> None:
        check_bounds(self, "phantom")
        require(
            self.marker_class in ("", *default_patterns()),
            "phantom.marker_class",
            self.marker_class,
            f"use one of {', '.join(default_patterns())}",
        )
        for name in ("exact_duplicates", "near_duplicates", "unreadable", "wrong_labels"):
            count = getattr(self, f"num_{name}")
            require(
                count <= self.num_films,
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

    validation_fraction: Annotated[float, Bounds(above=0, below=1)] = 0.2
    holdout_fraction: Annotated[float, Bounds(above=0, below=1)] = 0.2
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self, "split")
        require(
            self.validation_fraction + self.holdout_fraction < 1,
            "split.validation_fraction",
            self.validation_fraction,
            "validation and holdout together must leave films to train on",
        )
