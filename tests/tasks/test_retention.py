import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cxr_model.errors import ConfigError
from cxr_model.run_folder import RunFolder
from tasks.registry import VERSION_FILES, register_version
from tasks.retention import Item, Limits, Retention, beyond, sweep_bucket, sweep_disk
from tasks.run_store import list_runs, publish_run
from tasks.storage import ObjectStore

NOW = 1_000_000_000.0
DAY = 86_400.0


def item(name: str, days_old: float, *, megabytes: float = 1, is_protected: bool = False) -> Item:
    return Item(
        kind="run",
        name=name,
        modified=NOW - days_old * DAY,
        num_bytes=int(megabytes * 1e6),
        is_protected=is_protected,
    )


def removed(items: list[Item], **limits: Any) -> list[str]:
    unlimited = {"max_count": None, "max_age_days": 1e9, "max_gb": 1e9}
    return [each.name for each in beyond(items, Limits(**unlimited | limits), NOW)]


def test_what_is_beyond_count_age_or_size_goes_the_oldest_first() -> None:
    items = [item(f"{days} days", days, megabytes=400) for days in (2, 5, 9, 30)]
    assert removed(items) == []
    assert removed(items, max_count=3) == ["30 days"]
    assert removed(items, max_age_days=8) == ["9 days", "30 days"]
    assert removed(items, max_gb=0.9) == ["9 days", "30 days"]


def test_what_is_older_than_what_went_goes_too_however_small_it_is() -> None:
    items = [item("new", 2, megabytes=100), item("large", 3, megabytes=150), item("old", 4)]
    assert removed(items, max_gb=0.2) == ["large", "old"]


def test_what_is_protected_or_of_today_stays_and_counts() -> None:
    items = [item("today", 0.5), item("champion", 40, is_protected=True), item("other", 41)]
    assert removed(items, max_count=1) == ["other"]
    assert removed(items, max_age_days=0.1) == ["other"]


def publish(store: ObjectStore, folder: Path, run_id: str, headline: dict[str, Any]) -> None:
    for key in VERSION_FILES:
        path = folder / run_id / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(run_id)
    publish_run(store, RunFolder(folder / run_id), run_id, headline)


def test_a_dry_run_lists_and_changes_nothing_and_a_registered_run_always_stays(
    store: ObjectStore, tmp_path: Path, headline: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("registered", "old", "newest"):
        publish(store, tmp_path, run_id, headline)
        time.sleep(0.02)
    register_version(store, "cxr3", "registered")
    store.write_bytes("checkpoints/lost/step-1.pt", b"state")
    later = time.time() + 20 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    policy = Retention(max_runs=1, max_checkpoint_days=14)
    for dry_run in (True, False):
        found = sweep_bucket.fn(store.location, policy, dry_run=dry_run)
        assert [(each.kind, each.name) for each in found] == [
            ("run", "old"),
            ("checkpoint", "lost"),
        ]
        if dry_run:
            assert len(list_runs(store)) == 3
    assert [run.run_id for run in list_runs(store)] == ["newest", "registered"]
    assert store.list_objects("checkpoints/") == []
    assert b"runs/old/" not in store.read_bytes("index.html")


def test_results_go_by_their_age(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("results/explain/0f.zip", b"packed")
    later = time.time() + 20 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    for days, expected in ((21, []), (19, ["result explain/0f.zip"])):
        found = sweep_bucket.fn(store.location, Retention(max_age_days=days), dry_run=False)
        assert [f"{each.kind} {each.name}" for each in found] == expected
    assert store.list_objects("results/") == []


def test_what_a_broken_off_publication_or_removal_left_goes_too(
    store: ObjectStore, tmp_path: Path, headline: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("half", "whole"):
        publish(store, tmp_path, run_id, headline)
    store.delete("runs/half/MANIFEST.json")
    store.write_bytes("runs/my notes/a.txt", b"nothing of ours")
    later = time.time() + 200 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    found = sweep_bucket.fn(store.location, Retention(), dry_run=False)
    assert {each.name for each in found} == {"half", "whole"}
    assert [stored.key for stored in store.list_objects("runs/")] == ["runs/my notes/a.txt"]
    assert b"whole" not in store.read_bytes("index.html")


def sweep_all(
    folders: dict[str, tuple[Path, str]], data_dir: Path, store: ObjectStore
) -> list[Item]:
    lock = data_dir / "ingest.lock"
    return sweep_disk.fn(folders, lock, store.location, Retention(), dry_run=False)


def old_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "file").write_text("content")
    long_ago = time.time() - 400 * DAY
    for each in (path / "file", path):
        os.utime(each, (long_ago, long_ago))


def test_a_run_folder_in_use_stays(store: ObjectStore, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("busy", "idle"):
        old_folder(runs / name)
    folders = {"run folder": (runs, "*"), "cache": (tmp_path / "not there", "*")}
    with FileLock(runs / ".busy.lock"):
        found = sweep_all(folders, tmp_path, store)
    assert [each.name for each in found] == ["idle"]
    assert {path.name for path in runs.iterdir()} == {"busy", ".busy.lock"}


def test_films_that_were_given_to_a_run_since_their_age_was_taken_stay(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        old_folder(tmp_path / "zip" / name)

    def use(items: list[Item], limits: Limits, now: float) -> list[Item]:
        os.utime(tmp_path / "zip" / "a")
        return beyond(items, limits, now)

    folders = {"unpacked zip": (tmp_path / "zip", "*")}
    with FileLock(tmp_path / "ingest.lock"):  # somebody is being given films
        assert sweep_all(folders, tmp_path, store) == []
    monkeypatch.setattr("tasks.retention.beyond", use)
    found = sweep_all(folders, tmp_path, store)
    assert [each.name for each in found] == ["b"]
    assert (tmp_path / "zip" / "a" / "file").exists()


def test_nothing_is_left_of_what_was_removed(store: ObjectStore, tmp_path: Path) -> None:
    kinds = ("run folder", "cache", "fetched")
    folders = {kind: (tmp_path / kind, "*") for kind in kinds}
    for kind in kinds:
        old_folder(tmp_path / kind / "old")
    with FileLock(tmp_path / "run folder" / ".old.lock"):
        pass  # a run worked in it
    found = sweep_all(folders, tmp_path, store)
    assert [(each.kind, each.name) for each in found] == [(kind, "old") for kind in kinds]
    assert [path for kind in kinds for path in (tmp_path / kind).iterdir()] == []


def test_films_of_kaggle_go_by_version_where_none_was_used_for_long(
    store: ObjectStore, tmp_path: Path
) -> None:
    for version in (".4.removed", "5", "6"):
        old_folder(tmp_path / "kaggle" / "owner" / "slug" / version / "films")
    used = tmp_path / "kaggle/owner/slug/6"
    os.utime(used / "films")
    for version in (".4.removed", "5"):
        long_ago = time.time() - 400 * DAY
        os.utime(tmp_path / "kaggle/owner/slug" / version, (long_ago, long_ago))
    folders = {"Kaggle version": (tmp_path / "kaggle", "*/*/*")}
    found = sweep_all(folders, tmp_path, store)
    assert sorted(each.name for each in found) == ["owner/slug/.4.removed", "owner/slug/5"]
    assert list(used.parent.iterdir()) == [used]


def test_a_policy_that_would_keep_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retention.max_runs=0: use at least 1"):
        Retention(max_runs=0)
