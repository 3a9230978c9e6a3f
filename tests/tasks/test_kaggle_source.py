"""The real Kaggle client against a stub of the service on loopback."""

import hashlib
import io
import json
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kagglesdk.kaggle_env
import pytest
from kaggle_stub import CURRENT_VERSION, OWNER, SLUG, TOKEN, KaggleStub, serve

from cxr_model.errors import SourceError
from tasks.kaggle_errors import TransientSourceError
from tasks.kaggle_source import (
    KaggleSource,
    download_dataset,
    has_credentials,
    newest_version,
    parse_kaggle_source,
)

FILMS = {
    # Above 1 MiB, what the client writes at a time, so that half a download leaves a part.
    "set/normal/1.jpg": random.Random(0).randbytes(3_000_000),
    "set/covid/2.jpg": b"ground glass",
}
SOURCE = KaggleSource(OWNER, SLUG)
PINNED = KaggleSource(OWNER, SLUG, 2)


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


GOOD = zip_bytes(FILMS)
FLIPPED = GOOD.replace(b"ground glass", b"ground gl\0ss")
TRUNCATED = GOOD[: len(GOOD) // 2]


@pytest.fixture(autouse=True)
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No credentials of the machine are seen; waits are noted instead of waited."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "KAGGLE_CONFIG_DIR", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStub]:
    with serve(KaggleStub(GOOD)) as stub:
        endpoints = kagglesdk.kaggle_env._env_to_endpoint
        monkeypatch.setitem(endpoints, kagglesdk.kaggle_env.KaggleEnv.PROD, stub.endpoint)
        yield stub


@pytest.mark.usefixtures("stub")
def test_the_current_version_is_asked_for() -> None:
    assert newest_version(KaggleSource(OWNER, SLUG)) == CURRENT_VERSION


def download(
    tmp_path: Path, source: KaggleSource = SOURCE, max_bytes: int = 10**7
) -> tuple[Path, dict[str, Any]]:
    return download_dataset(source, tmp_path / "kaggle", max_bytes=max_bytes, max_files=100)


def assert_films_are_whole(films: Path) -> None:
    found = {
        path.relative_to(films).as_posix(): path.read_bytes()
        for path in films.rglob("*")
        if path.is_file()
    }
    assert found == FILMS


def assert_nothing_counts_as_complete(tmp_path: Path) -> None:
    names = {path.name for path in (tmp_path / "kaggle").rglob("*")}
    assert not names & {"SOURCE.json", "films"}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("kaggle", KaggleSource("unaissait", "curated-chest-xray-image-dataset-for-covid19")),
        ("kaggle:owner/xrays", SOURCE),
        ("kaggle:owner/xrays/2", PINNED),
    ],
)
def test_every_form_of_the_source_is_read(text: str, source: KaggleSource) -> None:
    assert parse_kaggle_source(text) == source


@pytest.mark.parametrize("text", ["kaggle:", "kaggle:films", "kaggle:a/../3", "kaggle:a/b/0"])
def test_another_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(SourceError, match=f"data.source='{text}': use kaggle, kaggle:owner/slug"):
        parse_kaggle_source(text)


def test_films_arrive_with_the_current_version_and_the_digest_on_record(
    tmp_path: Path, stub: KaggleStub, capsys: pytest.CaptureFixture[str]
) -> None:
    films, provenance = download(tmp_path)
    assert_films_are_whole(films)
    assert provenance.pop("retrieved").endswith("+00:00")
    assert provenance == {
        "kind": "kaggle",
        "owner": OWNER,
        "slug": SLUG,
        "version": CURRENT_VERSION,
        "url": f"https://www.kaggle.com/datasets/{OWNER}/{SLUG}/versions/{CURRENT_VERSION}",
        "license": "CC BY 4.0",
        "archive_sha256": hashlib.sha256(GOOD).hexdigest(),
        "archive_bytes": len(GOOD),
        "num_files": len(FILMS),
    }
    assert sorted(path.name for path in films.parent.iterdir()) == ["SOURCE.json", "films"]
    assert json.loads((films.parent / "SOURCE.json").read_text())["version"] == CURRENT_VERSION
    assert capsys.readouterr().out == ""
    assert stub.count("DownloadDataset") == 1


def test_a_complete_version_is_reused_without_a_call(tmp_path: Path, stub: KaggleStub) -> None:
    first = download(tmp_path, PINNED)
    stub.requests.clear()
    assert download(tmp_path, PINNED) == first
    assert stub.requests == []


