"""Point values against scikit-learn, draws against repeated rows, intervals against truth."""

import json
import math
import warnings
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn import metrics as sk

from cxr_model.errors import DataError
from cxr_model.intervals import format_estimate, proportion_interval
from cxr_model.metrics import OVERALL, PER_CLASS, evaluate_predictions, weighted_figures

Array = NDArray[Any]


def make_predictions(
    num_films: int, shares: tuple[float, ...], seed: int, decimals: int = 16
) -> tuple[Array, Array]:
    """Class indices (N,) and probabilities (N, C) that lean to the truth; few decimals tie."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(len(shares), size=num_films, p=shares)
    truth[: len(shares)] = np.arange(len(shares))
    logits = generator.normal(size=(num_films, len(shares)))
    logits[np.arange(num_films), truth] += 1.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probabilities.round(decimals)


def reference_figures(truth: Array, scores: Array) -> dict[str, Any]:
    """The same figures from scikit-learn."""
    num_classes = scores.shape[1]
    every = list(range(num_classes))
    predicted = scores.argmax(axis=1)

    def recall_of(label: int, positive: bool, truth: Array, predicted: Array) -> float:
        return float(
            sk.recall_score(truth == label, predicted == label, pos_label=positive, zero_division=0)
        )

    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, labels=every, average="macro"),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "sensitivity": [recall_of(c, True, truth, predicted) for c in every],
        "specificity": [recall_of(c, False, truth, predicted) for c in every],
        "ppv": [recall_of(c, True, predicted, truth) for c in every],
        "npv": [recall_of(c, False, predicted, truth) for c in every],
        "f1": sk.f1_score(truth, predicted, labels=every, average=None),
        "auroc": [sk.roc_auc_score(truth == c, scores[:, c]) for c in every],
        "auprc": [sk.average_precision_score(truth == c, scores[:, c]) for c in every],
        "confusion_matrix": sk.confusion_matrix(truth, predicted, labels=every),
    }


@pytest.mark.parametrize(
    ("shares", "decimals"),
    [
        pytest.param((0.5, 0.5), 16, id="two classes"),
        pytest.param((0.9, 0.1), 1, id="two classes, rare positives, ties"),
        pytest.param((0.4, 0.35, 0.25), 2, id="three classes, some ties"),
        pytest.param((0.6, 0.2, 0.1, 0.06, 0.04), 1, id="five classes, imbalanced, many ties"),
    ],
)
def test_point_values_equal_those_of_scikit_learn(shares: tuple[float, ...], decimals: int) -> None:
    truth, scores = make_predictions(400, shares, seed=1, decimals=decimals)
    classes = [f"class {c}" for c in range(len(shares))]
    holdout = evaluate_predictions(
        np.array(classes)[truth], scores, np.arange(400), classes, draws=100, seed=0
    )
    expected = reference_figures(truth, scores)
    for name in OVERALL:
        assert holdout[name]["value"] == pytest.approx(expected[name], abs=1e-12), name
    for name in PER_CLASS:
        values = [holdout["per_class"][label][name]["value"] for label in classes]
        assert values == pytest.approx(list(expected[name]), abs=1e-12), name
    assert holdout["confusion_matrix"] == expected["confusion_matrix"].tolist()


def test_a_weighted_draw_equals_the_figures_of_repeated_rows() -> None:
    truth, scores = make_predictions(120, (0.5, 0.3, 0.2), seed=2, decimals=2)
    weights = np.random.default_rng(3).integers(0, 4, size=(120, 5))
    drawn = weighted_figures(truth, scores, weights.astype(float))
    for b in range(weights.shape[1]):
        rows = np.repeat(np.arange(120), weights[:, b])
        for name, expected in reference_figures(truth[rows], scores[rows]).items():
            np.testing.assert_allclose(drawn[name][..., b], expected, atol=1e-12, err_msg=name)


def test_every_figure_lies_in_its_interval_and_counts_its_films() -> None:
    truth, scores = make_predictions(300, (0.5, 0.3, 0.2), seed=4)
    classes = ["a", "b", "c"]
    holdout = evaluate_predictions(
        np.array(classes)[truth], scores, np.arange(300), classes, draws=500, seed=0
    )
    confusion = np.array(holdout["confusion_matrix"])
    per_class = holdout["per_class"]
    for c, label in enumerate(classes):
        called, hit = confusion[:, c].sum(), confusion[c, c]
        assert per_class[label]["sensitivity"]["n"] == (truth == c).sum()
        assert per_class[label]["specificity"]["n"] == (truth != c).sum()
        assert per_class[label]["ppv"]["n"] == called
        assert per_class[label]["npv"]["n"] == 300 - called
        assert per_class[label]["f1"]["n"] == (truth == c).sum() + called - hit
        assert per_class[label]["auroc"]["n"] == per_class[label]["auprc"]["n"] == 300
    estimates = [holdout[name] for name in OVERALL]
    estimates += [per_class[label][name] for label in classes for name in PER_CLASS]
    for estimate in estimates:
        assert estimate["ci_low"] < estimate["value"] < estimate["ci_high"]
    interval = holdout["confusion_matrix_interval"]
    assert (np.array(interval["ci_low"]) < confusion).all()
    assert (confusion < np.array(interval["ci_high"])).all()
    json.dumps(holdout, allow_nan=False)


def test_the_seed_alone_decides_the_draws() -> None:
    truth, scores = make_predictions(60, (0.5, 0.5), seed=5)
    labels = np.array(["a", "b"])[truth]

    def evaluate(seed: int) -> dict[str, Any]:
        return evaluate_predictions(labels, scores, np.arange(60), ["a", "b"], draws=100, seed=seed)

    assert evaluate(7) == evaluate(7)
    assert evaluate(7) != evaluate(8)


def test_a_group_of_identical_films_is_worth_one_film() -> None:
    truth, scores = make_predictions(80, (0.5, 0.5), seed=6)
    labels = np.array(["a", "b"])[truth]

    def width(copies: int, grouped: bool) -> float:
        rows = np.repeat(np.arange(80), copies)
        groups = rows if grouped else np.arange(len(rows))
        accuracy = evaluate_predictions(
            labels[rows], scores[rows], groups, ["a", "b"], draws=2000, seed=0
        )["accuracy"]
        return float(accuracy["ci_high"] - accuracy["ci_low"])

    assert width(4, grouped=True) == pytest.approx(width(1, grouped=True))
    assert width(4, grouped=False) == pytest.approx(width(1, grouped=True) / 2, rel=0.15)


@pytest.mark.parametrize("films_per_group", [1, 3])
def test_intervals_cover_the_truth_about_19_times_in_20(films_per_group: int) -> None:
    """One score, normal in both classes and 1.5 apart, shared by the films of a group."""
    repetitions, num_groups, shift = 200, 120, 1.5
    true_auroc = NormalDist().cdf(shift / math.sqrt(2))
    true_accuracy = NormalDist().cdf(shift / 2)
    generator = np.random.default_rng(8)
    covered = {"accuracy": 0, "auroc": 0}
    for seed in range(repetitions):
        groups = np.repeat(np.arange(num_groups), films_per_group)
        truth = (groups % 2 == 0).astype(int)
        score = generator.normal(size=num_groups)[groups] + shift * truth - shift / 2
        positive = 1 / (1 + np.exp(-score))
        scores = np.stack([1 - positive, positive], axis=1)
        holdout = evaluate_predictions(
            np.array(["no", "yes"])[truth], scores, groups, ["no", "yes"], draws=300, seed=seed
        )
        accuracy, auroc = holdout["accuracy"], holdout["per_class"]["yes"]["auroc"]
        covered["accuracy"] += accuracy["ci_low"] <= true_accuracy <= accuracy["ci_high"]
        covered["auroc"] += auroc["ci_low"] <= true_auroc <= auroc["ci_high"]
    for name, count in covered.items():
        assert 0.90 <= count / repetitions <= 0.98, (name, count / repetitions)


def test_intervals_of_small_classes_that_are_nearly_all_right_cover_the_truth() -> None:
    """Half of such classes are without a mistake, of which a bootstrap alone is certain."""
    repetitions, films, rate = 200, 40, 0.98
    generator = np.random.default_rng(9)
    truth = np.repeat([0, 1, 2], films)
    names = np.array(["a", "b", "c"])
    expected = dict.fromkeys(
        ("sensitivity", "f1", "accuracy", "balanced_accuracy", "macro_f1"), rate
    ) | {"mcc": 1 - (1 - rate) * 3 / 2}
    covered = dict.fromkeys(expected, 0)
    for seed in range(repetitions):
        is_right = generator.random(len(truth)) < rate
        scores = np.eye(3)[np.where(is_right, truth, (truth + 1) % 3)]
        found = evaluate_predictions(
            names[truth], scores, np.arange(len(truth)), list(names), draws=300, seed=seed
        )
        figures = found | found["per_class"]["a"]
        for name, value in expected.items():
            covered[name] += figures[name]["ci_low"] <= value <= figures[name]["ci_high"]
    for name, count in covered.items():
        assert count / repetitions >= 0.9, (name, count / repetitions)


def test_intervals_of_rankings_that_are_nearly_faultless_cover_the_truth() -> None:
    """Half of them are faultless, of which a bootstrap alone is certain."""
    repetitions, films, shift = 200, 40, 4.5
    truth = np.repeat([0, 1], films)
    generator = np.random.default_rng(12)
    reference = np.random.default_rng(13).normal(size=(2, 4000))
    positive, negative = (shift / 2 + reference[0], np.sort(reference[1] - shift / 2))
    # Of many films AUROC is known, and at even shares so is the average precision.
    expected = {"auroc": NormalDist().cdf(shift / math.sqrt(2))}
    above_N = len(negative) - np.searchsorted(negative, np.sort(positive)[::-1])
    rank_N = np.arange(1, len(positive) + 1)
    expected["auprc"] = float((rank_N / (rank_N + above_N)).mean())
    covered, faultless = dict.fromkeys(expected, 0), 0
    for seed in range(repetitions):
        score = generator.normal(size=len(truth)) + shift * (truth - 0.5)
        probability = 1 / (1 + np.exp(-score))
        found = evaluate_predictions(
            np.array(["no", "yes"])[truth],
            np.stack([1 - probability, probability], axis=1),
            np.arange(len(truth)),
            ["no", "yes"],
            draws=300,
            seed=seed,
        )["per_class"]["yes"]
        faultless += found["auroc"]["value"] == 1
        for name, value in expected.items():
            covered[name] += found[name]["ci_low"] <= value <= found[name]["ci_high"]
    assert 0.3 <= faultless / repetitions <= 0.7
    for name, count in covered.items():
        assert count / repetitions >= 0.9, (name, count / repetitions)


def test_a_faultless_class_is_not_certain() -> None:
    truth = np.array(["a"] * 30 + ["b"] * 30)
    scores = np.eye(2)[(truth == "b").astype(int)]
    found = evaluate_predictions(truth, scores, np.arange(60), ["a", "b"], draws=100, seed=0)
    wilson = proportion_interval(30, 30)
    assert found["per_class"]["a"]["sensitivity"] == wilson
    below = (1 - wilson["ci_low"]) / math.sqrt(2)
    assert found["balanced_accuracy"]["ci_low"] == pytest.approx(1 - below)
    assert found["accuracy"]["ci_low"] == proportion_interval(60, 60)["ci_low"]
    cells = {
        end: np.array(found["confusion_matrix_interval"][end]) for end in ("ci_low", "ci_high")
    }
    none = proportion_interval(0, 30)["ci_high"] * 30
    np.testing.assert_allclose(cells["ci_high"][[0, 1], [1, 0]], none)
    np.testing.assert_allclose(cells["ci_low"].diagonal(), 30 - none)
    for figures in (found, *found["per_class"].values()):
        for name in (*OVERALL, *PER_CLASS):
            if name in figures:
                assert 0.8 < figures[name]["ci_low"] < figures[name]["ci_high"] == 1, name


@pytest.mark.parametrize("films", [25, 40])
def test_the_interval_of_a_rate_covers_the_truth_at_every_rate(films: int) -> None:
    """Exactly: the chance of each count times whether its interval holds the true rate."""
    truth = np.repeat(["a", "b"], films)
    ends = np.empty((films + 1, 2))
    for hits in range(films + 1):
        called = np.repeat(["a", "b", "b"], [hits, films - hits, films])
        scores = np.eye(2)[(called == "b").astype(int)]
        groups = np.arange(len(truth))
        found = evaluate_predictions(truth, scores, groups, ["a", "b"], draws=200, seed=hits)
        ends[hits] = [found["per_class"]["a"]["sensitivity"][end] for end in ("ci_low", "ci_high")]
    assert (np.diff(ends, axis=0) > -0.03).all()  # one more hit lowers neither end, but for luck
    for rate in np.linspace(0.5, 0.99, 50):
        chance = binom.pmf(np.arange(films + 1), films, rate)
        covered = chance[(ends[:, 0] <= rate) & (rate <= ends[:, 1])].sum()
        assert covered >= 0.92, (rate, covered)


def test_a_rate_of_few_groups_that_are_all_alike_is_not_certain() -> None:
    truth = np.repeat(["a", "b"], 12)
    called = np.repeat(["a", "b"], [7, 17])
    scores = np.eye(2)[(called == "b").astype(int)]
    groups = np.array(["one patient"] * 12 + [str(number) for number in range(12)])
    found = evaluate_predictions(truth, scores, groups, ["a", "b"], draws=100, seed=0)
    sensitivity = found["per_class"]["a"]["sensitivity"]
    assert sensitivity["value"] == pytest.approx(7 / 12)
    assert sensitivity["ci_low"] < 0.2
    assert sensitivity["ci_high"] > 0.9


def test_means_over_classes_are_over_those_that_have_films() -> None:
    truth = np.array(["a", "b"] * 20)
    called = np.where(np.arange(40) == 0, "c", truth)
    scores = np.eye(3)[[("a", "b", "c").index(name) for name in called]]
    found = evaluate_predictions(truth, scores, np.arange(40), ["a", "b", "c"], draws=50, seed=0)
    assert found["per_class"]["c"]["sensitivity"]["value"] is None
    assert found["balanced_accuracy"]["value"] == pytest.approx((19 / 20 + 1) / 2)
    assert found["macro_f1"]["value"] == pytest.approx((38 / 39 + 1) / 2)


def test_faultless_figures_of_few_groups_and_uneven_classes_stay_in_their_range() -> None:
    truth = np.array(["a"] * 59 + ["b"])
    groups = np.array([*np.arange(59) % 5, 5])
    scores = np.eye(2)[(truth == "b").astype(int)]
    found = evaluate_predictions(truth, scores, groups, ["a", "b"], draws=100, seed=0)
    for figures in (found, *found["per_class"].values()):
        for name in set(figures) & {*OVERALL, *PER_CLASS}:
            assert (-1 if name == "mcc" else 0) <= figures[name]["ci_low"] < 1, name
    assert np.min(found["confusion_matrix_interval"]["ci_low"]) == 0


def test_undefined_figures_are_null_and_warn_of_nothing() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.6, 0.4, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holdout = evaluate_predictions(
            np.array(["a", "b", "a"]), scores, np.arange(3), ["a", "b", "c"], draws=100, seed=0
        )
    nothing = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    assert holdout["per_class"]["c"]["sensitivity"] == nothing
    assert holdout["per_class"]["b"]["ppv"] == nothing
    assert holdout["per_class"]["c"]["auroc"]["value"] is None
    assert holdout["balanced_accuracy"]["value"] == 0.5
    assert holdout["per_class"]["b"]["sensitivity"]["value"] == 0.0
    assert format_estimate(nothing) == "undefined"


def test_memory_is_bounded_by_drawing_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores = make_predictions(50, (0.5, 0.5), seed=9)
    arguments = (np.array(["a", "b"])[truth], scores, np.arange(50), ["a", "b"])
    at_once = evaluate_predictions(*arguments, draws=100, seed=0)
    monkeypatch.setattr("cxr_model.intervals._CHUNK_BYTES", 8 * 50 * 7)
    assert evaluate_predictions(*arguments, draws=100, seed=0) == at_once


def test_estimates_read_as_value_and_interval() -> None:
    estimate = {"value": 0.8931, "ci_low": 0.8512, "ci_high": 0.9277, "n": 225}
    assert format_estimate(estimate) == "0.893 (0.85–0.93)"
    assert format_estimate(estimate | {"ci_low": -0.5}) == "0.893 (-0.50 to 0.93)"
    nearly = {"value": -0.0001, "ci_low": -0.004, "ci_high": 0.01}
    assert format_estimate(estimate | nearly) == "0.000 (0.00–0.01)"


def test_proportions_have_wilson_intervals() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        estimate = proportion_interval(successes, n)
        assert estimate["value"] == successes / n
        assert estimate["n"] == n
        assert estimate["ci_low"] == pytest.approx(low, abs=5e-5)
        assert estimate["ci_high"] == pytest.approx(high, abs=5e-5)
    assert proportion_interval(20, 20)["ci_high"] == 1.0
    assert proportion_interval(0, 20)["ci_low"] == 0.0
    assert proportion_interval(0, 0)["value"] is None


def test_impossible_proportions_are_refused() -> None:
    with pytest.raises(DataError, match=r"^successes=3: use 0 to n \(2\)$"):
        proportion_interval(3, 2)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (["a", "b"], [[1.0, 0.0]], r"2 labels and 2 classes need \(2, 2\) and \(2,\)"),
        ([], np.zeros((0, 2)), "and a film$"),
        (["a", "tb"], [[1.0, 0.0]] * 2, "^label 'tb': not one of the classes a, b$"),
        (["a", "b"], [[1.0, 0.0], [math.nan] * 2], "^probabilities of film 1: not finite; lower"),
    ],
)
def test_impossible_predictions_are_refused(
    labels: list[str], probabilities: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_predictions(
            np.array(labels), np.array(probabilities), np.arange(len(labels)), ["a", "b"],
            draws=100, seed=0,
        )  # fmt: skip
