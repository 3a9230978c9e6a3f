import hashlib
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import tasks.storage
import tasks.storage_location
from cxr_model.errors import ConfigError, SourceError, StorageError
from tasks.storage import ObjectStore, local_path
from tasks.storage_errors import (
    ExistingObjectError,
    MissingObjectError,
    TransientStorageError,
    told_in_one_line,
)
from tasks.storage_location import StoreLocation
from tests.conftest import S3Server

ODD_KEYS = ["a b/ü.json", "50%+1&2=3.csv", "a b/глава #1?.png", "~x!*'()"]


@contextmanager
def answering(status: int, body: bytes = b"") -> Iterator[str]:
    """A server on loopback that gives every request the same answer; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the pauses between attempts."""
    monkeypatch.setattr(tasks.storage_location, "_ATTEMPTS", 1)


def keys_of(location: StoreLocation) -> list[str]:
    assert location.credentials_file is not None
    lines = location.credentials_file.read_text().splitlines()
    return [line.split(" = ")[1] for line in lines[1:]]


def with_keys(location: StoreLocation, path: Path, key: str, secret: str) -> StoreLocation:
    path.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    return replace(location, credentials_file=path)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_bytes_come_back_as_they_went(either_store: ObjectStore, key: str) -> None:
    either_store.write_bytes(key, b"\x00\xff" * 700)
    assert either_store.read_bytes(key) == b"\x00\xff" * 700
    assert either_store.exists(key)
    assert [stored.key for stored in either_store.list_objects()] == [key]


def test_files_come_back_as_they_went(either_store: ObjectStore, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(3_000_001))
    digest = hashlib.sha256(sent.read_bytes()).hexdigest()
    either_store.upload_file(sent, "model/model.safetensors", sha256=digest)
    fetched = tmp_path / "new folder" / "fetched"
    either_store.download_file("model/model.safetensors", fetched, sha256=digest, size=3_000_001)
    assert fetched.read_bytes() == sent.read_bytes()
    assert either_store.sha256("model/model.safetensors") == digest


def test_an_empty_file_is_an_object(either_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    either_store.upload_file(tmp_path / "empty", "empty.csv")
    assert [(o.key, o.size) for o in either_store.list_objects()] == [("empty.csv", 0)]


def test_deleted_objects_are_gone_and_may_be_deleted_again(either_store: ObjectStore) -> None:
    either_store.write_bytes("a/b.json", b"{}")
    either_store.delete("a/b.json")
    either_store.delete("a/b.json")
    assert not either_store.exists("a/b.json")
    assert either_store.list_objects() == []


def test_listings_longer_than_a_page_are_whole(either_store: ObjectStore) -> None:
    names = [f"many/{number}" for number in range(5)]
    for name in names:
        either_store.write_bytes(name, b"")
    either_store._client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2",
        lambda params, **_: params.update(MaxKeys=2),
    )
    assert [stored.key for stored in either_store.list_objects("many/")] == names


def test_folders_are_listed_by_name_and_never_deeper(either_store: ObjectStore) -> None:
    for key in ("runs/b ü/x", "runs/a/y/z", "runs/file", "runs2/c/x"):
        either_store.write_bytes(key, b"")
    assert either_store.list_folders("runs/") == ["a", "b ü"]


def test_a_location_sees_its_own_prefix_only(store: ObjectStore) -> None:
    store.write_bytes("mine", b"1")
    prefix = store.location.prefix
    with ObjectStore(replace(store.location, prefix=prefix.split("/")[0])) as above:
        above.write_bytes("theirs", b"2")
        above.write_bytes("chest films ü2/theirs", b"2")
    with ObjectStore(replace(store.location, prefix=f"/{prefix}/")) as same:
        assert same.list_objects() == store.list_objects()
    assert [stored.key for stored in store.list_objects()] == ["mine"]


