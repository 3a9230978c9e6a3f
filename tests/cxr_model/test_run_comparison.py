from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_model.errors import DataError
from cxr_model.paired import compare_predictions
from cxr_model.run_comparison import compare_runs, is_better, tell_comparison, unseen_films
from cxr_model.run_folder import RunFolder, write_table
from cxr_model.splits import EXTERNAL

CLASSES = ["normal", "covid"]


def table(share_right: float, films: range, seed: int, classes: list[str]) -> pd.DataFrame:
    truth = np.array(films) % 2
    right = np.random.default_rng(seed).random(len(films)) < share_right
    predicted = np.where(right, truth, 1 - truth)
    return pd.DataFrame(
        {
            "path": [f"{seed}-{film}.png" for film in films],
            "sha256": [f"{film:064x}" for film in films],
            "label": np.array(classes)[truth],
            "predicted": np.array(classes)[predicted],
            f"probability_{classes[0]}": 1.0 - predicted,
            f"probability_{classes[1]}": 1.0 * predicted,
        }
    )


def groups_of(films: range) -> list[str]:
    return [f"patient {film // 2}" for film in films]


def write_training(
    root: Path,
    share_right: float,
    *,
    films: range = range(300),
    seed: int = 0,
    classes: list[str] = CLASSES,
    split: str = "holdout",
) -> RunFolder:
    run = RunFolder(root)
    predictions = table(share_right, films, seed, classes).assign(split=split)
    seen = table(1.0, range(900, 940), seed, classes).assign(split="validation")
    every = pd.concat([predictions, seen])
    write_table(run.predictions, every)
    splits = every.assign(group=[*groups_of(films), *groups_of(range(900, 940))])
    write_table(run.splits, splits[["path", "sha256", "label", "group", "split"]])
    return run


def write_crossval(root: Path, share_right: float, protocols: list[str]) -> RunFolder:
    run = RunFolder(root)
    for number, protocol in enumerate(protocols):
        films = table(share_right - 0.2 * number, range(400), 9, CLASSES)
        first = films.assign(group=groups_of(range(400)), repeat=1, fold=1)
        write_table(run.protocol_predictions(protocol), pd.concat([first, first.assign(repeat=2)]))
    return run


def test_runs_are_compared_on_common_holdout_films_by_content(tmp_path: Path) -> None:
    first = write_training(tmp_path / "a", 0.95, films=range(100, 400), seed=1)
    second = write_training(tmp_path / "b", 0.7, seed=2)
    found = compare_runs(first, second, draws=300, seed=0)
    assert found["n"] == 200
    assert found["num_groups"] == 100
    assert found["accuracy"]["ci_low"] > 0
    sentence = tell_comparison(found, "a", "b")
    assert sentence.startswith("a is better than b on 200 films that neither was trained on: bal")
    assert ", McNemar p = " in sentence


def test_figures_of_each_and_their_difference_agree(tmp_path: Path) -> None:
    first, second = (write_training(tmp_path / name, 0.8, seed=ord(name)) for name in "ab")
    found = compare_runs(first, second, draws=300, seed=0)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        gap = found["first"][name]["value"] - found["second"][name]["value"]
        assert found[name]["value"] == pytest.approx(gap)
    ours = unseen_films(first, found["protocol"])
    assert found["first"]["accuracy"]["value"] == (ours["label"] == ours["predicted"]).mean()


def test_the_verdict_names_the_better_run_whichever_comes_first(tmp_path: Path) -> None:
    good = write_training(tmp_path / "good", 0.95, seed=1)
    poor = write_training(tmp_path / "poor", 0.7, seed=2)
    there = tell_comparison(compare_runs(good, poor, draws=300, seed=0), "good", "poor")
    back = tell_comparison(compare_runs(poor, good, draws=300, seed=0), "poor", "good")
    assert there == back
    same = tell_comparison(compare_runs(good, good, draws=300, seed=0), "good", "again")
    assert same.startswith("no difference between good and again is shown on 300 films")
    assert "differs by 0.000 (0.00–0.00)" in same


def test_of_a_cross_validation_the_films_of_the_first_repeat_count_by_patient_where_both_can(
    tmp_path: Path,
) -> None:
    both = write_crossval(tmp_path / "both", 0.95, ["grouped", "naive"])
    naive = write_crossval(tmp_path / "naive", 0.75, ["naive"])
    grouped = write_crossval(tmp_path / "grouped", 0.95, ["grouped"])
    training = write_training(tmp_path / "training", 0.9)
    for first, second, protocol, films in (
        (both, naive, "naive", 400),
        (both, grouped, "grouped", 400),
        (training, both, "grouped", 300),
        (grouped, training, "grouped", 300),
    ):
        found = compare_runs(first, second, draws=300, seed=0)
        assert (found["protocol"], found["n"]) == (protocol, films)
    assert compare_runs(both, naive, draws=300, seed=0)["first"]["accuracy"]["value"] < 0.9
    assert compare_runs(training, training, draws=300, seed=0)["protocol"] is None
    with pytest.raises(DataError, match="folds are naive in one run and grouped in the other"):
        compare_runs(naive, grouped, draws=300, seed=0)
    with pytest.raises(DataError, match="naive: has naive folds only, where a film's relatives"):
        compare_runs(training, naive, draws=300, seed=0)


def test_two_networks_are_compared_on_films_of_elsewhere(tmp_path: Path) -> None:
    good = write_training(tmp_path / "good", 0.95, seed=1, split=EXTERNAL)
    poor = write_training(tmp_path / "poor", 0.7, films=range(100, 500), seed=2, split=EXTERNAL)
    found = compare_runs(good, poor, draws=300, seed=0)
    assert (found["n"], found["num_groups"], found["protocol"]) == (200, 100, None)
    assert found["balanced_accuracy"]["ci_low"] > 0


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0.9)
    other = write_training(tmp_path / "other", 0.9, classes=["cat", "dog"])
    far = write_training(tmp_path / "far", 0.9, films=range(280, 600), seed=1)
    for second, message in (
        (other, "classes are normal, covid in one run and cat, dog in the other; compare runs of"),
        (far, "20 films were unseen by both, fewer than 30; compare runs on one data set"),
        (RunFolder(tmp_path / "no"), "no: holds no predictions; name a training, a cross-valid"),
    ):
        with pytest.raises(DataError, match=message):
            compare_runs(run, second, draws=300, seed=0)


def test_the_films_of_two_patients_do_not_show_which_network_is_better() -> None:
    good = table(0.95, range(300), 1, CLASSES).assign(group=groups_of(range(300)))
    poor = table(0.7, range(300), 2, CLASSES).assign(path=good["path"])
    for num_groups, is_shown in ((2, False), (6, True)):
        names = [f"covid {number // 2 % num_groups}" for number in range(300)]
        few = good.assign(group=good["group"].where(good["label"] != "covid", names))
        found = compare_predictions(few, poor, CLASSES, draws=300, seed=0)
        assert found["balanced_accuracy"]["ci_low"] > 0
        assert found["fewest_groups"] == num_groups
        told = tell_comparison(found, "a", "b")
        assert is_better(found) == is_shown == told.startswith("a is better")
        assert ("a class has 2 groups of films only" in told) != is_shown


def test_an_undefined_difference_is_no_difference() -> None:
    films = table(0.9, range(0, 80, 2), 0, CLASSES)  # all of one class
    films = films.assign(group=films["path"])
    found = compare_predictions(films, films, CLASSES, draws=200, seed=0)
    assert tell_comparison(found, "a", "b").startswith("no difference between a and b is shown")
