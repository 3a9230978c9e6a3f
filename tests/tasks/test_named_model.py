from pathlib import Path
from typing import Any

import pytest

from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.named_model import find_model
from tasks.registry import decide, promotion, register_version
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tests.tiny_model import write_tiny_run


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
        assert not fetched.predictions.exists()


def test_a_name_that_stands_for_nothing_is_told(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no champion; promote a run"):
        find_model(store, "champion", tmp_path)
    with pytest.raises(StorageError, match="has no champion; promote a run"):
        find_model(store, "chest/champion", tmp_path)
    with pytest.raises(StorageError, match="no run is published; begin with 'cxr train'"):
        find_model(store, "latest", tmp_path)