def test_a_presigned_address_needs_no_credentials(either_store: ObjectStore) -> None:
    either_store.write_bytes("runs/a/report ü.html", b"<p>report</p>")
    url = either_store.presign("runs/a/report ü.html", expires_s=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"<p>report</p>"
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_presigned_address_names_the_server_as_its_readers_reach_it(store: ObjectStore) -> None:
    store.write_bytes("a.html", b"page")
    outside = str(store.location.endpoint_url).replace("127.0.0.1", "localhost")
    with ObjectStore(replace(store.location, public_url=outside)) as inside:
        url = inside.presign("a.html", expires_s=60)
    assert url.startswith(outside)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"page"


def test_a_tampered_presigned_address_is_refused(store: ObjectStore) -> None:
    store.write_bytes("a", b"")
    store.write_bytes("b", b"")
    url = store.presign("a", expires_s=60).replace("/a?", "/b?")
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(url)
    caught.value.close()


def test_other_bytes_than_expected_leave_no_file(store: ObjectStore, tmp_path: Path) -> None:
    store.write_bytes("x.csv", b"damaged")
    wanted = hashlib.sha256(b"written").hexdigest()
    with pytest.raises(StorageError, match=r"x\.csv: has .* for .*; it was changed or damaged"):
        store.download_file("x.csv", tmp_path / "x.csv", sha256=wanted)
    with pytest.raises(StorageError, match=r"x\.csv: has 7 for 8"):
        store.download_file("x.csv", tmp_path / "x.csv", size=8)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told(store: ObjectStore, tmp_path: Path) -> None:
    store.write_bytes("x.csv", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"x\.csv: cannot be written \(.*\); check the free d"):
        store.download_file("x.csv", tmp_path / "file" / "x.csv")


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("film.jpg", "image/jpeg"),
        ("roc.svg", "image/svg+xml"),
        ("model.safetensors", "application/octet-stream"),
    ],
)
def test_the_content_type_follows_from_the_name(
    store: ObjectStore, key: str, content_type: str
) -> None:
    store.write_bytes(key, b"x")
    with urllib.request.urlopen(store.presign(key, expires_s=60)) as answer:
        assert answer.headers["Content-Type"] == content_type


def test_an_upload_that_arrives_changed_is_told(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"rewritten while it was published")
    with pytest.raises(StorageError, match=r"film: has .* for .*; it was changed or damaged"):
        store.upload_file(tmp_path / "film", "film", sha256="0" * 64)


def test_a_missing_object_is_named(either_store: ObjectStore) -> None:
    with pytest.raises(MissingObjectError, match=r"/nothing at http.*: no such object; check"):
        either_store.read_bytes("nothing")


def test_check_creates_the_bucket_and_leaves_nothing_in_it(store: ObjectStore) -> None:
    fresh = replace(store.location, bucket=store.location.bucket + "-new")
    with ObjectStore(fresh) as new:
        with pytest.raises(StorageError, match=r"NoSuchBucket; create the bucket, or set CXR_S3_B"):
            new.write_bytes("a", b"")
        new.check()
        new.check()
        assert new.list_objects() == []


def test_check_creates_no_bucket_unless_it_may(location: StoreLocation) -> None:
    absent = replace(location, bucket="asked-for-only")
    for _ in range(2):
        with (
            ObjectStore(absent) as store,
            pytest.raises(StorageError, match="NoSuchBucket; create the bucket, or set CXR_S3_B"),
        ):
            store.check(create_bucket=False)


def test_check_without_creating_passes_where_the_bucket_exists(store: ObjectStore) -> None:
    store.check(create_bucket=False)
    assert store.list_objects() == []


def test_a_missing_bucket_that_may_not_be_created_is_told_as_missing(
    location: StoreLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: ObjectStore) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "CreateBucket")

    monkeypatch.setattr(ObjectStore, "_create_bucket", refuse)
    with (
        ObjectStore(replace(location, bucket="not-there")) as store,
        pytest.raises(StorageError, match="NoSuchBucket; create the bucket, or set CXR_S3_BUCKET"),
    ):
        store.check()


def test_an_unknown_key_is_refused(location: StoreLocation, tmp_path: Path) -> None:
    wrong = with_keys(location, tmp_path / "keys", "nobody-knows-this", "secret-secret")
    with (
        ObjectStore(wrong) as store,
        pytest.raises(StorageError, match="InvalidAccessKeyId; the server does not know") as told,
    ):
        store.check()
    assert str(wrong.credentials_file) in str(told.value)
    assert not isinstance(told.value, TransientStorageError)


