import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr_model.errors import ConfigError, DataError
from cxr_model.folds import PROTOCOLS, CrossvalConfig, Fold, assign_folds, fold_splits, plan_folds
from cxr_model.splits import check_disjoint


def make_index(num_patients: int = 40, films_each: int = 3) -> pd.DataFrame:
    """Films of numbered patients in three classes; patients 0 and 3 share a film."""
    rows = []
    for patient in range(num_patients):
        for film in range(films_each):
            number = patient * films_each + film
            digest = 0 if number == 3 * films_each else number
            rows.append(
                {
                    "path": f"{patient:08d}_{film:03d}.png",
                    "sha256": hashlib.sha256(str(digest).encode()).hexdigest(),
                    "label": ("normal", "pneumonia", "covid")[patient % 3],
                    "patient": f"{patient:08d}",
                    "series": "",
                    "copies": "",
                    "error": "",
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_film_is_held_out_by_one_fold_whose_classes_are_even(protocol: str) -> None:
    crossval = CrossvalConfig(num_folds=4)
    index = make_index()
    tables = [
        fold_splits(index, Fold(protocol=protocol, repeat=1, number=n), crossval)  # type: ignore[arg-type]
        for n in range(1, 5)
    ]
    held_out = pd.concat(table[table["split"] == "holdout"] for table in tables)
    assert sorted(held_out["path"]) == sorted(index["path"])
    for table in tables:
        shares = table[table["split"] == "holdout"]["label"].value_counts() / 30
        assert shares.between(0.15, 0.55).all(), shares
        assert set(table["split"]) == {"train", "holdout"}


def test_no_group_is_on_both_sides_of_a_grouped_fold() -> None:
    crossval = CrossvalConfig(num_folds=5, validation_fraction=0.25)
    for fold in plan_folds(replace(crossval, protocols=("grouped",))):
        splits = fold_splits(make_index(), fold, crossval)
        check_disjoint(splits)
        assert set(splits["split"]) == {"train", "validation", "holdout"}


def test_naive_folds_part_the_films_of_a_patient() -> None:
    splits = fold_splits(make_index(), Fold(protocol="naive", repeat=1, number=1), CrossvalConfig())
    with pytest.raises(DataError, match="stands in 2 splits"):
        check_disjoint(splits)


def test_folds_follow_from_contents_and_repeats_differ() -> None:
    index = make_index()
    fold = Fold(protocol="grouped", repeat=1, number=1)
    first = fold_splits(index, fold, CrossvalConfig())
    shuffled = index.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(fold_splits(shuffled, fold, CrossvalConfig()), first)
    again = fold_splits(index, replace(fold, repeat=2), CrossvalConfig())
    assert not again.equals(first)


def test_unreadable_films_are_in_no_fold() -> None:
    index = make_index()
    index.loc[3, "error"] = "cut short"
    folds = assign_folds(index, "naive", num_folds=3, seed=0)
    assert index.loc[3, "path"] not in set(folds["path"])


def test_a_class_with_fewer_groups_than_folds_is_told() -> None:
    with pytest.raises(DataError, match=r"'covid' has 2 groups \(.*\), too few for 3 grouped"):
        assign_folds(make_index(num_patients=8), "grouped", num_folds=3, seed=0)


@pytest.mark.parametrize(
    ("protocol", "films_each", "told"),
    [
        ("naive", 1, r"^15 films are too few to be dealt out in 20 naive parts \(.*samples"),
        ("naive", 2, r"^30 films are too few to be dealt out in 20 naive parts \(.*each class"),
        ("grouped", 30, r"films are too few to be dealt out in 20 grouped parts \(.*groups"),
    ],
)
def test_too_few_films_for_the_validation_part_are_told_in_one_line(
    protocol: str, films_each: int, told: str
) -> None:
    fold = Fold(protocol=protocol, repeat=1, number=1)  # type: ignore[arg-type]
    crossval = CrossvalConfig(num_folds=2, validation_fraction=0.05)
    remedy = r"[^\n]*; add films, or use fewer folds or a larger crossval.validation_fraction$"
    with pytest.raises(DataError, match=told + remedy):
        fold_splits(make_index(30, films_each), fold, crossval)


def test_every_fold_of_every_protocol_and_repeat_is_planned_once() -> None:
    folds = plan_folds(CrossvalConfig(num_folds=3, repeats=2))
    assert len({fold.name for fold in folds}) == len(folds) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_folds": 1}, "crossval.num_folds=1: use at least 2"),
        ({"repeats": 0}, "crossval.repeats=0"),
        ({"protocols": ()}, "crossval.protocols"),
        ({"protocols": ("naive", "naive")}, "crossval.protocols=.*name each once"),
        ({"validation_fraction": 0.4}, "crossval.validation_fraction=0.4: use 0, or one in"),
    ],
)
def test_impossible_plans_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CrossvalConfig(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("are_known", [True, False])
def test_copies_stay_in_one_part_of_every_grouped_fold(are_known: bool) -> None:
    """Of two patients of one class; where nobody tells that films are copies, folds part them."""
    index = make_index(num_patients=60, films_each=1)
    # Patients 0 and 3 share a picture, 1 and 4, 2 and 5, 6 and 9 and so on.
    index["copies"] = (index.index // 6 * 3 + index.index % 3).astype(str)
    pairs = index.groupby("copies")
    assert (pairs["label"].nunique() == 1).all()
    assert (pairs["patient"].nunique() == 2).all()
    told = index if are_known else index.assign(copies="")
    crossval = CrossvalConfig(num_folds=4, validation_fraction=0.25)
    most = 0
    for number in range(1, 5):
        splits = fold_splits(told, Fold(protocol="grouped", repeat=1, number=number), crossval)
        parts = splits.merge(index[["path", "copies"]], on="path")
        most = max(most, parts.groupby("copies")["split"].nunique().max())
    assert most == (1 if are_known else 2)


def test_a_fold_that_parts_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in: the dealing out forgets the groups."""

    def deal(films: pd.DataFrame, *_: object) -> np.ndarray:
        return np.arange(len(films)) % 4 + 1

    monkeypatch.setattr("cxr_model.folds._deal", deal)
    fold = Fold(protocol="grouped", repeat=1, number=1)
    with pytest.raises(DataError, match="stands in 2 splits"):
        fold_splits(make_index(), fold, CrossvalConfig(num_folds=4))
