"""Objects in a bucket, of AWS or any S3-compatible server.

Servers differ: some ignore conditional writes, lose metadata and content types, and let an
object's tags overwrite its bytes. So this module relies on nothing but put, get, list and
delete, finds out whether a server refuses to overwrite before that is relied on, and verifies
every write by reading the object back. boto3 is known to this module
and to its ``storage_location`` and ``storage_errors``, and to no other.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, Self

from cxr_model.ahead import Item, Result, map_ahead
from cxr_model.errors import StorageError
from cxr_model.run_folder import atomic_path, sha256_file
from tasks.storage_errors import (
    ChangedObjectError,
    ExistingObjectError,
    MissingObjectError,
    UnknownConditionError,
    disk_told_in_one_line,
    told_in_one_line,
)
from tasks.storage_location import StoreLocation, connect

NUM_TRANSFERS = 8
"""Objects moved at the same time; below the 10 connections of a botocore client."""
_CHUNK_BYTES = 1 << 20
_READ_TIMEOUT_S = 30.0
_CHECK_TIMEOUT_S = 3.0  # with three attempts and the pauses between: told within 15 s
_CONTENT_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str
    modified: float
    """Seconds since the epoch."""


class ObjectStore:
    """Objects at one location; keys are relative to its prefix. Threads may share a store.

    Every method raises ``StorageError`` in one line with a remedy, as its subclass
    ``TransientStorageError`` where the same call may succeed later.
    """

    def __init__(self, location: StoreLocation, *, read_timeout_s: float = _READ_TIMEOUT_S) -> None:
        self.location = location
        with self._told():
            self._client = connect(location, read_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self, *, create_bucket: bool = True) -> None:
        """Write, read and delete a probe object; a missing bucket is created or refused."""
        key = f".cxr-probe-{uuid.uuid4().hex}"
        with ObjectStore(self.location, read_timeout_s=_CHECK_TIMEOUT_S) as store:
            if create_bucket:
                with store._told():
                    store._put_into_bucket(key)
            store.write_bytes(key, b"probe")
            store.delete(key)

    def upload_file(self, path: Path, key: str, *, sha256: str | None = None) -> None:
        """Store a file of at most 5 GB and read it back; ``sha256``: the digest it must have."""
        with path.open("rb") as file:
            self.upload(file, key, sha256=sha256 or sha256_file(path))

    def upload(self, file: BufferedReader, key: str, *, sha256: str) -> None:
        """`upload_file` for a file that is open already, and may have no name by now."""
        with self._told(key):
            self._put(key, file)
        self._require(sha256, self.sha256(key), key)

    def write_bytes(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        """Store ``data`` and read it back; ``sha256``: the digest it must have."""
        with self._told(key):
            self._put(key, data)
        self._require(sha256 or hashlib.sha256(data).hexdigest(), self.sha256(key), key)

    def create(self, key: str, data: bytes) -> None:
        """Likewise where no object is yet; raises ``ExistingObjectError`` where one is.

        Of several who create one key at once a single one succeeds if `refuses_overwrite`;
        elsewhere the caller sees to it that there is one.
        """
        if self.exists(key):
            raise ExistingObjectError(f"{self.location.uri(key)}: exists; read it again")
        try:
            with self._told(key):
                self._put(key, data, IfNoneMatch="*")
        except UnknownConditionError:
            with self._told(key):
                self._put(key, data)
        self._require(hashlib.sha256(data).hexdigest(), self.sha256(key), key)

    def refuses_overwrite(self) -> bool:
        """Whether the server heeds ``If-None-Match``: tried, as some take it and overwrite, and
        others take no such request."""
        key = f".cxr-probe-{uuid.uuid4().hex}"
        try:
            for _ in range(2):
                with self._told(key):
                    self._put(key, b"probe", IfNoneMatch="*")
        except ExistingObjectError:
            return True
        except UnknownConditionError:
            return False
        finally:
            self.delete(key)
        return False

    def download_file(
        self, key: str, path: Path, *, sha256: str | None = None, size: int | None = None
    ) -> None:
        """Fetch an object whole or not at all; bytes other than the expected are refused."""
        digest, num_bytes = hashlib.sha256(), 0
        with disk_told_in_one_line(path), atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                for chunk in self._chunks(key):
                    digest.update(chunk)
                    num_bytes += file.write(chunk)
            self._require(size, num_bytes, key)
            self._require(sha256, digest.hexdigest(), key)

    def read_bytes(self, key: str) -> bytes:
        return b"".join(self._chunks(key))

    def sha256(self, key: str) -> str:
        """Digest of the bytes that the server returns now."""
        digest = hashlib.sha256()
        for chunk in self._chunks(key):
            digest.update(chunk)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        try:
            with self._told(key):
                self._client.head_object(**self._at(key))
        except MissingObjectError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._told(key):
            self._client.delete_object(**self._at(key))

    def list_objects(self, prefix: str = "") -> list[StoredObject]:
        """All objects whose key starts with ``prefix``, sorted by key."""
        found = [
            StoredObject(
                key=entry["Key"].removeprefix(self.location.root),
                size=entry["Size"],
                etag=entry["ETag"].strip('"'),
                modified=entry["LastModified"].timestamp(),
            )
            for page in self._pages(prefix)
            for entry in page.get("Contents", [])
        ]
        return sorted(found, key=lambda stored: stored.key)

    def is_empty(self) -> bool:
        """Whether no object lies below the location; one request, however many there are."""
        first = self._pages("", PaginationConfig={"MaxItems": 1, "PageSize": 1})
        return not any(page.get("Contents") for page in first)

    def list_folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix``, which ends in a slash."""
        start = self.location.root + prefix
        return sorted(
            entry["Prefix"].removeprefix(start).rstrip("/")
            for page in self._pages(prefix, Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
        )

    def presign(self, key: str, expires_s: int) -> str:
        """An address that reads one object without credentials, for ``expires_s`` seconds."""
        outside = self.location.public_url
        if outside is not None:  # the signature is of the server's name, too
            location = replace(self.location, endpoint_url=outside, public_url=None)
            with ObjectStore(location) as store:
                return store.presign(key, expires_s)
        with self._told(key):
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params=self._at(key), ExpiresIn=expires_s
                )
            )

    def _told(self, key: str = "") -> AbstractContextManager[None]:
        return told_in_one_line(self.location, key)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.location.bucket, "Key": self.location.root + key}

    def _put(self, key: str, body: object, **conditions: str) -> None:
        content_type = _CONTENT_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
        self._client.put_object(**self._at(key), Body=body, ContentType=content_type, **conditions)

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._told(key), closing(self._client.get_object(**self._at(key))["Body"]) as body:
            yield from body.iter_chunks(_CHUNK_BYTES)

    def _pages(self, prefix: str, **options: Any) -> list[dict[str, Any]]:
        with self._told(prefix):
            paginator = self._client.get_paginator("list_objects_v2")
            return list(
                paginator.paginate(
                    Bucket=self.location.bucket, Prefix=self.location.root + prefix, **options
                )
            )

    def _put_into_bucket(self, key: str) -> None:
        """An empty object, in a bucket that is created where it is missing and may be."""
        errors = self._client.exceptions
        try:
            self._put(key, b"")
        except errors.NoSuchBucket as missing:
            try:
                self._create_bucket()
            except errors.ClientError as refusal:
                if refusal.response["Error"]["Code"] == "AccessDenied":
                    raise missing from refusal  # which is the one that a user can mend
                raise

    def _create_bucket(self) -> None:
        region = self._client.meta.region_name
        options: dict[str, Any] = {}
        if self.location.endpoint_url is None and region != "us-east-1":
            options["CreateBucketConfiguration"] = {"LocationConstraint": region}
        self._client.create_bucket(Bucket=self.location.bucket, **options)

    def _require(self, expected: object, found: object, key: str) -> None:
        if expected is not None and found != expected:
            raise ChangedObjectError(
                f"{self.location.uri(key)}: has {found} for {expected} (size or SHA-256); it was "
                "changed or damaged meanwhile; run it again, or publish it anew"
            )


def local_path(folder: Path, key: str) -> Path:
    """Where the object ``key`` goes below ``folder``; a key that leads elsewhere is refused."""
    relative = PurePosixPath(key)
    plain = str(relative) == key and not relative.is_absolute() and ".." not in relative.parts
    if not plain or key == ".":
        raise StorageError(f"key {key!r}: is no plain relative path; rename the object")
    return folder / relative


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order, from ``NUM_TRANSFERS`` threads, few items ahead of their taker."""
    return map_ahead(function, items, num_threads=NUM_TRANSFERS, num_ahead=4 * NUM_TRANSFERS)
