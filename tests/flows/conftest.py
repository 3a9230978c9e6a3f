import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shell import Shell, is_up, shell_in, wait_until

from flows.settings import Settings
from tasks.storage import ObjectStore


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@pytest.fixture
def settings(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a flow in this process: ``store``, and a state folder of the test's own."""
    for name, value in (
        ("CXR_HOME", tmp_path / "home"),
        ("CXR_S3_ENDPOINT_URL", store.location.endpoint_url),
        ("CXR_S3_BUCKET", store.location.bucket),
        ("CXR_S3_PREFIX", store.location.prefix),
        ("AWS_SHARED_CREDENTIALS_FILE", store.location.credentials_file),
    ):
        monkeypatch.setenv(name, str(value))
    return Settings.from_environment()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """``cxr up`` in the background, ended by ``cxr down``."""
    shell = shell_in(tmp_path_factory.mktemp("stack"))
    log = shell.folder / "up.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            cwd=shell.folder,
            env=shell.environment,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            # Prefect's SQLite is locked for a minute now and then, as its services start.
            wait_until(lambda: is_up(shell.settings) or process.poll() is not None, timeout_s=240)
        except BaseException:
            process.terminate()  # else its end would be waited for without end
            raise
        assert process.poll() is None, log.read_text()
        yield shell
        children = psutil.Process(process.pid).children(recursive=True)
        assert "has ended" in shell.ok("down")
        assert process.wait(timeout=30) == 0
        assert psutil.wait_procs(children, timeout=10)[1] == []
