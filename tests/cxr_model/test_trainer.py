import dataclasses
import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from cxr_model.config import AugmentConfig, NetworkConfig, TrainingConfig
from cxr_model.errors import DivergenceError
from cxr_model.films import FilmSet, Normalisation, predict_logits
from cxr_model.network import build_network, network_arguments
from cxr_model.trainer import EpochRecord, Trainer, balanced_accuracy, one_cycle

QUICK = TrainingConfig(epochs=4, batch_size=8, learning_rate=5e-3, precision="float32")


def _bars(num: int, seed: int) -> FilmSet:
    """Two classes that a tiny network tells apart: upright and lying bars in noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (num, 1, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.arange(num) % 2
    for i in range(num):
        at = int(torch.randint(4, 24, (), generator=generator))
        if targets[i]:
            pixels[i, :, at : at + 4, :] += 120
        else:
            pixels[i, :, :, at : at + 4] += 120
    return FilmSet(pixels, targets)


def _trainer(config: TrainingConfig = QUICK, num: int = 48) -> Trainer:
    arguments = network_arguments(
        NetworkConfig(widths=(8, 8, 16), depths=(1, 1), dropout=0.1), in_channels=1, num_classes=2
    )
    network = build_network(arguments, torch.Generator().manual_seed(config.seed))
    sets = _bars(num, 0), _bars(32, 1)
    return Trainer(network, *sets, 2, config, AugmentConfig(), torch.float32)


def _comparable(record: EpochRecord) -> dict[str, float]:
    values = dataclasses.asdict(record)
    return {name: values[name] for name in values if name not in ("seconds", "films_per_second")}


def test_training_learns_what_can_be_learnt() -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=12))
    records = list(trainer.epochs())
    assert [record.epoch for record in records] == list(range(1, 13))
    assert trainer.best is not None
    assert trainer.best.validation_balanced_accuracy >= 0.95


def test_one_seed_gives_one_history_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [_comparable(record) for record in _trainer().epochs()]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert [_comparable(record) for record in _trainer().epochs()] == first
    other = dataclasses.replace(QUICK, seed=1)
    assert [_comparable(record) for record in _trainer(other).epochs()] != first


def test_kept_weights_are_those_of_the_best_epoch() -> None:
    trainer = _trainer()
    records = list(trainer.epochs())
    best = max(records, key=lambda row: (row.validation_balanced_accuracy, -row.validation_loss))
    trainer.network.load_state_dict(trainer.best_state)
    logits = predict_logits(trainer.network, trainer.validation.pixels_NCHW, trainer.normalisation)
    loss = torch.nn.functional.cross_entropy(logits, trainer.validation.targets_N)
    assert float(loss) == pytest.approx(best.validation_loss, rel=1e-5)


@pytest.mark.parametrize("num", [17, 41])
def test_every_film_is_seen_once_an_epoch(num: int) -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=1), num=num)
    seen: list[torch.Tensor] = []
    step = trainer._step
    trainer._step = lambda rows: (seen.append(rows), step(rows))[1]  # type: ignore[method-assign]
    list(trainer.epochs())
    assert sorted(torch.cat(seen).tolist()) == list(range(num))
    assert min(len(rows) for rows in seen) >= 2, "batch norm cannot train on one film"


def test_infinite_loss_is_told_with_the_setting_to_change() -> None:
    trainer = _trainer()
    torch.nn.init.constant_(trainer.network.head.bias, math.inf)  # type: ignore[union-attr, arg-type]
    with pytest.raises(DivergenceError, match=r"epoch 1 .*lower training.learning_rate"):
        list(trainer.epochs())


def test_balanced_accuracy_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 20 + [1] * 5 + [2] * 9)
    predicted = torch.randint(0, 3, (34,), generator=generator)
    expected = balanced_accuracy_score(targets, predicted)
    assert balanced_accuracy(predicted, targets, 3) == pytest.approx(expected)


def test_normalisation_gives_zero_mean_and_unit_variance() -> None:
    pixels = _bars(16, 3).pixels_NCHW
    normalised = Normalisation.of(pixels)(pixels.float() / 255)
    assert abs(float(normalised.mean())) < 1e-4
    assert float(normalised.std()) == pytest.approx(1, abs=1e-3)


def test_constant_schedule_and_adam_keep_the_seeds_rate() -> None:
    config = dataclasses.replace(
        QUICK, optimizer="adam", schedule="constant", learning_rate=1e-3, ema_decay=0, epochs=2
    )
    assert [record.learning_rate for record in _trainer(config).epochs()] == [1e-3, 1e-3]


@pytest.mark.parametrize("num_steps", [1, 2, 4, 7, 1000])
def test_one_cycle_climbs_once_and_falls_to_almost_nothing(num_steps: int) -> None:
    shares = [one_cycle(step, num_steps) for step in range(num_steps + 1)]
    peak = shares.index(max(shares))
    assert one_cycle(0.25 * num_steps, num_steps) == pytest.approx(1)
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[-1] == pytest.approx(1e-4)
