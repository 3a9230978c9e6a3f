import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_model.errors import ConfigError, StorageError
from cxr_model.run_folder import RunFolder
from tasks.manifest import LATEST
from tasks.run_store import (
    fetch_object,
    fetch_run,
    list_runs,
    publish_run,
    read_manifest,
)
from tasks.storage import ObjectStore
from tasks.storage_errors import TransientStorageError

Headline = dict[str, Any]

FILES = {
    "report.html": b"<p>report</p>",
    "metrics.json": b"{}",
    "data/index.csv": b"path,label\n",
    "figures/roc curve \xc3\xbc.png".encode("latin-1").decode(): b"\x89PNG",
    "model/model.safetensors": bytes(range(256)) * 100,
}


class BrokenLine(ObjectStore):
    """A store whose uploads break off after some objects, and that keeps count of them."""

    num_left = 1_000
    num_uploaded = 0
    lock = threading.Lock()

    def upload_file(self, path: Path, key: str, *, sha256: str | None = None) -> None:
        with self.lock:
            if self.num_left == 0:
                raise TransientStorageError("the line broke")
            self.num_left -= 1
            self.num_uploaded += 1
        super().upload_file(path, key, sha256=sha256)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    for name, data in FILES.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return RunFolder(tmp_path / "run")


@pytest.fixture
def broken_line(store: ObjectStore) -> Iterator[BrokenLine]:
    with BrokenLine(store.location) as broken_line:
        yield broken_line


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_published_run_is_fetched_as_it_was(
    either_store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    published = publish_run(either_store, run, "run-1", headline)
    assert list_runs(either_store) == [published]
    folder = fetch_run(either_store, "run-1", tmp_path / "fetched")
    assert folder == tmp_path / "fetched" / "run-1"
    assert contents(folder) == FILES


def test_hidden_files_and_links_stay_at_home(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    for name in (".report.html.1.tmp", "data/.cache/x", "MANIFEST.json"):
        path = run.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("private")
    (run.root / "link.csv").symlink_to(run.root / "metrics.json")
    published = publish_run(store, run, "run-1", headline)
    assert {record.key for record in published.objects} == set(FILES)
    names = {stored.key.removeprefix("runs/run-1/") for stored in store.list_objects("runs/")}
    assert names == {*FILES, "MANIFEST.json"}


@pytest.mark.parametrize("num_left", range(len(FILES)))
def test_an_interrupted_publication_shows_nothing_and_can_be_repeated(
    broken_line: BrokenLine, run: RunFolder, headline: Headline, num_left: int
) -> None:
    broken_line.num_left = num_left
    with pytest.raises(TransientStorageError, match="the line broke"):
        publish_run(broken_line, run, "run-1", headline)
    assert not broken_line.exists("runs/run-1/MANIFEST.json")
    assert not broken_line.exists("index.html")
    assert list_runs(broken_line) == []
    broken_line.num_left = 1_000
    published = publish_run(broken_line, run, "run-1", headline)
    assert list_runs(broken_line) == [published]
    assert broken_line.num_uploaded == len(FILES)


def test_publishing_again_sends_nothing_twice(
    broken_line: BrokenLine, run: RunFolder, headline: Headline
) -> None:
    first = publish_run(broken_line, run, "run-1", headline)
    assert publish_run(broken_line, run, "run-1", headline) == first
    assert broken_line.num_uploaded == len(FILES)


def test_publishing_again_mends_a_damaged_object(
    broken_line: BrokenLine, run: RunFolder, headline: Headline
) -> None:
    publish_run(broken_line, run, "run-1", headline)
    broken_line.write_bytes("runs/run-1/metrics.json", b"[]")
    publish_run(broken_line, run, "run-1", headline)
    assert broken_line.read_bytes("runs/run-1/metrics.json") == b"{}"
    assert broken_line.num_uploaded == len(FILES) + 1


def test_another_run_under_the_same_id_changes_nothing(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    publish_run(store, run, "run-1", headline)
    run.metrics.write_text('{"other": 1}')
    with pytest.raises(
        StorageError, match="run run-1 is published already; choose another --run-id"
    ):
        publish_run(store, run, "run-1", headline)
    assert store.read_bytes("runs/run-1/metrics.json") == b"{}"


def test_a_run_that_cannot_be_listed_is_refused_before_anything_is_sent(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="headline lacks or misstates preset"):
        publish_run(store, run, "run-1", {})
    with pytest.raises(ConfigError, match="run id 'a/b': use up to"):
        publish_run(store, run, "a/b", headline)
    with pytest.raises(StorageError, match="empty: holds no file to publish; run the training"):
        publish_run(store, RunFolder(tmp_path / "empty"), "run-1", headline)
    assert store.list_objects() == []


def test_runs_are_listed_newest_first_and_latest_is_the_newest(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    for run_id in ("b", "c", "a"):
        publish_run(store, run, run_id, headline)
    assert [run.run_id for run in list_runs(store)] == ["a", "c", "b"]
    assert read_manifest(store, LATEST).run_id == "a"
    assert fetch_run(store, LATEST, tmp_path, keys=["metrics.json"]) == tmp_path / "a"
    assert contents(tmp_path / "a") == {"metrics.json": b"{}"}


def test_an_unknown_run_is_told_with_those_there_are(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    for run_id in ("run-1", LATEST):
        with pytest.raises(StorageError, match="no run is published; begin with 'cxr train'"):
            read_manifest(store, run_id)
    publish_run(store, run, "run-2", headline)
    with pytest.raises(StorageError, match="has no run run-1; its newest are run-2"):
        read_manifest(store, "run-1")
    with pytest.raises(ConfigError, match=r"run id '\.\./run-2'"):
        read_manifest(store, "../run-2")


def test_runs_below_another_prefix_are_not_seen(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    publish_run(store, run, "run-1", headline)
    with ObjectStore(replace(store.location, prefix=f"{store.location.prefix}/deeper")) as deeper:
        assert list_runs(deeper) == []


def test_an_unreadable_manifest_is_logged_and_hides_no_other_run(
    store: ObjectStore, run: RunFolder, headline: Headline, caplog: pytest.LogCaptureFixture
) -> None:
    published = publish_run(store, run, "run-1", headline)
    store.write_bytes("runs/odd/MANIFEST.json", b"no json")
    store.write_bytes("runs/renamed/MANIFEST.json", published.to_json().encode())
    with caplog.at_level(logging.WARNING):
        assert list_runs(store) == [published]
    assert caplog.text.count("left out of the list of runs") == 2
    with pytest.raises(StorageError, match=r"runs/odd/MANIFEST\.json: is no manifest of schema"):
        read_manifest(store, "odd")
    with pytest.raises(StorageError, match="names run 'run-1'; a run cannot be renamed in the"):
        read_manifest(store, "renamed")


def test_a_corrupted_object_is_found_and_named(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    publish_run(store, run, "run-1", headline)
    store.write_bytes("runs/run-1/metrics.json", b"[]")
    with pytest.raises(StorageError, match=r"runs/run-1/metrics\.json: has .* for .* publish it"):
        fetch_run(store, "run-1", tmp_path)
    assert not (tmp_path / "run-1" / "metrics.json").exists()


def test_a_file_that_cannot_be_written_is_told_when_a_run_is_fetched(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    publish_run(store, run, "run-1", headline)
    (tmp_path / "run-1").write_text("in the way")
    with pytest.raises(StorageError, match=r"report\.html: cannot be written \(.*\); check the"):
        fetch_run(store, "run-1", tmp_path, keys=["report.html"])


def test_a_missing_object_is_named(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    published = publish_run(store, run, "run-1", headline)
    store.delete("runs/run-1/report.html")
    with pytest.raises(StorageError, match=r"runs/run-1/report\.html at .*: no such object"):
        fetch_object(store, published, "report.html", tmp_path / "report.html")
    with pytest.raises(StorageError, match="has no object 'reports'; it has "):
        fetch_run(store, "run-1", tmp_path, keys=["reports"])


def test_fetching_again_keeps_right_files_and_replaces_wrong_ones(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    publish_run(store, run, "run-1", headline)
    folder = fetch_run(store, "run-1", tmp_path)
    (folder / "metrics.json").write_bytes(b"[]")
    before = (folder / "report.html").stat().st_ino
    fetch_run(store, "run-1", tmp_path)
    assert contents(folder) == FILES
    assert (folder / "report.html").stat().st_ino == before


def test_a_manifest_that_points_elsewhere_writes_nothing(
    store: ObjectStore, run: RunFolder, headline: Headline, tmp_path: Path
) -> None:
    published = publish_run(store, run, "run-1", headline)
    fields = json.loads(published.to_json())
    fields["objects"][0]["key"] = "../../escaped"
    store.write_bytes("runs/run-1/MANIFEST.json", json.dumps(fields).encode())
    with pytest.raises(StorageError, match="is no plain relative path"):
        fetch_run(store, "run-1", tmp_path / "a" / "b", keys=["../../escaped"])
    assert not list(tmp_path.rglob("escaped"))


def test_the_index_links_each_run_with_its_figures(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    for run_id in ("run-1", "run-2"):
        publish_run(store, run, run_id, headline)
    page = store.read_bytes("index.html").decode()
    assert page.index("runs/run-2/report.html") < page.index("runs/run-1/report.html")
    for text in ("phantom:60", "smoke", "cxresnet", "0.900 (0.80–0.95)", "undefined", ">120<"):
        assert text in page


class CrowdedStore(ObjectStore):
    """A store whose first writing of the index of runs is crossed by somebody else's."""

    before: Callable[[], object] = staticmethod(lambda: None)
    after: Callable[[], object] = staticmethod(lambda: None)
    is_crossed = False
    num_indexes = 0

    def _put(self, key: str, body: object) -> None:
        if key != "index.html":
            super()._put(key, body)
            return
        is_crossed, self.is_crossed = self.is_crossed, True
        self.num_indexes += 1
        if not is_crossed:
            self.before()
        super()._put(key, body)
        if not is_crossed:
            self.after()


@pytest.fixture
def crowded(store: ObjectStore) -> Iterator[CrowdedStore]:
    with CrowdedStore(store.location) as crowded:
        yield crowded


@pytest.mark.parametrize("moment", ["before", "after"])
def test_of_two_runs_published_at_once_the_index_names_both(
    store: ObjectStore, crowded: CrowdedStore, run: RunFolder, headline: Headline, moment: str
) -> None:
    setattr(crowded, moment, lambda: publish_run(store, run, "run-2", headline))
    publish_run(crowded, run, "run-1", headline)
    page = store.read_bytes("index.html").decode()
    assert "runs/run-1/report.html" in page
    assert "runs/run-2/report.html" in page
    assert crowded.num_indexes == 2


def test_a_publication_among_many_ends_and_says_that_the_index_may_lack_a_run(
    store: ObjectStore,
    run: RunFolder,
    headline: Headline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = ObjectStore.sha256

    def overwritten(store: ObjectStore, key: str) -> str:
        return "0" * 64 if key == "index.html" else whole(store, key)

    monkeypatch.setattr(ObjectStore, "sha256", overwritten)
    publish_run(store, run, "run-1", headline)
    assert "index.html: may lack a run, others are being published" in caplog.text


def test_the_index_shows_markup_in_a_headline_as_text(
    store: ObjectStore, run: RunFolder, headline: Headline
) -> None:
    publish_run(store, run, "run-1", headline | {"source": "<script>alert(1)</script>"})
    page = store.read_bytes("index.html").decode()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
