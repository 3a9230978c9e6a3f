"""Start a flow on a worker or in this process, and see it to its end."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from cxr_model.errors import GateError
from flows.embedded_store import store_for
from flows.settings import Settings, prefect_environment
from flows.stack import api_with_worker, own_server, require_healthy, require_up, running_stack
from tasks.storage_location import StoreLocation


@dataclass(frozen=True, kw_only=True)
class Job:
    """One flow run to be; its flow and its deployment are called ``name``."""

    name: str
    run_id: str
    parameters: dict[str, Any]

    @property
    def deployment(self) -> str:
        return f"{self.name}/{self.name}"

    @property
    def flow_run_name(self) -> str:
        return f"{self.name}-{self.run_id}"

    @property
    def way_back(self) -> str:
        """What to tell whoever interrupts it; empty where it cannot go on."""
        if self.name not in ("train", "crossval"):
            return ""
        return f"; 'cxr {self.name} --resume {self.run_id}' goes on with it"


def run_here(job: Job, settings: Settings, tell_outcome: Callable[[StoreLocation], None]) -> None:
    """Run the flow in this process; the embedded store runs until the outcome is told.

    Without a server or a stack one is started for it: Prefect's own temporary server would be
    another one in each process of a pool, and gives no slot free that a killed run held.
    """
    os.environ.update(prefect_environment(settings))
    if settings.prefect_api_url:
        require_healthy(settings.prefect_api_url)
    elif stack := running_stack(settings):
        require_up(stack)
        os.environ["PREFECT_API_URL"] = stack.api_url  # two servers would share its database
    else:
        server = ExitStack()
        # Behind Prefect, which sends its last lines and events as the process ends.
        atexit.register(server.close)
        os.environ["PREFECT_API_URL"] = server.enter_context(own_server(settings))
    with store_for(settings) as location:
        if settings.uses_embedded_store:
            os.environ["CXR_S3_PORT"] = str(urlsplit(location.endpoint_url).port)
        # Imported now: Prefect reads the environment at its import.
        from prefect import tags

        with tags("cxr"):  # as a deployment's runs have it: automations look for it
            run = getattr(import_module(f"flows.{job.name}"), job.name)
            with outcome_told(lambda: tell_outcome(location)):
                run(**job.parameters)


def run_on_worker(
    job: Job,
    settings: Settings,
    out: Console,
    err: Console,
    tell_outcome: Callable[[StoreLocation], None],
) -> None:
    """Run the deployment on a worker, that of a local stack if there is no other."""
    os.environ.update(prefect_environment(settings))
    with _api_and_store(settings, err) as (api_url, location):
        from flows.submit import flow_run_page, submit

        with outcome_told(lambda: tell_outcome(location)):
            flow_run_id = submit(job, api_url, out)
    out.print(f"Prefect UI         {flow_run_page(api_url, flow_run_id)}")
    if settings.prefect_api_url is None:
        out.print(
            "                   (it answers while the local stack runs: 'make up' or 'cxr up')"
        )


@contextmanager
def outcome_told(tell: Callable[[], None]) -> Iterator[None]:
    """Tell it also where a gate is red: such a run has failed, but it is published."""
    try:
        yield
    except GateError:
        tell()
        raise
    tell()


@contextmanager
def _api_and_store(settings: Settings, err: Console) -> Iterator[tuple[str, StoreLocation]]:
    with ExitStack() as stack:
        api_url = stack.enter_context(api_with_worker(settings, err.print))
        # The local stack has the store in it; another server's worker looks for it there.
        location = settings.store
        if settings.prefect_api_url:
            location = stack.enter_context(store_for(settings, settings.store_port))
        yield api_url, location
