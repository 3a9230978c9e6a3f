"""Sources are what parts the films; each has its films' own figure."""

import numpy as np
import pandas as pd

from cxr_model.bootstrap import Bootstrap
from cxr_model.shortcuts.scores import Probe, one_hot
from cxr_model.shortcuts.subgroups import infer_sources, measure_subgroups

TRUTH = np.arange(60) % 3
CLASSES = ["normal", "pneumonia", "covid"]


def holdout(**columns: object) -> pd.DataFrame:
    same = {"subclass": "x", "patient": "7", "format": "PNG", "mode": "L", "width": 9, "height": 9}
    return pd.DataFrame({**same, **columns}, index=range(60))


def measure(films: pd.DataFrame, called_N: np.ndarray) -> list[dict[str, object]]:
    bootstrap = Bootstrap(truth_N=TRUTH, groups_N=np.arange(60), num_classes=3, draws=100, seed=0)
    model = Probe(name="model", title="", evidence="both", how="", called_NC=one_hot(called_N, 3))
    return measure_subgroups(model, films, CLASSES, bootstrap)


def test_kinds_that_part_nothing_are_left_out() -> None:
    assert infer_sources(holdout()) == {}
    sources = infer_sources(holdout(patient=["", "7"] * 30, width=[9] * 59 + [10]))
    assert set(sources) == {"patient", "size"}
    assert set(sources["size"]) == {"9x9 px", "other sizes"}


def test_each_source_of_a_class_has_its_own_sensitivity() -> None:
    bacterial = np.arange(60) < 30
    films = holdout(
        subclass=["bacterial" if early else "viral" for early in bacterial],
    )
    called_N = np.where(bacterial, TRUTH, (TRUTH + 1) % 3)  # all viral films are missed
    rows = measure(films, called_N)
    found = {
        (row["source"], row["class"]): row["sensitivity"]["value"]  # type: ignore[index]
        for row in rows
        if row["class"]
    }
    assert found["sub-class: bacterial", "pneumonia"] == 1.0
    assert found["sub-class: viral", "pneumonia"] == 0.0
    whole = {row["source"]: row["balanced_accuracy"]["value"] for row in rows if not row["class"]}  # type: ignore[index]
    assert whole == {"sub-class: bacterial": 1.0, "sub-class: viral": 0.0}


def test_a_source_that_is_a_whole_class_tells_nothing_new() -> None:
    films = holdout(mode=["RGB" if label == 2 else "L" for label in TRUTH])
    assert measure(films, TRUTH) == []
