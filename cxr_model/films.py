"""Decoded films as tensors on the training device."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class FilmSet:
    """One split, whole, on the device that computes with it.

    Decoded films are small (50 kB each at 224 px grey), so the set is moved once and
    batches are gathered there: no worker process stands in the hot path.
    """

    pixels_NCHW: Tensor
    """uint8, (N, 1 or 3, H, W)."""
    targets_N: Tensor
    """int64 class numbers."""

    def __len__(self) -> int:
        return len(self.targets_N)


def film_set(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], device: torch.device
) -> FilmSet:
    """From decoded films (N, H, W) or (N, H, W, 3) and their class numbers (N,)."""
    return FilmSet(
        pixels_NCHW=films_to_tensor(pixels).to(device),
        targets_N=torch.as_tensor(targets, dtype=torch.int64).to(device),
    )


def films_to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 3) to a uint8 tensor (N, C, H, W)."""
    films = torch.from_numpy(np.ascontiguousarray(pixels))
    return films.unsqueeze(1) if films.ndim == 3 else films.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Grey mean and standard deviation over the training films, on the scale from 0 to 1."""

    mean: float
    std: float

    @classmethod
    def of(cls, pixels_NCHW: Tensor) -> "Normalisation":
        # A histogram is exact and needs no float copy of the whole set.
        counts = torch.bincount(pixels_NCHW.flatten(), minlength=256).double().cpu()
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
    pixels_NCHW: Tensor,
    normalisation: Normalisation,
    *,
    batch_size: int = 64,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Logits (N, num_classes), float32, of uint8 films on the network's device."""
    was_training = network.training
    network.eval()
    logits = []
    device_type = pixels_NCHW.device.type
    for pixels in torch.split(pixels_NCHW, batch_size):
        with torch.autocast(device_type, dtype=precision, enabled=precision != torch.float32):
            logits.append(network(normalisation(pixels.float() / 255)).float())
    network.train(was_training)
    return torch.cat(logits)
