"""Draws the healthy part of a synthetic frontal chest radiograph.

Everything is laid out in body coordinates: x from -1 (left edge of the film, the patient's
right) to 1, y from -1 (top) to 1, so that one pose (rotation, scale, shift) moves the whole
patient. Layers are float32 arrays (height, width); their sum is the attenuation that
`drawing` exposes to a film. A bright pixel is a dense one, as on a real film.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

Layer = NDArray[np.float32]
Points = NDArray[np.float64]

SUPERSAMPLING = 2  # fine structures are drawn at twice the size: Pillow does not antialias


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The film's size in pixels, both even, and the pose of the patient on it."""

    width: int
    height: int
    rotation_rad: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def _affine(self) -> tuple[Points, Points]:
        half = np.array([self.width, self.height]) / 2
        cos, sin = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        turn = half[:, None] * np.array([[cos, sin], [-sin, cos]])
        return turn * self.scale, half * (1 + np.array(self.shift))

    def to_pixels(self, points: Points) -> Points:
        """Body coordinates (..., 2) to pixel coordinates (..., 2), x first."""
        turn, origin = self._affine
        return points @ turn + origin

    def fill(self, *outlines: Points, blur: float) -> Layer:
        """Filled polygons, 0 to 1, softened by a Gaussian of ``blur`` film widths; a soft layer,
        half as high and wide as the film: ``enlarge`` brings it to full size."""
        # What is blurred more holds less detail, and is drawn smaller still.
        shrink = 2 * min(8, max(1, int(blur * self.width / 2)))
        image = Image.new("L", (-(-self.width // shrink), -(-self.height // shrink)))
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            draw.polygon((self.to_pixels(outline) / shrink).ravel().tolist(), fill=255)
        image = image.filter(ImageFilter.GaussianBlur(blur * self.width / shrink))
        box = (0, 0, self.width / shrink, self.height / shrink)
        size = (self.width // 2, self.height // 2)
        return _unit(image.resize(size, Image.Resampling.BILINEAR, box))

    def enlarge(self, soft: Layer) -> Layer:
        """A soft layer at the film's size."""
        size = (self.width, self.height)
        return np.asarray(Image.fromarray(soft).resize(size, Image.Resampling.BILINEAR))

    def stroke(self, *bundles: tuple[Points, float]) -> Layer:
        """Curves of even brightness, 0 to 1: bundles (curves, N, 2), each with its width as a
        share of the film's."""
        image, draw = self._fine_image()
        for curves, width in bundles:
            thickness = max(1, round(width * self.width * SUPERSAMPLING))
            pixels = self.to_pixels(curves) * SUPERSAMPLING
            for path in pixels.reshape(len(curves), -1).tolist():
                draw.line(path, fill=255, width=thickness)
        return _unit(image.reduce(SUPERSAMPLING))

    def bones(self, curves: Points, *, width: float) -> Layer:
        """Flat bones along curves (bones, N, 2): dim marrow between two bright edges, 0 to 1."""
        image, draw = self._fine_image()
        edge_px = max(1, round(0.0045 * self.width * SUPERSAMPLING))
        pixels = self.to_pixels(curves) * SUPERSAMPLING
        tangent = np.gradient(pixels, axis=1)
        normal = tangent[..., ::-1] * [-1, 1] / np.linalg.norm(tangent, axis=2, keepdims=True)
        offset = normal * width * self.width * SUPERSAMPLING / 2
        outlines = np.concatenate([pixels + offset, (pixels - offset)[:, ::-1]], axis=1)
        for outline in outlines.reshape(len(curves), -1).tolist():
            draw.polygon(outline, fill=165)
            half = len(outline) // 2
            draw.line(outline[:half], fill=240, width=edge_px)
            draw.line(outline[half:], fill=240, width=edge_px)
        return _unit(image.reduce(SUPERSAMPLING))

    def spread(self, coarse: ArrayLike) -> Layer:
        """A coarse grid of values stretched smoothly over the whole film."""
        image = Image.fromarray(np.asarray(coarse, dtype=np.float32))
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BICUBIC))

    def _fine_image(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("L", (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING))
        return image, ImageDraw.Draw(image)


def _unit(image: Image.Image) -> Layer:
    """Grey values 0 to 255 as float32 from 0 to 1."""
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


@dataclass(frozen=True, kw_only=True)
class Thorax:
    """A healthy chest: what the film shows of it, and where its lungs are."""

    density: Layer
    """Attenuation, about 0 (air) to 1 (abdomen, spine)."""
    aerated: Layer
    """Lung that is not hidden by heart and mediastinum, 0 to 1."""
    lung_reach: tuple[float, float]
    """Widest x and lowest y of the lung fields, in body coordinates."""


def smooth_outline(points: ArrayLike, samples: int = 8) -> Points:
    """Closed Catmull-Rom curve through ``points`` (N, 2), ``samples`` a piece."""
    p1 = np.asarray(points, dtype=float)[:, None, :]
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, samples, endpoint=False)[None, :, None]
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    curve += (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.reshape(curve / 2, (-1, 2))


def circle(num_points: int) -> Points:
    """Unit circle about the origin, (num_points, 2)."""
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def mirrored(points: Points) -> Points:
    return points * [-1, 1]


def _pairs(curves: Points) -> Points:
    """Curves (n, N, 2) of one side of the body, and then their mirror images: (2n, N, 2)."""
    return np.concatenate([curves, mirrored(curves)])


def draw_thorax(rng: np.random.Generator, canvas: Canvas) -> Thorax:
    """Body, lungs, heart, bones and vessels of one healthy patient, each a bit different."""
    reach, base = rng.uniform(0.68, 0.78), rng.uniform(0.46, 0.60)
    lungs = _lung_outlines(rng, reach, base)
    lung = canvas.fill(*lungs, blur=0.006)
    hidden = canvas.fill(_mediastinum(rng, base), blur=0.010)
    aerated = lung * (1 - 0.92 * hidden)
    body = _body(rng, canvas)
    depth = canvas.fill(*lungs, blur=0.07)  # the lung is thin at its border
    density = body * rng.uniform(0.66, 0.76) - aerated * (0.26 + 0.26 * depth)
    density += body * (1 - lung) * _abdomen(rng, canvas, base)
    density += body * (_spine(rng, canvas) + _soft_tissue(rng, canvas))
    density += 0.10 * aerated * _hila(canvas)
    density, body, aerated = (canvas.enlarge(soft) for soft in (density, body, aerated))
    density = density + body * _bones(rng, canvas, reach) + aerated * _vessels(rng, canvas)
    return Thorax(density=density, aerated=aerated, lung_reach=(reach, base))


def _lung_outlines(rng: np.random.Generator, reach: float, base: float) -> tuple[Points, Points]:
    """Outlines of the patient's right and left lung; the right diaphragm stands higher."""
    dome = base - 0.04 + rng.uniform(-0.03, 0.03)
    right = np.array(
        [
            (0.29, -0.84), (0.45, -0.74), (0.59, -0.47), (0.92 * reach, -0.12), (reach, 0.22),
            (1.02 * reach, base + 0.12), (0.97 * reach, base + 0.19), (0.85 * reach, base + 0.07),
            (0.62 * reach, dome), (0.38 * reach, dome + 0.01),
            (0.14, base + 0.08), (0.11, 0.2), (0.11, -0.2), (0.11, -0.55), (0.17, -0.77),
        ]
    )  # fmt: skip
    left = right + [0, rng.uniform(0.03, 0.07)] * (right[:, 1:] > 0.3)
    wobble = rng.normal(0, 0.008, (2, *right.shape))
    return smooth_outline(mirrored(right + wobble[0])), smooth_outline(left + wobble[1])


def _mediastinum(rng: np.random.Generator, base: float) -> Points:
    """Outline of the great vessels and the heart, whose apex points to the patient's left."""
    apex, atrium, knob = rng.uniform([0.40, 0.20, 0.16], [0.58, 0.28, 0.22])
    return smooth_outline(
        [
            (-0.10, -1.1), (0.10, -1.1), (0.12, -0.62), (knob, -0.44), (0.85 * knob, -0.28),
            (0.21, -0.14), (0.60 * apex, 0.02), (0.90 * apex, base - 0.26),
            (apex, base - 0.06), (0.9 * apex, base + 0.08), (0.2, base + 0.25), (-0.1, base + 0.25),
            (-0.9 * atrium, base + 0.04), (-atrium, base - 0.22), (-0.75 * atrium, -0.04),
            (-0.14, -0.25), (-0.14, -0.60),
        ]
    )  # fmt: skip


def _body(rng: np.random.Generator, canvas: Canvas) -> Layer:
    """Skin outline with neck, shoulders and arms; thinner towards the skin."""
    neck, flank = rng.uniform([0.22, 0.88], [0.30, 0.98])
    half = np.array(
        [
            (neck, -1.6), (neck, -1.15), (neck + 0.10, -0.98), (0.60, -0.90), (0.90, -0.82),
            (1.12, -0.62), (1.16, -0.30), (flank + 0.06, -0.10), (flank, 0.05), (flank - 0.02, 0.4),
            (flank + 0.03, 1.0), (flank + 0.05, 1.6),
        ]
    )  # fmt: skip
    outline = smooth_outline(np.concatenate([half, mirrored(half)[::-1]]))
    arm = np.array(
        [(0.95, -0.8), (1.18, -0.62), (1.34, 0.1), (1.5, 1.0), (1.25, 1.0), (1.08, 0.05)]
    )
    parts = (outline, smooth_outline(arm), smooth_outline(mirrored(arm)))
    thickness = 0.35 + 0.65 * canvas.fill(*parts, blur=0.11)
    return canvas.fill(*parts, blur=0.006) * thickness


def _abdomen(rng: np.random.Generator, canvas: Canvas, base: float) -> Layer:
    """What lies below the diaphragm is denser, except for gas in the stomach."""
    trunk = np.array([(-1.4, base - 0.1), (1.4, base - 0.1), (1.4, 1.6), (-1.4, 1.6)])
    layer = rng.uniform(0.10, 0.24) * canvas.fill(trunk, blur=0.05)
    if rng.random() < 0.5:
        bubble = [0.42, base + 0.24] + rng.uniform([0.08, 0.05], [0.18, 0.09]) * circle(24)
        layer -= rng.uniform(0.12, 0.25) * canvas.fill(bubble, blur=0.008)
    return layer


def _spine(rng: np.random.Generator, canvas: Canvas) -> Layer:
    """Vertebral bodies, the disc spaces between them, and the windpipe's dark band."""
    pitch = rng.uniform(0.12, 0.14)
    top = -1.15 + pitch * np.arange(18)
    half_width = 0.07 + 0.018 * (top + 1)
    corner = np.array([(-1, 0), (1, 0), (0.88, 0.41), (1, 0.82), (-1, 0.82), (-0.88, 0.41)])
    size = np.stack([half_width, np.full_like(top, pitch)], axis=1)
    bodies = corner * size[:, None] + np.stack([np.zeros_like(top), top], axis=1)[:, None]
    column = np.array([(-0.08, -1.2), (0.08, -1.2), (0.12, 1.4), (-0.12, 1.4)])
    windpipe = np.array([(-0.03, -1.2), (0.03, -1.2), (0.035, -0.3), (-0.025, -0.3)])
    layer = 0.05 * canvas.fill(*bodies, blur=0.005)
    layer += 0.07 * canvas.fill(column, blur=0.014)
    layer -= 0.12 * canvas.fill(windpipe, blur=0.010)
    return rng.uniform(0.8, 1.3) * layer


def _bones(rng: np.random.Generator, canvas: Canvas, reach: float) -> Layer:
    """Ribs as tilted hoops (back part high and bright, front part low and dim), collar bones
    and upper arms."""
    first, pitch, drop = rng.uniform([-0.86, 0.142, 0.30], [-0.80, 0.162, 0.42])
    number = np.arange(11)[:, None]
    angle = np.linspace(0.06, 0.80, 44) * np.pi
    side = (reach + 0.02) * np.minimum(1, 0.60 + 0.20 * np.sqrt(number))
    x = 0.05 + (side - 0.05) * np.sin(angle) ** 0.85
    sag = drop * (0.55 + 0.09 * number) * (1 - np.cos(angle)) / 2
    hoops = _pairs(np.stack([x, first + pitch * number + sag - 0.05 * np.sin(2 * angle)], axis=2))
    t = np.linspace(0, 1, 20)
    collar = np.stack([0.09 + 0.75 * t, -0.64 - 0.18 * t - 0.03 * np.sin(2 * np.pi * t)], axis=1)
    humerus = np.array([(1.02, -0.70), (1.14, -0.2), (1.3, 0.8)])
    layer = canvas.bones(hoops[:, :27], width=0.026)
    layer += 0.55 * canvas.bones(hoops[:, 26:], width=0.032)
    layer += 1.1 * canvas.bones(_pairs(collar[None]), width=0.034)
    layer += 1.2 * canvas.bones(_pairs(humerus[None]), width=0.06)
    return rng.uniform(0.09, 0.14) * layer


def _vessels(rng: np.random.Generator, canvas: Canvas) -> Layer:
    """Pulmonary vessels: on either side a tree that forks outward from the hilum."""
    num_roots = 9
    side = np.repeat([-1.0, 1.0], num_roots)
    start = np.array([0.17, -0.06]) + rng.normal(0, 0.04, (2 * num_roots, 2))
    heading = np.tile(np.linspace(-1.4, 1.4, num_roots), 2) + rng.normal(0, 0.15, 2 * num_roots)
    bundles: list[tuple[Points, float]] = []
    for level in range(4):
        length = 0.22 * 0.85**level * rng.uniform(0.6, 1.25, len(start))
        step = length[:, None] * np.stack([0.8 * np.cos(heading), np.sin(heading)], axis=1)
        end = start + step
        middle = start + 0.5 * step + rng.normal(0, 0.012, start.shape)
        flip = np.stack([side, np.ones_like(side)], axis=1)
        curves = np.stack([start * flip, middle * flip, end * flip], axis=1)
        bundles.append((curves, 0.010 * 0.58**level))
        start, side = np.repeat(end, 2, axis=0), np.repeat(side, 2)
        fork = np.tile([-0.38, 0.38], len(end))
        heading = np.repeat(heading, 2) + fork + rng.normal(0, 0.2, len(start))
    return rng.uniform(0.06, 0.11) * canvas.stroke(*bundles)


def _hila(canvas: Canvas) -> Layer:
    hilum = np.array([0.17, -0.02]) + [0.05, 0.14] * circle(16)
    return canvas.fill(hilum, mirrored(hilum), blur=0.02)


def _soft_tissue(rng: np.random.Generator, canvas: Canvas) -> Layer:
    """Shoulder blades, and breast or muscle shadows of any strength down to none."""
    x, y, size = rng.uniform([0.40, 0.12, 0.24], [0.56, 0.42, 0.36])
    shadow = [x, y] + size * circle(32)
    strength = max(0.0, rng.uniform(-0.05, 0.16))
    blade = smooth_outline([(0.72, -0.74), (1.0, -0.7), (0.93, -0.35), (0.76, 0.02), (0.70, -0.3)])
    layer = strength * canvas.fill(shadow, mirrored(shadow), blur=0.03)
    return layer + rng.uniform(0.04, 0.07) * canvas.fill(blade, mirrored(blade), blur=0.006)
