import copy
from typing import Any

import numpy as np
import pytest

from cxr_model.reliability.calibration import measure_calibration
from cxr_model.reliability.operating_points import (
    choose_thresholds,
    measure_operating_points,
    rates_at,
)
from cxr_model.reliability.selective import choose_abstention, measure_selective
from cxr_model.reports.figures import svg_bytes
from cxr_model.reports.reliability_figures import reliability_figures


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """What `measure_reliability` writes, of one set of films for validation and holdout."""
    generator, classes = np.random.default_rng(0), ["normal", "_a class of a very long name_"]
    truth, groups = np.arange(120) % 2, np.arange(120)
    score = 1 / (1 + np.exp(-generator.normal(2 * truth - 1, 1.5)))
    scores = np.stack([1 - score, score], axis=1)
    settings: dict[str, Any] = {"draws": 100, "seed": 0}
    thresholds = choose_thresholds(truth, scores, classes)
    rows = measure_operating_points(truth, scores, groups, classes, thresholds, **settings)
    for row in rows:
        c = classes.index(row["class"])
        row["validation"] = rates_at(truth, scores[:, c], c, row["threshold"])
    confidence, hit = scores.max(axis=1), 1.0 * (scores.argmax(axis=1) == truth)
    chosen = choose_abstention(confidence, hit, 0.9)
    return {
        "calibration": measure_calibration(truth, scores, groups, classes, 1.2, **settings),
        "operating_points": rows,
        "risk_coverage": measure_selective(confidence, hit, groups, *chosen, **settings),
    }


def test_equal_records_give_equal_pictures(record: dict[str, Any]) -> None:
    first, second = reliability_figures(record), reliability_figures(copy.deepcopy(record))
    assert list(first) == [
        "reliability-before", "reliability-after", "risk-coverage", "operating-points",
    ]  # fmt: skip
    for name, figure in first.items():
        assert svg_bytes(figure) == svg_bytes(second[name])


def test_every_bin_and_operating_point_is_drawn_where_it_lies(record: dict[str, Any]) -> None:
    figures = reliability_figures(record)
    (axes,) = figures["reliability-after"].axes
    drawn = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"}  # type: ignore[union-attr,index]
    bins = record["calibration"]["after"]["bins"]
    assert drawn == {(row["confidence"], row["accuracy"]) for row in bins}
    for axes, name in zip(
        figures["operating-points"].axes, ("sensitivity", "specificity"), strict=True
    ):
        places = {line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 5}  # type: ignore[index]
        assert places == {row[name]["value"] for row in record["operating_points"]}


def test_what_is_undefined_is_left_out(record: dict[str, Any]) -> None:
    undefined = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    bare = copy.deepcopy(record)
    bare["risk_coverage"] |= {"accuracy_at_threshold": undefined, "aurc": undefined}
    bare["operating_points"][0]["sensitivity"] = undefined
    for figure in reliability_figures(bare).values():
        assert b"<svg" in svg_bytes(figure)
