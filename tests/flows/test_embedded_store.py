import configparser
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from cxr_model.errors import StackError, StorageError
from flows.embedded_store import free_port, store_for, write_credentials
from flows.settings import Settings
from tasks.storage import ObjectStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "state", store_port=free_port())


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """The servers that the test has started; those of the session do not count."""
    before = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in before]


def test_keys_are_made_once_for_their_owner_only_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "store" / "credentials"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_credentials, [path] * 8))
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["credentials"]
    keys = path.read_text()
    write_credentials(path)
    assert path.read_text() == keys


def test_the_store_ends_with_its_block_and_no_key_stands_in_a_command_line(
    settings: Settings, started: Callable[[], list[psutil.Process]]
) -> None:
    with store_for(settings) as location:
        (server,) = started()
        keys = configparser.ConfigParser()
        keys.read(settings.store_dir / "credentials")
        line = " ".join(server.cmdline())
        assert not [key for key in keys["default"].values() if key in line]
        assert location.endpoint_url is not None
        assert f"--addr {location.endpoint_url.removeprefix('http://')}" in line
    assert not server.is_running()


def test_what_one_store_writes_or_replaces_another_one_sees(settings: Settings) -> None:
    # Ten times as long as rclone remembers what a folder held.
    pause = partial(time.sleep, 0.2)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(ObjectStore(stack.enter_context(store_for(settings))))
            for _ in range(2)
        )
        assert first.location.endpoint_url != second.location.endpoint_url
        assert second.list_objects() == []
        first.write_bytes("runs/a.json", b"1")
        pause()
        assert second.read_bytes("runs/a.json") == b"1"
        second.write_bytes("runs/a.json", b"twenty")
        pause()
        assert first.read_bytes("runs/a.json") == b"twenty"
        first.delete("runs/a.json")
        pause()
        assert second.list_objects() == []


def test_an_idle_store_takes_no_processor_time(
    settings: Settings, started: Callable[[], list[psutil.Process]]
) -> None:
    with store_for(settings) as location, ObjectStore(location) as store:
        store.check()
        (server,) = started()
        before = sum(server.cpu_times()[:2])
        time.sleep(1)
        assert sum(server.cpu_times()[:2]) - before < 0.3


def test_a_store_that_takes_our_keys_on_the_usual_port_is_used(
    settings: Settings, started: Callable[[], list[psutil.Process]]
) -> None:
    with store_for(settings, settings.store_port), store_for(settings) as location:
        assert location == settings.store
        assert len(started()) == 1


def test_the_store_refuses_other_keys(settings: Settings, tmp_path: Path) -> None:
    with store_for(settings) as location:
        write_credentials(tmp_path / "other")
        stranger = replace(location, credentials_file=tmp_path / "other")
        with ObjectStore(stranger) as store, pytest.raises(StorageError):
            store.list_objects()


def test_a_taken_port_is_an_error_that_names_it_and_its_variable(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.store_port)):
        told = f"port {settings.store_port} is in use by another program.*CXR_S3_PORT"
        with pytest.raises(StackError, match=told), store_for(settings, settings.store_port):
            pass


def test_a_bucket_of_the_users_own_starts_nothing(
    tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    settings = Settings(home=tmp_path, bucket="films")
    with store_for(settings) as location:
        assert location == settings.store
        assert not started()
