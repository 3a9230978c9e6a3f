"""Settings of what a run says against itself: hygiene, shortcuts, reliability, gates."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from cxr_model.config_checks import STRICT, Bounds, ModelNameOrEmpty, check_bounds, check_model_name

GateName = Literal["leakage", "shortcut", "calibration", "explanation"]


@dataclass(frozen=True, kw_only=True)
class HygieneConfig:
    """The look at the films before they are dealt out."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    near_duplicates: bool = True
    """Look for films that show the same picture in other pixels too, and keep them in one split
    as those of the same bytes or pixels always are."""


@dataclass(frozen=True, kw_only=True)
class ShortcutConfig:
    """The search for evidence outside the lungs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    audit: bool = True
    """Probe what tells the classes apart without the lungs."""
    retrain: bool = False
    """Train networks anew on masked films too: five trainings more."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig:
    """What the network's answers are worth, and inputs that are damaged or no radiographs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    answered_accuracy: Annotated[float, Bounds(above=0, below=1)] = 0.95
    """The network abstains from as few validation films as leaves this accuracy on the others,
    from half of them at most."""
    robustness: bool = True
    """Measure the holdout again under blur, noise, compression and so on."""
    outliers: bool = True
    """Fit the score that tells radiographs from other pictures, and measure it."""

    def __post_init__(self) -> None:
        check_bounds(self, "reliability")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Which verdicts end a run as failed, and keep its network out of the registry."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    fail_on: tuple[GateName, ...] = ("leakage",)
    """Gates that end the run when they are red; the others warn at the top of the report, and
    leave it to the operator whether the network is promoted."""
    model: Annotated[str, ModelNameOrEmpty()] = ""
    """Model of the registry whose champion the network is to become; empty: named after the data.
    Give it where two sets of films bear one name."""

    def __post_init__(self) -> None:
        if self.model:
            check_model_name(self.model, "gates.model")
