import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from prefect.logging import disable_run_logger

from cxr_model.errors import ConfigError, StorageError
from cxr_model.run_folder import RunFolder
from tasks.fetched_model import fetch_registered
from tasks.registry import (
    VERSION_FILES,
    Champion,
    Version,
    decide,
    fetch_version,
    find_champion,
    list_models,
    list_versions,
    promotion,
    read_champion,
    read_log,
    register_version,
    registered_runs,
    rollback_target,
)
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tasks.storage_errors import ExistingObjectError
from tests.conftest import S3Server


@pytest.fixture
def publish(either_store: ObjectStore, tmp_path: Path, headline: dict[str, Any]) -> Any:
    """Publish a run whose files hold its own name."""

    def publish(run_id: str) -> str:
        for key in VERSION_FILES:
            path = tmp_path / run_id / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{key} of {run_id}")
        publish_run(either_store, RunFolder(tmp_path / run_id), run_id, headline)
        return run_id

    return publish


def promote(store: ObjectStore, version: Version, why: str = "better") -> Champion | None:
    return decide(store, "cxr3", lambda now: promotion(now, version, who="somebody", why=why))


def test_a_version_keeps_its_files_when_its_run_is_gone(
    either_store: ObjectStore, publish: Any, tmp_path: Path
) -> None:
    version = register_version(either_store, "cxr3", publish("first"))
    assert register_version(either_store, "cxr3", "first").digest == version.digest
    for stored in either_store.list_objects("runs/first/"):
        either_store.delete(stored.key)
    run = fetch_version(either_store, "cxr3", "first", tmp_path / "fetched")
    assert run.weights.read_text() == "model/model.safetensors of first"
    assert run.predictions.read_text() == "predictions.csv of first"
    assert [found.run_id for found in list_versions(either_store, "cxr3")] == ["first"]
    assert registered_runs(either_store) == {"first"}
    with pytest.raises(StorageError, match=r"has no version second; 'cxr models' lists them"):
        fetch_version(either_store, "cxr3", "second", tmp_path)


def test_a_version_older_than_a_file_that_is_wanted_is_told_and_what_it_has_is_fetched(
    either_store: ObjectStore, publish: Any, tmp_path: Path
) -> None:
    register_version(either_store, "cxr3", publish("first"))
    key = "models/cxr3/versions/first/VERSION.json"
    older = json.loads(either_store.read_bytes(key))
    del older["files"]["model/decision.json"]
    either_store.write_bytes(key, json.dumps(older).encode())
    told = "cxr3/first: has no model/decision.json; train and promote anew"
    with pytest.raises(StorageError, match=told):
        fetch_version(either_store, "cxr3", "first", tmp_path / "one", ("model/decision.json",))
    with disable_run_logger(), pytest.raises(StorageError, match=told):
        fetch_registered.fn(either_store.location, "cxr3", "first", tmp_path / "two")
    assert fetch_version(either_store, "cxr3", "first", tmp_path / "three").weights.exists()


def test_an_evaluation_is_no_version(
    store: ObjectStore, tmp_path: Path, headline: dict[str, Any]
) -> None:
    (tmp_path / "report.html").write_text("page")
    publish_run(store, RunFolder(tmp_path), "measured", headline)
    with pytest.raises(StorageError, match="run measured: has no network of its own, as a cross"):
        register_version(store, "cxr3", "measured")
    assert list_models(store) == []


def test_a_broken_off_registration_is_no_version(either_store: ObjectStore, publish: Any) -> None:
    register_version(either_store, "cxr3", publish("first"))
    either_store.delete("models/cxr3/versions/first/VERSION.json")
    assert list_versions(either_store, "cxr3") == []


def test_decisions_are_appended_and_the_newest_names_the_champion(
    either_store: ObjectStore, publish: Any
) -> None:
    with pytest.raises(StorageError, match=r"has no champion; promote a run with 'cxr promote"):
        read_champion(either_store)
    for name in ("first", "second"):
        promote(either_store, register_version(either_store, "cxr3", publish(name)))
    log = read_log(either_store, "cxr3")
    assert [(each.number, each.run_id, each.previous) for each in log] == [
        (1, "first", ""),
        (2, "second", "first"),
    ]
    assert read_champion(either_store) == read_champion(either_store, "cxr3") == log[-1]
    assert b'"run_id": "second"' in either_store.read_bytes("models/cxr3/champion.json")


def test_a_champion_whose_promoter_was_killed_is_told_to_readers_by_the_next_attempt(
    either_store: ObjectStore, publish: Any
) -> None:
    key = "models/cxr3/champion.json"
    promote(either_store, register_version(either_store, "cxr3", publish("first")))
    stale = either_store.read_bytes(key)
    promote(either_store, register_version(either_store, "cxr3", publish("second")))
    either_store.write_bytes(key, stale)  # killed between the decision and the copy of it
    assert decide(either_store, "cxr3", lambda _: None) is None
    assert b'"run_id": "second"' in either_store.read_bytes(key)


