"""A network that learnt a marker is caught by what it answers; one that learnt lungs is not."""

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_model.batches import TrainingFilms
from cxr_model.bootstrap import Bootstrap
from cxr_model.films import FilmSet
from cxr_model.network import build_network
from cxr_model.shortcuts.alarms import raise_alarms, told_apart
from cxr_model.shortcuts.network_probes import hidden_probes, measure_exchange
from cxr_model.shortcuts.scores import Probe, one_hot
from cxr_model.shortcuts.subject import Subject
from cxr_model.trainer import Trainer
from tests.cxr_model.shortcuts.test_retrain import CONFIG, card

NUM_FILMS = 60
CLASSES = ["without", "with"]


def films(seed: int, *, in_corner: bool) -> FilmSet:
    """Two classes of dark films with two darker lungs; one has a bright spot."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_FILMS, 1, 64, 64)
    pixels = torch.randint(90, 130, shape, generator=generator, dtype=torch.uint8)
    pixels[:, :, 16:48, 12:28] -= 80
    pixels[:, :, 16:48, 36:52] -= 80
    targets = torch.arange(NUM_FILMS) % 2
    rows, columns = (slice(0, 7), slice(0, 7)) if in_corner else (slice(28, 35), slice(16, 23))
    pixels[targets == 1, :, rows, columns] = 250
    return FilmSet(pixels_NCHW=pixels, rows_N=torch.arange(NUM_FILMS), targets_N=targets)


def learnt(*, in_corner: bool) -> Subject:
    train, holdout = (films(seed, in_corner=in_corner) for seed in (0, 1))
    its_card = card(train)
    network = build_network(its_card.network, torch.Generator().manual_seed(0))
    split = TrainingFilms(train=train, validation=None, num_classes=2)
    trainer = Trainer(network, split, CONFIG.training, CONFIG.augment, torch.float32)
    for _ in trainer.epochs():
        pass
    network.load_state_dict(trainer.best_state)
    truth_N = holdout.targets_N.numpy()
    bootstrap = Bootstrap(
        truth_N=truth_N, groups_N=np.arange(NUM_FILMS), num_classes=2, draws=200, seed=0
    )
    return Subject(
        tables={"holdout": pd.DataFrame()},
        films={"train": train, "holdout": holdout},
        network=network.eval(),
        card=its_card,
        bootstrap=bootstrap,
    )


@pytest.mark.parametrize("in_corner", [True, False])
def test_rules_on_the_network_speak_for_a_marker_and_not_for_a_lesion(in_corner: bool) -> None:
    subject = learnt(in_corner=in_corner)
    called_N = subject.call(subject.films["holdout"].batches())
    model = Probe(
        name="model", title="model", evidence="both", how="", called_NC=one_hot(called_N, 2)
    )
    assert (called_N == subject.bootstrap.truth_N).mean() > 0.9
    excess = measure_exchange(subject).record(subject.bootstrap)["excess"]
    assert bool(raise_alarms([], excess, {})) == in_corner
    without = [probe for probe in hidden_probes(subject) if probe.evidence == "no lung"]
    assert {probe.name for probe in without} == {"network-no-lungs", "network-border"}
    told = told_apart(without, model, CLASSES, subject.bootstrap)
    nothing = excess | {"ci_low": 0.0}
    spoken = raise_alarms(told, nothing, {probe.name: probe.title for probe in without})
    assert bool(spoken) == in_corner