def test_the_current_version_is_asked_for_and_then_reused(tmp_path: Path, stub: KaggleStub) -> None:
    first = download(tmp_path)
    assert download(tmp_path) == first
    assert stub.count("GetDataset") == 2
    assert stub.count("DownloadDataset") == 1


def test_films_without_their_record_are_fetched_again(tmp_path: Path, stub: KaggleStub) -> None:
    films, _ = download(tmp_path)
    (films.parent / "SOURCE.json").unlink()
    (films / "set" / "normal" / "1.jpg").unlink()
    assert_films_are_whole(download(tmp_path)[0])
    assert stub.count("DownloadDataset") == 2


def test_an_interrupted_download_resumes(tmp_path: Path, stub: KaggleStub) -> None:
    stub.num_drops = 1
    assert_films_are_whole(download(tmp_path)[0])
    starts = [int(text.split()[-1]) for text in stub.requests if text.startswith("GET")]
    assert starts[0] == 0
    assert starts[1] >= 1 << 20


def test_a_later_call_resumes_where_an_earlier_one_gave_up(
    tmp_path: Path, stub: KaggleStub
) -> None:
    stub.num_drops = 1000
    with pytest.raises(TransientSourceError, match=r"cannot be reached .* is kept"):
        download(tmp_path)
    assert_nothing_counts_as_complete(tmp_path)
    stub.num_drops = 0
    stub.requests.clear()
    assert_films_are_whole(download(tmp_path)[0])
    assert "GET from 0" not in stub.requests[stub.requests.index("DownloadDataset") + 2 :]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "owner/xrays: Kaggle refuses the credentials .401.; make an API token at https"),
        (403, "owner/xrays: Kaggle denies access .403.; check the spelling, .* terms at https"),
        (404, "owner/xrays: Kaggle has no such data set or version .404.; compare with https"),
        (418, "owner/xrays: Kaggle answered 418; see https"),
    ],
)
def test_a_refusal_is_told_at_once_in_one_line(
    tmp_path: Path, stub: KaggleStub, waits: list[float], status: int, message: str
) -> None:
    stub.failures = [(status, {})]
    with pytest.raises(SourceError, match=message) as caught:
        download(tmp_path)
    assert "\n" not in str(caught.value)
    assert waits == []
    assert_nothing_counts_as_complete(tmp_path)


def test_a_version_that_does_not_exist_is_named(tmp_path: Path, stub: KaggleStub) -> None:
    with pytest.raises(SourceError, match="kaggle:owner/xrays/99: Kaggle has no such data set"):
        download(tmp_path, KaggleSource(OWNER, SLUG, 99))
    assert stub.count("DownloadDataset") == 1


def test_a_data_set_that_does_not_exist_is_named(tmp_path: Path, stub: KaggleStub) -> None:
    with pytest.raises(SourceError, match="kaggle:owner/xryas: Kaggle has no such data set"):
        download(tmp_path, KaggleSource(OWNER, "xryas"))
    assert stub.count("DownloadDataset") == 0


def test_a_rate_limit_is_waited_for_as_long_as_asked(
    tmp_path: Path, stub: KaggleStub, waits: list[float]
) -> None:
    stub.failures = [(429, {"Retry-After": "1"}), (429, {"Retry-After": "17"})]
    assert_films_are_whole(download(tmp_path)[0])
    assert waits == [1, 17]


def test_a_look_for_a_new_version_waits_likewise(stub: KaggleStub, waits: list[float]) -> None:
    """It is a training's first step: one busy moment of Kaggle's would be its end."""
    stub.failures = [(429, {"Retry-After": "17"}), (503, {})]
    assert newest_version(SOURCE) == CURRENT_VERSION
    assert waits[0] == 17


def test_a_rate_limit_of_an_hour_is_told_instead_of_waited_for(
    tmp_path: Path, stub: KaggleStub, waits: list[float]
) -> None:
    stub.failures = [(429, {"Retry-After": "3600"})]
    with pytest.raises(TransientSourceError, match=r"limits the rate of requests .429.; try again"):
        download(tmp_path)
    assert waits == []


