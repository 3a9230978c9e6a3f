"""Panels and rows of the drawings follow the record, and hold whatever its levels are."""

import numpy as np

from cxr_model.reports.figures import svg_bytes
from cxr_model.reports.robustness_figures import outlier_figures, robustness_figures


def estimate(value: float | None) -> dict[str, float | int | None]:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"value": value, "ci_low": low, "ci_high": high, "n": 40}


def condition(name: str, level: float, clean: float, value: float | None) -> dict[str, object]:
    figures = {"accuracy": estimate(value), "balanced_accuracy": estimate(value)}
    return {"name": name, "level": level, "unit": "$1", "clean_level": clean, **figures}


def test_each_damage_has_a_panel_that_ends_with_its_strongest_level() -> None:
    record = {
        "clean": {"accuracy": estimate(0.8), "balanced_accuracy": estimate(0.8)},
        "conditions": [
            condition("gamma", 0.5, 1, 0.6),
            condition("gamma", 2.0, 1, 0.7),
            condition("jpeg", 50, 100, 0.7),
            condition("jpeg", 10, 100, 0.4),
            condition("blur", 1, 0, None),
        ],
    }
    (figure,) = robustness_figures(record).values()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["gamma", "jpeg", "blur"]
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in shown]
    assert ticks == [["0.5", "1", "2"], ["100", "50", "10"], ["0", "1"]]
    assert svg_bytes(figure) == svg_bytes(robustness_figures(record)["robustness"])


def test_each_set_of_scores_has_a_row_and_ticks_are_plain_numbers() -> None:
    edges = np.geomspace(0.5, 60, 6).tolist()
    record = {
        "threshold": 1.6,
        "scores": {"edges": edges, "holdout": [5, 3, 0, 0, 0], "noise": [0, 0, 0, 1, 7]},
    }
    (figure,) = outlier_figures(record).values()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["noise", "holdout"]
    svg_bytes(figure)
    low, high = axes.get_xlim()
    ticks = [
        text.get_text()
        for text, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
        if low <= place <= high
    ]
    assert set(ticks) >= {"1", "2", "5", "10", "20", "50"}
