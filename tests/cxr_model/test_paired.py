import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from cxr_model.errors import DataError
from cxr_model.paired import compare_predictions, mcnemar

CLASSES = ["normal", "covid"]


def predictions(share_right: float, seed: int, num: int = 400) -> pd.DataFrame:
    return answers(np.random.default_rng(seed).random(num) < share_right, np.arange(num) % 2)


def answers(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> pd.DataFrame:
    """Of films of which two each are one patient's."""
    predicted = np.where(right, truth, 1 - truth)
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(len(truth))],
            "label": np.array(CLASSES)[truth],
            "group": [f"patient {i // 2}" for i in range(len(truth))],
            "predicted": np.array(CLASSES)[predicted],
            "probability_normal": 1.0 - predicted,
            "probability_covid": 1.0 * predicted,
        }
    )


def test_a_better_classifier_is_found_better() -> None:
    found = compare_predictions(
        predictions(0.95, 0), predictions(0.8, 1), CLASSES, draws=500, seed=0
    )
    assert found["accuracy"]["ci_low"] > 0.05
    assert found["accuracy"]["value"] == pytest.approx(0.15, abs=0.05)
    assert found["mcnemar"]["p_value"] < 1e-6
    assert found["num_groups"] == 200


def test_a_classifier_is_no_better_than_itself_or_its_equal() -> None:
    same = compare_predictions(
        predictions(0.9, 0), predictions(0.9, 0).sample(frac=1), CLASSES, draws=200, seed=0
    )
    assert same["accuracy"] == {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "n": 400}
    assert same["mcnemar"]["p_value"] == 1
    equal = compare_predictions(
        predictions(0.9, 0), predictions(0.9, 3), CLASSES, draws=500, seed=0
    )
    assert equal["accuracy"]["ci_low"] < 0 < equal["accuracy"]["ci_high"]


def test_a_faultless_classifier_is_not_certain_to_be_better() -> None:
    faultless, nearly = predictions(1.0, 0, num=40), predictions(1.0, 0, num=40)
    nearly.loc[0, ["predicted", "probability_normal", "probability_covid"]] = ["covid", 0.0, 1.0]
    found = compare_predictions(faultless, nearly, CLASSES, draws=500, seed=0)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert found["first"][name]["ci_low"] < found["first"][name]["value"] == 1
        assert found[name]["ci_low"] < 0 < found[name]["value"]


@pytest.mark.parametrize("shares", [(0.9, 0.8), (0.9, 0.9), (0.98, 0.95)])
def test_intervals_of_the_difference_cover_the_truth(shares: tuple[float, float]) -> None:
    """Half of what makes a film hard is its patient's, and is hard for both classifiers."""
    truth = np.repeat(np.arange(80) % 4 == 0, 2).astype(np.int64)
    repetitions, generator = 60, np.random.default_rng(0)
    covered, better = dict.fromkeys(("accuracy", "balanced_accuracy"), 0), 0
    for seed in range(repetitions):
        hard_for_both = np.repeat(generator.random(80), 2)
        tables = []
        for share in shares:
            is_of_the_patient, own = generator.random(160) < 0.5, generator.random(160)
            hardness = np.where(is_of_the_patient, hard_for_both, own)
            tables.append(answers(hardness < share, truth))
        found = compare_predictions(*tables, CLASSES, draws=200, seed=seed)
        for name in covered:
            ends = found[name]["ci_low"], found[name]["ci_high"]
            covered[name] += ends[0] <= shares[0] - shares[1] + 1e-9 <= ends[1] + 2e-9
        better += found["balanced_accuracy"]["ci_low"] > 0
    for name, count in covered.items():
        assert count / repetitions >= 0.87, (name, count)
    if shares[0] == shares[1]:
        assert better / repetitions <= 0.08


@pytest.mark.parametrize("share_right", [0.95, 1.0])
def test_swapping_the_two_changes_the_sign_alone(share_right: float) -> None:
    first, second = predictions(share_right, 0), predictions(0.8, 1)
    there = compare_predictions(first, second, CLASSES, draws=200, seed=0)["balanced_accuracy"]
    back = compare_predictions(second, first, CLASSES, draws=200, seed=0)["balanced_accuracy"]
    assert (back["value"], back["ci_low"]) == pytest.approx((-there["value"], -there["ci_high"]))


def test_mcnemar_agrees_with_its_large_sample_form() -> None:
    only_first, only_second = 480, 420
    statistic = (only_first - only_second) ** 2 / (only_first + only_second)
    p_value = mcnemar(only_first, only_second)["p_value"]
    assert p_value == pytest.approx(chi2.sf(statistic, 1), rel=0.1)


def test_other_films_are_not_compared() -> None:
    with pytest.raises(DataError, match="400 and 398 predictions: not of the same films"):
        compare_predictions(
            predictions(0.9, 0), predictions(0.9, 0)[2:], CLASSES, draws=200, seed=0
        )
