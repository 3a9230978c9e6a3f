import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_model.data_config import DataConfig, LabelConfig, SplitConfig
from cxr_model.errors import DataError
from cxr_model.index import build_index
from cxr_model.splits import (
    COLUMNS,
    SPLITS,
    assign_splits,
    check_disjoint,
    group_films,
    read_splits,
    write_splits,
)


def make_index(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    """An index of (content, label, patient); equal contents are exact duplicates."""
    return pd.DataFrame(
        {
            "path": [f"{label}/{number}.png" for number, (_, label, _) in enumerate(rows)],
            "label": [label for _, label, _ in rows],
            "sha256": [hashlib.sha256(content.encode()).hexdigest() for content, _, _ in rows],
            "patient": [patient for _, _, patient in rows],
            "series": "",
            "copies": "",
            "error": "",
        }
    )


def hospital(seed: int, num_films: int = 900) -> pd.DataFrame:
    """Unequal classes, patients with up to 30 films, some in two classes, some duplicates."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["normal", "pneumonia", "covid"], num_films, p=[0.5, 0.42, 0.08])
    patients = rng.zipf(1.7, num_films) % 400
    named = rng.random(num_films) < 0.7
    rows = [
        (
            str(number if rng.random() > 0.05 else number // 2),
            str(labels[number]),
            str(patients[number]) if named[number] and patients[number] > 1 else "",
        )
        for number in range(num_films)
    ]
    return make_index(rows)


def shares(splits: pd.DataFrame) -> pd.DataFrame:
    return pd.crosstab(splits["label"], splits["split"], normalize="index")[list(SPLITS)]


def test_films_of_one_series_are_one_group() -> None:
    index = make_index([(content, "x", "") for content in "abcd"])
    index["series"] = ["f/case2", "f/case2", "", "f/case3"]
    groups = group_films(index)
    assert groups[0] == groups[1]
    assert groups.nunique() == 3


def test_groups_are_joined_through_patients_and_duplicates() -> None:
    contents_and_patients = ["a 1", "b 1", "b ", "c 2", "d ", "e ", "c 3", "f 3"]
    index = make_index([(film[0], "x", film[2:]) for film in contents_and_patients])
    groups = group_films(index)
    members = {tuple(rows) for rows in groups.groupby(groups).groups.values()}
    assert members == {(0, 1, 2), (3, 6, 7), (4,), (5,)}


@pytest.mark.parametrize("seed", range(10))
def test_two_films_are_of_one_group_when_a_chain_of_shared_things_joins_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 60
    index = make_index([(str(n), "x", "") for n in rng.integers(0, 50, count)])
    for column, num_names in (("patient", 40), ("series", 50), ("copies", 45)):
        names = rng.integers(0, num_names, count)
        # The same number in two columns is not the same thing.
        index[column] = np.where(rng.random(count) < 0.5, names.astype(str), "")
    parent = list(range(count))

    def root_of(film: int) -> int:
        while parent[film] != film:
            film = parent[film]
        return film

    for column in ("sha256", "patient", "series", "copies"):
        for name, rows in index.groupby(column).groups.items():
            for row in rows if name else ():
                parent[root_of(int(row))] = root_of(int(rows[0]))
    groups = group_films(index)
    expected = pd.Series([root_of(film) for film in range(count)])
    assert (pd.crosstab(groups.to_numpy(), expected.to_numpy()) > 0).sum().max() == 1
    assert groups.nunique() == expected.nunique() > 1


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_and_no_exact_duplicate_is_in_two_splits(seed: int) -> None:
    index = hospital(seed)
    splits = assign_splits(index, SplitConfig(seed=seed)).assign(patient=index["patient"])
    named = splits[splits["patient"] != ""]
    assert named.groupby("patient")["split"].nunique().max() == 1
    assert splits.groupby("sha256")["split"].nunique().max() == 1
    assert splits.groupby("group")["split"].nunique().max() == 1


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_shared_out_by_the_fractions(seed: int) -> None:
    splits = assign_splits(hospital(seed), SplitConfig(seed=seed))
    assert (shares(splits) - [0.6, 0.2, 0.2]).abs().max(axis=None) < 0.03
    config = SplitConfig(validation_fraction=0.1, holdout_fraction=0.3)
    assert (shares(assign_splits(hospital(seed), config)) - [0.6, 0.1, 0.3]).abs().max(
        axis=None
    ) < 0.03


def test_single_films_are_shared_out_to_the_film() -> None:
    index = make_index([(f"{label}{n}", label, "") for label in "xyz" for n in range(50)])
    splits = assign_splits(index, SplitConfig())
    assert (pd.crosstab(splits["label"], splits["split"])[list(SPLITS)] == [30, 10, 10]).all(
        axis=None
    )


def test_large_groups_do_not_overfill_a_small_split() -> None:
    sizes = [30, 30, 10, 10, 10, 10]
    rows = [
        (f"{p}-{n}", label, f"{label}{p}")
        for label in "xy"
        for p, size in enumerate(sizes)
        for n in range(size)
    ]
    splits = assign_splits(
        make_index([(label + c, label, p) for c, label, p in rows]), SplitConfig()
    )
    assert (shares(splits) == [0.6, 0.2, 0.2]).all(axis=None)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (9, 1, 1), (5, 5, 1), (2, 2, 2), (7, 6, 5)])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.2, 0.33])
def test_three_groups_reach_three_splits(sizes: tuple[int, ...], fraction: float) -> None:
    rare = [(f"r{p}-{n}", "rare", f"r{p}") for p, size in enumerate(sizes) for n in range(size)]
    many = [(f"m{n}", "many", "") for n in range(200)]
    config = SplitConfig(validation_fraction=fraction, holdout_fraction=fraction)
    splits = assign_splits(make_index(rare + many), config)
    assert set(splits.loc[splits["label"] == "rare", "split"]) == set(SPLITS)


def test_order_and_paths_do_not_change_the_split() -> None:
    index = hospital(0)
    moved = index.sample(frac=1, random_state=1).assign(path=lambda films: "moved/" + films["path"])
    first = assign_splits(index, SplitConfig()).set_index("path")["split"]
    second = assign_splits(moved, SplitConfig()).set_index("path")["split"]
    second.index = second.index.str.removeprefix("moved/")
    assert first.to_dict() == second.to_dict()


def test_another_seed_gives_another_split() -> None:
    first, again, other = (
        assign_splits(hospital(0), SplitConfig(seed=seed))["split"] for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert (first != other).mean() > 0.2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_new", "least"), [(1, 0.95), (90, 0.7)])
def test_most_films_stay_in_the_holdout_when_films_arrive(
    seed: int, num_new: int, least: float
) -> None:
    films = hospital(seed)
    before = films.drop(films.sample(num_new, random_state=seed).index)
    old, new = (
        set(splits.loc[splits["split"] == "holdout", "path"])
        for splits in (assign_splits(index, SplitConfig()) for index in (before, films))
    )
    assert len(old & new) >= least * len(old)


def test_rows_keep_the_order_of_the_index_without_unreadable_films() -> None:
    index = hospital(0)
    index.loc[3, "error"] = "cut short"
    splits = assign_splits(index, SplitConfig())
    assert tuple(splits.columns) == COLUMNS
    assert list(splits["path"]) == list(index["path"].drop(3))


@pytest.mark.parametrize(
    ("rare", "found"),
    [
        ([("a", "covid", ""), ("b", "covid", "")], "2 films in 2 groups"),
        ([("a", "covid", "1"), ("b", "covid", "1"), ("c", "covid", "1")], "3 films in 1 groups"),
        ([("a", "covid", ""), ("a", "covid", ""), ("b", "covid", "")], "3 films in 2 groups"),
    ],
)
def test_a_class_with_fewer_groups_than_splits_is_refused(
    rare: list[tuple[str, str, str]], found: str
) -> None:
    normal = [(f"n{number}", "normal", "") for number in range(20)]
    message = (
        f"class 'covid' has {found}, too few for the 3 splits; "
        "add films or drop the class with labels.covid=none"
    )
    with pytest.raises(DataError, match=message):
        assign_splits(make_index(normal + rare), SplitConfig())


@pytest.mark.parametrize("column", ["group", "sha256"])
def test_a_leak_between_splits_is_found_and_named(column: str) -> None:
    splits = pd.DataFrame(
        {"group": ["g1", "g2", "g3"], "sha256": ["s1", "s2", "s3"], "split": list(SPLITS)}
    )
    check_disjoint(splits)
    splits.loc[2, column] = splits.loc[0, column]
    with pytest.raises(DataError, match=f"{column} {splits.loc[0, column]} stands in 2 splits"):
        check_disjoint(splits)


def test_the_splits_survive_their_file(tmp_path: Path) -> None:
    splits = assign_splits(hospital(0), SplitConfig())
    write_splits(splits, tmp_path / "run" / "splits.csv")
    pd.testing.assert_frame_equal(read_splits(tmp_path / "run" / "splits.csv"), splits)


def test_a_file_that_is_no_table_of_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_splits(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("path,split\n")
    with pytest.raises(DataError, match="has columns path, split instead of path, sha256, label"):
        read_splits(tmp_path / "other.csv")


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_each_nih_patient_of_the_real_films_stands_in_one_split() -> None:
    index = build_index(Path(os.environ["CXR_REAL_DATA"]), DataConfig(), LabelConfig())
    splits = assign_splits(index, SplitConfig())
    # Read from the names anew, not from the index whose patients made the groups.
    patients = splits["path"].str.extract(r"/(?P<patient>\d{8})_\d{3}\.[a-z]+$")
    num_splits = splits.join(patients).groupby("patient")["split"].nunique()
    assert len(num_splits) == 682
    assert (num_splits == 1).all()
    assert (shares(splits) - [0.6, 0.2, 0.2]).abs().max(axis=None) < 0.03
