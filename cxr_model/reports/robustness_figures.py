"""Drawings of damage and of strangers, in the style of `cxr_model.reports.figures`."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cxr_model.reports.figures import BLUE, INK, MUTED, VERMILLION, WIDTH, styled

_COLUMNS = 2


@styled
def robustness_figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """``robustness``: balanced accuracy over the level of each damage, a small panel each.

    ``record`` is what ``evidence/robustness.json`` holds. The band is the 95 % interval, the
    dashed line the clean films, the hollow point their level.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for condition in record["conditions"]:
        by_name.setdefault(condition["name"], []).append(condition)
    num_rows = -(-len(by_name) // _COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.2 + 1.35 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, _COLUMNS, sharey=True, squeeze=False)
    for axes, (name, conditions) in zip(panels.flat, by_name.items(), strict=False):
        _draw_damage(axes, name, conditions, record["clean"]["balanced_accuracy"])
    for axes in panels.flat[len(by_name) :]:
        axes.set_visible(False)
    figure.supylabel("balanced accuracy", size=9)
    return {"robustness": figure}


@styled
def outlier_figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """``outliers``: where the scores of films and of strangers lie, a row each, and the bound.

    ``record`` is what ``evidence/outliers.json`` holds.
    """
    scores = record["scores"]
    edges = np.array(scores["edges"])
    names = [name for name in scores if name != "edges"]
    figure = Figure(figsize=(WIDTH, 0.75 + 0.33 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(reversed(names)):
        counts = np.array(scores[name], dtype=float)
        is_film = name in ("validation", "holdout")
        axes.stairs(
            row + 0.85 * counts / max(counts.max(), 1),
            edges,
            baseline=row,
            fill=True,
            color=BLUE if is_film else VERMILLION,
        )
    axes.axvline(record["threshold"], color=INK, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")  # the usual one writes powers as formulas
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([row + 0.3 for row in range(len(names))], list(reversed(names)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("outlier score (dashed: the bound)")
    axes.set_ylim(0, len(names))
    axes.grid(axis="x")
    return {"outliers": figure}


def _draw_damage(
    axes: Axes, name: str, conditions: list[Mapping[str, Any]], clean: Mapping[str, Any]
) -> None:
    levels = [condition["level"] for condition in conditions]
    clean_level = conditions[0]["clean_level"]
    axes.axhline(clean["value"], color=MUTED, linewidth=1, linestyle="--")
    points = [(condition["level"], condition["balanced_accuracy"]) for condition in conditions]
    points = sorted([*points, (clean_level, clean)], key=itemgetter(0))
    if clean_level > max(levels):  # stronger damage to the right, whatever its unit
        points.reverse()
    x = np.arange(len(points))  # levels evenly apart: some double, some halve
    low, value, high = (
        np.array([estimate[key] for _, estimate in points], dtype=float)
        for key in ("ci_low", "value", "ci_high")
    )
    axes.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x, value, color=BLUE, marker="o", markersize=3)
    where = [level for level, _ in points].index(clean_level)
    axes.plot(where, clean["value"], "o", color=BLUE, markersize=5, markerfacecolor="white")
    axes.set_xticks(x, [f"{level:g}" for level, _ in points])
    axes.tick_params(labelsize=7)
    axes.set_title(name, size=9, loc="left", pad=3)
    axes.set_xlabel(conditions[0]["unit"], size=7.5, labelpad=1)
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