def test_a_wrong_secret_is_refused_and_not_shown(location: StoreLocation, tmp_path: Path) -> None:
    wrong = with_keys(location, tmp_path / "keys", keys_of(location)[0], "wrong-secret")
    with (
        ObjectStore(wrong) as store,
        pytest.raises(StorageError, match="SignatureDoesNotMatch; the secret does not") as told,
    ):
        store.check()
    assert "wrong-secret" not in str(told.value)


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_name_the_variables(location: StoreLocation) -> None:
    with (
        ObjectStore(replace(location, credentials_file=None)) as store,
        pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ):
        store.check()


@pytest.mark.usefixtures("no_credentials")
def test_the_usual_credential_chain_is_used(
    location: StoreLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = keys_of(location)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with ObjectStore(replace(location, credentials_file=None)) as store:
        store.check()


def test_a_profile_that_does_not_exist_is_named(
    location: StoreLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"profile \(nobody\) could not be found; set AWS_ACC"):
        ObjectStore(replace(location, credentials_file=None))


def test_the_embedded_store_is_reached_past_proxies_and_other_keys(
    location: StoreLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-account")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-another-account")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-account")
    with ObjectStore(location) as store:
        store.check()


@pytest.mark.parametrize("text", [None, "", "[default]\naws_access_key_id=x\n", "no ini"])
def test_an_unreadable_key_file_is_named(
    location: StoreLocation, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StorageError, match=r"keys: no keys can be read .*; delete it and start"):
        ObjectStore(replace(location, credentials_file=path))


def test_a_server_that_is_down_is_told_soon(location: StoreLocation) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        start = time.monotonic()
        with (
            ObjectStore(replace(location, endpoint_url=f"http://127.0.0.1:{port}")) as store,
            pytest.raises(TransientStorageError, match=r"no answer from http.*; start the serv"),
        ):
            store.check()
    assert time.monotonic() - start < 8


@pytest.mark.usefixtures("one_attempt")
def test_a_server_that_hangs_is_told_by_its_time_limit(
    location: StoreLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.storage, "_CHECK_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            ObjectStore(replace(location, endpoint_url=url)) as store,
            pytest.raises(TransientStorageError, match="no answer from"),
        ):
            store.check()


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize("status", [200, 404, 405, 501])
def test_a_server_that_speaks_no_s3_is_told(location: StoreLocation, status: int) -> None:
    with (
        answering(status, b"<html><p>hello</html>") as url,
        ObjectStore(replace(location, endpoint_url=url)) as store,
    ):
        for ask in (store.check, store.list_objects):
            with pytest.raises(StorageError, match="CXR_S3_ENDPOINT_URL") as told:
                ask()
            assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("code", "status", "message", "kind"),
    [
        ("AccessDenied", 403, "AccessDenied; give the keys of AWS_ACCESS_KEY_ID", StorageError),
        ("403", 403, "403; give the keys of AWS_ACCESS_KEY_ID", StorageError),
        ("ExpiredToken", 400, "ExpiredToken; renew the credentials", StorageError),
        ("PermanentRedirect", 301, "set AWS_DEFAULT_REGION", StorageError),
        ("BucketAlreadyExists", 409, "set CXR_S3_BUCKET to another", StorageError),
        ("RequestTimeTooSkewed", 403, "set this machine's clock", StorageError),
        ("Unheard", 418, "Unheard; check that CXR_S3_ENDPOINT_URL", StorageError),
        ("SlowDown", 503, "the server answers SlowDown; try again later", TransientStorageError),
        ("RequestTimeout", 400, "answers RequestTimeout", TransientStorageError),
        ("InternalError", 500, "answers InternalError", TransientStorageError),
        ("429", 429, "answers 429", TransientStorageError),
        ("NoSuchKey", 404, "no such object; check the name", MissingObjectError),
    ],
)
def test_each_answer_has_its_remedy(
    code: str, status: int, message: str, kind: type[StorageError]
) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with (
        pytest.raises(StorageError, match=f"^s3://films/a/b at AWS: .*{message}") as told,
        told_in_one_line(StoreLocation(bucket="films", prefix="a"), "b"),
    ):
        raise ClientError(answer, "PutObject")  # type: ignore[arg-type]
    assert type(told.value) is kind