def test_several_models_want_to_be_named(either_store: ObjectStore, publish: Any) -> None:
    for model in ("cxr3", "pets"):
        register_version(either_store, model, publish(f"of-{model}"))
    assert list_models(either_store) == ["cxr3", "pets"]
    with pytest.raises(StorageError, match="holds cxr3, pets; say which one, as MODEL/champion"):
        read_champion(either_store)


def test_no_decision_is_one_that_is_not_written(either_store: ObjectStore) -> None:
    assert decide(either_store, "cxr3", lambda _: None) is None
    assert find_champion(either_store, "cxr3") is None


@pytest.mark.parametrize("server_name", ["rclone_server", "moto_server"])
def test_promotions_at_once_lose_none(
    server_name: str, request: pytest.FixtureRequest, tmp_path: Path, headline: dict[str, Any]
) -> None:
    """Where the store refuses to overwrite no lock is needed; elsewhere one is held."""
    server: S3Server = request.getfixturevalue(server_name)
    location = server.location(f"at-once-{server_name}")
    names = [f"run-{number}" for number in range(6)]
    with ObjectStore(location) as store:
        knows_conditions = store.refuses_overwrite()
        for name in names:
            for key in VERSION_FILES:
                path = tmp_path / name / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
            publish_run(store, RunFolder(tmp_path / name), name, headline)
    assert knows_conditions == (server_name == "moto_server")
    lock = nullcontext() if knows_conditions else threading.Lock()
    together = threading.Barrier(len(names))

    def work(name: str) -> None:
        with ObjectStore(location) as store:
            version = register_version(store, "cxr3", name)
            together.wait()
            with lock:
                promote(store, version)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))
    with ObjectStore(location) as store:
        log = read_log(store, "cxr3")
        assert sorted(each.run_id for each in log) == names
        assert [each.number for each in log] == list(range(1, len(names) + 1))
        assert [each.previous for each in log[1:]] == [each.run_id for each in log[:-1]]
        last = store.read_bytes("models/cxr3/champion.json").decode()
        assert f'"run_id": "{log[-1].run_id}"' in last


def test_a_decision_whose_answer_was_lost_is_made_once(
    either_store: ObjectStore, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client then sends it again, and is told that there is such an object: its own."""
    promote(either_store, register_version(either_store, "cxr3", publish("first")))
    version = register_version(either_store, "cxr3", publish("second"))
    create = either_store.create

    def lose_the_answer(key: str, data: bytes) -> None:
        create(key, data)
        raise ExistingObjectError(key)

    monkeypatch.setattr(either_store, "create", lose_the_answer)
    promote(either_store, version)
    assert [each.run_id for each in read_log(either_store, "cxr3")] == ["first", "second"]


def test_a_decision_that_meets_one_still_being_written_is_made_again(
    either_store: ObjectStore, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS answers 409, ConditionalRequestConflict, while the other's object is not there yet."""
    version = register_version(either_store, "cxr3", publish("first"))
    put, refused = either_store._put, list[str]()

    def conflict_once(key: str, body: object, **conditions: str) -> None:
        if conditions and not refused:
            refused.append(key)
            answer = {"Error": {"Code": "ConditionalRequestConflict"}}
            raise ClientError(answer, "PutObject")
        put(key, body, **conditions)

    monkeypatch.setattr(either_store, "_put", conflict_once)
    promote(either_store, version)
    assert refused == ["models/cxr3/log/000001.json"]
    assert [each.run_id for each in read_log(either_store, "cxr3")] == ["first"]


def add(log: list[Champion], run_id: str, action: str = "promote") -> None:
    version = Version(model="cxr3", run_id=run_id, digest="", metrics={}, registered="", files={})
    current = log[-1] if log else None
    log.append(promotion(current, version, who="", why="", action=action))


def test_a_rollback_goes_to_the_one_before_and_a_second_further_back() -> None:
    log: list[Champion] = []
    with pytest.raises(StorageError, match="no champion before this one"):
        rollback_target(log)
    for name in ("a", "b", "c"):
        add(log, name)
    assert rollback_target(log) == "b"
    add(log, "b", "rollback")
    assert rollback_target(log) == "a"
    add(log, "a", "rollback")
    with pytest.raises(StorageError, match="no champion before this one"):
        rollback_target(log)
    add(log, "d")
    assert rollback_target(log) == "a"


def test_one_that_was_champion_twice_has_two_before_it() -> None:
    log: list[Champion] = []
    for name in ("a", "b", "a", "c"):
        add(log, name)
    add(log, rollback_target(log), "rollback")
    assert (log[-1].run_id, rollback_target(log)) == ("a", "b")


@pytest.mark.parametrize("name", ["", "Two Words", "../up", "a" * 41])
def test_a_models_name_can_be_a_key(store: ObjectStore, name: str) -> None:
    with pytest.raises(ConfigError, match="use up to 40 lower-case"):
        find_champion(store, name)
