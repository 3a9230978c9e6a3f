"""Heat maps over films: red where a place speaks for the class, blue where against it."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, gaussian_filter

from cxr_model.reports.figures import INK

TILE_PX = 256
SIGNED_METHODS = ("occlusion", "integrated-gradients", "gradient-shap")
GRAINY_METHODS = ("integrated-gradients", "gradient-shap")

_OPACITY = 0.75  # of the strongest place; the film stays visible below it
_LETTER_PX = 8  # more than the small font's letters are wide in the mean


def film_tile(film: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> Image.Image:
    """The film (H, W) or (H, W, 3) at ``TILE_PX``, the lesion ``mask`` (H, W) outlined."""
    image = Image.fromarray(film).convert("RGB").resize((TILE_PX, TILE_PX))
    return image if mask is None else _outlined(image, mask)


def heat_map_tile(
    film: NDArray[np.uint8],
    heat_map: NDArray[np.floating],
    method: str,
    mask: NDArray[np.bool_] | None,
) -> Image.Image:
    """``heat_map`` (H, W) over the film; strength is opacity, relative to the map's own peak.

    Signed methods are drawn blue to red about zero, others from purple to yellow. The
    pixel noise of gradients is smoothed with a Gaussian of 1.5 % of the side.
    """
    values = np.nan_to_num(heat_map.astype(np.float32))
    if method in GRAINY_METHODS:
        values = gaussian_filter(values, 0.015 * len(values))
    values = np.asarray(Image.fromarray(values).resize((TILE_PX, TILE_PX)))
    peak = float(np.percentile(np.abs(values), 99.5)) or float(np.abs(values).max()) or 1.0
    strength = np.clip(values / peak, -1, 1)
    if method in SIGNED_METHODS:
        color = mpl.colormaps["RdBu_r"]((strength + 1) / 2)[..., :3]
    else:
        color = mpl.colormaps["inferno"](0.25 + 0.75 * strength)[..., :3]
    opacity = _OPACITY * np.abs(strength)[..., None]
    grey = np.asarray(film_tile(film, None)) / 255
    image = Image.fromarray(np.uint8(255 * ((1 - opacity) * grey + opacity * color)))
    return image if mask is None else _outlined(image, mask)


def jpeg_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def explanation_panel(
    title: str, rows: Sequence[Sequence[tuple[str, Image.Image]]], note: str = ""
) -> Image.Image:
    """Captioned tiles side by side, one row for each class explained; ``note`` below them."""
    gap, line, close_line = 12, 26, 18
    width = max(len(row) for row in rows) * (TILE_PX + gap) + gap
    bottom = line + len(rows) * (TILE_PX + line)
    told = textwrap.wrap(note, width // _LETTER_PX)
    panel = Image.new("RGB", (width, bottom + len(told) * close_line + gap), "white")
    draw = ImageDraw.Draw(panel)
    draw.text((gap, 5), title, fill=INK, font=ImageFont.load_default(16))
    for number, words in enumerate(told):
        draw.text((gap, bottom + number * close_line + 6), words, fill=INK, font=_small_font())
    for r, row in enumerate(rows):
        top = line + r * (TILE_PX + line)
        for c, (caption, tile) in enumerate(row):
            left = gap + c * (TILE_PX + gap)
            draw.text((left, top + 6), caption, fill=INK, font=_small_font())
            panel.paste(tile, (left, top + line))
    return panel


def _small_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def _outlined(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """A white line with a dark rim around the lesion: visible on any grey and any colour."""
    inside = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    line = binary_dilation(inside, iterations=2)
    rim = binary_dilation(line)
    pixels = np.array(image)
    pixels[rim & ~line] = 0
    pixels[line & ~inside] = 255
    return Image.fromarray(pixels)
