"""Pictures that are no upright radiographs, made from films or drawn, to measure a score on.

Natural pictures are drawn by the two models of their statistics that need no photographs:
an amplitude spectrum that falls as 1/f (Field 1987, J. Opt. Soc. Am. A 4:2379) and dead
leaves, discs of all sizes that hide each other (Lee, Mumford & Huang 2001, Int. J. Computer
Vision 41:35), which have edges and objects too.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cxr_model.cache import Pixels

_LEAST_RADIUS_PX, _DISCS = 3.0, 400
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # Pillow's from RGB to L


def _noise(film: Pixels, rng: np.random.Generator) -> Pixels:
    """White, between faint and the whole grey range."""
    mean, spread = rng.uniform(64, 192), rng.uniform(16, 96)
    return _to_pixels(rng.normal(mean, spread, film.shape))


def _blank(film: Pixels, rng: np.random.Generator) -> Pixels:
    """One grey level, as of a shutter that stayed closed or a screen."""
    return np.full_like(film, rng.integers(256))


def _inverted(film: Pixels, _: np.random.Generator) -> Pixels:
    return 255 - film


def _rotated(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A quarter turn to either side."""
    return np.ascontiguousarray(np.rot90(film, rng.choice((1, 3))))


def _upside_down(film: Pixels, _: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(np.rot90(film, 2))


def _natural(film: Pixels, rng: np.random.Generator) -> Pixels:
    """Spectrum 1/f with an exponent from 0.8 to 1.5, in colour, some of it nearly grey."""
    side = film.shape[0]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    amplitude = frequency ** -rng.uniform(0.8, 1.5)
    layers = [np.fft.irfft2(amplitude * _phases(amplitude.shape, rng), (side, side))] * 3
    tint = rng.uniform(0, 1)
    layers = [
        (1 - tint) * layer
        + tint * np.fft.irfft2(amplitude * _phases(amplitude.shape, rng), (side, side))
        for layer in layers
    ]
    picture = np.stack([layer / layer.std() for layer in layers], axis=-1)
    return _like(film, rng.uniform(80, 176) + rng.uniform(30, 70) * picture)


def _scene(film: Pixels, rng: np.random.Generator) -> Pixels:
    """Dead leaves: discs with radii drawn from r^-3, each of one colour, in front of each other."""
    side = film.shape[0]
    image = Image.new("RGB", (side, side), tuple(rng.integers(256, size=3).tolist()))
    draw = ImageDraw.Draw(image)
    # The inverse of the distribution function of r^-3 between the bounds.
    low, high = _LEAST_RADIUS_PX**-2, (0.5 * side) ** -2
    radii = (low - rng.uniform(size=_DISCS) * (low - high)) ** -0.5
    for radius, (x, y), colour in zip(
        radii, rng.uniform(0, side, (_DISCS, 2)), rng.integers(256, size=(_DISCS, 3)), strict=True
    ):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour.tolist()))
    return _like(film, np.asarray(image, dtype=np.float64))


STRANGERS: Mapping[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "noise": _noise,
    "blank": _blank,
    "inverted": _inverted,
    "rotated": _rotated,
    "upside-down": _upside_down,
    "natural": _natural,
    "scene": _scene,
}
"""Each takes a decoded film, uint8 (H, H) or (H, H, 3), and returns a picture of its shape."""

FROM_FILMS = frozenset({"inverted", "rotated", "upside-down"})
"""Those that change the film; the others take its shape only."""


def _phases(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex128]:
    phases: NDArray[np.complex128] = np.exp(2j * np.pi * rng.uniform(size=shape))
    return phases


def _like(film: Pixels, picture_HW3: NDArray[np.float64]) -> Pixels:
    """In grey where the film is."""
    return _to_pixels(picture_HW3 if film.ndim == 3 else picture_HW3 @ np.array(_GREY_WEIGHTS))


def _to_pixels(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
