"""What every flow does first: a plain log, a run folder, and a turn at the device."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict
from datetime import UTC, timedelta
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Abort, PrefectException

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError, CxrError, StackError
from cxr_model.run_folder import RunFolder, write_json
from flows.run_id import new_run_id
from tasks.limits import make_limit
from tasks.manifest import check_run_id

MOST_STARTS = 4
_MOST_EVER = 12  # starts; what takes hours until it crashes is not to do so for ever
_HOUR = timedelta(hours=1)
_TAKE_OVER_S = 600.0  # a process that was cut off from the server may still be at work
_LEASE_S = 60.0  # after this the slot of a killed run is free again; the server takes no less
_RENEW_S = 15.0
_POLL_S = 3.0

logger = logging.getLogger(__name__)


def _without_users_traceback(record: logging.LogRecord) -> bool:
    """A ``CxrError`` is the user's to mend: its line tells all, a traceback hides it."""
    if record.exc_info and isinstance(record.exc_info[1], CxrError):
        record.exc_info = None
    return True


def set_up_logging() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_users_traceback)
    # Prefect forwards these (PREFECT_LOGGING_EXTRA_LOGGERS) but leaves their level.
    for name in ("cxr_model", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)


def this_run_id() -> str:
    """The parameter ``run_id``, or one made up from when the run was due and its Prefect id.

    Made up anew when a crashed run is started again, it is the same.
    """
    parameters, due = runtime.flow_run.parameters, runtime.flow_run.scheduled_start_time
    given: str = parameters["run_id"]
    return given or new_run_id(parameters["config"], due, str(runtime.flow_run.id)[-4:])


def own_run_id() -> str:
    """`this_run_id`, checked. Raises ``ConfigError`` for a resumption that names no run."""
    parameters = runtime.flow_run.parameters
    if parameters["resume"] and not parameters["run_id"]:
        raise ConfigError("resume=true: run_id names no run to go on with; set it, or resume off")
    run_id = this_run_id()
    check_run_id(run_id)
    return run_id


def due_name(what: str) -> str:
    """A flow run's name: what it does, and when it was due (UTC)."""
    return f"{what}-{runtime.flow_run.scheduled_start_time.astimezone(UTC):%Y%m%d-%H%M%S}"


def started_again() -> bool:
    """Whether this flow run crashed before and goes on now.

    Raises ``StackError`` when it did so too often for the hours that it was under way: what
    crashes every time is no accident, a spot machine that is taken away every other hour is.
    """
    num_starts = int(runtime.flow_run.run_count or 1)
    if num_starts > MOST_STARTS and num_starts > min(MOST_STARTS + _hours_under_way(), _MOST_EVER):
        raise StackError(
            f"the run crashed {num_starts - 1} times; see the worker's log, then start it again, "
            "or go on with it by --resume where its command has that"
        )
    return num_starts > 1


def _hours_under_way() -> int:
    """Of all this flow run's starts together, waiting for the device too."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(runtime.flow_run.id)).total_run_time // _HOUR
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("no word of this run's hours from the server (%s)", type(error).__name__)
        return _MOST_EVER


def require_current() -> None:
    """End this process, quietly, where another one has taken its flow run over.

    One that was cut off from the server counts as crashed, and the run goes on elsewhere. What
    comes back late is not to publish beside it, nor to set the run's state: hence `Abort`. Of a
    server that does not answer nothing is known, and hours of work are not given up for that.
    """
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(runtime.flow_run.id))
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("no word of this run from the server (%s); going on", type(error).__name__)
        return
    if run.run_count > int(runtime.flow_run.run_count) and (
        run.state is None or run.state.is_running() or run.state.is_completed()
    ):
        raise Abort(
            f"start {run.run_count} of the run is at work on it, this is number "
            f"{runtime.flow_run.run_count} and ends"
        )


@contextmanager
def turn_at(limit: str) -> Iterator[None]:
    """Alone under a concurrency limit of the Prefect server, for as long as the block takes.

    A server that is away meanwhile ends nothing here: the lease is renewed when it is back, or,
    where it ran out, taken again as soon as the slot is free.
    """
    with get_client(sync_client=True) as client:
        logger.info("waiting for a turn at %s", limit)
        while (lease := _take(client, limit)) is None:
            time.sleep(_POLL_S)
    leases, has_ended = [lease], Event()
    # In a copy of the context: Prefect sends a line to the run's log where it knows the run.
    run = copy_context().run
    keeper = Thread(target=run, args=(_keep, limit, leases, has_ended), name=limit, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        has_ended.set()
        keeper.join(timeout=_POLL_S)  # a server that is away is not waited for
        # A lease that cannot be given back runs out by itself.
        with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(leases[-1])


def _take(client: SyncPrefectClient, limit: str) -> UUID | None:
    """A lease of the limit's slot, or None where it is taken or the server does not say."""
    try:
        make_limit(client, limit)
        answer = client.increment_concurrency_slots_with_lease(
            [limit], slots=1, mode="concurrency", lease_duration=_LEASE_S
        ).json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.LOCKED:
            logger.warning("no turn at %s: HTTP %d", limit, error.response.status_code)
        return None
    except httpx.TransportError as error:
        logger.warning("no turn at %s: %s", limit, error or type(error).__name__)
        return None
    # Of a limit that was taken away just now the server says yes to nothing.
    return UUID(answer["lease_id"]) if answer["limits"] else None


def _keep(limit: str, leases: list[UUID], has_ended: Event) -> None:
    """Renew the last of ``leases`` until the end; one that ran out gets a successor."""
    is_held = True
    with get_client(sync_client=True) as client:
        while not has_ended.wait(_RENEW_S):
            try:
                client.renew_concurrency_lease(leases[-1], _LEASE_S)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.GONE or has_ended.is_set():
                    continue
                if lease := _take(client, limit):
                    logger.warning("the turn at %s had run out and is taken again", limit)
                    leases.append(lease)
                    is_held = True
                elif is_held:
                    is_held = False
                    logger.warning(
                        "the turn at %s has run out, and another run may be at work beside this "
                        "one; asking again",
                        limit,
                    )
            except httpx.TransportError:
                logger.warning("the turn at %s cannot be renewed; trying again", limit)


def begin_run(root: Path, config: RunConfig, *, keep: tuple[str, ...] = ()) -> RunFolder:
    """A folder of the run with its ``config.json``; empty but for the entries to ``keep``.

    To be called `alone_in` it. Raises ``ConfigError`` where a train flow would go on in the
    folder of a cross-validation.
    """
    run = RunFolder(root)
    if keep and run.crossval_config.exists() and run.folds.name not in keep:
        raise ConfigError(
            f"run {root.name}: is a cross-validation; use 'cxr crossval --resume {root.name}'"
        )
    for entry in root.iterdir() if root.exists() else ():
        if entry.name in keep:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_json(run.config, asdict(config))
    return run


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """A run's folder is this flow's alone for the block.

    Raises ``ConfigError`` where another process works in it. A run that was started again waits
    for the process that it takes over from.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        timeout = _TAKE_OVER_S if int(runtime.flow_run.run_count or 1) > 1 else 0
        with FileLock(root.parent / f".{root.name}.lock", timeout=timeout):
            yield
    except Timeout as error:
        raise ConfigError(
            f"run {root.name}: another process works on it; wait for it, or end it first"
        ) from error
