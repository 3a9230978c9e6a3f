"""Every kind of source becomes a folder of films, once."""

import json
import logging
import os
import zipfile
from pathlib import Path

import kagglesdk.kaggle_env
import pytest
from kaggle_stub import CURRENT_VERSION, OWNER, SLUG, TOKEN, KaggleStub, serve

import tasks.ingest
from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.errors import SourceError
from tasks.bucket_source import Mirror
from tasks.ingest import IngestedData, ingest
from tasks.retries import on_transient_io
from tasks.storage_location import StoreLocation

STORE = StoreLocation(endpoint_url="http://127.0.0.1:1", bucket="runs")


@pytest.fixture
def data_dir(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.INFO, logger="tasks")
    return tmp_path / "data"


def ingest_from(source: object, data_dir: Path, **settings: int) -> IngestedData:
    """The task's own function, outside of any flow."""
    config = RunConfig(
        data=DataConfig(source=str(source), **settings), phantom=PhantomConfig(num_films=18)
    )
    data = ingest.fn(config, data_dir, STORE)
    json.dumps(data.provenance)  # goes into metrics.json
    return data


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as file:
        file.writestr("normal/1.jpg", b"one")
        file.writestr("covid/2.jpg", b"two")
    return tmp_path / "films.zip"


def test_a_folder_is_used_in_place(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "films").mkdir()
    data = ingest_from(tmp_path / "films", data_dir)
    assert data.root == tmp_path / "films"
    assert data.provenance == {"kind": "folder", "name": "films"}
    assert not data_dir.exists()


def test_an_archive_is_unpacked_once(
    archive: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ingest_from(archive, data_dir)
    assert (first.root / "normal" / "1.jpg").read_bytes() == b"one"
    assert first.provenance["sha256"].startswith(first.root.parent.name)
    assert "unpacked, 2 files" in caplog.text
    os.utime(first.root, (0, 0))
    assert ingest_from(archive, data_dir) == first
    assert first.root.stat().st_mtime > 0, "housekeeping would take what is in use"
    assert caplog.messages[-1].endswith("films.zip: reused")


def test_another_archive_of_the_same_name_is_unpacked_anew(archive: Path, data_dir: Path) -> None:
    first = ingest_from(archive, data_dir)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("covid/3.jpg", b"three")
    second = ingest_from(archive, data_dir)
    assert second.root != first.root
    assert (second.root / "covid" / "3.jpg").exists()


def test_limits_come_from_the_settings(archive: Path, data_dir: Path) -> None:
    with pytest.raises(SourceError, match=r"holds 2 members.*raise data\.max_extracted_files"):
        ingest_from(archive, data_dir, max_extracted_files=1)
    assert not list(data_dir.rglob("*.jpg"))


def test_phantoms_are_drawn_once_and_kept_apart_by_their_settings(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ingest_from("phantom", data_dir)
    assert first.source == "phantom:18"
    assert first.provenance["kind"] == "phantom"
    assert first.provenance["num_films"] == 18
    assert "phantom:18: drawn" in caplog.text
    assert ingest_from("phantom:18", data_dir) == first
    assert caplog.messages[-1] == "phantom:18: reused"
    assert ingest_from("phantom:15", data_dir).root != first.root


def test_kaggle_films_come_with_the_version_that_was_current(
    tmp_path: Path, data_dir: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    with serve(KaggleStub(archive.read_bytes())) as stub:
        endpoints = kagglesdk.kaggle_env._env_to_endpoint
        monkeypatch.setitem(endpoints, kagglesdk.kaggle_env.KaggleEnv.PROD, stub.endpoint)
        data = ingest_from(f"kaggle:{OWNER}/{SLUG}", data_dir)
    assert data.source == f"kaggle:{OWNER}/{SLUG}/{CURRENT_VERSION}"
    assert (data.root / "covid" / "2.jpg").read_bytes() == b"two"
    assert ingest_from(data.source, data_dir) == data


def test_a_bucket_is_mirrored_from_the_server_of_the_runs(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mirror(location: StoreLocation, folder: Path, config: DataConfig) -> tuple[Path, Mirror]:
        assert (location.endpoint_url, location.bucket) == (STORE.endpoint_url, "films")
        assert folder.is_relative_to(data_dir)
        assert config.max_extracted_files == 9
        folder.mkdir(parents=True)
        return folder, Mirror(uri=location.uri(), num_objects=5, num_bytes=50, num_downloaded=2)

    monkeypatch.setattr(tasks.ingest, "download_prefix", mirror)
    data = ingest_from("s3://films/chest", data_dir, max_extracted_files=9)
    assert data.source == "s3://films/chest/"
    assert data.provenance["num_objects"] == 5
    assert "2 downloaded, 3 reused" in caplog.text


def test_a_server_that_is_away_is_asked_again() -> None:
    assert ingest.retry_condition_fn is on_transient_io
