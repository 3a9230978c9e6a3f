"""Train, validation and holdout: stratified by class, with related films kept together."""

import hashlib
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr_model.data_config import SplitConfig
from cxr_model.errors import DataError
from cxr_model.run_folder import write_table

SPLITS = ("train", "validation", "holdout")
EXTERNAL = "external"
"""What stands for a split in the tables of an evaluation on other films."""
COLUMNS = ("path", "sha256", "label", "group", "split")


def group_films(index: pd.DataFrame) -> pd.Series:
    """A group id for each readable film of ``index``, on the same row labels.

    Films of one patient, of one series, byte-for-byte duplicates and copies (`build_index`) are
    of one group, also through others.
    The id is the head of the group's smallest digest: it depends on neither order nor paths.
    """
    films = index[index["error"] == ""]
    # A graph of films and what they share (each digest, patient, series and picture named): its
    # connected components are the groups.
    films_of, num_nodes = pd.factorize(films["sha256"])[0], films["sha256"].nunique()
    ends = []
    for column in ("patient", "series", "copies"):
        named = (films[column] != "").to_numpy()
        owners, names = pd.factorize(films.loc[named, column])
        ends.append((films_of[named], num_nodes + owners))
        num_nodes += len(names)
    rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
    edges = coo_array((np.ones(len(rows)), (rows, columns)), shape=(num_nodes, num_nodes))
    component = connected_components(edges, directed=False)[1][films_of]
    smallest = films["sha256"].groupby(component).transform("min")
    return smallest.str[:16].rename("group")


def assign_splits(index: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    """A split for each readable film of ``index`` (``COLUMNS``, rows in the index's order).

    No group stands in two splits, and each class is shared out by ``config``'s fractions as
    closely as its groups allow. The result follows from the seed and the films' contents,
    not from their paths or order. Films that come or go move few others, so that models of a
    growing set have most of their holdout films in common.

    Raises DataError where a class cannot be given to every split.
    """
    films = index[index["error"] == ""].assign(group=group_films(index))
    counts = pd.crosstab(films["group"], films["label"])
    makeup = dict(zip(counts.index, map(tuple, counts.to_numpy()), strict=True))
    order = sorted(
        makeup, key=lambda group: (-sum(makeup[group]), makeup[group], _hash(config.seed, group))
    )
    train_fraction = 1 - config.validation_fraction - config.holdout_fraction
    fractions = np.array([train_fraction, config.validation_fraction, config.holdout_fraction])
    chosen = _share_out([makeup[group] for group in order], fractions)
    split_of = {group: SPLITS[split] for group, split in zip(order, chosen, strict=True)}
    splits = films.assign(split=films["group"].map(split_of))[list(COLUMNS)].reset_index(drop=True)
    _check_every_class_in_every_split(splits)
    return splits


def _hash(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed} {group}".encode()).hexdigest()


def _share_out(groups: list[tuple[int, ...]], fractions: npt.NDArray[np.float64]) -> list[int]:
    """Split number of each of ``groups``, given as their numbers of films by class.

    Each group goes where it lowers the chi-square distance between given and due films most,
    so the splits fill at one pace, with large and small groups alike. Where a class has no
    more groups left than splits without any of it, those splits come first. Groups are
    expected largest first: the small ones then even out what the large ones left.

    Equal groups stand side by side, and the last split takes the first of them: one group more
    moves a border by one, and leaves those on either side of it where they were.
    """
    counts = np.array(groups)
    due = fractions[:, None] * counts.sum(axis=0)
    given = np.zeros_like(due)
    num_left = (counts > 0).sum(axis=0)
    chosen: list[int] = []
    for equal, members in groupby(groups):
        group, splits = np.array(equal), []
        for _ in members:
            empty = given == 0
            scarce = (group > 0) & (num_left <= empty.sum(axis=0))
            num_filled = (empty & scarce).sum(axis=1)
            change = ((2 * (given - due) + group) * group / due).sum(axis=1)
            # Rounded, so that ties do not hang on the machine's last bit.
            split = int(np.lexsort((change.round(9), -num_filled))[0])
            given[split] += group
            num_left -= group > 0
            splits.append(split)
        chosen += sorted(splits, reverse=True)
    return chosen


def _check_every_class_in_every_split(splits: pd.DataFrame) -> None:
    for label, films in splits.groupby("label"):
        if films["split"].nunique() < len(SPLITS):
            raise DataError(
                f"class {label!r} has {len(films)} films in {films['group'].nunique()} groups, "
                f"too few for the {len(SPLITS)} splits; add films or drop the class with "
                f"labels.{label}=none"
            )


def draw_films(films: pd.DataFrame, most: int, rng: np.random.Generator) -> pd.DataFrame:
    """All rows, or ``most`` of them, in the table's order."""
    if len(films) <= most:
        return films
    return films.iloc[np.sort(rng.choice(len(films), most, replace=False))]


def check_disjoint(splits: pd.DataFrame) -> None:
    """Raise DataError where a group or a file's digest stands in two splits."""
    for column in ("group", "sha256"):
        num_splits = splits.groupby(column)["split"].nunique()
        shared = num_splits[num_splits > 1]
        if len(shared):
            raise DataError(
                f"{column} {shared.index[0]} stands in {shared.iloc[0]} splits "
                f"({len(shared)} such in all); assign the splits anew"
            )


def write_splits(splits: pd.DataFrame, path: Path) -> None:
    write_table(path, splits)


def read_splits(path: Path) -> pd.DataFrame:
    """What ``write_splits`` wrote; DataError where ``path`` is no such table."""
    try:
        splits = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: cannot be read ({error}); assign the splits anew") from error
    if tuple(splits.columns) != COLUMNS:
        raise DataError(
            f"{path}: has columns {', '.join(splits.columns)} instead of {', '.join(COLUMNS)}; "
            "assign the splits anew"
        )
    return splits
