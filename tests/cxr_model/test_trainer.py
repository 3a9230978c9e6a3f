import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from cxr_model.batches import Batch, Batches, TrainingFilms
from cxr_model.config import AugmentConfig, NetworkConfig, TrainingConfig
from cxr_model.distributed import Processes
from cxr_model.errors import DivergenceError, OutOfMemory
from cxr_model.films import FilmSet, Normalisation, films_at_once, predict_logits
from cxr_model.network import build_network, network_arguments
from cxr_model.schedule import one_cycle
from cxr_model.trainer import EpochRecord, Trainer, balanced_accuracy

SMALL = NetworkConfig(widths=(8, 8, 16), depths=(1,), dropout=0.1)
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
    return FilmSet(pixels_NCHW=pixels, rows_N=torch.arange(num), targets_N=targets)


def _trainer(
    config: TrainingConfig = QUICK,
    num: int = 48,
    network: NetworkConfig = SMALL,
    *,
    validate: bool = True,
) -> Trainer:
    arguments = network_arguments(network, in_channels=1, num_classes=2)
    films = TrainingFilms(
        train=_bars(num, 0), validation=_bars(32, 1) if validate else None, num_classes=2
    )
    return Trainer(
        build_network(arguments, torch.Generator().manual_seed(config.seed)),
        films,
        config,
        AugmentConfig(),
        torch.float32,
    )


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [32]), (2, [16, 32]), (3, [16, 24, 32]), (8, [16] * 4 + [24] * 2 + [32] * 2)],
)
def test_films_grow_to_their_full_size_and_are_judged_at_it(
    epochs: int, expected: list[int]
) -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=epochs))
    seen: list[int] = []
    for network in (trainer.network, trainer.averaged):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    sizes = []
    for _ in trainer.epochs():
        sizes.append(set(seen))
        seen.clear()
    assert sizes == [{size} for size in expected]
    assert trainer.best is not None
    assert expected[trainer.best.epoch - 1] == 32


def test_the_kept_statistics_are_those_of_unchanged_films() -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=1), validate=False)
    list(trainer.epochs())
    seen: list[torch.Tensor] = []
    trainer.averaged.stem[0][1].register_forward_pre_hook(  # type: ignore[index]
        lambda _, inputs: seen.append(inputs[0])
    )
    films = trainer.films.train
    predict_logits(trainer.averaged, films.batches(), trainer.normalisation)
    mean_C = torch.cat(seen).mean(dim=(0, 2, 3))
    kept = trainer.best_state["stem.0.1.running_mean"]
    torch.testing.assert_close(kept, mean_C, rtol=1e-3, atol=1e-4)
    trained = trainer.network.state_dict()["stem.0.1.running_mean"]
    assert (trained - mean_C).abs().max() > 10 * (kept - mean_C).abs().max()


@pytest.mark.parametrize(
    ("num", "size_px", "most"),
    [(1, 32, 1), (65, 32, 64), (200, 256, 64), (33, 512, 16), (5, 2048, 3), (3, 4096, 3)],
)
def test_statistics_are_taken_over_batches_that_fit_and_never_over_one_film(
    num: int, size_px: int, most: int
) -> None:
    places = torch.zeros(num, dtype=torch.int64)
    pixels = torch.zeros(1, 1, size_px, size_px, dtype=torch.uint8)
    films = FilmSet(pixels_NCHW=pixels, rows_N=places, targets_N=places)
    data = TrainingFilms(train=films, validation=None, num_classes=2)
    config = dataclasses.replace(QUICK, progressive=False)
    batches = Batches(data, config, AugmentConfig(), Processes.joined())
    sizes = [len(x) for x in batches.unchanged(0, films_at_once(64, size_px))]
    assert sum(sizes) == num
    assert min(2, num) <= min(sizes) <= max(sizes) <= most


def test_training_may_keep_the_full_size() -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=1, progressive=False))
    seen = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    list(trainer.epochs())
    assert set(seen) == {32}


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
    trainer = _trainer(dataclasses.replace(QUICK, progressive=False))
    records = list(trainer.epochs())
    best = max(records, key=lambda row: (row.validation_balanced_accuracy, -row.validation_loss))
    trainer.network.load_state_dict(trainer.best_state)
    films = trainer.films.validation
    assert films is not None
    logits = predict_logits(trainer.network, films.batches(), trainer.normalisation)
    loss = torch.nn.functional.cross_entropy(logits, films.targets_N)
    assert float(loss) == pytest.approx(best.validation_loss, rel=1e-5)


