"""What a run needs, looked at one by one.

The bucket is tried with an object that is removed again; nothing else is changed.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import psutil

from cxr_model.device import device_name, resolve_device, resolve_precision
from cxr_model.environment import git_revision, package_versions
from cxr_model.errors import CxrError, StackError
from flows.embedded_store import require_free_port, store_for
from flows.settings import Settings, shown
from flows.stack import require_healthy, require_up, running_stack
from tasks.kaggle_source import has_credentials
from tasks.storage import ObjectStore

State = Literal["ok", "absent", "failed"]

_LEAST_DISK_GB = 5.0
_LEAST_MEMORY_GB = 4.0


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    """``absent``: not there and not needed by the default run."""
    found: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order in which a run would meet their subjects."""
    return [*_machine(settings), _prefect(settings), _bucket(settings), _kaggle()]


def _machine(settings: Settings) -> Iterator[Finding]:
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    yield Finding("versions", "ok", f"{versions}; source {git_revision()}")
    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    yield Finding("device", "ok", f"{device_name(device)}; trains in {precision}")
    home = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    yield _enough(
        "disk",
        shutil.disk_usage(home).free / 1e9,
        _LEAST_DISK_GB,
        f"free at {settings.home}",
        "free some space or point CXR_HOME to another disk",
    )
    yield _enough(
        "memory",
        psutil.virtual_memory().available / 1e9,
        _LEAST_MEMORY_GB,
        "available",
        "end other programs or lower data.size_px",
    )


def _enough(name: str, found_gb: float, least_gb: float, what: str, remedy: str) -> Finding:
    text = f"{found_gb:.1f} GB {what}"
    if found_gb >= least_gb:
        return Finding(name, "ok", text)
    return Finding(name, "failed", f"{text}, fewer than {least_gb:.0f}", remedy)


def _prefect(settings: Settings) -> Finding:
    url, stack = settings.prefect_api_url, running_stack(settings)

    def look() -> str:
        if url is not None:
            require_healthy(url)
            return f"{shown(url)} answers"
        assert stack is not None
        require_up(stack)
        return f"{stack.api_url} answers"

    return _no_prefect(settings) if url is None and stack is None else _attempt("prefect", look)


def _no_prefect(settings: Settings) -> Finding:
    try:
        require_free_port(settings.prefect_port, "CXR_PREFECT_PORT")
    except StackError as error:
        found, _, remedy = str(error).rpartition("; ")
        return Finding("prefect", "failed", found, remedy)
    return Finding(
        "prefect",
        "absent",
        "no server runs; 'cxr train' starts one for its own duration",
        "'cxr up' keeps one running",
    )


def _bucket(settings: Settings) -> Finding:
    def look() -> str:
        with store_for(settings) as location, ObjectStore(location) as store:
            store.check(create_bucket=False)
            kind = "embedded store" if settings.uses_embedded_store else location.endpoint_url
            return f"{location.uri()} can be written ({kind or 'AWS'})"

    return _attempt("bucket", look)


def _attempt(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", look())
    except CxrError as error:
        found, _, remedy = str(error).rpartition("; ")
        return Finding(name, "failed", found or str(error), remedy)


def _kaggle() -> Finding:
    if has_credentials():
        return Finding("kaggle", "ok", "credentials found")
    return Finding(
        "kaggle",
        "absent",
        "no credentials; only data sets from Kaggle need them",
        "set KAGGLE_API_TOKEN or write ~/.kaggle/kaggle.json",
    )
