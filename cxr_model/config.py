"""Every setting of a run: frozen dataclasses, checked once, and the presets that fill them.

Plain data, so that the same objects are the command line's settings, Prefect's typed
flow parameters and ``config.json``. Nothing here is handed to an ``nn.Module``.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from cxr_model.errors import ConfigError

# Read by pydantic where Prefect validates parameters; a plain dict, so that this module
# needs no pydantic. A mistyped key is then refused by its name, and the docstrings below
# the fields stand in the form of the Prefect UI.
STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}

NetworkName = Literal["cxresnet", "seed-resnet", "seed-convnet", "resnet18", "darkcovidnet"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)


def require(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise ``ConfigError`` that names setting and value, unless ``condition``."""
    if not condition:
        raise ConfigError(f"{name}={value!r}: {remedy}")


def require_seed(name: str, seed: int) -> None:
    """Raise ``ConfigError`` unless every generator takes ``seed``."""
    require(0 <= seed < 2**31, name, seed, "use 0 to 2147483647")


def default_patterns() -> dict[str, list[str]]:
    """Folder-name patterns of the three default classes, in the order of the output units."""
    return {"normal": ["normal*"], "pneumonia": ["pneumonia*"], "covid": ["covid*"]}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    source: str = "phantom"
    """phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or s3://bucket/prefix."""
    size_px: int = 256
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


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: NetworkName = "cxresnet"
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of the stem's two convolutions and of each stage of ``cxresnet``."""
    depths: tuple[int, ...] = (1, 1, 2)
    """Residual triples in each stage of ``cxresnet``."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        require(
            min(self.depths, default=0) >= 1,
            "network.depths",
            self.depths,
            "use at least one stage, and one block in each",
        )
        require(
            len(self.widths) == len(self.depths) + 2 and min(self.widths, default=0) >= 8,
            "network.widths",
            self.widths,
            "two widths of at least 8 for the stem and one for each entry of network.depths",
        )
        require(0 <= self.dropout < 1, "network.dropout", self.dropout, "use 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes a radiograph allows; each value is the largest one drawn."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    rotation_deg: float = 7.0
    scale: float = 0.1
    """Relative change of size."""
    shift: float = 0.05
    """Share of the side."""
    gamma: float = 0.2
    """Exponent is drawn from exp(-gamma) to exp(gamma)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of the grey range, drawn from 0 to this.
    Off: max pooling takes noise for grain, and clean films then look unlike training ones."""
    flip: bool = False
    """Left-right flip. It moves the heart to the other side: off."""

    def __post_init__(self) -> None:
        for name, largest in (
            ("rotation_deg", 45.0),
            ("scale", 0.5),
            ("shift", 0.5),
            ("gamma", 1.0),
            ("noise", 0.5),
        ):
            value = getattr(self, name)
            require(0 <= value <= largest, f"augment.{name}", value, f"use 0 to {largest}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    epochs: int = 40
    batch_size: int = 16
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    learning_rate: float = 2e-3
    """The peak of ``one-cycle``, or the rate of ``constant``."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    balance_classes: bool = True
    """Weight the loss by inverse class frequency in the training split."""
    ema_decay: float = 0.99
    """Decay per step of the averaged weights that are validated and kept; 0: none."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 autocast where the device computes it natively."""
    deterministic: bool = False
    """Only algorithms that give the same weights twice on one GPU; slower. A CPU always does."""
    num_devices: int = 1
    """Above 1: as many processes under torchrun, each with a share of every batch."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written after each epoch, and within one after as many minutes."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed("training.seed", self.seed)
        require(self.epochs >= 1, "training.epochs", self.epochs, "use at least 1")
        require(self.batch_size >= 2, "training.batch_size", self.batch_size, "use at least 2")
        require(
            0 < self.learning_rate < 10,
            "training.learning_rate",
            self.learning_rate,
            "use above 0, below 10",
        )
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "use >= 0")
        require(
            0 <= self.label_smoothing < 1,
            "training.label_smoothing",
            self.label_smoothing,
            "use 0 to below 1",
        )
        require(self.num_devices >= 1, "training.num_devices", self.num_devices, "use at least 1")
        require(
            self.checkpoint_minutes > 0,
            "training.checkpoint_minutes",
            self.checkpoint_minutes,
            "use more than 0",
        )
        require(0 <= self.ema_decay < 1, "training.ema_decay", self.ema_decay, "use 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    bootstrap_draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed("evaluate.seed", self.seed)
        require(
            self.bootstrap_draws >= 100,
            "evaluate.bootstrap_draws",
            self.bootstrap_draws,
            "use at least 100",
        )


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    methods: tuple[Literal["occlusion", "integrated-gradients", "grad-cam"], ...] = (
        "occlusion",
        "integrated-gradients",
        "grad-cam",
    )
    films_per_class: int = 2
    """Holdout films of each class drawn for the gallery."""
    num_mistakes: int = 4
    """Holdout films that are most confidently wrong."""
    occlusion_window_px: int = 45
    occlusion_stride_px: int = 9
    integrated_gradients_steps: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed("explain.seed", self.seed)
        require(bool(self.methods), "explain.methods", self.methods, "name at least one method")
        require(
            self.films_per_class >= 1,
            "explain.films_per_class",
            self.films_per_class,
            "use at least 1",
        )
        require(self.num_mistakes >= 0, "explain.num_mistakes", self.num_mistakes, "use >= 0")
        require(
            1 <= self.occlusion_stride_px <= self.occlusion_window_px,
            "explain.occlusion_stride_px",
            self.occlusion_stride_px,
            "use 1 to explain.occlusion_window_px",
        )
        require(
            self.integrated_gradients_steps >= 2,
            "explain.integrated_gradients_steps",
            self.integrated_gradients_steps,
            "use at least 2",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one run of the main job."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    preset: str = "standard"
    """Name of the preset the settings started from; kept for the record."""
    data: DataConfig = field(default_factory=DataConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)

    def __post_init__(self) -> None:
        require(
            self.explain.occlusion_window_px <= self.data.size_px,
            "explain.occlusion_window_px",
            self.explain.occlusion_window_px,
            f"use at most data.size_px ({self.data.size_px})",
        )
        require(
            self.data.size_px >> (len(self.network.depths) + 1) >= 1,
            "network.depths",
            self.network.depths,
            f"use fewer stages: films of {self.data.size_px} px cannot be halved so often",
        )
