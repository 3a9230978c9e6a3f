"""How the references load and train, as they were published: ImageFolder and a DataLoader."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

Batches = Iterable[tuple[Tensor, Tensor]]


def seed_films(root: Path, size_px: int) -> ImageFolder:
    """The seed project's: the whole film decoded, three channels, resized, from 0 to 1."""
    steps = [transforms.Resize((size_px, size_px)), transforms.ToTensor()]
    return ImageFolder(str(root), transforms.Compose(steps))


def seed_batches(films: Dataset[Any], batch_size: int) -> Batches:
    return DataLoader(films, batch_size, shuffle=True, drop_last=True)


def seed_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 1e-3)


def torchvision_batches(root: Path, size_px: int, batch_size: int) -> DataLoader[Any]:
    """Its reference transforms for training, decoded by a worker process a core."""
    steps = [
        transforms.RandomResizedCrop(size_px),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    return DataLoader(
        ImageFolder(str(root), transforms.Compose(steps)),
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
