"""Folds for cross-validation, by film as it is published or by group as it should be.

``naive`` deals out single films, stratified by class: a patient's films, and copies of one
film, may then stand on both sides. ``grouped`` keeps together what `group_films` joins.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_model.config_checks import STRICT, Bounds, Seed, check_bounds, require
from cxr_model.errors import DataError
from cxr_model.splits import COLUMNS, check_disjoint, group_films

Protocol = Literal["naive", "grouped"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True, kw_only=True)
class CrossvalConfig:
    """What is trained in a cross-validation, beside the settings of each training."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    protocols: tuple[Protocol, ...] = PROTOCOLS
    """``naive`` (films dealt out singly), ``grouped`` (patients, series, copies together)."""
    num_folds: Annotated[int, Bounds(least=2)] = 5
    repeats: Annotated[int, Bounds(least=1)] = 1
    """Each one with other folds and another seed of the training."""
    validation_fraction: Annotated[float, Bounds(least=0, most=0.5)] = 0.0
    """Share of a fold's training films that chooses the epoch, one in a whole number (0.1, 0.2,
    0.25); 0: the last epoch is kept."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self, "crossval")
        require(
            0 < len(set(self.protocols)) == len(self.protocols),
            "crossval.protocols",
            self.protocols,
            "name each once",
        )
        parts = 1 / self.validation_fraction if self.validation_fraction else 2.0
        require(
            2 <= parts <= 20 and abs(parts - round(parts)) < 0.02 * parts,
            "crossval.validation_fraction",
            self.validation_fraction,
            "use 0, or one in 2 to 20, such as 0.1 or 0.25",
        )


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training of a cross-validation."""

    protocol: Protocol
    repeat: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.protocol}-{self.repeat}-{self.number}"


def require_one_device(num_devices: int) -> None:
    """Raise ``ConfigError`` for trainings that would each take several devices."""
    require(
        num_devices == 1,
        "training.num_devices",
        num_devices,
        "a fold trains on one device, folds beside each other; use 1 and CXR_TASK_RUNNER",
    )


def plan_folds(crossval: CrossvalConfig) -> list[Fold]:
    """Every training, in the order in which they are best done: naive and grouped in turn."""
    return [
        Fold(protocol=protocol, repeat=repeat, number=number)
        for repeat in range(1, crossval.repeats + 1)
        for number in range(1, crossval.num_folds + 1)
        for protocol in crossval.protocols
    ]


def assign_folds(
    index: pd.DataFrame, protocol: Protocol, *, num_folds: int, seed: int
) -> pd.DataFrame:
    """``path, sha256, label, group, fold`` of each readable film; folds count from 1.

    Rows come in the order of digests, so that the result follows from the films' contents
    and the seed. Raises ``DataError`` where a class has too few films or groups.
    """
    films = index[index["error"] == ""].assign(group=group_films(index))
    films = films.sort_values(["sha256", "path"])[["path", "sha256", "label", "group"]]
    films = films.reset_index(drop=True)
    units = films["group"] if protocol == "grouped" else films["path"]
    for label, count in units.groupby(films["label"]).nunique().items():
        if count < num_folds:
            kind = "groups (patients, series)" if protocol == "grouped" else "films"
            raise DataError(
                f"class {label!r} has {count} {kind}, too few for {num_folds} {protocol} folds; "
                "add films or use fewer folds"
            )
    return films.assign(fold=_deal(films, protocol, num_folds, seed))


def fold_splits(index: pd.DataFrame, fold: Fold, crossval: CrossvalConfig) -> pd.DataFrame:
    """The table of `assign_splits` for one fold: it is the holdout, the rest is trained on.

    ``validation_fraction`` of the rest is dealt out by the same protocol. Raises ``DataError``
    where films are too few for that, where a class is missing from a part, and where a group
    stands in two parts of a grouped fold.
    """
    seed = crossval.seed + fold.repeat - 1
    folds = assign_folds(index, fold.protocol, num_folds=crossval.num_folds, seed=seed)
    outer = (folds["fold"] == fold.number).to_numpy()
    split = np.where(outer, "holdout", "train").astype(object)
    if crossval.validation_fraction > 0:
        num_parts = round(1 / crossval.validation_fraction)
        inner = _deal(folds[~outer], fold.protocol, num_parts, seed)
        split[np.flatnonzero(~outer)[inner == 1]] = "validation"
    splits = folds.assign(split=split)[list(COLUMNS)]
    present = splits.groupby("split")["label"].nunique()
    if (present < splits["label"].nunique()).any():
        raise DataError(
            f"fold {fold.name}: a class has no film in {present.idxmin()}; use fewer folds, or "
            "another crossval.validation_fraction"
        )
    if fold.protocol == "grouped":
        check_disjoint(splits)
    return splits


def _deal(
    films: pd.DataFrame, protocol: Protocol, num_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """A number from 1 to ``num_folds`` for each film; ``DataError`` where these are too few."""
    # Not above: the command line, which wants the settings only, would load it at each call.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if protocol == "grouped":
        by_group = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        parts = by_group.split(films["path"], films["label"], films["group"])
    else:
        by_film = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
        parts = by_film.split(films["path"], films["label"])
    dealt = np.zeros(len(films), dtype=np.int64)
    try:
        for number, (_, rows) in enumerate(parts, start=1):
            dealt[rows] = number
    except ValueError as error:
        raise DataError(
            f"{len(films)} films are too few to be dealt out in {num_folds} {protocol} parts "
            f"({error}); add films, or use fewer folds or a larger crossval.validation_fraction"
        ) from error
    return dealt
