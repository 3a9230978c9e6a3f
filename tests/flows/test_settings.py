from pathlib import Path

import pytest

from cxr_model.errors import ConfigError
from flows.settings import Settings, prefect_environment, shown


def test_without_variables_all_state_lies_below_dot_cxr_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings == Settings(home=tmp_path / ".cxr")
    folders = ("data_dir", "cache_dir", "runs_dir", "fetched_dir", "logs_dir", "store_dir")
    assert {getattr(settings, folder).parent for folder in folders} == {tmp_path / ".cxr"}


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    names = ("CXR_PREFECT_PORT", "CXR_S3_PORT", "CXR_S3_ENDPOINT_URL", "CXR_S3_BUCKET")
    environ = {"CXR_HOME": str(tmp_path), "PREFECT_API_URL": "", **dict.fromkeys(names, "")}
    assert Settings.from_environment(environ) == Settings(home=tmp_path)


def test_the_embedded_store_is_used_without_endpoint_and_bucket() -> None:
    settings = Settings.from_environment({"CXR_HOME": "/state", "CXR_S3_PREFIX": "chest"})
    assert settings.uses_embedded_store
    assert settings.store.endpoint_url == "http://127.0.0.1:4290"
    assert settings.store.credentials_file == Path("/state/store/credentials")
    assert settings.store.uri("index.html") == "s3://cxr/chest/index.html"


@pytest.mark.parametrize(
    ("environ", "endpoint_url", "bucket"),
    [
        ({"CXR_S3_BUCKET": "films"}, None, "films"),
        ({"CXR_S3_ENDPOINT_URL": "https://s3.test"}, "https://s3.test", "cxr"),
    ],
)
def test_a_bucket_or_endpoint_of_the_users_own_takes_the_usual_credentials(
    environ: dict[str, str], endpoint_url: str | None, bucket: str
) -> None:
    settings = Settings.from_environment(environ)
    assert not settings.uses_embedded_store
    assert settings.store.endpoint_url == endpoint_url
    assert settings.store.bucket == bucket
    assert settings.store.credentials_file is None


@pytest.mark.parametrize("name", ["CXR_PREFECT_PORT", "CXR_S3_PORT"])
@pytest.mark.parametrize("text", ["web", "-1", "80", "65536"])
def test_an_impossible_port_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='{text}': use a port number from 1024 to 65535"):
        Settings.from_environment({name: text})


def test_a_device_slot_that_the_server_would_refuse_is_refused() -> None:
    told = "CXR_DEVICE_SLOT='node1/gpu0': use a name without"
    with pytest.raises(ConfigError, match=told):
        Settings.from_environment({"CXR_DEVICE_SLOT": "node1/gpu0"})


@pytest.mark.parametrize("user", ["", "me@", "me:secret@", "me:p@ss@"])
def test_an_address_is_told_without_who_asks(user: str) -> None:
    assert shown(f"https://{user}prefect.test:4200/api") == "https://prefect.test:4200/api"


def test_a_child_process_reads_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "state", prefect_port=4201, store_port=4291)
    assert Settings.from_environment(prefect_environment(settings)) == settings
