"""Films of an inbox: the tasks as functions, on both kinds of store."""

import io
import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import tasks.inbox
from cxr_model.run_folder import RunFolder
from tasks.inbox import (
    InboxFilm,
    find_new_films,
    lacks_champion,
    name_batch,
    predictions_prefix,
    read_ledger,
    score_batch,
)
from tasks.registry import decide, promotion, register_version
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tests.tiny_model import write_tiny_run


def film(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (40, 40), grey).save(file, "PNG")
    return file.getvalue()


def score(store: ObjectStore, model: RunFolder, batch: str) -> int:
    found = find_new_films.fn(store.location, "inbox")
    if found:
        score_batch.fn(store.location, "inbox", batch, found, model.root)
    return len(found)


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.inbox, "get_run_logger", lambda: logging.getLogger("tests"))


def test_a_film_is_scored_once_whatever_it_is_called(
    either_store: ObjectStore, tiny_model: RunFolder
) -> None:
    for key, data in (("a.png", film(10)), ("ward/b.png", film(20)), ("copy.png", film(10))):
        either_store.write_bytes(f"inbox/{key}", data)
    either_store.write_bytes("inbox/notes.txt", b"no film")
    assert score(either_store, tiny_model, "first") == 3
    assert score(either_store, tiny_model, "none") == 0
    either_store.write_bytes("inbox/again.png", film(20))  # known under another name
    either_store.write_bytes("inbox/a.png", film(30))  # another film under a known name
    assert score(either_store, tiny_model, "second") == 2
    first, second = read_ledger(either_store, "inbox")
    assert (first.num_scored, first.num_copies) == (2, 1)
    assert (second.num_scored, second.num_copies) == (1, 1)
    tables = [
        pd.read_csv(
            io.BytesIO(either_store.read_bytes(f"predictions/inbox/{name}/predictions.csv"))
        )
        for name in ("first", "second")
    ]
    assert [list(table["path"]) for table in tables] == [
        ["inbox/a.png", "inbox/ward/b.png"],
        ["inbox/a.png"],
    ]
    assert pd.concat(tables)["sha256"].is_unique
    assert sum(first.num_decided.values()) == 2
    assert list(first.num_decided)[-2:] == ["abstained", "outlier"]


def test_a_batch_that_was_broken_off_is_scored_again(
    store: ObjectStore, tiny_model: RunFolder
) -> None:
    store.write_bytes("inbox/a.png", film(10))
    score(store, tiny_model, "first")
    store.delete("predictions/inbox/first/BATCH.json")  # written last
    assert score(store, tiny_model, "second") == 1
    assert [record.batch for record in read_ledger(store, "inbox")] == ["second"]


def test_a_second_attempt_says_what_the_first_one_did(
    store: ObjectStore, tiny_model: RunFolder
) -> None:
    """The store may cut the line when all is written: the task is tried again then."""
    store.write_bytes("inbox/a.png", film(10))
    found = find_new_films.fn(store.location, "inbox")
    first, second = (
        score_batch.fn(store.location, "inbox", "only", found, tiny_model.root) for _ in range(2)
    )
    assert (first.num_scored, first.num_copies) == (second.num_scored, second.num_copies) == (1, 0)
    assert read_ledger(store, "inbox") == [second]


def test_unreadable_and_vanished_films_stop_no_batch(
    store: ObjectStore, tiny_model: RunFolder
) -> None:
    store.write_bytes("inbox/bad.png", b"no film")
    store.write_bytes("inbox/<b>.png", film(10))
    found = [*find_new_films.fn(store.location, "inbox"), InboxFilm("inbox/gone.png", "etag", 1)]
    record = score_batch.fn(store.location, "inbox", "only", found, tiny_model.root)
    assert (record.num_scored, record.num_unreadable, len(record.films)) == (1, 1, 2)
    assert score(store, tiny_model, "next") == 0
    page = store.read_bytes("predictions/inbox/only/report.html").decode()
    assert "&lt;b&gt;.png" in page
    assert "1 scored, 1 unreadable, 0 copies" in page
    assert record.model_red_gates == ["shortcut"]
    assert "its run failed: shortcut" in page


def test_objects_too_large_for_films_are_told_and_not_fetched(
    store: ObjectStore, tiny_model: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        store.write_bytes(f"inbox/{name}.png", film(10) + bytes(10_000))
    store.write_bytes("inbox/c.png", film(20))
    monkeypatch.setattr("cxr_model.film_files._MAX_BYTES", 10_000)
    assert score(store, tiny_model, "first") == 3
    table = pd.read_csv(io.BytesIO(store.read_bytes("predictions/inbox/first/predictions.csv")))
    assert table["error"].str.contains("no radiograph's").tolist() == [True, True, False]
    assert table["sha256"].isna().tolist() == [True, True, False]
    assert score(store, tiny_model, "second") == 0


def test_copies_alone_leave_a_record_and_no_table(
    store: ObjectStore, tiny_model: RunFolder
) -> None:
    store.write_bytes("inbox/a.png", film(10))
    score(store, tiny_model, "first")
    store.write_bytes("inbox/b.png", film(10))
    assert score(store, tiny_model, "second") == 1
    keys = [stored.key for stored in store.list_objects("predictions/inbox/second/")]
    assert keys == ["predictions/inbox/second/BATCH.json"]


def test_films_wait_for_the_champion_of_their_model(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    assert lacks_champion.fn(store.location, "chest")
    assert lacks_champion.fn(store.location, "")
    run = RunFolder(tmp_path)
    write_tiny_run(run, "first", seed=0)
    publish_run(store, run, "first", headline)
    version = register_version(store, "chest", "first")
    assert lacks_champion.fn(store.location, "chest")  # registered, but nobody chose it
    decide(store, "chest", lambda now: promotion(now, version, who="a test", why="new"))
    assert not lacks_champion.fn(store.location, "chest")
    assert not lacks_champion.fn(store.location, "")
    assert lacks_champion.fn(store.location, "thorax")


def test_names_of_batches_and_their_place_follow_from_films_and_prefix() -> None:
    moment = pd.Timestamp("2026-01-31T10:15:30Z").to_pydatetime()
    films = [InboxFilm("inbox/a.png", "1", 9)]
    assert name_batch(moment, films) == name_batch(moment, list(films))
    assert name_batch(moment, films) != name_batch(moment, [InboxFilm("inbox/a.png", "2", 9)])
    assert name_batch(moment, films).startswith("20260131-101530-")
    assert predictions_prefix("ward-3") == predictions_prefix("/ward-3/") == "predictions/ward-3/"
    assert predictions_prefix("/ward/3/") == predictions_prefix("ward/3")
    places = {predictions_prefix(prefix) for prefix in ("ward-3", "ward 3", "ward/3", "ward//3")}
    assert len(places) == 4
    assert all(re.fullmatch(r"predictions/ward-3(-[0-9a-f]{8})?/", place) for place in places)
