"""Draws the lesions: a focal consolidation, or ground glass along both outer lung borders."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_model.phantoms.anatomy import Canvas, Layer, Points, Thorax, circle, smooth_outline

MASK_THRESHOLD = 0.15
"""Share of a lesion's full opacity from which a pixel counts as lesion."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    density: Layer
    """Attenuation that comes on top of the healthy chest's."""
    mask: NDArray[np.bool_]
    """Where it is (height, width); nowhere for a normal film."""


def draw_lesion(rng: np.random.Generator, canvas: Canvas, thorax: Thorax, label: str) -> Lesion:
    """What the class ``label`` (normal, pneumonia or covid) adds to a healthy chest."""
    if label == "pneumonia":
        return _consolidation(rng, canvas, thorax)
    if label == "covid":
        return _ground_glass(rng, canvas, thorax)
    nothing = np.zeros_like(thorax.aerated)
    return Lesion(density=nothing, mask=nothing.astype(np.bool_))


def _consolidation(rng: np.random.Generator, canvas: Canvas, thorax: Thorax) -> Lesion:
    """One dense patch in one lobe, with the dark twigs of air-filled bronchi in it."""
    reach, base = thorax.lung_reach
    side = rng.choice([-1.0, 1.0])
    y = rng.choice([-0.45, -0.1, base - 0.25])
    beside_heart = 0.84 if side > 0 and y > 0 else 0.72
    centre = np.array([side * reach * beside_heart, y]) + rng.normal(0, 0.03, 2)
    blob = _blob(rng, centre, radius=rng.uniform(0.18, 0.28))
    opacity = canvas.enlarge(canvas.fill(blob, blur=0.016)) * thorax.aerated
    mottle = 1 + 0.34 * canvas.spread(rng.standard_normal((45, 45)))
    density = rng.uniform(0.32, 0.40) * opacity * mottle
    density -= 0.09 * opacity * canvas.stroke((_bronchi(rng, centre, side), 0.006))
    return Lesion(density=density, mask=opacity > MASK_THRESHOLD)


def _bronchi(rng: np.random.Generator, centre: Points, side: float) -> Points:
    """Bent twigs (5, 6, 2) that fan out through a consolidation from its hilum side."""
    t = np.linspace(0, 1, 6)[:, None]
    heading = np.linspace(-0.7, 0.7, 5)[:, None, None] + rng.normal(0, 0.1, (5, 1, 1))
    heading = heading + rng.normal(0, 0.5, (5, 1, 1)) * t
    reach = rng.uniform(0.18, 0.34, (5, 1, 1)) * t
    offset = np.concatenate([side * reach * np.cos(heading), reach * np.sin(heading)], axis=2)
    start = centre - [side * 0.14, 0.03]
    return np.asarray(start + rng.normal(0, 0.03, (5, 1, 2)) + offset)


def _ground_glass(rng: np.random.Generator, canvas: Canvas, thorax: Thorax) -> Lesion:
    """Several veiled, grainy patches along the outer border of both lungs."""
    reach, base = thorax.lung_reach
    blobs = []
    for side in (-1, 1):
        count = rng.integers(3, 5)
        heights = np.linspace(-0.35, base - 0.06, count) + rng.normal(0, 0.06, count)
        for y in heights:
            edge = reach * np.interp(y, [-0.5, -0.1, 0.25], [0.72, 0.88, 0.92])
            centre = np.array([side * (edge - rng.uniform(0.04, 0.11)), y])
            blobs.append(_blob(rng, centre, radius=rng.uniform(0.12, 0.18)))
    opacity = canvas.enlarge(canvas.fill(*blobs, blur=0.022)) * thorax.aerated
    coarse, fine = (canvas.spread(rng.standard_normal((cells, cells))) for cells in (50, 100))
    density = rng.uniform(0.10, 0.145) * opacity * (1 + 0.55 * coarse + 0.55 * fine)
    return Lesion(density=density, mask=opacity > MASK_THRESHOLD)


def _blob(rng: np.random.Generator, centre: Points, radius: float) -> Points:
    """Irregular round outline about ``centre``; ``radius`` in body coordinates."""
    distance = radius * (1 + rng.normal(0, 0.13, (11, 1)))
    return smooth_outline(centre + distance * circle(11))
