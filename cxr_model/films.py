"""Decoded films as tensors on the training device."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_model.cache import FilmCache
from cxr_model.errors import OutOfMemory

log = logging.getLogger(__name__)

_RESIDENT_SHARE = 0.5
"""A set that takes more than this share of a GPU's free memory stays in the mapped cache."""


@dataclass(frozen=True)
class FilmSet:
    """One split, ready for the device that computes with it.

    Decoded films are small (50 kB each at 224 px grey), so a GPU holds the whole set and
    batches are gathered there. A set too large for that, and any set on the CPU, stays in
    the cache's mapped file: no worker process stands in the hot path, and the host's memory
    holds no copy.
    """

    pixels_NCHW: Tensor
    """uint8, (films, 1 or 3, H, W); may hold other films too."""
    rows_N: Tensor
    """int64: where in ``pixels_NCHW`` each film of the set is; on the pixels' device."""
    targets_N: Tensor
    """int64 class numbers, on the device that computes."""

    def __len__(self) -> int:
        return len(self.targets_N)

    @property
    def device(self) -> torch.device:
        return self.targets_N.device

    def gather(self, places_B: Tensor) -> Tensor:
        """Films by their places in the set, uint8 (B, C, H, W) on ``device``."""
        rows_B = self.rows_N[places_B.to(self.rows_N.device)]
        return self.pixels_NCHW[rows_B].to(self.device)

    def take(self, places_B: Tensor) -> "FilmSet":
        return FilmSet(
            pixels_NCHW=self.pixels_NCHW,
            rows_N=self.rows_N[places_B.to(self.rows_N.device)],
            targets_N=self.targets_N[places_B.to(self.device)],
        )

    def batches(self) -> Iterator[Tensor]:
        """All films, in batches that occupy the device."""
        num = 256 if self.device.type == "cuda" else 64
        size = films_at_once(num, self.pixels_NCHW.shape[-1])
        for places_B in torch.split(torch.arange(len(self)), size):
            yield self.gather(places_B)


def film_set(
    cache: FilmCache, sha256s: Sequence[str], targets: NDArray[np.int64], device: torch.device
) -> FilmSet:
    """The films of these digests with their class numbers (N,), in that order."""
    rows_N = torch.from_numpy(cache.rows(sha256s))
    # Mapped privately: torch takes no read-only memory.
    flat = torch.from_file(
        str(cache.pixels_file), shared=False, size=cache.films.size, dtype=torch.uint8
    )
    pixels_NCHW = _channels_first(flat.view(cache.films.shape))
    if device.type == "cuda":
        num_bytes = len(rows_N) * pixels_NCHW[0].numel()
        if num_bytes < _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            pixels_NCHW = _taken_to(device, pixels_NCHW, rows_N)
            rows_N = torch.arange(len(rows_N), device=device)
    return FilmSet(
        pixels_NCHW=pixels_NCHW, rows_N=rows_N, targets_N=torch.from_numpy(targets).to(device)
    )


def _taken_to(device: torch.device, pixels_NCHW: Tensor, rows_N: Tensor) -> Tensor:
    """The films of these rows on ``device``, taken there a few at a time.

    At once they would all be copied to the host's memory first, which may be the smaller one.
    """
    taken_NCHW = torch.empty(
        (len(rows_N), *pixels_NCHW.shape[1:]), dtype=pixels_NCHW.dtype, device=device
    )
    size = films_at_once(1024, pixels_NCHW.shape[-1])
    parts = zip(torch.split(taken_NCHW, size), torch.split(rows_N, size), strict=True)
    for part_BCHW, rows_B in parts:
        part_BCHW.copy_(pixels_NCHW[rows_B])
    return taken_NCHW


def films_at_once(num: int, size_px: int) -> int:
    """``num``, or fewer in proportion to their area with sides above 256 px; one at least."""
    return max(1, num * 256**2 // max(256, size_px) ** 2)


def resize_films(x_NCHW: Tensor, size_px: int) -> Tensor:
    """Float films with sides of ``size_px``, without aliasing."""
    if x_NCHW.shape[-1] == size_px:
        return x_NCHW
    return F.interpolate(x_NCHW, size=(size_px, size_px), mode="bilinear", antialias=True)


def films_to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 3) to a uint8 tensor (N, C, H, W)."""
    return _channels_first(torch.from_numpy(np.ascontiguousarray(pixels)))


def pixel_batches(pixels: NDArray[np.uint8], size: int, device: torch.device) -> Iterator[Tensor]:
    """Decoded films, (N, H, W) or (N, H, W, 3), as batches of ``size`` on ``device``."""
    for start in range(0, len(pixels), size):
        yield films_to_tensor(pixels[start : start + size]).to(device)


def _channels_first(films: Tensor) -> Tensor:
    return films.unsqueeze(1) if films.ndim == 3 else films.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Grey mean and standard deviation over the training films, on the scale from 0 to 1."""

    mean: float
    std: float

    @classmethod
    def of(cls, films: FilmSet) -> "Normalisation":
        # A histogram is exact and needs no float copy of the films.
        counts = torch.zeros(256, dtype=torch.float64)
        for pixels_BCHW in films.batches():
            counts += torch.bincount(pixels_BCHW.flatten(), minlength=256).cpu()
        grey = torch.arange(256, dtype=torch.float64) / 255
        mean = float((counts * grey).sum() / counts.sum())
        variance = float((counts * (grey - mean) ** 2).sum() / counts.sum())
        return cls(mean=mean, std=max(variance**0.5, 1e-3))

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Films on the scale 0 to 1 to zero mean and unit variance, channels last in memory."""
        return ((x_NCHW - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    batches: Iterable[Tensor],
    normalisation: Normalisation,
    *,
    precision: torch.dtype = torch.float32,
    size_px: int | None = None,
) -> Tensor:
    """Logits (N, num_classes), float32, of batches (B, C, H, W) of uint8 films.

    The films are on the network's device; ``size_px`` has them resized first. Batches that it
    has no room for are halved; raises ``OutOfMemory`` where not even a single film fits.
    """

    def answer(pixels_BCHW: Tensor) -> Tensor:
        x_NCHW = pixels_BCHW.float() / 255
        if size_px is not None:
            x_NCHW = resize_films(x_NCHW, size_px)
        enabled = precision != torch.float32
        with torch.autocast(pixels_BCHW.device.type, dtype=precision, enabled=enabled):
            logits: Tensor = network(normalisation(x_NCHW)).float()
        return logits

    was_training = network.training
    network.eval()
    logits = list(_answer_as_room_allows(answer, batches))
    network.train(was_training)
    return torch.cat(logits)


def _answer_as_room_allows(
    answer: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Answers to all films in their order; once memory has run out, to fewer at a time."""
    most = None
    for pixels_BCHW in batches:
        waiting = deque(torch.split(pixels_BCHW, most or max(1, len(pixels_BCHW))))
        while waiting:
            try:
                yield answer(waiting[0])
                waiting.popleft()
                continue
            except torch.OutOfMemoryError as error:
                told = str(error).splitlines()[0]
            # Outside of the handler, whose traceback keeps the activations alive.
            device, num_films = pixels_BCHW.device, len(waiting[0])
            if num_films == 1:
                raise OutOfMemory(
                    f"{device}: out of memory with a single film ({told}); use a smaller network "
                    "or data.size_px"
                )
            most = math.ceil(num_films / 2)
            waiting = deque(torch.split(torch.cat(list(waiting)), most))
            torch.cuda.empty_cache()
            log.warning("%s is out of memory: it is given %d films at a time", device, most)
