"""A network trained on hidden films knows nothing but what was left to see."""

import torch

from cxr_model.batches import TrainingFilms
from cxr_model.config import AugmentConfig, NetworkConfig, RunConfig, TrainingConfig
from cxr_model.films import FilmSet, Normalisation
from cxr_model.model_files import ModelCard
from cxr_model.network import network_arguments
from cxr_model.shortcuts.retrain import hide_part, retrain
from cxr_model.shortcuts.views import BORDER_ALONE

SMALL = NetworkConfig(widths=(8, 8, 16), depths=(1,), dropout=0)
CONFIG = RunConfig(
    network=SMALL,
    training=TrainingConfig(epochs=6, batch_size=8, learning_rate=1e-2, progressive=False),
    augment=AugmentConfig(rotation_deg=0, scale=0, shift=0, noise=0, smoothing=0, flip=False),
)


def films(seed: int, *, at_border: bool) -> FilmSet:
    """Two classes: a bright patch, at the border or in the middle, or none."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 80, (32, 1, 64, 64), generator=generator, dtype=torch.uint8)
    targets = torch.arange(32) % 2
    rows = slice(0, 4) if at_border else slice(24, 40)
    pixels[targets == 1, :, rows, 8:56] = 250
    return FilmSet(pixels_NCHW=pixels, rows_N=torch.arange(32), targets_N=targets)


def card(train: FilmSet) -> ModelCard:
    normalisation = Normalisation.of(train)
    return ModelCard(
        run_id="probe",
        network=network_arguments(SMALL, in_channels=1, num_classes=2),
        classes=["without", "with"],
        size_px=64,
        color="grey",
        mean=normalisation.mean,
        std=normalisation.std,
        num_parameters=0,
        layers=[],
    )


def accuracy_on_border(*, at_border: bool) -> float:
    train, holdout = (films(seed, at_border=at_border) for seed in (0, 1))
    split = TrainingFilms(train=train, validation=train, num_classes=2)
    called_N = retrain(CONFIG, card(train), split, holdout, BORDER_ALONE)
    return float((called_N == holdout.targets_N.numpy()).mean())


def test_a_sign_at_the_border_is_learnt_and_one_in_the_middle_is_not() -> None:
    assert accuracy_on_border(at_border=True) > 0.9
    assert accuracy_on_border(at_border=False) < 0.8


def test_hidden_sets_leave_their_source_alone() -> None:
    source = films(0, at_border=False)
    before = source.pixels_NCHW.clone()
    hidden = hide_part(source, BORDER_ALONE, 9)
    assert torch.equal(source.pixels_NCHW, before)
    assert len(hidden) == len(source)
    assert (hidden.pixels_NCHW == 9).any()
