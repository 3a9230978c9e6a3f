"""The presets: functions that return a full `RunConfig`."""

from collections.abc import Callable

from cxr_model.config import AugmentConfig, ExplainConfig, NetworkConfig, RunConfig, TrainingConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.evidence_config import ReliabilityConfig, ShortcutConfig

GRAINY = AugmentConfig(noise=0.03, smoothing=1.0)
"""Trainings of 60 epochs and more lose nothing by it on clean films, and stand grain and blur."""


def smoke() -> RunConfig:
    """The whole road in seconds, to see that it is open; its numbers mean nothing."""
    return RunConfig(
        preset="smoke",
        data=DataConfig(size_px=224),
        phantom=PhantomConfig(num_films=60),
        network=NetworkConfig(widths=(8, 16, 32, 64), depths=(1, 1)),
        training=TrainingConfig(epochs=2, batch_size=16, progressive=False),
        reliability=ReliabilityConfig(robustness=False),
        shortcuts=ShortcutConfig(audit=False),
        explain=ExplainConfig(
            films_per_class=1, num_mistakes=1, occlusion_stride_px=36, checks=False
        ),
    )


def standard() -> RunConfig:
    """What an everyday run uses: minutes on two cores."""
    return RunConfig(preset="standard", augment=GRAINY)


def best() -> RunConfig:
    """Longer, wider and larger than ``standard``: for a GPU.

    What cross-validation is published with (``docs/benchmarks.md``).
    """
    return RunConfig(
        preset="best",
        data=DataConfig(size_px=256),
        network=NetworkConfig(widths=(16, 32, 64, 128, 256)),
        augment=GRAINY,
        training=TrainingConfig(epochs=80, batch_size=32),
        shortcuts=ShortcutConfig(retrain=True),
        explain=ExplainConfig(films_per_class=6, num_mistakes=12, checked_films=48),
    )


def seed() -> RunConfig:
    """The seed project's network and recipe: Adam, a constant rate, no augmentation."""
    return RunConfig(
        preset="seed",
        data=DataConfig(size_px=224),
        network=NetworkConfig(name="seed-resnet"),
        augment=AugmentConfig(rotation_deg=0, scale=0, shift=0, gamma=0, flip=False),
        training=TrainingConfig(
            epochs=20,
            batch_size=32,
            progressive=False,
            optimizer="adam",
            schedule="constant",
            learning_rate=1e-3,
            weight_decay=0,
            label_smoothing=0,
            balance_classes=False,
            ema_decay=0,
        ),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "smoke": smoke,
    "standard": standard,
    "best": best,
    "seed": seed,
}
