"""The forest plot shows every probe, also one without a figure."""

from typing import Any

from matplotlib.figure import Figure

from cxr_model.intervals import Estimate
from cxr_model.reports.figures import svg_bytes
from cxr_model.reports.shortcut_figures import shortcut_figures


def found(value: float | None) -> Estimate:
    if value is None:
        return {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    return {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 60}


def record(**values: float | None) -> dict[str, Any]:
    kinds = ("both", "no lung", "lung")
    return {
        "chance": 1 / 3,
        "model": found(0.8),
        "probes": [
            {
                "name": name,
                "title": f"_{name} $x$",
                "evidence": kinds[number % 3],
                "balanced_accuracy": found(value),
            }
            for number, (name, value) in enumerate(values.items())
        ],
    }


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_probe_is_named_with_its_figure_grouped_by_evidence() -> None:
    figure = shortcut_figures(record(first=0.5, second=0.6, third=None))["shortcuts"]
    assert texts(figure) == [
        *("_second $x$", "0.600 (0.50–0.70)"),
        *("_first $x$", "0.500 (0.40–0.60)"),
        *("_third $x$", "undefined"),
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["model 0.800", "chance 0.333"]


def test_equal_records_give_equal_bytes() -> None:
    first, second = (svg_bytes(shortcut_figures(record(a=0.5))["shortcuts"]) for _ in range(2))
    assert first == second
