"""Training films per second: this pipeline, the seed's, torchvision's way, and the limit.

Every contestant trains a network of its own on the same films at the same size and batch:

- ``NAME, here``: this project's trainer, augmentation and averaged weights included;
- ``NAME, limit``: the same network, batch, precision and optimiser on a constant batch that
  lies on the device, and nothing else: what the hardware gives;
- ``seed's way``: ImageFolder, PIL transforms, DataLoader, float32, three channels, Adam, as
  the seed project published it;
- ``torchvision's way``: its reference transforms and ResNet-18, DataLoader workers, SGD.
"""

import copy
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.prepare import Prepared
from benchmarks.rounds import Contestant, endless, films_per_second, result
from cxr_model.cache import FilmCache
from cxr_model.config import NetworkConfig, NetworkName, RunConfig
from cxr_model.device import resolve_device, resolve_precision
from cxr_model.films import film_set
from cxr_model.labels import order_classes
from cxr_model.network import build_network, network_arguments
from cxr_model.schedule import make_optimizer
from cxr_model.trainer import Trainer, TrainingFilms

_NUM_CLASSES = 3


def measure_training(
    films: Prepared, config: RunConfig, *, rounds: int, steps: int
) -> dict[str, Any]:
    """Rates and ratios; the films lie in a folder a class, as ImageFolder wants it."""
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    trainers = {
        name: _trainer(name, films, config) for name in ("cxresnet", "seed-resnet", "resnet18")
    }
    contestants: dict[str, Contestant] = {}
    for name, trainer in trainers.items():
        contestants[f"{name}, here"] = _ours(trainer, steps)
        contestants[f"{name}, limit"] = _limit(trainer, config, precision, steps)
    seed = _network("seed-resnet").to(device)
    contestants["seed's way"] = _published(
        seed,
        torch.optim.Adam(seed.parameters(), 1e-3),
        _seed_batches(films.root, config),
        steps,
        device,
    )
    resnet = _network("resnet18").to(device)
    contestants["torchvision's way"] = _published(
        resnet,
        torch.optim.SGD(resnet.parameters(), 0.1, momentum=0.9, weight_decay=1e-4),
        _torchvision_batches(films.root, config),
        steps,
        device,
    )
    rates = films_per_second(contestants, rounds)
    ratios = {
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


def _network(name: NetworkName) -> nn.Module:
    arguments = network_arguments(NetworkConfig(name=name), in_channels=1, num_classes=_NUM_CLASSES)
    return build_network(arguments, torch.Generator().manual_seed(0))


def _trainer(name: Any, prepared: Prepared, config: RunConfig) -> Trainer:
    index = prepared.index[prepared.index["error"] == ""]
    classes = order_classes(index["label"], config.labels)
    targets = np.array([classes.index(label) for label in index["label"]], dtype=np.int64)
    device = resolve_device(config.training.device)
    films = film_set(
        FilmCache.open(prepared.cache_folder), index["sha256"].tolist(), targets, device
    )
    return Trainer(
        _network(name),
        TrainingFilms(train=films, validation=None, num_classes=_NUM_CLASSES),
        config.training,
        config.augment,
        resolve_precision(config.training.precision, device),
    )


def _ours(trainer: Trainer, steps: int) -> Contestant:
    num_films, batch = len(trainer.films.train), trainer.config.batch_size
    order = torch.Generator().manual_seed(0)
    trainer.network.train()

    def work() -> int:
        trainer.position = 0  # any number of steps: no epoch ends here
        for _ in range(steps):
            trainer.train_on(torch.randperm(num_films, generator=order)[:batch])
            trainer.position %= trainer.steps_per_epoch
        return steps * batch

    return work


def _limit(trainer: Trainer, config: RunConfig, precision: torch.dtype, steps: int) -> Contestant:
    batch, device = config.training.batch_size, trainer.device
    places = torch.arange(batch)
    x_NCHW = trainer.normalisation(trainer.films.train.gather(places).float() / 255)
    targets_N = trainer.films.train.targets_N[places.to(device)]
    network = copy.deepcopy(trainer.network).train()
    optimizer = make_optimizer(network, config.training)

    def work() -> int:
        for _ in range(steps):
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                logits = network(x_NCHW)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(logits.float(), targets_N))
            optimizer.step()
        return steps * batch

    return work


def _published(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    device: torch.device,
) -> Contestant:
    network.train()

    def work() -> int:
        num_films = 0
        for images, targets in itertools.islice(batches, steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images.to(device)), targets.to(device))
            torch.autograd.backward(loss)
            optimizer.step()
            num_films += len(targets)
        return num_films

    return work


def _seed_batches(root: Path, config: RunConfig) -> Any:
    size = config.data.size_px
    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    folder = ImageFolder(str(root), transforms.Compose(steps))
    return endless(DataLoader(folder, config.training.batch_size, shuffle=True, drop_last=True))


def _torchvision_batches(root: Path, config: RunConfig) -> Any:
    steps = [
        transforms.RandomResizedCrop(config.data.size_px),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    folder = ImageFolder(str(root), transforms.Compose(steps))
    loader = DataLoader(
        folder,
        config.training.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        multiprocessing_context="forkserver",
        persistent_workers=True,
    )
    return endless(loader)
