"""The drawings of the checks of explanations, from ``evidence/explanations.json``."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_model.explanations.verdicts import MOST_RANDOMISED_SPEARMAN
from cxr_model.reports.figures import DASHES, MUTED, PALETTE, WIDTH, styled

_BASELINE_TITLES = {"random": "random order", "centre": "film's centre"}


def explanation_check_figures(record: dict[str, Any]) -> dict[str, Figure]:
    """Figures by the names that their files get."""
    return {
        "randomisation": _randomisation_figure(record["methods"]),
        "insertion": _removal_figure(record, "insertion", "cells put in, strongest first"),
        "deletion": _removal_figure(record, "deletion", "cells taken out, strongest first"),
    }


@styled
def _randomisation_figure(methods: dict[str, Any]) -> Figure:
    """Likeness to the trained network's maps, by how far down weights are random."""
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    layers: list[str] = []
    for axes, key, title in zip(
        panels, ("spearman", "ssim"), ("|rank correlation|", "structural similarity"), strict=True
    ):
        for number, method in enumerate(methods.values()):
            rows = method["randomisation"]
            layers = [row["layer"] for row in rows]
            depths = list(range(len(rows) + 1))
            value, low, high = (  # 1: the trained network, with itself
                [1.0] + [row[key][end] for row in rows] for end in ("value", "ci_low", "ci_high")
            )
            _line(axes, depths, value, number, method["title"])
            color = PALETTE[number % len(PALETTE)]
            axes.fill_between(depths, low, high, color=color, alpha=0.12, linewidth=0)
        axes.axhline(MOST_RANDOMISED_SPEARMAN, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_ylabel(title)
        axes.set_ylim(-0.1, 1.05)
    panels[1].set_xticks(range(len(layers) + 1), ["none", *layers], rotation=40, ha="right")
    panels[1].set_xlabel("random down to")
    _legend(figure, panels[0])
    return figure


@styled
def _removal_figure(record: dict[str, Any], kind: str, label: str) -> Figure:
    """Mean probability of the class explained, each method and each baseline."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate(record["methods"].values()):
        curves = method["curves"]
        _line(axes, curves["share"], curves[kind], number, method["title"])
    for (name, curves), dash in zip(record["baselines"].items(), (":", "--"), strict=True):
        axes.plot(
            curves["share"], curves[kind], color=MUTED, linestyle=dash, linewidth=1.2,
            label=_BASELINE_TITLES[name],
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"share of {label}")
    axes.set_ylabel("mean probability")
    _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the axes: curves may run anywhere in them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7.5)


def _line(axes: Axes, xs: list[Any], ys: list[float], number: int, title: str) -> None:
    color, dash = PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]
    axes.plot(xs, ys, color=color, linestyle=dash, label=title)
