from dataclasses import replace
from pathlib import Path

import pytest

from cxr_model.data_config import DataConfig
from cxr_model.errors import SourceError, StorageError
from tasks.bucket_source import download_prefix, require_objects
from tasks.storage import ObjectStore
from tasks.storage_errors import TransientStorageError

FILMS = {f"Normal/film {number} ü.png": bytes([number]) * 50 for number in range(4)}
CONFIG = DataConfig()


@pytest.fixture
def films(store: ObjectStore) -> ObjectStore:
    for key, data in FILMS.items():
        store.write_bytes(key, data)
    return store


def films_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def test_a_prefix_is_mirrored_under_its_relative_keys(
    either_store: ObjectStore, tmp_path: Path
) -> None:
    for key, data in FILMS.items():
        either_store.write_bytes(key, data)
    root, mirror = download_prefix(either_store.location, tmp_path, CONFIG)
    assert films_in(root) == FILMS
    assert (mirror.num_objects, mirror.num_bytes, mirror.num_downloaded) == (4, 200, 4)
    assert mirror.uri == either_store.location.uri()


def test_a_prefix_without_objects_is_told_before_a_run_begins(either_store: ObjectStore) -> None:
    either_store.write_bytes("films/a.png", b"1")
    require_objects(replace(either_store.location, prefix=f"{either_store.location.root}films"))
    nothing = replace(either_store.location, prefix=f"{either_store.location.root}film/")
    with pytest.raises(SourceError, match=r"film/: no object lies below it; check the bucket and"):
        require_objects(nothing)
    with pytest.raises(StorageError, match=r"NoSuchBucket; .* \(of films: data\.source\)"):
        require_objects(either_store.location.at("s3://no-such-bucket/films"))


def test_an_interrupted_download_goes_on_where_it_ended(
    films: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ObjectStore.download_file

    def break_at_the_last(
        store: ObjectStore, key: str, path: Path, *, size: int | None = None
    ) -> None:
        if key == max(FILMS):
            raise TransientStorageError("the line broke")
        whole(store, key, path, size=size)

    monkeypatch.setattr(ObjectStore, "download_file", break_at_the_last)
    with pytest.raises(TransientStorageError, match="the line broke"):
        download_prefix(films.location, tmp_path, CONFIG)
    monkeypatch.setattr(ObjectStore, "download_file", whole)
    root, mirror = download_prefix(films.location, tmp_path, CONFIG)
    assert mirror.num_downloaded == 1
    assert films_in(root) == FILMS
    assert download_prefix(films.location, tmp_path, CONFIG)[1].num_downloaded == 0


def test_films_that_change_come_and_go_leave_the_mirror_of_a_run_at_work_as_it_is(
    films: ObjectStore, tmp_path: Path
) -> None:
    before, _ = download_prefix(films.location, tmp_path, CONFIG)
    first, second, third, fourth = sorted(FILMS)
    films.write_bytes(first, b"x" * 50)  # of the same size
    films.write_bytes("Covid/new.png", b"new")
    films.delete(second)
    after, mirror = download_prefix(films.location, tmp_path, CONFIG)
    assert mirror.num_downloaded == 2
    assert films_in(before) == FILMS
    assert films_in(after) == {
        first: b"x" * 50,
        "Covid/new.png": b"new",
        third: FILMS[third],
        fourth: FILMS[fourth],
    }
    assert (after / third).samefile(before / third)


def test_lost_films_are_fetched_again(films: ObjectStore, tmp_path: Path) -> None:
    root, _ = download_prefix(films.location, tmp_path, CONFIG)
    (root / min(FILMS)).unlink()
    assert download_prefix(films.location, tmp_path, CONFIG)[1].num_downloaded == 1
    assert films_in(root) == FILMS


def test_what_a_killed_download_left_and_the_bucket_no_longer_has_is_no_film(
    films: ObjectStore, tmp_path: Path
) -> None:
    root, _ = download_prefix(films.location, tmp_path, CONFIG)
    (root / ".objects.json").unlink()
    for name in ("gone.png", ".half.png.123.tmp"):  # before the ledger was written
        (root / "Normal" / name).write_bytes(b"left")
    assert download_prefix(films.location, tmp_path, CONFIG)[1].num_downloaded == len(FILMS)
    assert films_in(root) == FILMS
    assert len(list((root / "Normal").iterdir())) == len(FILMS)


def test_a_mirror_that_was_uploaded_with_its_ledger_is_mirrored_without_it(
    films: ObjectStore, tmp_path: Path
) -> None:
    films.write_bytes(".objects.json", b"not the ledger of this mirror")
    assert download_prefix(films.location, tmp_path, CONFIG)[1].num_objects == 4
    assert download_prefix(films.location, tmp_path, CONFIG)[1].num_downloaded == 0


def test_an_empty_prefix_is_told(films: ObjectStore, tmp_path: Path) -> None:
    location = replace(films.location, prefix=f"{films.location.prefix}/Norm")
    with pytest.raises(SourceError, match="/Norm/: no object lies below it; check the bucket"):
        download_prefix(location, tmp_path, CONFIG)


def test_more_than_the_limits_is_refused_before_anything_is_fetched(
    films: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=r"4 objects; .* raise data\.max_extracted_files \(3\)"):
        download_prefix(films.location, tmp_path, replace(CONFIG, max_extracted_files=3))
    with pytest.raises(SourceError, match=r"0\.0 GB; .* raise data\.max_extracted_gb \(1e-07\)"):
        download_prefix(films.location, tmp_path, replace(CONFIG, max_extracted_gb=1e-7))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(films: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"mirror.*: cannot be written \(.*\); check the free"):
        download_prefix(films.location, tmp_path / "file" / "mirror", CONFIG)


def test_a_key_that_leads_out_of_the_folder_is_refused(
    films: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = films.list_objects()
    escaping = [*listed, replace(listed[0], key="../../escaped.png")]
    monkeypatch.setattr(ObjectStore, "list_objects", lambda _: escaping)
    with pytest.raises(StorageError, match=r"'\.\./\.\./escaped\.png': is no plain relative path"):
        download_prefix(films.location, tmp_path / "a" / "b", CONFIG)
    assert list(tmp_path.rglob("*.png")) == []
