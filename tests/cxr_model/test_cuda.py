"""What only a GPU can show. Runs without the other tests' services:

python -m pytest --noconftest -o addopts= -m gpu tests/cxr_model/test_cuda.py
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cxr_model.batches import TrainingFilms
from cxr_model.config import NETWORKS, AugmentConfig, NetworkConfig, NetworkName, TrainingConfig
from cxr_model.device import deterministic_algorithms
from cxr_model.films import FilmSet, film_set, films_to_tensor
from cxr_model.network import build_network, network_arguments
from cxr_model.trainer import Trainer

pytestmark = pytest.mark.gpu

CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=5e-3, precision="float32")
ALL_DRAWS = AugmentConfig(noise=0.05, smoothing=0.5)


@pytest.fixture(autouse=True)
def float32_products() -> Iterator[None]:
    """Not tensor float: rounding then is small enough to tell a fault from it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def _films(num: int, device: str) -> FilmSet:
    """Two classes, told apart by their brightness."""
    generator = torch.Generator().manual_seed(num)
    pixels = torch.randint(0, 100, (num, 1, 64, 64), generator=generator, dtype=torch.uint8)
    targets = torch.arange(num) % 2
    pixels[targets == 1] += 60
    return FilmSet(
        pixels_NCHW=pixels.to(device),
        rows_N=torch.arange(num).to(device),
        targets_N=targets.to(device),
    )


def _trainer(
    config: TrainingConfig = CONFIG,
    device: str = "cuda",
    network: NetworkName = "cxresnet",
    dropout: float = 0.3,
    precision: torch.dtype = torch.float32,
) -> Trainer:
    films = TrainingFilms(train=_films(41, device), validation=_films(32, device), num_classes=2)
    settings = NetworkConfig(name=network, dropout=dropout)
    arguments = network_arguments(settings, in_channels=1, num_classes=2)
    built = build_network(arguments, torch.Generator().manual_seed(0))
    return Trainer(built, films, config, ALL_DRAWS, precision)


def _losses(trainer: Trainer) -> list[float]:
    return [record.train_loss for record in trainer.epochs()]


def test_recorded_steps_are_those_that_python_walks_through() -> None:
    recorded, walked = _trainer(), _trainer()
    walked._gradients = walked._backward
    assert _losses(recorded) == pytest.approx(_losses(walked), rel=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_in_bfloat16(network: NetworkName) -> None:
    config = dataclasses.replace(CONFIG, epochs=8, learning_rate=2e-3, progressive=False)
    trainer = _trainer(config, network=network, precision=torch.bfloat16)
    records = list(trainer.epochs())
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].validation_accuracy > 0.9


def test_a_gpu_and_a_cpu_train_alike() -> None:
    # Without dropout and augmentation, whose draws differ.
    losses = []
    for device in ("cuda", "cpu"):
        trainer = _trainer(dataclasses.replace(CONFIG, epochs=1), device, dropout=0)
        trainer.batches.augment = AugmentConfig(
            rotation_deg=0, scale=0, shift=0, gamma=0, noise=0, smoothing=0, flip=False
        )
        losses += _losses(trainer)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_deterministic_training_repeats_and_resumes_to_the_bit(
    network: NetworkName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = dataclasses.replace(CONFIG, deterministic=True, progressive=False)

    def weights(stop: int | None) -> dict[str, Any]:
        with deterministic_algorithms(True):
            trainer = _trainer(config, network=network, precision=torch.bfloat16)
            if stop is not None:
                kept = []
                count = itertools.count(1)
                with pytest.raises(KeyboardInterrupt):
                    list(trainer.epochs(lambda: _stop(trainer, next(count) == stop, kept)))
                trainer = _trainer(config, network=network, precision=torch.bfloat16)
                trainer.restore(kept[0])
            list(trainer.epochs())
        return trainer.best_state

    whole = weights(None)
    for stop in (None, 8, 12):
        again = weights(stop)
        for name, value in whole.items():
            assert torch.equal(again[name], value), (stop, name)


def _stop(trainer: Trainer, now: bool, kept: list[dict[str, Any]]) -> None:
    if now:
        kept.append(trainer.snapshot())
        raise KeyboardInterrupt


def test_a_set_on_the_gpu_holds_the_films_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_model.films.films_at_once", lambda *_: 4)
    films = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    films.tofile(tmp_path / "pixels")
    rows = np.random.default_rng(1).permutation(12)[:9]
    cache = SimpleNamespace(
        films=films, pixels_file=tmp_path / "pixels", rows=lambda _: rows.astype(np.int64)
    )
    held = film_set(cache, [], np.arange(9), torch.device("cuda"))  # type: ignore[arg-type]
    assert held.pixels_NCHW.device.type == "cuda"
    gathered_NCHW = held.gather(torch.arange(9, device="cuda"))
    assert torch.equal(gathered_NCHW.cpu(), films_to_tensor(films[rows]))


def test_a_training_that_goes_on_ends_near_the_unbroken_one() -> None:
    unbroken, first, second = _trainer(), _trainer(), _trainer()
    expected = _losses(unbroken)
    kept: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        list(first.epochs(lambda: _stop(first, first.step == 9, kept)))
    second.restore(kept[0])
    list(second.epochs())
    assert [record.train_loss for record in second.history] == pytest.approx(expected, rel=1e-2)


def test_a_training_begun_on_a_cpu_goes_on_on_a_gpu() -> None:
    first, second = _trainer(device="cpu"), _trainer()
    next(iter(first.epochs()))
    second.restore(first.state())
    assert [record.epoch for record in second.epochs()] == [2, 3, 4]


def test_out_of_memory_halves_what_is_on_the_device_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = dataclasses.replace(CONFIG, epochs=2, batch_size=2048, progressive=False)
    num = 2048
    films = TrainingFilms(train=_films(num, "cuda"), validation=None, num_classes=2)
    arguments = network_arguments(NetworkConfig(), in_channels=1, num_classes=2)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.5 * 2**30 / total)
    try:
        trainer = Trainer(
            build_network(arguments, torch.Generator().manual_seed(0)),
            films,
            config,
            AugmentConfig(),
            torch.float32,
        )
        records = list(trainer.epochs())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(records) == 2
    assert trainer.num_parts > 1
    assert "out of memory" in caplog.text