@pytest.mark.parametrize("num", [17, 41])
def test_every_film_is_seen_once_an_epoch(num: int) -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=1), num=num)
    seen: list[torch.Tensor] = []
    take = trainer.batches.take

    def watched(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(rows)
        return take(rows)

    trainer.batches.take = watched  # type: ignore[method-assign]
    list(trainer.epochs())
    assert sorted(torch.cat(seen).tolist()) == list(range(num))
    assert min(len(rows) for rows in seen) >= 2, "batch norm cannot train on one film"


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 16])
def test_no_batch_is_of_one_film_whatever_their_number(batch_size: int) -> None:
    config = dataclasses.replace(QUICK, batch_size=batch_size)
    for num in range(1, 40):
        films = TrainingFilms(train=_bars(num, 0), validation=None, num_classes=2)
        batches = Batches(films, config, AugmentConfig(), Processes.joined())
        sizes = [len(rows) for rows in batches.order(0)]
        assert sum(sizes) == num
        assert len(sizes) == batches.steps_per_epoch
        assert min(sizes) >= min(2, num)
        assert max(sizes) <= max(3, batch_size)
        assert max(sizes) - min(sizes) <= 1


def test_an_odd_number_of_films_is_trained_on_in_pairs() -> None:
    config = dataclasses.replace(QUICK, epochs=1, batch_size=2, progressive=False)
    # Its last map is of 1 x 1 pixels here, where batch norm refuses a single film.
    network = NetworkConfig(widths=(8,) * 6, depths=(1,) * 4)
    (record,) = _trainer(config, num=5, network=network).epochs()
    assert math.isfinite(record.train_loss)


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 17])
def test_a_training_that_goes_on_from_any_step_ends_as_an_unbroken_one(
    stop: int, tmp_path: Path
) -> None:
    unbroken = _trainer()
    expected = [_comparable(record) for record in unbroken.epochs()]
    first, path = _trainer(), tmp_path / "state.pt"

    def stop_at() -> None:
        if first.step == stop:
            torch.save(first.state(), path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(first.epochs(stop_at))
    second = _trainer()
    second.restore(torch.load(path, weights_only=True))
    assert second.step == stop
    list(second.epochs())
    assert [_comparable(record) for record in second.history] == expected
    for name, value in unbroken.best_state.items():
        assert torch.equal(second.best_state[name], value), name
    for name, value in unbroken.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name


def test_without_validation_the_last_weights_are_kept() -> None:
    trainer = _trainer(validate=False)
    records = list(trainer.epochs())
    assert trainer.best == records[-1]
    assert math.isnan(records[-1].validation_loss)
    for name, value in trainer.averaged.state_dict().items():
        assert torch.equal(trainer.best_state[name], value)


def _spoil(trainer: Trainer, steps: list[int]) -> None:
    """Have the loss of the n-th batches walked through be infinite."""
    load, count = trainer.batches.load, itertools.count()

    def spoilt(pixels: torch.Tensor, targets: torch.Tensor, size_px: int) -> Batch:
        batch = load(pixels, targets, size_px)
        return dataclasses.replace(batch, weight=batch.weight * (next(count) not in steps))

    trainer.batches.load = spoilt  # type: ignore[method-assign]


def test_a_training_that_diverges_goes_back_once_and_on_at_a_tenth_of_the_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = _trainer()
    _spoil(trainer, [8])  # in the second of epochs of six steps
    records = list(trainer.epochs())
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert all(math.isfinite(record.train_loss) for record in records)
    undisturbed = [record.learning_rate for record in _trainer().epochs()]
    assert records[0].learning_rate == undisturbed[0]
    assert [record.learning_rate for record in records[1:]] == pytest.approx(
        [0.1 * rate for rate in undisturbed[1:]]
    )
    assert "going back to the end of epoch 1" in caplog.text


def test_a_training_resumed_within_an_epoch_goes_back_to_that_epochs_start(
    tmp_path: Path,
) -> None:
    first, path = _trainer(), tmp_path / "state.pt"

    def stop_at() -> None:
        if first.step == 8:
            torch.save(first.state(), path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(first.epochs(stop_at))
    second = _trainer()
    second.restore(torch.load(path, weights_only=True))
    _spoil(second, [1])  # the tenth step of all, in the second epoch
    list(second.epochs())
    whole = _trainer()
    _spoil(whole, [9])
    list(whole.epochs())
    assert [_comparable(record) for record in second.history] == [
        _comparable(record) for record in whole.history
    ]


def test_weights_that_an_epochs_last_step_breaks_are_not_kept() -> None:
    trainer = _trainer()
    step, broken = trainer.optimizer.step, []

    def break_once(*_: Any, **__: Any) -> None:
        step()
        if trainer.step == 11 and not broken:  # the last of the second epoch
            broken.append(True)
            torch.nn.init.constant_(trainer.network.head.weight, math.nan)  # type: ignore[union-attr, arg-type]

    trainer.optimizer.step = break_once  # type: ignore[method-assign]
    records = list(trainer.epochs())
    assert broken
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert trainer.is_sound()


def test_a_training_that_diverges_again_is_told_with_the_setting_to_change() -> None:
    trainer = _trainer()
    _spoil(trainer, [8, 14])
    told = r"loss is inf in epoch 2, step 8 \(last losses: .*lower training.learning_rate"
    with pytest.raises(DivergenceError, match=told):
        list(trainer.epochs())


def _fits(trainer: Trainer, num_films: int) -> None:
    """Have the network run out of memory on more films than these."""

    def refuse(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        if trainer.network.training and len(arguments[0]) > num_films:
            raise torch.OutOfMemoryError("no room")

    trainer.network.register_forward_pre_hook(refuse)


def _gradients_at_the_first_weights(trainer: Trainer) -> list[torch.Tensor]:
    """Of each step. No weight moves: what rounding changes in one step would grow in the next."""
    gradients: list[torch.Tensor] = []
    network = trainer.network

    def keep() -> None:
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))

    trainer.optimizer.step = keep  # type: ignore[method-assign]
    list(trainer.epochs())
    return gradients


def test_parts_of_a_batch_give_the_gradients_of_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # No batch norm in this one, whose statistics would differ.
    network = NetworkConfig(name="seed-convnet")
    config = dataclasses.replace(QUICK, progressive=False)  # too deep for half of 32 px
    whole, parts = (_trainer(config, num=41, network=network) for _ in range(2))
    _fits(parts, 3)
    expected, gradients = (_gradients_at_the_first_weights(each) for each in (whole, parts))
    assert len(gradients) == len(expected) > 0
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-6)
    assert parts.num_parts == 4
    assert "go through it in 4 parts from step 0 on" in caplog.text


