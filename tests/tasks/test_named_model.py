from pathlib import Path
from typing import Any

import pytest
import torch

from cxr_model.errors import StorageError
from cxr_model.predict import Predictor
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.named_model import NETWORK_FILES, find_model
from tasks.registry import decide, promotion, register_version
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tests.tiny_model import change_rules, write_tiny_run


def test_a_name_stands_for_the_champion_a_run_or_the_newest(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    digests = {}
    for seed, run_id in enumerate(("first", "second")):
        run = RunFolder(tmp_path / run_id)
        digests[run_id] = write_tiny_run(run, run_id, seed=seed)
        publish_run(store, run, run_id, headline)
    version = register_version(store, "chest", "first")
    decide(store, "chest", lambda now: promotion(now, version, who="a test", why="new"))
    for name, run_id in (
        ("champion", "first"),
        ("chest/champion", "first"),
        ("first", "first"),
        ("latest", "second"),
    ):
        found = find_model(store, name, tmp_path / "fetched")
        assert (found.run_id, found.digest) == (run_id, digests[run_id])
        fetched = found.fetch()
        assert sha256_file(fetched.weights) == digests[run_id]
        assert fetched.model_card.exists()
        assert fetched.decision.exists()
        assert not fetched.predictions.exists()


def test_an_outlier_score_comes_along_where_the_run_has_one(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    for run_id, has_score in (("with", True), ("without", False)):
        run = RunFolder(tmp_path / run_id)
        write_tiny_run(run, run_id)
        if has_score:
            change_rules(run, outlier_above=2.0)
        publish_run(store, run, run_id, headline)
        version = register_version(store, run_id, run_id)
        decide(store, run_id, lambda now, it=version: promotion(now, it, who="a test", why="new"))
        for name in (run_id, f"{run_id}/champion"):
            fetched = find_model(store, name, tmp_path / "fetched").fetch()
            assert fetched.outlier_model.exists() is has_score
            assert Predictor.load(fetched, torch.device("cpu")).card.run_id == run_id


def test_a_run_that_cannot_judge_is_refused_for_predictions_and_still_has_a_network(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "bare")
    write_tiny_run(run, "bare")
    run.decision.unlink()
    publish_run(store, run, "bare", headline)
    with pytest.raises(StorageError, match=r"bare: has no model/decision\.json; train and"):
        find_model(store, "bare", tmp_path).fetch()
    assert find_model(store, "bare", tmp_path, NETWORK_FILES).fetch().weights.exists()


def test_a_name_that_stands_for_nothing_is_told(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no champion; promote a run"):
        find_model(store, "champion", tmp_path)
    with pytest.raises(StorageError, match="has no champion; promote a run"):
        find_model(store, "chest/champion", tmp_path)
    with pytest.raises(StorageError, match="no run is published; begin with 'cxr train'"):
        find_model(store, "latest", tmp_path)