def test_a_server_error_is_retried_and_then_told(
    tmp_path: Path, stub: KaggleStub, waits: list[float]
) -> None:
    stub.failures = [(503, {})] * 2
    assert_films_are_whole(download(tmp_path)[0])
    assert len(waits) == 2
    stub.failures = [(500, {})] * 3
    with pytest.raises(TransientSourceError, match=r"Kaggle is out of order .500.; try later"):
        download(tmp_path)


def test_no_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = kagglesdk.kaggle_env._env_to_endpoint
    monkeypatch.setitem(endpoints, kagglesdk.kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:1")
    with pytest.raises(TransientSourceError, match=r"cannot be reached .ConnectionError.; check"):
        download(tmp_path)


@pytest.mark.parametrize("bad", [FLIPPED, TRUNCATED], ids=["same-size", "truncated"])
def test_a_damaged_archive_is_fetched_once_more(
    tmp_path: Path, stub: KaggleStub, bad: bytes
) -> None:
    stub.archive, stub.second_archive = bad, GOOD
    assert_films_are_whole(download(tmp_path)[0])
    assert stub.count("DownloadDataset") == 2


@pytest.mark.parametrize("bad", [FLIPPED, TRUNCATED], ids=["same-size", "truncated"])
def test_an_archive_damaged_twice_is_an_error_and_removed(
    tmp_path: Path, stub: KaggleStub, bad: bytes
) -> None:
    stub.archive = bad
    with pytest.raises(SourceError, match=r"not a whole zip archive .* damaged twice: try later"):
        download(tmp_path)
    assert stub.count("DownloadDataset") == 2
    assert_nothing_counts_as_complete(tmp_path)
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize(("left", "num_fetched"), [(GOOD, 0), (FLIPPED, 1)])
def test_an_archive_left_by_a_killed_run_is_used_only_if_sound(
    tmp_path: Path, stub: KaggleStub, left: bytes, num_fetched: int
) -> None:
    archive = tmp_path / "kaggle" / OWNER / SLUG / str(CURRENT_VERSION) / "archive" / "xrays.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(left)
    films, provenance = download(tmp_path)
    assert_films_are_whole(films)
    assert provenance["archive_bytes"] == len(GOOD)
    assert stub.count("DownloadDataset") == 1 + num_fetched


def test_an_archive_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, stub: KaggleStub
) -> None:
    stub.archive = zip_bytes({"../../escaped.jpg": b"1"})
    with pytest.raises(SourceError, match="leads out of the folder"):
        download(tmp_path)
    assert_nothing_counts_as_complete(tmp_path)
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_an_archive_above_the_limit_is_not_even_downloaded(
    tmp_path: Path, stub: KaggleStub
) -> None:
    with pytest.raises(SourceError, match=r"has 0\.003 GB, more .* raise data\.max_extracted_gb"):
        download(tmp_path, max_bytes=1_000_000)
    assert stub.count("DownloadDataset") == 1
    assert not list(tmp_path.rglob("*.zip"))


def test_no_credentials_are_told_without_a_word_printed_or_an_exit(
    tmp_path: Path,
    stub: KaggleStub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(SourceError, match=r"no Kaggle credentials .*settings/api .*KAGGLE_API_TOK"):
        download(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert stub.requests == []


def test_credentials_that_kaggle_does_not_know_are_told_without_an_exit(
    tmp_path: Path,
    stub: KaggleStub,  # noqa: ARG001 - answers that the token is not active
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_revoked")
    with pytest.raises(SourceError, match=r"does not know the credentials .*~/\.kaggle/kaggle\.js"):
        download(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_username_and_key_serve_as_well(
    tmp_path: Path, stub: KaggleStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "tester")
    monkeypatch.setenv("KAGGLE_KEY", "0123")
    assert has_credentials()
    assert_films_are_whole(download(tmp_path)[0])
    assert stub.count("IntrospectToken") == 0


@pytest.mark.parametrize("name", ["access_token", "kaggle.json", "credentials.json"])
def test_credentials_are_found_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert not has_credentials()
    (tmp_path / "home" / ".kaggle").mkdir()
    (tmp_path / "home" / ".kaggle" / name).write_text("{}")
    assert has_credentials()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, stub: KaggleStub) -> None:
    blocked = tmp_path / "kaggle" / OWNER / SLUG / str(CURRENT_VERSION) / "archive"
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    with pytest.raises(SourceError, match=r"cannot be stored .* check the free disk space"):
        download(tmp_path)
    assert stub.count("DownloadDataset") == 1
