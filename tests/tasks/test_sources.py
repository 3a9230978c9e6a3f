"""Each form of ``data.source`` is read, and a wrong one is told before anything starts."""

import zipfile
from pathlib import Path

import pytest

from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.errors import ConfigError, DataError, SourceError
from tasks.kaggle_source import KaggleSource
from tasks.sources import (
    BucketSource,
    FolderSource,
    PhantomSource,
    ZipSource,
    check_source,
    parse_source,
)


def config_for(source: object) -> RunConfig:
    return RunConfig(data=DataConfig(source=str(source)))


def make_film_folder(root: Path) -> Path:
    for label in ("normal", "pneumonia", "covid"):
        (root / label).mkdir(parents=True)
        (root / label / "1.jpg").touch()
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "films.ZIP"
    zipfile.ZipFile(path, "w").close()
    return path


@pytest.fixture
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "KAGGLE_CONFIG_DIR", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("phantom", PhantomSource(None)),
        ("phantom:90", PhantomSource(90)),
        ("kaggle", KaggleSource()),
        ("kaggle:owner/slug/3", KaggleSource("owner", "slug", 3)),
        ("s3://bucket", BucketSource("s3://bucket")),
        ("s3://bucket/some/prefix", BucketSource("s3://bucket/some/prefix")),
    ],
)
def test_every_form_is_read(text: str, source: object) -> None:
    assert parse_source(text) == source


def test_paths_come_back_absolute(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_source("films") == FolderSource(tmp_path / "films")
    assert parse_source("~/films") == FolderSource(tmp_path / "films")
    assert parse_source(archive.name) == ZipSource(archive)


@pytest.mark.parametrize("text", ["phantoms", "no/such/folder", "films.zip", "s3://", "https://x"])
def test_what_does_not_exist_is_told_with_all_forms(text: str) -> None:
    with pytest.raises(SourceError, match=r"does not exist; use phantom.*kaggle.*folder.*zip.*s3"):
        parse_source(text)


def test_a_file_that_is_no_zip_is_told(tmp_path: Path) -> None:
    for name in ("films.tar", "films.zip"):
        (tmp_path / name).write_text("no zip")
        with pytest.raises(
            SourceError, match=rf"{name}': is a file but no zip archive; use phantom"
        ):
            parse_source(str(tmp_path / name))


@pytest.mark.parametrize("text", ["phantom:", "phantom:many", "phantom:-3", "phantom:1.5"])
def test_a_phantom_count_that_is_no_number_is_told(text: str) -> None:
    with pytest.raises(SourceError, match=f"'{text}': N in phantom:N is a number of films"):
        parse_source(text)


def test_too_few_phantoms_are_told_before_any_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"phantom\.num_films=3: use at least 15"):
        check_source(config_for("phantom:3"), tmp_path)


def test_the_count_of_the_source_goes_before_that_of_the_settings() -> None:
    settings = PhantomConfig(num_films=50, seed=7)
    assert PhantomSource(90).config(settings) == PhantomConfig(num_films=90, seed=7)
    assert PhantomSource(None).config(settings) == settings


@pytest.mark.usefixtures("_no_credentials")
def test_missing_kaggle_credentials_are_told_unless_the_films_are_here(tmp_path: Path) -> None:
    for source in ("kaggle", "kaggle:owner/slug/3"):
        with pytest.raises(SourceError, match="no Kaggle credentials here; make an API token"):
            check_source(config_for(source), tmp_path)
    complete = tmp_path / "kaggle" / "owner" / "slug" / "3"
    complete.mkdir(parents=True)
    (complete / "SOURCE.json").touch()
    assert check_source(config_for(source), tmp_path) == config_for(source)


def test_a_folder_without_films_of_a_class_is_told(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "1.jpg").touch()
    with pytest.raises(DataError):
        check_source(config_for(tmp_path), tmp_path)


def test_a_checked_source_means_the_same_in_any_working_directory(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_film_folder(tmp_path / "films")
    monkeypatch.chdir(tmp_path)
    assert check_source(config_for("films"), tmp_path).data.source == str(root)
    assert check_source(config_for(archive.name), tmp_path).data.source == str(archive)
    assert check_source(config_for("phantom:90"), tmp_path) == config_for("phantom:90")