def test_a_device_with_room_for_one_film_takes_batches_of_any_size() -> None:
    config = dataclasses.replace(QUICK, epochs=1, progressive=False)
    trainer = _trainer(config, num=41, network=NetworkConfig(name="seed-convnet"))
    _fits(trainer, 1)
    seen: list[int] = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    list(trainer.epochs())
    assert trainer.num_parts == 7
    assert seen == [1] * 41


@pytest.mark.parametrize(("room", "fits"), [(64, True), (20, True), (3, True), (2, False)])
def test_batch_norms_statistics_are_taken_over_as_many_films_as_there_is_room_for(
    room: int, fits: bool
) -> None:
    trainer = _trainer(dataclasses.replace(QUICK, epochs=1), num=41)
    seen: list[int] = []

    def refuse(averaged: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        if averaged.training:
            if len(arguments[0]) > room:
                raise torch.OutOfMemoryError("no room")
            seen.append(len(arguments[0]))

    trainer.averaged.register_forward_pre_hook(refuse)
    if fits:
        list(trainer.epochs())
        assert sum(seen) == 41
        assert not trainer.averaged.training
    else:  # an odd number of films has a part of three
        with pytest.raises(OutOfMemory, match=r"with 2 films at once \(no room\); use a smaller"):
            list(trainer.epochs())


def test_a_device_without_room_for_one_film_is_told() -> None:
    trainer = _trainer()
    _fits(trainer, 0)
    with pytest.raises(OutOfMemory, match=r"with 1 films at once \(no room\); use a smaller"):
        list(trainer.epochs())


def test_balanced_accuracy_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 20 + [1] * 5 + [2] * 9)
    predicted = torch.randint(0, 3, (34,), generator=generator)
    expected = balanced_accuracy_score(targets, predicted)
    assert balanced_accuracy(predicted, targets, 3) == pytest.approx(expected)


def test_normalisation_gives_zero_mean_and_unit_variance() -> None:
    films = _bars(16, 3)
    normalised = Normalisation.of(films)(films.pixels_NCHW.float() / 255)
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
