"""``cxr`` as a user has it: a real process with a state folder and ports of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.embedded_store import free_port
from flows.settings import Settings
from flows.stack import is_ready, running_stack

QUICK = [
    *("--preset", "smoke", "--set", "data.size_px=64", "--set", "training.epochs=2"),
    *("--set", "explain.occlusion_window_px=32", "--set", "explain.occlusion_stride_px=16"),
    *("--set", "evaluate.bootstrap_draws=200"),
]
"""Arguments of a training of seconds, whose numbers mean nothing."""


@dataclass(frozen=True)
class Shell:
    """Runs ``cxr`` with a state folder and ports of its own."""

    folder: Path
    environment: dict[str, str]

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environment)

    def __call__(
        self, *arguments: object, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=600,  # only ends what hangs: cores may be shared
            check=False,
        )

    def ok(self, *arguments: object, **environment: str) -> str:
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *arguments: object, **environment: str) -> str:
        """The one line that a refusal prints on standard error."""
        done = self(*arguments, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
        return line

    def kill_flow_runs(self) -> None:
        """SIGKILL every flow process of the running stack."""
        info = running_stack(self.settings)
        assert info is not None
        for process in psutil.Process(info.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # one that has just ended
                if "prefect.engine" in " ".join(process.cmdline()):
                    process.kill()


def is_up(settings: Settings) -> bool:
    info = running_stack(settings)
    return info is not None and is_ready(info)


def wait_until(done: Callable[[], object], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def shell_in(folder: Path) -> Shell:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CXR_", "PREFECT_", "AWS_", "KAGGLE_"))
    }
    own = {
        "CXR_HOME": str(folder / "home"),
        "CXR_PREFECT_PORT": str(free_port()),
        "CXR_S3_PORT": str(free_port()),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    return Shell(folder, inherited | own)
