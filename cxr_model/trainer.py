"""The training loop: one epoch after another, nothing read back from the device in a step."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr_model.augment import augment_batch
from cxr_model.config import AugmentConfig, TrainingConfig
from cxr_model.errors import DivergenceError
from cxr_model.films import FilmSet, Normalisation, predict_logits


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One row of ``history.csv``; times are wall-clock seconds.

    The training loss is the one descended: augmented films, weighted by class, smoothed
    labels, mean over batches. The validation loss is plain cross-entropy, mean over films.
    """

    epoch: int
    learning_rate: float
    """Of the epoch's first step."""
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    validation_balanced_accuracy: float
    seconds: float
    films_per_second: float
    """Training films only; validation's time is left out."""


def balanced_accuracy(predicted_N: Tensor, targets_N: Tensor, num_classes: int) -> float:
    """Mean over the classes present of the share of their films that is found."""
    hits = torch.bincount(targets_N[predicted_N == targets_N], minlength=num_classes)
    films = torch.bincount(targets_N, minlength=num_classes)
    return float((hits[films > 0] / films[films > 0]).mean())


def _class_weights(targets_N: Tensor, num_classes: int) -> Tensor:
    counts = torch.bincount(targets_N, minlength=num_classes).float()
    return counts.sum() / (num_classes * counts.clamp_min(1))


def _optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
    # Decay shrinks filters; norms and biases have no scale to shrink.
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


_WARM_UP = 0.25
"""Share of the steps in which ``one-cycle`` climbs to its peak."""


def one_cycle(step: float, num_steps: int) -> float:
    """Share of the peak rate at ``step``: a cosine up from 1/25, a cosine down to almost nothing.

    Smith & Topin 2018, arXiv:1708.07120; unlike torch's own, for runs of any length.
    """
    top = _WARM_UP * num_steps
    if step < top:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (step - top) / (num_steps - top))) / 2


def _schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, num_steps))


class Trainer:
    """Trains a network on one `FilmSet`, validates it on another, keeps the best weights.

    Iterate `epochs`; afterwards ``best_state`` holds the weights (averaged ones if
    ``ema_decay`` is set) of the epoch with the highest balanced accuracy on validation.
    All randomness comes from ``config.seed``; the global generators are left as found.
    """

    def __init__(
        self,
        network: nn.Module,
        train: FilmSet,
        validation: FilmSet,
        num_classes: int,
        config: TrainingConfig,
        augment: AugmentConfig,
        precision: torch.dtype,
    ) -> None:
        self.device = train.pixels_NCHW.device
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(network).eval() if config.ema_decay else self.network
        self.train, self.validation = train, validation
        self.config, self.augment, self.precision = config, augment, precision
        self.num_classes = num_classes
        self.normalisation = Normalisation.of(train.pixels_NCHW)
        self.class_weights = (
            _class_weights(train.targets_N, self.num_classes) if config.balance_classes else None
        )
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.optimizer = _optimizer(network, config)
        self.schedule = _schedule(self.optimizer, config, config.epochs * self.steps_per_epoch)
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = torch.Generator(self.device).manual_seed(config.seed)
        self.step = 0
        self.best: EpochRecord | None = None
        self.best_state: dict[str, Tensor] = {}

    def epochs(self) -> Iterator[EpochRecord]:
        """Train to the end, one record an epoch. Raises `DivergenceError` on a loss not finite."""
        devices = [self.device] if self.device.type == "cuda" else []
        for epoch in range(1, self.config.epochs + 1):
            # Dropout draws from the global generator: seeded here, and put back after.
            with torch.random.fork_rng(devices):
                torch.manual_seed(self.config.seed * 1_000_003 + epoch)
                record = self._epoch(epoch)
            if self.best is None or self._rank(record) > self._rank(self.best):
                self.best = record
                self.best_state = {
                    name: value.detach().cpu().clone()
                    for name, value in self.averaged.state_dict().items()
                }
            yield record

    @staticmethod
    def _rank(record: EpochRecord) -> tuple[float, float]:
        return record.validation_balanced_accuracy, -record.validation_loss

    def _epoch(self, epoch: int) -> EpochRecord:
        started = time.perf_counter()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.network.train()
        total_loss = torch.zeros((), device=self.device)
        order_N = torch.randperm(len(self.train), generator=self.order)
        for rows in order_N.to(self.device).tensor_split(self.steps_per_epoch):
            total_loss += self._step(rows).detach() * len(rows)
        train_loss = float(total_loss) / len(self.train)  # waits for the device
        train_seconds = time.perf_counter() - started
        if not math.isfinite(train_loss):
            raise DivergenceError(
                f"training loss is {train_loss} in epoch {epoch} (step {self.step}); lower "
                f"training.learning_rate (now {self.config.learning_rate:g})"
            )
        loss, accuracy, balanced = self._validate()
        return EpochRecord(
            epoch=epoch,
            learning_rate=learning_rate,
            train_loss=train_loss,
            validation_loss=loss,
            validation_accuracy=accuracy,
            validation_balanced_accuracy=balanced,
            seconds=time.perf_counter() - started,
            films_per_second=len(self.train) / train_seconds,
        )

    def _step(self, rows: Tensor) -> Tensor:
        x_NCHW = self.train.pixels_NCHW[rows].float() / 255
        x_NCHW = self.normalisation(augment_batch(x_NCHW, self.augment, self.draws))
        autocast = torch.autocast(
            self.device.type, dtype=self.precision, enabled=self.precision != torch.float32
        )
        with autocast:
            logits = self.network(x_NCHW)
        loss = F.cross_entropy(
            logits.float(),
            self.train.targets_N[rows],
            weight=self.class_weights,
            label_smoothing=self.config.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.config.ema_decay:
            self._average()
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        # A constant decay would keep the random start for hundreds of steps and stop a
        # short run on nonsense: it warms up instead.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        mine, theirs = self.averaged.state_dict(), self.network.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay
        )

    def _validate(self) -> tuple[float, float, float]:
        """Mean loss, accuracy and balanced accuracy of the weights that would be kept."""
        logits = predict_logits(
            self.averaged, self.validation.pixels_NCHW, self.normalisation, precision=self.precision
        )
        targets = self.validation.targets_N
        predicted = logits.argmax(dim=1)
        return (
            float(F.cross_entropy(logits, targets)),
            float((predicted == targets).float().mean()),
            balanced_accuracy(predicted, targets, self.num_classes),
        )
