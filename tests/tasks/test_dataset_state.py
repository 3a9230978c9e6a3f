import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

import pytest

import tasks.dataset_state
from cxr_model.config import RunConfig
from tasks.dataset_state import (
    SourceState,
    announce_change,
    look_at_source,
    remember_trained,
)
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


def digest(source: object, location: StoreLocation) -> str:
    config = RunConfig()
    config = replace(config, data=replace(config.data, source=str(source)))
    return look_at_source.fn(config, location).digest


def test_a_folder_is_another_when_a_film_is_added_changed_or_gone(
    tmp_path: Path, location: StoreLocation
) -> None:
    films = tmp_path / "films"
    (films / "normal").mkdir(parents=True)
    (films / "normal" / "a.png").write_bytes(b"a")
    seen = [digest(films, location)]
    assert digest(films, location) == seen[0]
    (films / ".hidden").write_text("no film")
    assert digest(films, location) == seen[0]
    (films / "normal" / "b.png").write_bytes(b"b")
    seen.append(digest(films, location))
    (films / "normal" / "a.png").write_bytes(b"longer")
    seen.append(digest(films, location))
    (films / "normal" / "b.png").unlink()
    seen.append(digest(films, location))
    (tmp_path / "elsewhere").mkdir()
    (films / "covid").symlink_to(tmp_path / "elsewhere")
    (films / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert digest(films, location) == seen[-1]
    (tmp_path / "elsewhere" / "c.png").write_bytes(b"c")
    seen.append(digest(films, location))
    assert len(set(seen)) == 5


def test_a_bucket_is_another_when_an_object_is(store: ObjectStore) -> None:
    store.write_bytes("set/normal/a.png", b"a")
    source = store.location.uri("set")
    first = digest(source, store.location)
    assert digest(source, store.location) == first
    store.write_bytes("set/normal/a.png", b"b")
    assert digest(source, store.location) != first


def test_a_zip_is_told_by_its_bytes_and_phantoms_by_their_settings(
    tmp_path: Path, location: StoreLocation
) -> None:
    for name, content in (("a.zip", b"1"), ("copy.zip", b"1"), ("b.zip", b"2")):
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("normal/film.png", content)
    digests = [digest(tmp_path / name, location) for name in ("a.zip", "copy.zip", "b.zip")]
    assert digests[0] == digests[1] != digests[2]
    assert digest("phantom:30", location) != digest("phantom:31", location)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the states that were announced."""
    emitted: list[str] = []

    def emit(*, payload: dict[str, str], **_: object) -> bool:
        emitted.append(payload["digest"])
        return True

    monkeypatch.setattr(tasks.dataset_state, "emit_event", emit)
    monkeypatch.setattr(tasks.dataset_state, "get_run_logger", lambda: logging.getLogger("tests"))
    return emitted


def test_a_change_is_announced_once_and_again_where_it_was_undone_or_nothing_followed(
    store: ObjectStore, emitted: list[str]
) -> None:
    def look(digest: str) -> bool:
        return announce_change.fn(store.location, "films", SourceState(digest, "films"))

    remember_trained.fn(store.location, "films", SourceState("a", "films"))
    assert [look(digest) for digest in "abbcc"] == [False, True, False, True, False]
    assert [look(digest) for digest in "bab"] == [True, False, True]  # its training failed
    assert emitted == ["b", "c", "b", "b"]
    (key,) = (each.key for each in store.list_objects("datasets/") if "announced" in each.key)
    for hours, is_due in ((22, False), (24, True)):  # the event was lost
        record = json.loads(store.read_bytes(key))
        record["when"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        store.write_bytes(key, json.dumps(record).encode())
        assert look("b") is is_due
    assert not look("b")
    remember_trained.fn(store.location, "films", SourceState("b", "films"))
    assert not look("b")
