"""The drawing of the shortcut audit: every probe beside chance and the model."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr_model.intervals import Estimate, format_estimate
from cxr_model.reports.figures import BLUE, GREEN, INK, MUTED, VERMILLION, WIDTH, styled

# Evidence to colour, marker and words: the marker tells them apart in a grey print.
_KINDS = {
    "no lung": (VERMILLION, "o", "no lung seen"),
    "both": (BLUE, "D", "lung and surroundings"),
    "lung": (GREEN, "s", "lung alone"),
}
_ROW = 0.33  # inches


def shortcut_figures(record: dict[str, Any]) -> dict[str, Figure]:
    """``{"shortcuts": figure}`` from what ``audit_shortcuts`` returns."""
    return {"shortcuts": forest_plot(record)}


@styled
def forest_plot(record: dict[str, Any]) -> Figure:
    """Balanced accuracy of each probe with its interval, grouped by the evidence it saw."""
    probes = sorted(record["probes"], key=lambda probe: list(_KINDS).index(probe["evidence"]))
    figure = Figure(figsize=(WIDTH, _ROW * (len(probes) + 0.4) + 1.35), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1.02), ylim=(len(probes) - 0.35, -0.75))
    model: Estimate = record["model"]
    axes.axvspan(model["ci_low"], model["ci_high"], color=MUTED, alpha=0.18, linewidth=0)
    axes.axvline(model["value"], color=INK, linewidth=1.2)
    axes.axvline(record["chance"], color=INK, linewidth=1.2, linestyle=":")
    for row, probe in enumerate(probes):
        _draw_row(axes, row, probe["title"], probe["balanced_accuracy"], probe["evidence"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("balanced accuracy on the holdout")
    axes.grid(axis="x")
    figure.legend(handles=_legend(record, probes), loc="outside lower center", fontsize=8, ncols=2)
    return figure


def _draw_row(axes: Axes, row: int, title: str, found: Estimate, evidence: str) -> None:
    """Name and figure in one line, the interval below it."""
    color, marker, _ = _KINDS[evidence]
    halo: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.6}
    shown: dict[str, Any] = {"va": "bottom", "fontsize": 7.8, "bbox": halo}
    axes.text(0.005, row - 0.12, title, color=INK, ha="left", **shown)
    axes.text(1.015, row - 0.12, format_estimate(found), color=INK, ha="right", **shown)
    if found["value"] is None:
        return
    axes.plot([found["ci_low"], found["ci_high"]], [row + 0.12] * 2, color=color, linewidth=2.2)
    axes.plot(
        found["value"],
        row + 0.12,
        marker,
        color=color,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
    )


def _legend(record: dict[str, Any], probes: list[dict[str, Any]]) -> list[Line2D]:
    seen = {probe["evidence"] for probe in probes}
    kinds = [
        Line2D([], [], color=color, marker=marker, markersize=5.5, label=words)
        for kind, (color, marker, words) in _KINDS.items()
        if kind in seen
    ]
    model = f"model {record['model']['value']:.3f}"
    chance = f"chance {record['chance']:.3f}"
    return [
        *kinds,
        Line2D([], [], color=INK, linewidth=1.2, label=model),
        Line2D([], [], color=INK, linewidth=1.2, linestyle=":", label=chance),
    ]
