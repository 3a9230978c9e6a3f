"""Decisions: who is answered, who is not, and how that stands in a table."""

from dataclasses import replace

import numpy as np

from cxr_model.model_files import Decision
from cxr_model.reliability.calibration import temper
from cxr_model.reliability.judgement import Judgements

CLASSES = ["normal", "covid"]
RULES = Decision(temperature=2.0, abstain_below=0.65, operating_points={}, outlier_above=3.0)
PROBABILITIES = np.array([[0.95, 0.05], [0.6, 0.4], [0.01, 0.99], [0.45, 0.55]])
SCORES = np.array([1.0, 1.2, 7.0, 3.1])


def test_an_outlier_is_none_before_it_is_unsure_and_predicted_stays_the_largest() -> None:
    judged = Judgements.of(PROBABILITIES, SCORES, CLASSES, RULES)
    assert judged.predicted == ["normal", "normal", "covid", "covid"]
    assert judged.decisions == ["normal", "abstained", "outlier", "outlier"]
    assert judged.abstained_N.tolist() == [False, True, False, True]
    np.testing.assert_allclose(judged.calibrated_NC, temper(PROBABILITIES, 2.0))


def test_abstention_looks_at_calibrated_probabilities() -> None:
    cool = Judgements.of(PROBABILITIES, SCORES, CLASSES, replace(RULES, temperature=0.5))
    assert cool.abstained_N.tolist() == [False, False, False, True]


def test_without_a_score_nothing_is_an_outlier() -> None:
    judged = Judgements.of(PROBABILITIES, None, CLASSES, replace(RULES, outlier_above=None))
    assert judged.decisions == ["normal", "abstained", "covid", "abstained"]
    assert np.isnan(judged.outlier_score_N).all()
    assert [row.outlier_score for row in judged.rows()] == [None] * 4


def test_rows_and_columns_say_the_same_and_other_rows_are_empty() -> None:
    judged = Judgements.of(PROBABILITIES, SCORES, CLASSES, RULES)
    is_decoded = np.array([True, False, True, True, True])
    columns = judged.columns(is_decoded)
    assert {name: values[1] for name, values in columns.items() if values.dtype != float} == {
        "predicted": "",
        "decision": "",
        "abstained": False,
        "is_outlier": False,
    }
    assert np.isnan([values[1] for values in columns.values() if values.dtype == float]).all()
    for place, row in zip(np.flatnonzero(is_decoded), judged.rows(), strict=True):
        assert columns["predicted"][place] == row.predicted
        assert columns["decision"][place] == row.decision
        assert (
            columns["calibrated_probability_covid"][place]
            == (row.calibrated_probabilities["covid"])
        )
        assert columns["outlier_score"][place] == row.outlier_score
        assert columns["is_outlier"][place] == row.is_outlier


def test_no_film_gives_columns_of_the_same_types() -> None:
    some = Judgements.of(PROBABILITIES, SCORES, CLASSES, RULES).columns(np.ones(4, dtype=bool))
    none = Judgements.none(CLASSES).columns(np.zeros(3, dtype=bool))
    assert {name: values.dtype for name, values in some.items()} == {
        name: values.dtype for name, values in none.items()
    }
