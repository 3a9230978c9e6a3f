"""How the references load and train, as they were published: ImageFolder and a DataLoader."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.prepare import Prepared
from cxr_model.errors import DataError

Batches = Iterable[tuple[Tensor, Tensor]]


def image_folder(films: Prepared, steps: list[Any]) -> ImageFolder:
    """The films as torchvision reads them; ``DataError`` where it would read others than we do."""
    try:
        found = ImageFolder(str(films.root), transforms.Compose(steps))
    except FileNotFoundError as error:  # a folder without pictures is a class to it
        raise DataError(f"{films.root}: {error}; the references want a folder a class") from error
    if len(found) != len(films.films):
        raise DataError(
            f"{films.root}: the references would read {len(found)} films, of which "
            f"{len(films.films)} can be used; move the others away ('cxr audit' lists them)"
        )
    return found


def seed_films(films: Prepared, size_px: int) -> ImageFolder:
    """The seed project's: the whole film decoded, three channels, resized, from 0 to 1."""
    return image_folder(films, [transforms.Resize((size_px, size_px)), transforms.ToTensor()])


def seed_batches(films: Dataset[Any], batch_size: int) -> Batches:
    return DataLoader(films, batch_size, shuffle=True, drop_last=True)


def seed_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 1e-3)


def torchvision_batches(films: Prepared, size_px: int, batch_size: int) -> DataLoader[Any]:
    """Its reference transforms for training, decoded by a worker process a core."""
    steps = [
        transforms.RandomResizedCrop(size_px),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    return DataLoader(
        image_folder(films, steps),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        multiprocessing_context="forkserver",
        persistent_workers=True,
    )


def torchvision_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)


def train_as_published(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
) -> int:
    """A step in float32 on each batch; returns how many films that took."""
    network.train()
    num_films = 0
    for images, targets in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images.to(device)), targets.to(device))
        torch.autograd.backward(loss)
        optimizer.step()
        num_films += len(targets)
    return num_films


def endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch after batch, epoch after epoch."""
    while True:
        yield from batches
