"""The training loop: one epoch after another, nothing read back from the device in a step.

Whatever is drawn at random follows from the seed and the number of the step or epoch, so a
training that goes on from its state draws what an unbroken one would have drawn.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxr_model.averaging import average_weights, averaging_decay, recalibrate
from cxr_model.batches import Batches, TrainingFilms, seed_of
from cxr_model.config import AugmentConfig, TrainingConfig
from cxr_model.cuda_graphs import Gradients, GraphedGradients
from cxr_model.distributed import Processes, loss_share, synchronise_norms
from cxr_model.errors import DivergenceError, OutOfMemory
from cxr_model.films import films_at_once, predict_logits
from cxr_model.schedule import learning_rate, make_optimizer

log = logging.getLogger(__name__)

State = dict[str, Any]

_RECALIBRATED_AT_ONCE, _FEWEST_RECALIBRATED = 64, 2  # batch norm takes no statistics of one film
_ROLLED_BACK_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One row of ``history.csv``; times are wall-clock seconds.

    The training loss is the one descended: augmented films, weighted by class, smoothed
    labels, mean over films. The validation loss is plain cross-entropy, mean over films.
    Without validation films its figures are NaN.
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


class Trainer:
    """Trains a network, validates it after each epoch, keeps the best weights.

    Iterate `epochs`; afterwards ``best_state`` holds the weights (averaged ones if
    ``ema_decay`` is set) of the epoch with the highest balanced accuracy on validation.
    `state` and `restore` take a training up where it was left, to the last bit on one
    machine. All randomness comes from ``config.seed``; the global generators are left as
    found. In a process group each process trains on its share of every batch.
    """

    def __init__(
        self,
        network: nn.Module,
        films: TrainingFilms,
        config: TrainingConfig,
        augment: AugmentConfig,
        precision: torch.dtype,
    ) -> None:
        self.films, self.config, self.precision = films, config, precision
        self.device = films.train.device
        self.processes = Processes.joined()
        if self.processes.count > 1:
            synchronise_norms(network)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(network).eval() if config.ema_decay else self.network
        self.model: nn.Module = self.network
        if self.processes.count > 1:
            self.model = DistributedDataParallel(self.network, broadcast_buffers=False)
        self.batches = Batches(films, config, augment, self.processes)
        self.normalisation = self.batches.normalisation
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.optimizer = make_optimizer(network, config)
        self._gradients: Gradients = self._backward
        if self.device.type == "cuda" and self.processes.count == 1:
            self._gradients = GraphedGradients(
                self._backward, list(self.network.parameters()), self.batches.draws
            )
        self.losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.epoch, self.position, self.elapsed_s = 0, 0, 0.0
        self.rate_factor, self.num_parts = 1.0, 1
        self.history: list[EpochRecord] = []
        self.best: EpochRecord | None = None
        self.best_state: dict[str, Tensor] = {}
        self._last_good: State = {}
        self._last_good = copy.deepcopy(self.state())

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.epoch * self.steps_per_epoch + self.position

    def state(self) -> State:
        """All that a training is, on its device and not copied: tensors, numbers and names."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "losses": self.losses,
            "elapsed_s": self.elapsed_s,
            "rate_factor": self.rate_factor,
            "num_parts": self.num_parts,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(record) for record in self.history],
            "best": self.best and asdict(self.best),
            "best_state": self.best_state,
            # What to go back to, should the running epoch diverge.
            "last_good": self._last_good if self.position else None,
        }

    def snapshot(self) -> State:
        """`state` as it is now, whatever is trained later."""
        state = self.state()
        changing = ("losses", "network", "averaged", "optimizer")  # all else is replaced
        return state | copy.deepcopy({name: state[name] for name in changing})

    def restore(self, state: State) -> None:
        """Go on from a `state` of the same settings and films; it is not changed later."""
        state = copy.deepcopy(state)
        for name in ("epoch", "position", "elapsed_s", "rate_factor", "num_parts", "best_state"):
            setattr(self, name, state[name])
        self.losses.copy_(state["losses"])
        self._leave_losses_to_the_first()
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = EpochRecord(**state["best"]) if state["best"] else None
        self._last_good = state["last_good"] or copy.deepcopy(self.state())

    def gather_losses(self) -> None:
        """Of several processes: what `state` of the first one holds is of all, from here on."""
        self.processes.sum_(self.losses)
        self._leave_losses_to_the_first()

    def _leave_losses_to_the_first(self) -> None:
        if not self.processes.is_first:
            self.losses.zero_()  # the others' are added to them at the end of the epoch

    def is_sound(self) -> bool:
        """Whether losses and weights are finite; reads back from the device."""
        values = [self.losses[: self.position], *self.network.parameters()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def epochs(self, on_step: Callable[[], None] = lambda: None) -> Iterator[EpochRecord]:
        """Train to the end, one record an epoch; ``on_step`` is called within epochs.

        A loss that is not finite takes the training back to the end of the last good epoch,
        once, to go on at a tenth of the rate. Raises `DivergenceError` if that does not help,
        `OutOfMemory` when not even a single film fits.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        while self.epoch < self.config.epochs:
            try:
                with torch.random.fork_rng(devices):  # dropout draws from the global generator
                    record = self._epoch(on_step)
            except DivergenceError as error:
                if self.rate_factor < 1:
                    raise
                log.warning("%s; going back to the end of epoch %d", error, self.epoch)
                self.restore(self._last_good)
                self.rate_factor = _ROLLED_BACK_RATE
                continue
            if self._is_better(record):
                self.best = record
                self.best_state = {
                    name: value.detach().cpu().clone()
                    for name, value in self.averaged.state_dict().items()
                }
            self.history.append(record)
            self.epoch, self.position, self.elapsed_s = self.epoch + 1, 0, 0.0
            self._last_good = copy.deepcopy(self.state())
            yield record

    def _is_better(self, record: EpochRecord) -> bool:
        """Whether these are the weights to keep; never those that saw smaller films only."""
        last = self.config.epochs - 1
        if self.batches.size_px(self.epoch) < self.batches.size_px(last):
            return False
        best = self.best
        if best is None or self.films.validation is None:
            return True
        accuracy, least = record.validation_balanced_accuracy, best.validation_balanced_accuracy
        return (accuracy, -record.validation_loss) > (least, -best.validation_loss)

    def _epoch(self, on_step: Callable[[], None]) -> EpochRecord:
        started = time.perf_counter() - self.elapsed_s
        self.network.train()
        batches = self.batches.order(self.epoch)
        for rows in batches[self.position :]:
            self.train_on(rows)
            self.elapsed_s = time.perf_counter() - started
            on_step()
        train_loss = self._mean_loss(batches)  # waits for the device
        if not self.is_sound():
            raise DivergenceError(
                f"weights are not finite after epoch {self.epoch + 1} (last loss "
                f"{train_loss:.4g}); lower training.learning_rate "
                f"(now {self.config.learning_rate:g})"
            )
        train_seconds = time.perf_counter() - started
        is_last = self.epoch + 1 == self.config.epochs
        if self.config.ema_decay and (is_last or self.films.validation):
            self._recalibrate()
        loss, accuracy, balanced = self._validate()
        return EpochRecord(
            epoch=self.epoch + 1,
            learning_rate=self._rate(self.epoch * self.steps_per_epoch),
            train_loss=train_loss,
            validation_loss=loss,
            validation_accuracy=accuracy,
            validation_balanced_accuracy=balanced,
            seconds=time.perf_counter() - started,
            films_per_second=len(self.films.train) / train_seconds,
        )

    def _recalibrate(self) -> None:
        """Take batch norm's statistics of the averaged weights, in parts that there is room for."""
        size_px = self.batches.size_px(self.epoch)
        most = max(_FEWEST_RECALIBRATED, films_at_once(_RECALIBRATED_AT_ONCE, size_px))
        while True:
            try:
                with self._autocast():
                    recalibrate(self.averaged, self.batches.unchanged(self.epoch, most))
                return
            except torch.OutOfMemoryError as error:
                told = str(error).splitlines()[0]
            # As in `train_on`. Of several processes each has its own sample, but all wait.
            if self.processes.count > 1 or most <= _FEWEST_RECALIBRATED:
                raise OutOfMemory(
                    f"{self.device}: out of memory with {most} films at once ({told}); use a "
                    "smaller network or data.size_px"
                )
            most //= 2
            torch.cuda.empty_cache()
            log.warning("%s is out of memory: batch norm is taken over %d films", self.device, most)

    def train_on(self, rows_B: Tensor) -> None:
        """One optimiser step on the films at these places of the training set."""
        size_px = self.batches.size_px(self.epoch)
        pixels_NCHW, targets_B = self.batches.take(rows_B)
        while True:
            # A film at least of every process's share in each part.
            num_parts = min(self.num_parts, len(rows_B) // self.processes.count)
            self._seed()
            try:
                loss = self._gradients(pixels_NCHW, targets_B, size_px, num_parts)
                break
            except torch.OutOfMemoryError as error:
                told = str(error).splitlines()[0]
            # Outside of the handler, whose traceback keeps the activations alive.
            self._use_smaller_parts(len(pixels_NCHW), told)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimizer.step()
        self.losses[self.position] = loss
        self.position += 1
        if self.config.ema_decay:
            decay = averaging_decay(self.config.ema_decay, self.step)
            average_weights(self.averaged, self.network, decay)

    def _seed(self) -> None:
        """Have all that is drawn from now on be this step's."""
        self.batches.seed(self.step)
        name = f"{self.config.seed} dropout {self.processes.rank} {self.step}"
        torch.manual_seed(seed_of(name))

    def _backward(
        self, pixels_NCHW: Tensor, targets_B: Tensor, size_px: int, num_parts: int
    ) -> Tensor:
        """Gradients of the batch's mean loss; returns this process's share of that loss."""
        batch = self.batches.load(pixels_NCHW, targets_B, size_px)
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(
            zip(
                batch.x_NCHW.tensor_split(num_parts),
                batch.targets_N.tensor_split(num_parts),
                strict=True,
            )
        )
        total = torch.zeros((), device=self.device)
        for i, (x, targets) in enumerate(parts):
            is_last = i == len(parts) - 1
            with nullcontext() if is_last else self._without_exchange():
                with self._autocast():
                    logits = self.model(x).float()
                weights_K, smoothing = self.batches.class_weights, self.config.label_smoothing
                loss = loss_share(logits, targets, weights_K, smoothing) / batch.weight
                # DistributedDataParallel averages over processes; the shares are to be added.
                torch.autograd.backward(loss * self.processes.count)
            total += loss.detach()
        return total

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Gradients of all but a batch's last part are added up before processes share them."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def _use_smaller_parts(self, num_films: int, told: str) -> None:
        """Halve what is on the device at once; a batch's gradients stay those of the whole.

        Batch norm takes its statistics over a part. Of several processes none may go its own
        way: the others wait for it in the middle of the network.
        """
        num_parts = min(self.num_parts, num_films)
        largest = math.ceil(num_films / num_parts)
        at_once = f"{self.device}: out of memory with {largest} films at once"
        if self.processes.count > 1:
            raise OutOfMemory(f"{at_once} ({told}); use a smaller training.batch_size")
        if num_parts == num_films:
            raise OutOfMemory(f"{at_once} ({told}); use a smaller network or data.size_px")
        self.num_parts = min(2 * num_parts, num_films)
        torch.cuda.empty_cache()
        log.warning(
            "%s is out of memory: batches of %d go through it in %d parts from step %d on",
            self.device,
            num_films,
            self.num_parts,
            self.step,
        )

    def _mean_loss(self, batches: Sequence[Tensor]) -> float:
        """Mean over the epoch's films; raises `DivergenceError` if a step's loss is not finite."""
        losses: list[float] = self.processes.sum_(self.losses.clone()).tolist()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                before = ", ".join(f"{each:.4g}" for each in losses[max(0, i - 3) : i]) or "none"
                raise DivergenceError(
                    f"training loss is {loss} in epoch {self.epoch + 1}, step "
                    f"{self.epoch * self.steps_per_epoch + i} (last losses: {before}; learning "
                    f"rate {self._rate(self.epoch * self.steps_per_epoch + i):.2g}); lower "
                    f"training.learning_rate (now {self.config.learning_rate:g})"
                )
        num_films = [len(rows) for rows in batches]
        return float(np.average(losses, weights=num_films))

    def _rate(self, step: int) -> float:
        num_steps = self.config.epochs * self.steps_per_epoch
        return self.rate_factor * learning_rate(self.config, step, num_steps)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)

    def _validate(self) -> tuple[float, float, float]:
        """Mean loss, accuracy and balanced accuracy of the weights that would be kept."""
        films = self.films.validation
        if films is None:
            return math.nan, math.nan, math.nan
        logits_NK = torch.zeros(len(films), self.films.num_classes, device=self.device)
        mine = torch.arange(len(films))[self.processes.share]
        logits_NK[mine.to(self.device)] = predict_logits(
            self.averaged,
            films.take(mine).batches(),
            self.normalisation,
            precision=self.precision,
            size_px=self.batches.size_px(self.epoch),
        )
        self.processes.sum_(logits_NK)
        predicted_N = logits_NK.argmax(dim=1)
        return (
            float(F.cross_entropy(logits_NK, films.targets_N)),
            float((predicted_N == films.targets_N).float().mean()),
            balanced_accuracy(predicted_N, films.targets_N, self.films.num_classes),
        )
