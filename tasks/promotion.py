"""Prefect tasks that decide on a model's champion; the work is `registry` and `promotion`."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event

from cxr_model.promotion import Verdict, judge
from cxr_model.run_folder import RunFolder
from tasks.artifacts import show
from tasks.limits import make_limit
from tasks.registry import (
    Champion,
    decide,
    fetch_version,
    promotion,
    read_champion,
    read_log,
    read_version,
    register_version,
    require_whole,
    rollback_target,
)
from tasks.retries import storage_task
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation

RED_GATE = "cxr.gate.red"
"""Event of a run whose gate is red; its resource is ``cxr.run.<run_id>``."""
REGISTRY_LIMIT = "cxr-registry"
_LEASE_S = 60.0
_GATE = "gate"  # who decides where no operator does


@contextmanager
def registry_lock(store: ObjectStore) -> Iterator[None]:
    """Alone in the registry, on a store that cannot refuse an overwrite by itself.

    The lock is a concurrency limit of the Prefect server; one whose holder was killed is
    free again after a minute.
    """
    if store.refuses_overwrite():
        yield
        return
    with get_client(sync_client=True) as client:
        make_limit(client, REGISTRY_LIMIT)
    with concurrency(REGISTRY_LIMIT, strict=True, lease_duration=_LEASE_S):
        yield


@storage_task(task_run_name="promotion-{model}-{run_id}")
def consider_promotion(location: StoreLocation, run_root: Path, model: str, run_id: str) -> Verdict:
    """Make the run champion of ``model`` if it earns that; only then is it registered."""
    verdicts: list[Verdict] = []
    with ObjectStore(location) as store, registry_lock(store):

        def choose(current: Champion | None) -> Champion | None:
            if current is not None:
                by_gate = (each for each in read_log(store, model) if each.who == _GATE)
                decided = [each for each in (current, *by_gate) if each.run_id == run_id]
                if decided:  # by an attempt before, and an operator may have spoken since
                    why = decided[0].why
                    verdicts.append(Verdict(promote=True, why=why, gates=[], comparison=None))
                    return None
            verdicts.append(_judge(store, RunFolder(run_root), current))
            if not verdicts[-1].promote:
                return None
            version = register_version(store, model, run_id)
            return promotion(current, version, who=_GATE, why=verdicts[-1].why)

        decide(store, model, choose)
    _tell(model, run_id, verdicts[-1])
    return verdicts[-1]


@task(cache_policy=NO_CACHE)
def promote_by_hand(
    location: StoreLocation, model: str, run_id: str, who: str, why: str
) -> Champion:
    """The operator's word: ``run_id`` is champion, whatever gates and tests say."""
    with ObjectStore(location) as store, registry_lock(store):
        version = register_version(store, model, run_id)
        return _decide_by_hand(
            store, model, lambda current: promotion(current, version, who=who, why=why)
        )


@task(cache_policy=NO_CACHE)
def roll_back(location: StoreLocation, model: str, who: str, why: str) -> Champion:
    """Back to the champion before this one. Raises ``StorageError`` where there is none."""
    with ObjectStore(location) as store, registry_lock(store):

        def choose(current: Champion | None) -> Champion:
            if current is None:
                read_champion(store, model)  # says what is missing
            # Asked anew where another decision came first: there is another one before it.
            version = read_version(store, model, rollback_target(read_log(store, model)))
            require_whole(store, version)
            return promotion(current, version, who=who, why=why, action="rollback")

        return _decide_by_hand(store, model, choose)


def _decide_by_hand(
    store: ObjectStore, model: str, choose: Callable[[Champion | None], Champion]
) -> Champion:
    decision = decide(store, model, choose)
    assert decision is not None  # it is always made
    get_run_logger().info("champion of %s: %s", decision.model, decision.run_id)
    return decision


def _judge(store: ObjectStore, challenger: RunFolder, current: Champion | None) -> Verdict:
    if current is None:
        return judge(challenger, None)
    with tempfile.TemporaryDirectory() as folder:
        champion = fetch_version(store, current.model, current.run_id, Path(folder))
        return judge(challenger, champion)


def _tell(model: str, run_id: str, verdict: Verdict) -> None:
    get_run_logger().info("%s: %s", model, verdict.why)
    gates = "\n".join(
        f"| {gate.name} | {'**failed**' if gate.is_red else gate.state} | {gate.found} |"
        for gate in verdict.gates
    )
    table = f"| gate | state | found |\n|---|---|---|\n{gates}"
    told = f"# {model}: {run_id}\n\n{verdict.why}.\n\n{table}"
    show(create_markdown_artifact, told, key="promotion")
    if any(gate.is_red for gate in verdict.gates):
        emit_event(
            event=RED_GATE,
            resource={"prefect.resource.id": f"cxr.run.{run_id}"},
            payload={"model": model, "gates": [asdict(gate) for gate in verdict.gates]},
        )