@pytest.mark.usefixtures("one_attempt")
def test_a_busy_server_is_told_as_transient(location: StoreLocation) -> None:
    body = b"<Error><Code>SlowDown</Code></Error>"
    with (
        answering(503, body) as url,
        ObjectStore(replace(location, endpoint_url=url)) as store,
        pytest.raises(TransientStorageError, match="answers SlowDown; try again later"),
    ):
        store.read_bytes("x")


@pytest.mark.parametrize("bucket", ["B_x y", "ü"])
def test_an_impossible_bucket_name_is_told_in_one_line(store: ObjectStore, bucket: str) -> None:
    with (
        ObjectStore(replace(store.location, bucket=bucket)) as other,
        pytest.raises(StorageError, match="check CXR_S3_BUCKET") as told,
    ):
        other.check()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["localhost:9000", "ftp://host", "http://", "http://a b", "http://h:port", "http://h:0"]
)
def test_an_endpoint_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="set CXR_S3_ENDPOINT_URL to an address like"):
        StoreLocation(bucket="films", endpoint_url=url)


def test_a_password_in_an_endpoint_is_refused_and_not_told() -> None:
    with pytest.raises(ConfigError, match="CXR_S3_ENDPOINT_URL holds a name or a pass") as told:
        StoreLocation(bucket="films", endpoint_url="https://user:secret@host:9000")
    assert "secret" not in str(told.value)


def test_a_location_needs_a_bucket() -> None:
    with pytest.raises(ConfigError, match="set CXR_S3_BUCKET to the name of a bucket"):
        StoreLocation(bucket="")


def test_a_location_at_an_uri_keeps_server_and_credentials(location: StoreLocation) -> None:
    there = location.at("s3://films/2020/covid/")
    assert there.uri("a.jpg") == "s3://films/2020/covid/a.jpg"
    assert replace(there, bucket=location.bucket, prefix=location.prefix) == location
    assert location.at("s3://films").root == ""


@pytest.mark.parametrize("uri", ["films/2020", "http://films/2020", "s3:///2020", "s3://"])
def test_a_source_that_is_no_bucket_is_refused(location: StoreLocation, uri: str) -> None:
    with pytest.raises(SourceError, match="write a source in object storage as s3://bucket/pre"):
        location.at(uri)


@pytest.mark.parametrize("key", ["", ".", "..", "../x", "/etc/x", "a/../b", "a//b", "./a", "a/"])
def test_a_key_never_leads_out_of_its_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(StorageError, match="is no plain relative path; rename the object"):
        local_path(tmp_path, key)


def test_a_plain_key_keeps_its_path(tmp_path: Path) -> None:
    assert local_path(tmp_path, "data/a..b/ü x.csv") == tmp_path / "data" / "a..b" / "ü x.csv"


def test_a_server_that_takes_no_conditional_write_is_one_that_overwrites(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectStore._put

    def put_without_conditions(
        self: ObjectStore, key: str, body: object, **conditions: str
    ) -> None:
        if conditions:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")
        put(self, key, body)

    monkeypatch.setattr(ObjectStore, "_put", put_without_conditions)
    assert not store.refuses_overwrite()
    store.create("one.json", b"first")
    with pytest.raises(ExistingObjectError):
        store.create("one.json", b"second")
    assert [stored.key for stored in store.list_objects()] == ["one.json"]


def test_an_object_is_created_once(either_store: ObjectStore) -> None:
    either_store.create("one.json", b"first")
    with pytest.raises(ExistingObjectError, match=r"one.json: exists; read it again"):
        either_store.create("one.json", b"second")
    assert either_store.read_bytes("one.json") == b"first"


def test_whether_a_server_refuses_to_overwrite_is_found_out(
    rclone_server: S3Server, moto_server: S3Server
) -> None:
    for server, refuses in ((rclone_server, False), (moto_server, True)):
        with ObjectStore(server.location("probing")) as store:
            assert store.refuses_overwrite() == refuses
            assert store.list_objects() == []
