"""Who decides when several do at once: the store where it can, Prefect's lock where it cannot."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from prefect.testing.utilities import prefect_test_harness

from cxr_model.errors import StorageError
from cxr_model.promotion import Verdict
from cxr_model.run_folder import RunFolder
from tasks.promotion import consider_promotion, promote_by_hand, registry_lock, roll_back
from tasks.registry import VERSION_FILES, read_log
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tests.conftest import S3Server


@pytest.fixture
def strict_store(
    moto_server: S3Server, tmp_path: Path, headline: dict[str, Any]
) -> Iterator[ObjectStore]:
    """One that refuses to overwrite, with the runs a, b and c."""
    with ObjectStore(moto_server.location(tmp_path.name)) as store:
        for run_id in "abc":
            for key in VERSION_FILES:
                path = tmp_path / run_id / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(run_id)
            publish_run(store, RunFolder(tmp_path / run_id), run_id, headline)
        yield store


def test_a_rollback_that_a_promotion_came_before_goes_back_to_the_one_before_that(
    strict_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, create = strict_store.location, ObjectStore.create

    def promote(run_id: str) -> None:
        promote_by_hand.fn(location, "cxr3", run_id, "somebody", "better")

    def create_too_late(self: ObjectStore, key: str, data: bytes) -> None:
        monkeypatch.setattr(ObjectStore, "create", create)
        promote("c")
        create(self, key, data)

    with disable_run_logger():
        promote("a")
        promote("b")
        monkeypatch.setattr(ObjectStore, "create", create_too_late)
        assert roll_back.fn(location, "cxr3", "somebody", "worse").run_id == "b"
    assert [each.run_id for each in read_log(strict_store, "cxr3")] == ["a", "b", "c", "b"]


def test_a_rollback_to_weights_that_are_gone_is_refused(strict_store: ObjectStore) -> None:
    location = strict_store.location
    with disable_run_logger():
        for run_id in "ab":
            promote_by_hand.fn(location, "cxr3", run_id, "somebody", "better")
        strict_store.delete("models/cxr3/versions/a/model/model.safetensors")
        with pytest.raises(StorageError, match=r"safetensors: is gone; choose another version wi"):
            roll_back.fn(location, "cxr3", "somebody", "worse")
    assert [each.run_id for each in read_log(strict_store, "cxr3")] == ["a", "b"]


def test_a_gate_that_is_asked_again_does_not_overrule_the_operator(
    strict_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may be started anew behind its promotion, hours after somebody rolled it back."""
    won = Verdict(promote=True, why="better", gates=[], comparison=None)
    monkeypatch.setattr("tasks.promotion._judge", lambda *_: won)
    monkeypatch.setattr("tasks.promotion._tell", lambda *_: None)

    def consider(run_id: str) -> Verdict:
        return consider_promotion.fn(strict_store.location, tmp_path / run_id, "cxr3", run_id)

    with disable_run_logger():
        for run_id in "ab":
            assert consider(run_id) == won
        roll_back.fn(strict_store.location, "cxr3", "somebody", "worse")
        assert consider("b") == won  # its decision of then
    assert [each.run_id for each in read_log(strict_store, "cxr3")] == ["a", "b", "a"]


@pytest.mark.slow
def test_prefects_lock_lets_one_at_a_time_into_a_store_that_overwrites(store: ObjectStore) -> None:
    spans: list[tuple[float, float]] = []

    def decide() -> None:
        with registry_lock(store):
            began = time.monotonic()
            time.sleep(0.2)
            spans.append((began, time.monotonic()))

    with prefect_test_harness(server_startup_timeout=120), ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(decide) for _ in range(3)]:
            done.result()
    spans.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
