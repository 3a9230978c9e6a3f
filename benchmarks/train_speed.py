"""Training films per second: this pipeline, the seed's, torchvision's way, and the limit.

Every contestant trains a network of its own on the same films at the same size and batch:

- ``NAME, here``: this project's trainer, augmentation and averaged weights included, on
  films of the full size;
- ``cxresnet progressive, here``: likewise with films that grow, over a whole course;
- ``NAME, limit``: the same network, batch, precision and optimiser on a constant batch that
  lies on the device, and nothing else, as one CUDA graph on a GPU: what the hardware gives;
- ``seed's way``: ImageFolder, PIL transforms, DataLoader, float32, three channels, Adam, as
  the seed project published it;
- ``torchvision's way``: its reference transforms and ResNet-18, DataLoader workers, SGD.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.prepare import Prepared
from benchmarks.published import (
    Batches,
    endless,
    seed_batches,
    seed_films,
    seed_optimizer,
    torchvision_batches,
    torchvision_optimizer,
    train_as_published,
)
from benchmarks.rounds import Contestant, films_per_second, result
from cxr_model.config import NetworkName, RunConfig
from cxr_model.device import resolve_device, resolve_precision
from cxr_model.schedule import make_optimizer
from cxr_model.trainer import Trainer


def measure_training(
    films: Prepared, config: RunConfig, *, rounds: int, steps: int
) -> dict[str, Any]:
    """Rates and ratios; the films lie in a folder a class, as ImageFolder wants it."""
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    networks: tuple[NetworkName, ...] = ("cxresnet", "seed-resnet", "resnet18")
    growing = replace(config, training=replace(config.training, progressive=True))
    config = replace(config, training=replace(config.training, progressive=False))
    trainers = {
        name: films.trainer(config, replace(config.network, name=name)) for name in networks
    }
    contestants: dict[str, Contestant] = {
        "cxresnet progressive, here": _ours(_quarters(films, growing), steps)
    }
    for name, trainer in trainers.items():
        contestants[f"{name}, here"] = _ours([trainer], steps)
        contestants[f"{name}, limit"] = _limit(trainer, config, precision, steps)
    seed = copy.deepcopy(trainers["seed-resnet"].network).to(memory_format=torch.contiguous_format)
    size_px, batch_size = config.data.size_px, config.training.batch_size
    seeds_batches = endless(seed_batches(seed_films(films, size_px), batch_size))
    contestants["seed's way"] = _published(
        seed, seed_optimizer(seed), lambda: itertools.islice(seeds_batches, steps), device
    )
    resnet = copy.deepcopy(trainers["resnet18"].network).to(memory_format=torch.contiguous_format)
    turns = Turns(torchvision_batches(films, size_px, batch_size), steps)
    contestants["torchvision's way"] = _published(
        resnet, torchvision_optimizer(resnet), turns.batches, device
    )
    rates = films_per_second(contestants, rounds, before={"torchvision's way": turns.drain})
    ratios = {
        "progressive_vs_seed": rates["cxresnet progressive, here"] / rates["seed's way"],
        "vs_seed": rates["cxresnet, here"] / rates["seed's way"],
        "vs_torchvision": rates["resnet18, here"] / rates["torchvision's way"],
        "of_limit": rates["cxresnet, here"] / rates["cxresnet, limit"],
        "seed_network_vs_seed": rates["seed-resnet, here"] / rates["seed's way"],
        "seed_network_of_limit": rates["seed-resnet, here"] / rates["seed-resnet, limit"],
        "resnet18_of_limit": rates["resnet18, here"] / rates["resnet18, limit"],
    }
    about = {
        "size_px": config.data.size_px,
        "batch_size": config.training.batch_size,
        "precision": str(precision).removeprefix("torch."),
        "num_threads": torch.get_num_threads(),
    }
    return result(rates, ratios, device, **about)


class Turns:
    """The batches of a loader with workers, which also decode while others have their turn."""

    def __init__(self, loader: DataLoader[Any], steps: int) -> None:
        self._batches = endless(loader)
        self._num_ahead = loader.num_workers * (loader.prefetch_factor or 0)
        # The workers' first batches come all at once: fewer would measure one worker's wait.
        self._num_steps = max(steps, self._num_ahead)

    def drain(self) -> None:
        """Take what was decoded meanwhile."""
        for _ in range(self._num_ahead):
            next(self._batches)

    def batches(self) -> Batches:
        return itertools.islice(self._batches, self._num_steps)


def _quarters(films: Prepared, growing: RunConfig) -> list[Trainer]:
    """A trainer in each quarter of a course with films that grow."""
    network = replace(growing.network, name="cxresnet")
    trainers = [films.trainer(growing, network) for _ in range(4)]
    for part, trainer in enumerate(trainers):
        trainer.epoch = part * growing.training.epochs // 4
    return trainers


def _ours(trainers: Sequence[Trainer], steps: int) -> Contestant:
    """``steps`` steps of each trainer in turn, in the epoch it stands in."""
    config = trainers[0].config
    num_films = len(trainers[0].films.train)
    order = torch.Generator().manual_seed(0)
    # On the device before they are timed, as an epoch's order is.
    rows = torch.randperm(num_films, generator=order)[: config.batch_size]
    rows = rows.to(trainers[0].films.train.rows_N.device)
    for trainer in trainers:
        trainer.network.train()

    def work() -> int:
        for trainer in trainers:
            for _ in range(steps):
                trainer.position = 0  # any number of steps: no epoch ends here
                trainer.train_on(rows)
        return len(trainers) * steps * config.batch_size

    return work


def _limit(trainer: Trainer, config: RunConfig, precision: torch.dtype, steps: int) -> Contestant:
    batch, device = config.training.batch_size, trainer.device
    places = torch.arange(batch)
    x_NCHW = trainer.normalisation(trainer.films.train.gather(places).float() / 255)
    targets_N = trainer.films.train.targets_N[places.to(device)]
    network = copy.deepcopy(trainer.network).train()
    optimizer = make_optimizer(network, config.training)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = network(x_NCHW)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(logits.float(), targets_N))
        optimizer.step()

    run = _Recorded(step, optimizer) if device.type == "cuda" else step

    def work() -> int:
        for _ in range(steps):
            run()
        return steps * batch

    return work


class _Recorded:
    """A step as one CUDA graph; it keeps the step, whose tensors the graph reads."""

    def __init__(self, step: Callable[[], None], optimizer: torch.optim.Optimizer) -> None:
        self._step = step
        for group in optimizer.param_groups:
            group["capturable"] = True
        for _ in range(3):
            step()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step()

    def __call__(self) -> None:
        self._graph.replay()


def _published(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], Batches],
    device: torch.device,
) -> Contestant:
    return lambda: train_as_published(network, optimizer, batches(), device)
