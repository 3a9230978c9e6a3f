"""A network drawn from top to bottom: one box a part, with the feature map it puts out."""

import math
from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, FancyBboxPatch, Rectangle

from cxr_model.reports.figures import BLUE, INK, MUTED, VERMILLION, WIDTH, styled

# Inches: height of a part, of its box; left edges and middles across the drawing.
_ROW, _BOX = 0.72, 0.55
_SHEETS_X, _BOX_X, _BOX_WIDTH, _SHAPE_X = 0.3, 0.64, 1.86, 2.66


@styled
def architecture_figure(layers: Sequence[dict[str, Any]], input_shape: Sequence[int]) -> Figure:
    """The ``layers`` of ``model.json`` below the film they start from.

    The sheets on the left show each output: their side goes with the logarithm of its
    height, their number with that of its channels. An arc marks a shortcut.
    """
    film = {
        "name": "film", "kind": "", "output_shape": list(input_shape), "num_parameters": 0
    }  # fmt: skip
    parts = [film, *layers]
    height = _ROW * len(parts) + 0.1
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()
    for i, part in enumerate(parts):
        y = _ROW * (i + 0.5) + 0.05
        _draw_sheets(axes, part["output_shape"], input_shape[-1], y)
        _draw_box(axes, part, y)
        _write_shape(axes, part, y)
        if i > 0:
            axes.annotate(
                "",
                xy=(_BOX_X + _BOX_WIDTH / 2, y - _BOX / 2),
                xytext=(_BOX_X + _BOX_WIDTH / 2, y - _ROW + _BOX / 2),
                arrowprops={"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0},
            )
    return figure


def _draw_sheets(axes: Axes, shape: Sequence[int], film_side: int, y: float) -> None:
    num_sheets = 1 + round(math.log2(shape[0]) / 2)
    side = 0.06 + 0.3 * math.log2(shape[-1]) / math.log2(film_side) if len(shape) == 3 else 0.06
    offset = 0.045
    for sheet in range(num_sheets):
        shift = (sheet - (num_sheets - 1) / 2) * offset
        corner = (_SHEETS_X + shift - side / 2, y + shift / 2 - side / 2)
        axes.add_patch(
            Rectangle(corner, side, side, facecolor="#d6e8f4", edgecolor=BLUE, linewidth=0.7)
        )


def _draw_box(axes: Axes, part: dict[str, Any], y: float) -> None:
    fill, edge = _box_colors(part)
    axes.add_patch(
        FancyBboxPatch(
            (_BOX_X, y - _BOX / 2),
            _BOX_WIDTH,
            _BOX,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor=fill,
            edgecolor=edge,
            linewidth=1,
        )
    )
    kind = wrap(short_kind(part["kind"]), width=28, max_lines=2, placeholder=" …")
    middle = _BOX_X + _BOX_WIDTH / 2
    top = y - 0.065 * len(kind)
    axes.text(middle, top, part["name"], ha="center", va="center", weight="bold", size=8.5)
    for i, line in enumerate(kind):
        axes.text(middle, top + 0.15 + 0.13 * i, line, ha="center", va="center", size=7)
    if "Block" in part["kind"] or "Triple" in part["kind"]:
        right = _BOX_X + _BOX_WIDTH
        axes.add_patch(
            Arc((right, y), 0.2, 0.8 * _BOX, theta1=-90, theta2=90, color=edge, linewidth=1.4)
        )


def _box_colors(part: dict[str, Any]) -> tuple[str, str]:
    """Fill and edge: blue where a part learns, vermillion for the head, grey otherwise."""
    if part["name"] == "head":
        return "#fbe6d9", VERMILLION
    return ("#e3f0f8", BLUE) if part["num_parameters"] else ("#f2f4f7", "#a9b4c2")


def _write_shape(axes: Axes, part: dict[str, Any], y: float) -> None:
    shape = " × ".join(str(size) for size in part["output_shape"])
    num_parameters = part["num_parameters"]
    lines = [(shape, INK, 8.0)]
    if num_parameters:
        lines.append((f"{num_parameters:,} weights", MUTED, 7.0))
    for i, (text, color, size) in enumerate(lines):
        shift = 0.17 * (i - (len(lines) - 1) / 2)
        axes.text(_SHAPE_X, y + shift, text, va="center", color=color, size=size)


def short_kind(kind: str) -> str:
    """``A → A → B`` as ``A × 2 → B``."""
    runs = [(name, len(list(run))) for name, run in groupby(kind.split(" → "))]
    return " → ".join(name if count == 1 else f"{name} × {count}" for name, count in runs)
