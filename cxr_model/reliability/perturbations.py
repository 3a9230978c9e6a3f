"""Damage that films meet between the X-ray tube and the network, at stated levels.

Each works on a decoded film, uint8 (S, S) or (S, S, 3), as the network takes it: levels in
pixels are shares of the side, so that they mean the same at every size. Kinds and idea after
Hendrycks & Dietterich 2019 (arXiv:1903.12261), chosen for radiographs.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cxr_model.cache import Pixels

_WORDS = ("PORTABLE", "AP ERECT", "SUPINE", "L", "R", "09:41", "ICU BED 4")


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    name: str
    unit: str
    levels: tuple[float, ...]
    """From mild to strong; where ``clean`` lies between them, in rising order."""
    clean: float
    """The level that changes nothing."""
    apply: Callable[[Pixels, float, np.random.Generator], Pixels]
    """``(film, level, generator)`` to a film of the same shape."""


def _gamma(film: Pixels, exponent: float, _: np.random.Generator) -> Pixels:
    table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return table[film]


def _jpeg(film: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def _blur(film: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    radius = sigma / 100 * film.shape[0]
    return np.asarray(Image.fromarray(film).filter(ImageFilter.GaussianBlur(radius)))


def _noise(film: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    noisy = film + 255 * sigma / 100 * rng.standard_normal(film.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _crop(film: Pixels, share: float, _: np.random.Generator) -> Pixels:
    side = film.shape[0]
    margin = share / 100 * side
    box = (margin, margin, side - margin, side - margin)
    image = Image.fromarray(film)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _rotation(film: Pixels, degrees: float, rng: np.random.Generator) -> Pixels:
    """To either side; what the turn uncovers is filled from the nearest edge.

    So is the turning of training films. Black corners would be damage of their own: they alone
    brought a network that was trained for 8 epochs down to chance.
    """
    side = film.shape[0]
    margin = side // 4  # the corners of a turned square lie 0.21 sides beyond its edges
    wide = np.pad(film, [(margin, margin)] * 2 + [(0, 0)] * (film.ndim - 2), mode="edge")
    turned = Image.fromarray(wide).rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BILINEAR)
    return np.asarray(turned.crop((margin, margin, margin + side, margin + side)))


def _resolution(film: Pixels, share: float, _: np.random.Generator) -> Pixels:
    """As if the film had been stored with so small a share of its side."""
    side = film.shape[0]
    small = max(1, round(share / 100 * side))
    image = Image.fromarray(film).resize((small, small), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _text(film: Pixels, count: float, rng: np.random.Generator) -> Pixels:
    """White words in places of their own; a letter is a fifteenth of the side high."""
    side = film.shape[0]
    image = Image.fromarray(film)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(side / 15)
    white = 255 if film.ndim == 2 else (255, 255, 255)
    for word in rng.choice(_WORDS, int(count)):
        x, y = rng.uniform(0, 0.8 * side), rng.uniform(0, 0.93 * side)
        draw.text((x, y), str(word), fill=white, font=font)
    return np.asarray(image)


PERTURBATIONS = (
    Perturbation(name="gamma", unit="exponent", levels=(0.5, 0.7, 1.4, 2.0), clean=1, apply=_gamma),
    Perturbation(name="jpeg", unit="quality", levels=(50, 20, 10), clean=100, apply=_jpeg),
    Perturbation(
        name="blur", unit="sigma, % of the side", levels=(0.25, 0.5, 1.0), clean=0, apply=_blur
    ),
    Perturbation(
        name="noise", unit="sigma, % of the grey range", levels=(1, 2, 5), clean=0, apply=_noise
    ),
    Perturbation(
        name="crop", unit="% of the side, each edge", levels=(3, 6, 10), clean=0, apply=_crop
    ),
    Perturbation(name="rotation", unit="degrees", levels=(5, 10, 20), clean=0, apply=_rotation),
    Perturbation(
        name="resolution", unit="% of the side", levels=(50, 33, 20), clean=100, apply=_resolution
    ),
    Perturbation(name="text", unit="words", levels=(1, 3, 6), clean=0, apply=_text),
)
