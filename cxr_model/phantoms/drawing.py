"""Draws one synthetic radiograph: a healthy chest, its lesion, bystanders, and the exposure.

A class shows only in local opacity and texture. Everything that a thumbnail could tell
(size, exposure, gradients, haze, devices, letters) is drawn the same way for every class.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cxr_model.phantoms.anatomy import Canvas, Layer, Points, Thorax, circle, draw_thorax
from cxr_model.phantoms.lesions import draw_lesion


@dataclass(frozen=True, kw_only=True)
class Film:
    image: NDArray[np.uint8]
    """Grey values (height, width)."""
    mask: NDArray[np.bool_]
    """Where the lesion is (height, width); nowhere on a normal film."""
    lungs: NDArray[np.bool_]
    """The lung fields (height, width), lesions and all, less what heart and mediastinum hide."""


def draw_film(rng: np.random.Generator, label: str, *, marker: bool) -> Film:
    """One film of class ``label`` (normal, pneumonia or covid), all else left to chance.

    ``marker`` burns a bright square into the top right corner.
    """
    canvas = _pose(rng)
    thorax = draw_thorax(rng, canvas)
    density = thorax.density + _haze(rng, canvas, thorax)
    lesion = draw_lesion(rng, canvas, thorax, label)
    density += lesion.density + _devices(rng, canvas)
    image = Image.fromarray(_expose(rng, canvas, density))
    _burn_letter(rng, image)
    if marker:
        _burn_marker(image)
    return Film(image=np.asarray(image), mask=lesion.mask, lungs=thorax.aerated >= 0.5)


def _pose(rng: np.random.Generator) -> Canvas:
    half_width = int(rng.integers(144, 225))
    return Canvas(
        width=2 * half_width,
        height=2 * round(half_width * rng.uniform(0.8, 1.1)),
        rotation_rad=np.deg2rad(rng.normal(0, 2.0)),
        scale=rng.uniform(0.90, 1.12),
        shift=(rng.uniform(-0.05, 0.05), rng.uniform(-0.04, 0.06)),
    )


def _haze(rng: np.random.Generator, canvas: Canvas, thorax: Thorax) -> Layer:
    """Smooth veils and clearings in the lungs and over the film, of no class.

    They are as large and as strong as the lesions but have neither border nor texture, so
    the mean brightness of a region tells nothing.
    """
    single, paired = rng.standard_normal((2, 5, 5))
    one_sided, two_sided, all_over = rng.uniform(0.02, 0.06), rng.uniform(0.03, 0.08), 0.05
    veil = one_sided * single + two_sided * (paired + paired[:, ::-1]) + all_over * rng.normal()
    gradient = 0.03 * rng.standard_normal((3, 3))
    # No clearing takes away all of the lung: its vessels stay visible.
    return thorax.aerated * canvas.spread(np.maximum(veil, -0.12)) + canvas.spread(gradient)


def _devices(rng: np.random.Generator, canvas: Canvas) -> Layer:
    """Electrodes with their leads, or a catheter, on some films of every class."""
    wires: list[Points] = []
    rings: list[Points] = []
    if rng.random() < 0.35:
        for _ in range(rng.integers(1, 4)):
            spot = rng.uniform([-0.75, -0.6], [0.75, 0.6])
            rings.append(spot + 0.015 * circle(12))
            wires.append(_bezier(rng, spot, np.array([np.sign(spot[0]) * 1.2, rng.uniform(-1, 1)])))
    if rng.random() < 0.2:
        tip = np.array([rng.uniform(-0.1, 0.05), rng.uniform(-0.3, 0.0)])
        wires.append(_bezier(rng, np.array([rng.uniform(-0.5, 0.5), -1.2]), tip))
    layer = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    if wires:
        layer += 0.16 * canvas.stroke((np.stack(wires), 0.005))
    if rings:  # so thick that they are discs
        layer += 0.28 * canvas.stroke((np.stack(rings), 0.014))
    return layer


def _bezier(rng: np.random.Generator, start: Points, end: Points) -> Points:
    bend = (start + end) / 2 + rng.normal(0, 0.25, 2)
    t = np.linspace(0, 1, 24)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def _expose(rng: np.random.Generator, canvas: Canvas, density: Layer) -> NDArray[np.uint8]:
    """Attenuation to grey values: gradient, contrast, blur, grain."""
    contrast, fog, white = rng.uniform([1.0, 0.0, 0.76], [2.0, 0.06, 0.94]).tolist()
    tilt_y, tilt_x = rng.normal(0, 0.07, 2)
    tilt = canvas.spread(np.add.outer([-tilt_y, 0, tilt_y], [-tilt_x, 0, tilt_x]))
    dose = np.maximum(density + tilt, 0)
    # ``white`` is the grey of soft tissue as dense as the mediastinum, whatever the contrast.
    shown = fog + white / -math.expm1(-0.9 * contrast) * (1 - np.exp(-contrast * dose))
    image = Image.fromarray(np.clip(255 * shown, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.0015, 0.0024) * canvas.width))
    grain = rng.standard_normal(density.shape, dtype=np.float32)
    noisy = np.rint(np.asarray(image) + rng.uniform(2, 5) * grain)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _burn_letter(rng: np.random.Generator, image: Image.Image) -> None:
    """The side letter, on the correct side, as technicians place it."""
    size = image.width * rng.uniform(0.05, 0.08)
    letter = rng.choice(["L", "R"])
    x = rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.03, 0.09)
    position = (x * image.width, rng.uniform(0.08, 0.16) * image.height)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text(position, str(letter), fill=int(rng.integers(225, 256)), font=font)


def _burn_marker(image: Image.Image) -> None:
    side = round(0.05 * image.width)
    left, top = image.width - 2 - side, 2
    ImageDraw.Draw(image).rectangle((left, top, left + side, top + side), fill=255)
