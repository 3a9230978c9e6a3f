"""What the environment says: where state lies and which servers are used."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cxr_model.errors import ConfigError
from tasks.storage_location import StoreLocation

LOOPBACK = "127.0.0.1"
EMBEDDED_BUCKET = "cxr"


def _device_of_this_machine() -> str:
    name = re.sub(r"[^a-z0-9]+", "-", platform.node().lower()).strip("-")
    return f"cxr-device-{name or 'local'}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    home: Path
    """``CXR_HOME``: all local state; deleting this folder forgets everything."""
    prefect_port: int = 4200
    """``CXR_PREFECT_PORT``: of the local stack's Prefect server and UI."""
    store_port: int = 4290
    """``CXR_S3_PORT``: of the embedded object store."""
    endpoint_url: str | None = None
    """``CXR_S3_ENDPOINT_URL``: another S3-compatible server than AWS."""
    public_url: str | None = None
    """``CXR_S3_PUBLIC_URL``: of the same server, for links to reports that others open."""
    bucket: str | None = None
    """``CXR_S3_BUCKET``"""
    prefix: str = ""
    """``CXR_S3_PREFIX``"""
    prefect_api_url: str | None = None
    """``PREFECT_API_URL``: a Prefect server of the user's own."""
    task_runner: str = "processes"
    """``CXR_TASK_RUNNER``: who trains a cross-validation's folds: ``processes[:N]``,
    ``threads``, ``dask[:ADDRESS]`` or ``ray[:ADDRESS]``."""
    device_slot: str = field(default_factory=_device_of_this_machine)
    """``CXR_DEVICE_SLOT``: concurrency limit that a run holds while it computes; workers that
    share a device name the same. Default: one of this machine."""
    api_key: str | None = field(default=None, repr=False)
    """``CXR_API_KEY``: what clients of ``cxr serve`` must send, if anything."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Raises ``ConfigError`` that names the variable with a wrong value."""
        ports = [
            _port(environ, "CXR_PREFECT_PORT", cls.prefect_port),
            _port(environ, "CXR_S3_PORT", cls.store_port),
        ]
        device_slot = environ.get("CXR_DEVICE_SLOT") or _device_of_this_machine()
        if re.search("[/%&><]", device_slot):
            raise ConfigError(f"CXR_DEVICE_SLOT={device_slot!r}: use a name without / % & < >")
        if ports[0] == ports[1]:
            raise ConfigError(f"CXR_PREFECT_PORT and CXR_S3_PORT are {ports[0]}: use two ports")
        return cls(
            home=Path(environ.get("CXR_HOME") or ".cxr").expanduser().absolute(),
            prefect_port=ports[0],
            store_port=ports[1],
            endpoint_url=environ.get("CXR_S3_ENDPOINT_URL") or None,
            public_url=environ.get("CXR_S3_PUBLIC_URL") or None,
            bucket=environ.get("CXR_S3_BUCKET") or None,
            prefix=environ.get("CXR_S3_PREFIX", ""),
            prefect_api_url=(environ.get("PREFECT_API_URL") or "").rstrip("/") or None,
            task_runner=environ.get("CXR_TASK_RUNNER") or cls.task_runner,
            device_slot=device_slot,
            api_key=environ.get("CXR_API_KEY") or None,
        )

    @property
    def uses_embedded_store(self) -> bool:
        return self.endpoint_url is None and self.bucket is None

    @property
    def store(self) -> StoreLocation:
        """The bucket runs are published to; the embedded one at its usual port."""
        if self.uses_embedded_store:
            return self.embedded_store(self.store_port)
        return StoreLocation(
            endpoint_url=self.endpoint_url,
            public_url=self.public_url,
            bucket=self.bucket or EMBEDDED_BUCKET,
            prefix=self.prefix,
        )

    def embedded_store(self, port: int) -> StoreLocation:
        return StoreLocation(
            endpoint_url=f"http://{LOOPBACK}:{port}",
            bucket=EMBEDDED_BUCKET,
            prefix=self.prefix,
            credentials_file=self.store_dir / "credentials",
        )

    @property
    def local_api_url(self) -> str:
        """Of the local stack's Prefect server."""
        return f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def store_dir(self) -> Path:
        return self.home / "store"

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @property
    def runs_dir(self) -> Path:
        """Runs in progress, and those that were published from this machine."""
        return self.home / "runs"

    @property
    def fetched_dir(self) -> Path:
        """Runs and models fetched from the bucket."""
        return self.home / "fetched"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"


def shown(url: str) -> str:
    """An address to be told and stored: without the name and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise ConfigError(f"{name}={text!r}: use a port number from 1024 to 65535")
    return int(text)


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Variables for Prefect and for flow runs: state in ``CXR_HOME``, nothing sent elsewhere."""
    prefect_home = settings.home / "prefect"
    try:
        prefect_home.mkdir(parents=True, exist_ok=True)  # Prefect makes no parents of it
    except OSError as error:
        raise ConfigError(
            f"CXR_HOME={settings.home}: cannot be written ({error.strerror}); set CXR_HOME to a "
            "folder of your own"
        ) from error
    return {
        "CXR_HOME": str(settings.home),
        "CXR_PREFECT_PORT": str(settings.prefect_port),
        "CXR_S3_PORT": str(settings.store_port),
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "cxr_model,tasks,flows",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # By default any web page that is open on this machine may start runs, and so commands.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            f"http://{host}:{settings.prefect_port}" for host in (LOOPBACK, "localhost")
        ),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # In memory, the default, a server that starts anew forgets who holds a slot, and the
        # device's would stay taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_CLI_PROMPT": "false",
        # Every run tells that it lives; three beats missed and it counts as crashed.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "DO_NOT_TRACK": "1",
    }
