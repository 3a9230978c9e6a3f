"""The drawings of a report: curves, confusion matrix, class counts, as matplotlib figures.

Colours are Okabe and Ito's, which colour-blind readers tell apart; text is drawn as paths,
so that a picture looks the same where no font is installed. All are 3.6 inches wide, so
that text stays readable across a phone.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr_model.intervals import Estimate, format_estimate

WIDTH = 3.6  # inches
INK, MUTED, RULE = "#1f2a37", "#66758a", "#dde3ea"
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
PALETTE = (BLUE, VERMILLION, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
Dash = Literal["-", "--", "-.", ":"]
DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":")
SPLIT_COLORS = {"train": "#0b4f7d", "validation": "#56a5d6", "holdout": "#e69f00"}

# Matplotlib reads the hash salt of SVG ids, and whether "$" starts a formula in a class
# name, from its global settings only; they are set for the length of a call.
styled = mpl.rc_context(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "cxresnet",
    }
)


@styled
def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG: equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@styled
def loss_curves(history: pd.DataFrame) -> Figure:
    """Training and validation loss by epoch, from the columns of ``history.csv``."""
    figure, axes = _epoch_axes("loss")
    _draw_history(axes, history, "train_loss", "training", BLUE)
    _draw_history(axes, history, "validation_loss", "validation", VERMILLION)
    axes.legend()
    return figure


@styled
def balanced_accuracy_curve(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Validation balanced accuracy by epoch, with the epoch whose weights were kept."""
    figure, axes = _epoch_axes("balanced accuracy")
    name = "validation_balanced_accuracy"
    _draw_history(axes, history, name, "validation", VERMILLION)
    best = history[history["epoch"] == best_epoch]
    axes.plot(
        best["epoch"], best[name], "o", color=INK, markersize=7, label=f"best: epoch {best_epoch}"
    )
    axes.legend(loc="lower right")
    return figure


@styled
def learning_rate_curve(history: pd.DataFrame) -> Figure:
    figure, axes = _epoch_axes("learning rate")
    _draw_history(axes, history, "learning_rate", "learning rate", BLUE)
    axes.set_ylim(bottom=0)
    return figure


@styled
def confusion_figure(confusion_CC: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Counts and share of each row (a true class); the shade is the share.

    A class without films has no share.
    """
    counts = np.array(confusion_CC)
    films_C1 = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(films_C1, 1)
    side = max(WIDTH, 0.5 * len(classes) + 1.2)
    figure = Figure(figsize=(side, 0.92 * side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.55 else INK
        size = 12 if len(classes) <= 5 else 7
        axes.text(column, row - 0.1, f"{count}", ha="center", va="center", color=color, size=size)
        percent = f"{100 * share[row, column]:.0f} %" if films_C1[row, 0] else "–"
        axes.text(
            column, row + 0.2, percent, ha="center", va="center", color=color, size=0.7 * size
        )
    names = [short(label) for label in classes]
    slanted = max(map(len, names)) * len(names) > 36
    axes.set_xticks(range(len(names)), names)
    if slanted:
        axes.tick_params(axis="x", rotation=40)
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def roc_curves(
    labels: NDArray[Any],
    probabilities_NC: NDArray[np.float64],
    per_class: Mapping[str, Mapping[str, Estimate]],
) -> Figure:
    """One-vs-rest curve of each class of ``per_class``, in the columns' order."""
    figure, axes = _square_axes(len(per_class), "1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for c, (label, color, dash) in enumerate(_lines(per_class)):
        if not 0 < (labels == label).sum() < len(labels):
            continue
        false_rate, true_rate, _ = roc_curve(labels == label, probabilities_NC[:, c])
        axes.plot(false_rate, true_rate, color=color, linestyle=dash)
    _legend_below(figure, per_class, "auroc")
    return figure


@styled
def precision_recall_curves(
    labels: NDArray[Any],
    probabilities_NC: NDArray[np.float64],
    per_class: Mapping[str, Mapping[str, Estimate]],
) -> Figure:
    """As `roc_curves`; the thin line of each class is its share, the score of a guess."""
    figure, axes = _square_axes(len(per_class), "recall (sensitivity)", "precision (PPV)")
    for c, (label, color, dash) in enumerate(_lines(per_class)):
        positive = labels == label
        if not 0 < positive.sum() < len(labels):
            continue
        precision, recall, _ = precision_recall_curve(positive, probabilities_NC[:, c])
        axes.step(recall, precision, where="post", color=color, linestyle=dash)
        axes.axhline(positive.mean(), color=color, linewidth=0.7, linestyle=":")
    _legend_below(figure, per_class, "auprc")
    return figure


@styled
def class_counts_figure(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Films of each class (class -> split -> number), one bar a class, stacked by split."""
    figure = Figure(figsize=(WIDTH, 0.95 + 0.36 * len(counts)), layout="constrained")
    axes = figure.add_subplot()
    widest = max(sum(by_split.values()) for by_split in counts.values())
    left = np.zeros(len(counts))
    for split, color in SPLIT_COLORS.items():
        numbers = np.array([by_split[split] for by_split in counts.values()])
        bars = axes.barh(range(len(counts)), numbers, 0.62, left, color=color, label=split)
        texts = [f"{n}" if n > 0.07 * widest else "" for n in numbers]
        on_bar = INK if split != "train" else "white"
        axes.bar_label(bars, texts, label_type="center", color=on_bar, size=8)
        left += numbers
    axes.set_yticks(range(len(counts)), [short(label) for label in counts])
    axes.invert_yaxis()
    axes.set_xlabel("films")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.2, columnspacing=1.4)
    return figure


def _epoch_axes(ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(True)
    return figure, axes


def _draw_history(axes: Axes, history: pd.DataFrame, name: str, label: str, color: str) -> None:
    marker = "o" if len(history) <= 20 else None
    axes.plot(
        history["epoch"], history[name], color=color, label=label, marker=marker, markersize=3.5
    )


def _square_axes(num_lines: int, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 3.5 + 0.18 * num_lines), layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(True)
    return figure, axes


def _lines(classes: Mapping[str, object]) -> list[tuple[str, str, Dash]]:
    """Class, colour and dash: more than colour tells the lines apart."""
    return list(zip(classes, cycle(PALETTE), cycle(DASHES), strict=False))


def _legend_below(
    figure: Figure, per_class: Mapping[str, Mapping[str, Estimate]], name: str
) -> None:
    # Drawn by hand: matplotlib leaves out labels that start with an underscore.
    handles = [Line2D([], [], color=color, linestyle=dash) for _, color, dash in _lines(per_class)]
    texts = [
        f"{short(label)}: {name.upper()} {format_estimate(figures[name])}"
        for label, figures in per_class.items()
    ]
    figure.legend(handles, texts, loc="outside lower center", handlelength=3, fontsize=8.5)


def short(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:17]}…"
