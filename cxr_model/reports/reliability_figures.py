"""The drawings of ``evidence/reliability.json``, in the manner of `cxr_model.reports.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from cxr_model.intervals import Estimate, format_estimate
from cxr_model.reports.figures import BLUE, GREEN, INK, MUTED, VERMILLION, WIDTH, short, styled

_RULES = {
    "youden": ("max. Youden", "o", BLUE),
    "sensitivity-0.95": ("sensitivity 0.95", "^", VERMILLION),
    "specificity-0.95": ("specificity 0.95", "s", GREEN),
}
"""Name, mark and colour of each rule."""


def reliability_figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Name -> drawing: ``reliability-before``, ``reliability-after`` (tempering),
    ``risk-coverage`` and ``operating-points``.

    ``record`` is what `cxr_model.reliability.measure.measure_reliability` returns.
    """
    calibration = record["calibration"]
    tempered = f"at temperature {calibration['temperature']:.2f}"
    return {
        "reliability-before": reliability_diagram(calibration["before"], "as trained", VERMILLION),
        "reliability-after": reliability_diagram(calibration["after"], tempered, BLUE),
        "risk-coverage": risk_coverage_curve(record["risk_coverage"]),
        "operating-points": operating_points_figure(record["operating_points"]),
    }


@styled
def reliability_diagram(figures: Mapping[str, Any], title: str, color: str) -> Figure:
    """Share of right films over mean confidence, a mark a bin of equally many films.

    The lines are Wilson's 95 % intervals; a bin's films count as independent in them.
    """
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel="confidence", ylabel="films that are right")
    axes.set_title(f"{title}: ECE {format_estimate(figures['ece'])}", size=9, color=INK)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for row in figures["bins"]:
        axes.plot(
            [row["confidence"]] * 2, [row["ci_low"], row["ci_high"]], color=color, linewidth=1.1
        )
        axes.plot(row["confidence"], row["accuracy"], "o", color=color, markersize=4.5)
    counts = sorted({row["n"] for row in figures["bins"]})
    films = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    note = f"films a mark: {films}"
    axes.text(0.03, 0.95, note, transform=axes.transAxes, va="top", color=MUTED, size=8)
    _in_percent(axes)
    return figure


@styled
def risk_coverage_curve(curve: Mapping[str, Any]) -> Figure:
    """Share of wrong films among the answered ones, over the share that is answered."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.step(curve["coverage"], curve["risk"], where="pre", color=BLUE)
    coverage, accuracy = curve["coverage_at_threshold"], curve["accuracy_at_threshold"]
    if accuracy["value"] is not None:
        _cross(axes, coverage, _complement(accuracy), VERMILLION, "D")
        label = f"abstaining below {curve['threshold']:.2f}"
        axes.plot([], [], "D", color=VERMILLION, markersize=6, label=label)
        axes.legend(loc="upper left")
    axes.set(xlim=(0, 1.02), xlabel="coverage: films answered", ylabel="risk: wrong of these")
    axes.set_ylim(0, min(1.02, 1.25 * max(0.02, *curve["risk"], 1 - (accuracy["ci_low"] or 1))))
    axes.set_title(f"AURC {format_estimate(curve['aurc'])}", size=9, color=INK)
    _in_percent(axes)
    return figure


@styled
def operating_points_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Sensitivity and specificity on the holdout at each class's thresholds.

    The lines are 95 % intervals; hollow marks say what the validation films promised.
    """
    classes = list(dict.fromkeys(row["class"] for row in rows))
    figure = Figure(figsize=(WIDTH, 1.6 + 1.1 * len(classes)), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, name in zip(panels, ("sensitivity", "specificity"), strict=True):
        for row in rows:
            if row[name]["value"] is not None:
                place = classes.index(row["class"]) + 0.25 * (list(_RULES).index(row["rule"]) - 1)
                _draw_operating_point(axes, row, name, place)
        axes.axvline(0.95, color=MUTED, linewidth=0.7, linestyle=":")
        axes.set_title(name, size=9, color=INK)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(classes) - 0.5, -0.5))
        axes.set_yticks(range(len(classes)), [short(label) for label in classes])
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    handles = [
        *(Line2D([], [], color=color, marker=mark, ls="") for _, mark, color in _RULES.values()),
        Line2D([], [], color=MUTED, marker="o", ls="", fillstyle="none", markersize=7),
    ]
    texts = [*(text for text, _, _ in _RULES.values()), "on validation"]
    figure.legend(
        handles, texts, loc="outside upper center", ncols=2, fontsize=8.5, columnspacing=1
    )
    return figure


def _draw_operating_point(axes: Axes, row: Mapping[str, Any], name: str, place: float) -> None:
    _, marker, color = _RULES[row["rule"]]
    estimate = row[name]
    limits = [estimate["ci_low"], estimate["ci_high"]]
    axes.plot(limits, [place] * 2, color=color, linewidth=1.4)
    axes.plot(estimate["value"], place, marker, color=color, markersize=5)
    axes.plot(
        row["validation"][name], place, marker, color=color, markersize=7, fillstyle="none",
        markeredgewidth=0.8,
    )  # fmt: skip


def _cross(axes: Axes, x: Estimate, y: Estimate, color: str, marker: str) -> None:
    """A point with both its intervals."""
    axes.plot([x["ci_low"], x["ci_high"]], [y["value"]] * 2, color=color, linewidth=1.1)
    axes.plot([x["value"]] * 2, [y["ci_low"], y["ci_high"]], color=color, linewidth=1.1)
    axes.plot(x["value"], y["value"], marker, color=color, markersize=6)


def _complement(estimate: Estimate) -> Estimate:
    return estimate | {
        "value": 1 - estimate["value"],
        "ci_low": 1 - estimate["ci_high"],
        "ci_high": 1 - estimate["ci_low"],
    }


def _in_percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(True)
