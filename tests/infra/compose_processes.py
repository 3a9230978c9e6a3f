"""The services of ``compose.yaml`` as processes of this machine, on ports of loopback.

They run their own commands under their own settings; only what a container or its network
gives (paths, addresses, ports) is replaced.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from infra_files import INFRA, ROOT, compose, image_command, image_environment

from flows.embedded_store import free_port

_STAGE_OF = {"cxresnet:server": "server", "cxresnet:cpu": "worker"}


class ComposeProcesses:
    """Folders, ports and secrets for the services of one compose file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Any] = compose()["services"]
        self.ports = {name: free_port() for name in ("postgres", "prefect", "store", "health")}
        for name in ("cxr", "prefect", "data", "work"):
            (folder / name).mkdir()
        make_secrets = ["sh", INFRA / "make-secrets", folder / "secrets"]
        subprocess.run(make_secrets, stdout=subprocess.DEVNULL, check=True)
        self._ours = {
            "/run/secrets": f"{folder}/secrets",
            "/var/lib/cxr": f"{folder}/cxr",
            "/var/lib/prefect": f"{folder}/prefect",
            "/data": f"{folder}/data",
            "prefect:4200": f"127.0.0.1:{self.ports['prefect']}",
            "store:8080": f"127.0.0.1:{self.ports['store']}",
            "--addr :8080": f"--addr 127.0.0.1:{self.ports['store']}",
            "0.0.0.0": "127.0.0.1",
            "4200": str(self.ports["prefect"]),
            "$$": "$",
        }

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        settings = image_environment(_STAGE_OF.get(service["image"], "base"))
        settings |= service.get("environment", {})
        return {key: self._here(str(value)) for key, value in settings.items()} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["health"]),
        }

    def command(self, name: str) -> list[str]:
        service = self.services[name]
        stage = _STAGE_OF.get(service["image"])
        words = service.get("command") or image_command(str(stage))
        entry = ["sh", str(INFRA / "with-secrets")] if stage else service["entrypoint"]
        return [self._here(word) for word in [*entry, *words]]

    def _here(self, text: str) -> str:
        theirs = "|".join(map(re.escape, self._ours))
        return re.sub(theirs, lambda found: self._ours[found[0]], text)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    @contextmanager
    def running(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A service, told to end with SIGTERM as Docker does, and killed if it does not."""
        with (
            (self.folder / f"{name}.log").open("ab") as log,
            subprocess.Popen(
                self.command(name),
                env=self.environment(name),
                cwd=self.folder / "work",
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    _end(psutil.Process(process.pid))

    def run(self, name: str, timeout_s: float = 120) -> None:
        """A service that ends by itself, well."""
        with self.running(name) as process:
            assert process.wait(timeout_s) == 0, self.log(name)

    def with_worker_settings(self, *words: str) -> list[str]:
        """A command as ``docker compose exec worker`` would run it."""
        return ["sh", str(INFRA / "with-secrets"), *words]


def _end(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for each in alive:
        each.kill()


def wait_for(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def postgres_programs() -> Path | None:
    """The folder of a PostgreSQL server's programs, of the newest that is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def running_postgres(programs: Path, folder: Path, port: int, password: str) -> Iterator[None]:
    """A new server of database ``prefect`` and user ``prefect``, in the empty ``folder``.

    It refuses to run as root: there it runs as the user that its package has made.
    """
    user = "postgres" if os.getuid() == 0 else None
    (folder / "password").write_text(password)
    if user:
        shutil.chown(folder, user, user)
    access = [f"--pwfile={folder}/password", "--auth=scram-sha-256", "--username=prefect"]
    initdb = [programs / "initdb", *access, "--no-sync", "--pgdata", folder / "pgdata"]
    subprocess.run(initdb, stdout=subprocess.DEVNULL, cwd=folder, user=user, check=True)
    server = [programs / "postgres", "-D", folder / "pgdata", "-k", folder, "-p", str(port)]
    here = ["--host=127.0.0.1", f"--port={port}"]
    server += ["-c", "listen_addresses=127.0.0.1"]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL, cwd=folder, user=user) as process:
        try:
            ready = [programs / "pg_isready", "--quiet", *here]
            wait_for(lambda: subprocess.call(ready) == 0, 20, lambda: "PostgreSQL does not start")
            login = {"PGUSER": "prefect", "PGPASSWORD": password}
            subprocess.run([programs / "createdb", *here, "prefect"], env=login, check=True)
            yield
        finally:
            process.terminate()
