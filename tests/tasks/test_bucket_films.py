"""Films of a bucket: found by their suffix, fetched when their turn comes, never all at once."""

from dataclasses import replace

import pytest

from cxr_model.errors import DataError, SourceError
from tasks import bucket_films as module
from tasks.bucket_films import bucket_films
from tasks.storage import ObjectStore
from tasks.storage_errors import TransientStorageError

FILMS = {"b/2.png": b"two", "a film ü.dcm": b"one"}
OTHERS = ("notes.txt", "masks/b/2.png", ".hidden/a.png", "b/.a.png")


def test_films_are_listed_by_suffix_and_read_by_key(either_store: ObjectStore) -> None:
    for key, data in (FILMS | dict.fromkeys(OTHERS, b"no film")).items():
        either_store.write_bytes(key, data)
    films = bucket_films(either_store)
    assert [film.name for film in films] == [
        either_store.location.uri(key) for key in sorted(FILMS)
    ]
    assert [film.read() for film in films] == [FILMS[key] for key in sorted(FILMS)]


def test_a_prefix_without_films_is_told(store: ObjectStore) -> None:
    store.write_bytes("notes.txt", b"no film")
    with pytest.raises(SourceError, match=r"holds no image file \(.*\); check the bucket and"):
        bucket_films(store)
    elsewhere = replace(store.location, prefix="elsewhere")
    with ObjectStore(elsewhere) as empty, pytest.raises(SourceError, match="/elsewhere/: holds"):
        bucket_films(empty)


def test_a_film_that_is_gone_or_too_large_is_its_own_error(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("a.png", b"there")
    (film,) = bucket_films(store)
    store.delete("a.png")
    with pytest.raises(DataError, match="is no longer in the bucket"):
        film.read()
    monkeypatch.setattr("cxr_model.film_files._MAX_BYTES", 1)
    with pytest.raises(DataError, match="GB are no radiograph's"):
        film.read()


def test_a_store_that_is_away_for_a_moment_is_asked_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("a.png", b"there")
    (film,) = bucket_films(store)
    whole, failures = ObjectStore.read_bytes, [2]

    def break_twice(store: ObjectStore, key: str) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise TransientStorageError("the line broke")
        return whole(store, key)

    monkeypatch.setattr(module, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(ObjectStore, "read_bytes", break_twice)
    assert film.read() == b"there"
    failures[0] = 3
    with pytest.raises(TransientStorageError, match="the line broke"):
        film.read()
