"""Every setting of a run: frozen dataclasses, checked once; `presets` fill them.

Plain data, so that the same objects are the command line's settings, Prefect's typed
flow parameters and ``config.json``. Nothing here is handed to an ``nn.Module``.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from cxr_model.config_checks import STRICT, Bounds, Seed, check_bounds, require
from cxr_model.data_config import DataConfig, LabelConfig, PhantomConfig, SplitConfig
from cxr_model.evidence_config import (
    GateConfig,
    HygieneConfig,
    ReliabilityConfig,
    ShortcutConfig,
)

NetworkName = Literal["cxresnet", "seed-resnet", "seed-convnet", "resnet18", "darkcovidnet"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: NetworkName = "cxresnet"
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of the stem's two convolutions and of each stage of ``cxresnet``."""
    depths: tuple[int, ...] = (1, 1, 2)
    """Residual triples in each stage of ``cxresnet``."""
    dropout: Annotated[float, Bounds(least=0, below=1)] = 0.3
    """Before the last layer of ``cxresnet``."""

    def __post_init__(self) -> None:
        check_bounds(self, "network")
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


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes a radiograph allows; each value is the largest one drawn."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    rotation_deg: Annotated[float, Bounds(least=0, most=45)] = 7.0
    scale: Annotated[float, Bounds(least=0, most=0.5)] = 0.1
    """Relative change of size."""
    shift: Annotated[float, Bounds(least=0, most=0.5)] = 0.05
    """Share of the side."""
    gamma: Annotated[float, Bounds(least=0, most=1)] = 0.2
    """Exponent is drawn from exp(-gamma) to exp(gamma)."""
    noise: Annotated[float, Bounds(least=0, most=0.5)] = 0.0
    """Standard deviation of Gaussian noise, as a share of the grey range, drawn from 0 to this.
    Noise and smoothing change every second film only: max pooling takes noise for grain, and
    clean films are to look like some of training's. 0.03 and 1 keep grainy and blurred ones from
    being guessed; in short trainings they cost two points on clean ones (``docs/log.md``)."""
    smoothing: Annotated[float, Bounds(least=0, most=1)] = 0.0
    """Share, drawn from 0 to this, of a film smoothed over five pixels in the film trained on."""
    flip: bool = True
    """Left-right flip of every second film. It moves the heart to the other side, and yet it
    helps small sets measurably: 0.79 to 0.83 on 600 real films (``docs/log.md``)."""

    def __post_init__(self) -> None:
        check_bounds(self, "augment")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    epochs: Annotated[int, Bounds(least=1)] = 60
    batch_size: Annotated[int, Bounds(least=2)] = 16
    """Films in a batch at most. An epoch's films are dealt out evenly; a batch of one film does
    not occur: with 2 and an odd number of films one batch has three."""
    progressive: bool = True
    """Train at half the films' side for half of the epochs, at three quarters of it for the
    next quarter, then at their full size: half the time, and on real films accuracy within the
    noise of it (``docs/log.md``). Lesions told by their grain want the full size."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    learning_rate: Annotated[float, Bounds(above=0, below=10)] = 2e-3
    """The peak of ``one-cycle``, or the rate of ``constant``."""
    weight_decay: Annotated[float, Bounds(least=0)] = 0.05
    label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.1
    balance_classes: bool = True
    """Weight the loss by inverse class frequency in the training split."""
    ema_decay: Annotated[float, Bounds(least=0, below=1)] = 0.995
    """Decay per step of the averaged weights that are validated and kept; 0: none."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 autocast where the device computes it natively."""
    deterministic: bool = False
    """Only algorithms that give the same weights twice on one GPU; slower. A CPU always does."""
    num_devices: Annotated[int, Bounds(least=1)] = 1
    """Above 1: as many processes under torchrun, each with a share of every batch."""
    checkpoint_minutes: Annotated[float, Bounds(above=0)] = 5.0
    """A checkpoint is written after each epoch, and within one after as many minutes; of several
    processes at the next step of a multiple of eight."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self, "training")


WHERE_IT_TRAINS = ("device", "num_devices", "checkpoint_minutes", "precision")
"""Settings of `TrainingConfig` that may differ when a run goes on; the precision that comes of
them may not."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    bootstrap_draws: Annotated[int, Bounds(least=100)] = 2000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self, "evaluate")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    methods: tuple[
        Literal["occlusion", "integrated-gradients", "grad-cam", "gradient-shap"], ...
    ] = ("occlusion", "integrated-gradients", "grad-cam", "gradient-shap")
    films_per_class: Annotated[int, Bounds(least=1)] = 2
    """Holdout films of each class drawn for the gallery."""
    num_mistakes: Annotated[int, Bounds(least=0)] = 4
    """Holdout films that are most confidently wrong."""
    occlusion_window_px: Annotated[int, Bounds(least=1)] = 45
    occlusion_stride_px: Annotated[int, Bounds(least=1)] = 15
    integrated_gradients_steps: Annotated[int, Bounds(least=2)] = 20
    """Gauss-Legendre points for each of the noisy copies of a film."""
    checks: bool = True
    """Put every method to the test, and give its verdict beside its maps."""
    checked_films: Annotated[int, Bounds(least=4, most=256)] = 24
    """Holdout films that the tests are made on, drawn evenly from the classes."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self, "explain")
        require(bool(self.methods), "explain.methods", self.methods, "name at least one method")
        require(
            self.occlusion_stride_px <= self.occlusion_window_px,
            "explain.occlusion_stride_px",
            self.occlusion_stride_px,
            "use 1 to explain.occlusion_window_px",
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
    hygiene: HygieneConfig = field(default_factory=HygieneConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    shortcuts: ShortcutConfig = field(default_factory=ShortcutConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    gates: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        require(
            self.explain.occlusion_window_px <= self.data.size_px,
            "explain.occlusion_window_px",
            self.explain.occlusion_window_px,
            f"use at most data.size_px ({self.data.size_px})",
        )
        smallest_px = self.data.size_px // 2 if self.training.progressive else self.data.size_px
        require(
            smallest_px >= 32,
            "training.progressive",
            self.training.progressive,
            f"set it to false for films of {self.data.size_px} px: it halves them",
        )
        require(
            smallest_px >> (len(self.network.depths) + 1) >= 1,
            "network.depths",
            self.network.depths,
            f"use fewer stages: films of {smallest_px} px cannot be halved so often",
        )
