"""The drawings of a look at the films: what the files of each class have in common."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_model.reports.figures import BLUE, DASHES, MUTED, PALETTE, VERMILLION, WIDTH, styled

MOST_CLASSES = 12
"""Classes drawn; more lines nobody tells apart."""
HATCHES = ("", "////", "....", "xxxx", "----")
"""Of the pieces of a bar, which tell them apart in a grey print."""


@styled
def hygiene_figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Figures of an ``evidence/hygiene.json``, by the file names they go under.

    ``hygiene-grey-levels``, ``hygiene-sizes``, ``hygiene-files`` and, where there are any
    figures of it, ``hygiene-told-apart``.
    """
    classes = dict(list(record["fingerprint"].items())[:MOST_CLASSES])
    figures = {
        "hygiene-grey-levels": _grey_levels(classes),
        "hygiene-sizes": _sizes(classes),
        "hygiene-files": _files(classes),
    }
    if record["told_apart_by"]:
        figures["hygiene-told-apart"] = _told_apart(record["told_apart_by"])
    return figures


def _grey_levels(classes: Mapping[str, Any]) -> Figure:
    """Share of the pixels by grey level, a line a class."""
    figure = Figure(figsize=(WIDTH, 2.6 + 0.18 * len(classes)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 255))
    for (label, films), color, dash in zip(
        classes.items(), cycle(PALETTE), cycle(DASHES), strict=False
    ):
        shares = np.array(films["histogram"])
        edges = np.linspace(0, 256, len(shares) + 1)
        axes.plot(
            (edges[:-1] + edges[1:]) / 2, 100 * shares, color=color, linestyle=dash, label=label
        )
    axes.set(xlabel="grey level", ylabel="pixels (%)", ylim=(0, None))
    axes.grid(True)
    figure.legend(loc="outside lower center", ncols=3, handlelength=3, fontsize=8.5)
    return figure


def _sizes(classes: Mapping[str, Any]) -> Figure:
    """From the 5th to the 95th percentile, with the median, of four measures."""
    measures = {
        "width": "width (px)",
        "height": "height (px)",
        "aspect": "width / height",
        "border_grey": "grey level of the border",
    }
    figure = Figure(figsize=(WIDTH, 4 * (0.62 + 0.22 * len(classes))), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(4), measures.items(), strict=True):
        _draw_ranges(axes, {label: films[name] for label, films in classes.items()})
        axes.set_xlabel(title)
    return figure


def _files(classes: Mapping[str, Any]) -> Figure:
    """Shares of the formats and of the modes, and the range of JPEG quality, a row a class."""
    figure = Figure(figsize=(WIDTH, 3 * (0.75 + 0.22 * len(classes))), layout="constrained")
    formats, modes, quality = figure.subplots(3)
    for axes, name in ((formats, "formats"), (modes, "modes")):
        _draw_shares(axes, {label: films[name] for label, films in classes.items()})
        axes.set_xlabel(f"{name} (% of the films)")
    _draw_ranges(quality, {label: films["jpeg_quality"] for label, films in classes.items()})
    quality.set(xlabel="JPEG quality (no bar: no JPEGs)", xlim=(0, 101))
    return figure


def _draw_shares(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    """A bar a class, a piece of it for each kind of file."""
    kinds = sorted({kind for numbers in counts.values() for kind in numbers})
    ends = np.zeros(len(counts))
    for kind, color, hatch in zip(kinds, cycle(PALETTE), cycle(HATCHES), strict=False):
        shares = np.array(
            [100 * each.get(kind, 0) / sum(each.values()) for each in counts.values()]
        )
        axes.barh(
            range(len(counts)), shares, 0.7, ends,
            color=color, hatch=hatch, edgecolor="white", linewidth=0, label=kind,
        )  # fmt: skip
        ends += shares
    axes.set_xlim(0, 100)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, borderpad=0)
    _name_rows(axes, list(counts))


def _draw_ranges(axes: Axes, spreads: Mapping[str, Mapping[str, float] | None]) -> None:
    for row, (spread, color) in enumerate(zip(spreads.values(), cycle(PALETTE), strict=False)):
        if spread is not None:
            axes.plot([spread["p5"], spread["p95"]], [row, row], color=color, linewidth=3)
            axes.plot(spread["median"], row, "o", color=color, markersize=6)
    _name_rows(axes, list(spreads))


def _name_rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _told_apart(rows: list[dict[str, Any]]) -> Figure:
    """Balanced accuracy of each property alone with its interval, beside chance."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1))
    chance = rows[0]["chance"]
    estimates = [row["balanced_accuracy"] for row in rows]
    figures = np.array([estimate["value"] for estimate in estimates])
    ends_2 = np.array([[estimate[end] for estimate in estimates] for end in ("ci_low", "ci_high")])
    colors = [VERMILLION if figure > chance + 0.1 else BLUE for figure in figures]
    bars = axes.barh(range(len(rows)), figures, 0.62, xerr=abs(ends_2 - figures), color=colors)
    axes.bar_label(bars, [f"{figure:.2f}" for figure in figures], padding=3, size=8)
    axes.axvline(chance, color=MUTED, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["property"].replace("_", " ") for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"balanced accuracy (chance {chance:.2f}, dashed)")
    return figure
