"""Film files below an ``s3://bucket/prefix``, fetched one by one into memory."""

import time

from cxr_model.errors import DataError, SourceError
from cxr_model.film_files import FilmFile, check_film_size, is_film
from cxr_model.labels import IMAGE_SUFFIXES
from tasks.storage import ObjectStore
from tasks.storage_errors import MissingObjectError, TransientStorageError

_PAUSES_S = (1.0, 5.0)


def bucket_films(store: ObjectStore) -> list[FilmFile]:
    """The films below the store's location, sorted by key; an object is fetched when it is read.

    Raises ``SourceError`` where there is none. An object that is gone when its turn comes is
    that film's error; a store that stays away after three tries is the whole run's.
    """
    sizes = {stored.key: stored.size for stored in store.list_objects() if is_film(stored.key)}
    if not sizes:
        raise SourceError(
            f"{store.location.uri()}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "check the bucket and the prefix"
        )

    def fetch(key: str) -> bytes:
        for pause_s in _PAUSES_S:
            try:
                return store.read_bytes(key)
            except TransientStorageError:
                time.sleep(pause_s)
        return store.read_bytes(key)

    def read(key: str) -> bytes:
        check_film_size(sizes[key])
        try:
            return fetch(key)
        except MissingObjectError as error:
            raise DataError("is no longer in the bucket") from error

    return [FilmFile(store.location.uri(key), key, read) for key in sizes]
