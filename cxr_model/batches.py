"""The batches of a training: which films, how they are changed, what their loss weighs.

Whatever is drawn at random follows from the seed and the number of the step or epoch; every
process of several draws for the whole batch and takes its own share of it.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_model.augment import augment_batch, draw_changes
from cxr_model.config import AugmentConfig, TrainingConfig
from cxr_model.distributed import Processes, loss_weight
from cxr_model.errors import ConfigError
from cxr_model.films import FilmSet, Normalisation, resize_films
from cxr_model.schedule import training_size_px

_SAMPLE = 512
"""Films that batch norm's statistics are taken over: thousands of places each are enough."""


@dataclass(frozen=True, kw_only=True)
class TrainingFilms:
    train: FilmSet
    validation: FilmSet | None
    """Chooses the epoch whose weights are kept; without it the last one's are."""
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's share of a batch, on the training device."""

    x_NCHW: Tensor
    """Changed, normalised films, float32, channels last in memory."""
    targets_N: Tensor
    weight: Tensor
    """What the summed loss of the whole batch is divided by; a scalar."""


class Batches:
    """The training films of a run, batch by batch; raises ``ConfigError`` for too small ones."""

    def __init__(
        self,
        films: TrainingFilms,
        config: TrainingConfig,
        augment: AugmentConfig,
        processes: Processes,
    ) -> None:
        self.films, self.config, self.augment = films.train, config, augment
        self.processes = processes
        self.normalisation = Normalisation.of(films.train)
        self.class_weights = (
            _class_weights(films.train.targets_N, films.num_classes)
            if config.balance_classes
            else None
        )
        # Of one film batch norm cannot take statistics.
        self.steps_per_epoch = _num_batches(len(self.films), config.batch_size, 2)
        smallest = len(self.films) // self.steps_per_epoch
        if smallest < processes.count:
            raise ConfigError(
                f"training.batch_size={config.batch_size}: batches of {smallest} films cannot be "
                f"shared by {processes.count} processes; use a larger one"
            )
        self.draws = torch.Generator(self.films.device)

    def size_px(self, epoch: int) -> int:
        """The side that films are trained and validated at in an epoch."""
        full_px = self.films.pixels_NCHW.shape[-1]
        if not self.config.progressive:
            return full_px
        return training_size_px(epoch, self.config.epochs, full_px)

    def order(self, epoch: int) -> tuple[Tensor, ...]:
        """Places (int64) of an epoch's films in the training set, a tensor a batch."""
        generator = torch.Generator().manual_seed(seed_of(f"{self.config.seed} order {epoch}"))
        order_N = torch.randperm(len(self.films), generator=generator)
        return order_N.to(self.films.rows_N.device).tensor_split(self.steps_per_epoch)

    def take(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """This process's films among these places of the training set, uint8, and all targets."""
        targets_B = self.films.targets_N[rows_B.to(self.films.device)]
        return self.films.gather(rows_B[self.processes.share]), targets_B

    def seed(self, step: int) -> None:
        """Before `load`: what it draws is that of step number ``step``."""
        self.draws.manual_seed(seed_of(f"{self.config.seed} changes {step}"))

    def load(self, pixels_NCHW: Tensor, targets_B: Tensor, size_px: int) -> Batch:
        """What `take` returned, with sides of ``size_px``, changed and normalised.

        Nothing in it waits for the device or reads from the host: a CUDA graph can hold it.
        """
        mine = self.processes.share
        x_NCHW = resize_films(pixels_NCHW.float() / 255, size_px)
        shape = (len(targets_B), *x_NCHW.shape[1:])
        changes = draw_changes(shape, self.augment, self.draws)[mine]
        return Batch(
            x_NCHW=self.normalisation(augment_batch(x_NCHW, changes)),
            targets_N=targets_B[mine],
            weight=loss_weight(targets_B, self.class_weights),
        )

    def unchanged(self, epoch: int, at_once: int) -> Iterator[Tensor]:
        """This process's share of a sample of the films, normalised, ``at_once`` or somewhat more.

        Never of one film, which batch norm cannot take statistics over. The sample is the same
        each time.
        """
        generator = torch.Generator().manual_seed(seed_of(f"{self.config.seed} sample"))
        rows_N = torch.randperm(len(self.films), generator=generator)[:_SAMPLE]
        size_px = self.size_px(epoch)
        fewest = max(2, self.processes.count)
        for rows_B in rows_N.tensor_split(_num_batches(len(rows_N), at_once, fewest)):
            mine = rows_B[self.processes.share]
            x_NCHW = self.films.gather(mine).float() / 255
            yield self.normalisation(resize_films(x_NCHW, size_px))


def seed_of(name: str) -> int:
    """A seed for each purpose and step, told apart by its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())


def _num_batches(num_films: int, size: int, fewest: int) -> int:
    """Even batches of at most ``size`` films, or of more where some would have under ``fewest``."""
    return max(1, min(math.ceil(num_films / size), num_films // fewest))


def _class_weights(targets_N: Tensor, num_classes: int) -> Tensor:
    counts = torch.bincount(targets_N, minlength=num_classes).float()
    return counts.sum() / (num_classes * counts.clamp_min(1))
