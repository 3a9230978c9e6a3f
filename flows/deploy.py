"""Apply the deployments, schedules, triggers, limits and automations to a Prefect server.

Every step is an upsert by name: applied twice it gives the same.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from prefect.cli import app as prefect_cli
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    DeploymentFilterTags,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError, StackError
from flows.automations import NOTIFICATION, read_automations, upsert
from flows.configuration import config_from_values
from flows.run_id import model_name
from flows.settings import Settings
from flows.stack import WORK_POOL
from tasks.limits import make_limit
from tasks.promotion import REGISTRY_LIMIT

PREDICTIONS_QUEUE = "predictions"
TRAINING_QUEUE = "default"
_APPLIED = "cxr_applied"
"""Variable of the Prefect server: the digest of what was applied last."""
_PLAN = "cxr_plan"
"""Likewise: the plan that 'cxr deploy' was told last."""
_CONFIGURED = ("train", "crossval", "watch-dataset")
"""Deployments whose ``config`` is the operator's."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be deployed; its server keeps the last one, to be applied again."""

    config: RunConfig = field(default_factory=RunConfig)
    schedules: dict[str, str] = field(default_factory=dict)
    """Cron expressions (UTC) instead of those of ``prefect.yaml``; ``off`` pauses one."""
    schedules_active: bool = True
    notify: str = ""
    """Notification block, ``<type>/<name>`` as in ``slack-webhook/alerts``; empty: none."""
    pool: str = WORK_POOL


def read_plan() -> Plan:
    """The plan that the Prefect server keeps; without one, all schedules wait for 'cxr deploy'.

    Raises ``ConfigError`` for one that another version kept, or that is damaged.
    """
    kept: Any = Variable.get(_PLAN)
    if kept is None:
        return Plan(schedules_active=False)
    try:
        return Plan(**kept | {"config": config_from_values(kept["config"])})
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"variable {_PLAN} of the Prefect server: cannot be applied ({error}); another version "
            "kept it: give 'cxr deploy' with its options again"
        ) from error


def require_data_told(config: RunConfig) -> None:
    """Raise ``ConfigError`` where drawn films, which nobody named, would replace a data set."""
    try:
        kept = read_plan().config.data.source
    except ConfigError:  # of another version, whose way out is to say all again
        return
    drawn = RunConfig().data.source
    if config.data.source == drawn != kept:
        raise ConfigError(
            f"this server's deployments are of --data {kept}; say so again beside what is to be "
            f"new (what is left out counts as left out), or --data {drawn} where that is meant"
        )


def keep_plan(plan: Plan) -> None:
    Variable.set(_PLAN, asdict(plan), overwrite=True)


def apply(plan: Plan, settings: Settings, *, is_kept: bool = False) -> list[str]:
    """Make the server of ``PREFECT_API_URL`` as ``plan`` says; returns what was applied.

    Raises ``ConfigError`` for a schedule of no deployment or none that can be read, for a pool
    or block that does not exist, and for a plan too long to be kept. Of a plan that was kept
    such a block is left out: whoever brings the stack up can make it only then.
    """
    defined, file = definition(plan), _file("automations.yaml")
    _require_short(plan)
    with get_client(sync_client=True) as client:
        try:  # refused before anything is changed
            automations = read_automations(client, file, plan.notify)
        except ConfigError as error:
            if not is_kept:
                raise
            print(f"no notifications: {error}", file=sys.stderr, flush=True)
            plan = replace(plan, notify="")
            automations = read_automations(client, file, plan.notify)
        _require_pool(client, plan.pool)
        Variable.unset(_APPLIED)
        _keep_what_was_set(client, defined)
        _make_queues(client, plan.pool)
        for limit in (REGISTRY_LIMIT, settings.device_slot):
            make_limit(client, limit)
        _deploy(defined, plan.pool)
        for automation in automations:
            upsert(client, automation)
        if not plan.notify:
            for old in client.read_automations_by_name(NOTIFICATION):
                client.delete_automation(old.id)
        _require_deployed(client, [each["name"] for each in defined["deployments"]])
        Variable.set(_APPLIED, _digest(plan), overwrite=True)
    return [
        f"data {plan.config.data.source}, preset {plan.config.preset}, model "
        f"{model_name(plan.config)}; notifications: {plan.notify or 'none'}",
        *(f"{each['name']}/{each['name']}: {_when(each)}" for each in defined["deployments"]),
        f"work pool {plan.pool}: queue {PREDICTIONS_QUEUE} before {TRAINING_QUEUE}",
        f"limits of one: {REGISTRY_LIMIT}, {settings.device_slot}",
        *(f"automation {automation.name!r}" for automation in automations),
    ]


def apply_if_changed(plan: Plan, settings: Settings) -> None:
    """Likewise, but not where this plan was applied last, by this very code: that takes seconds."""
    if Variable.get(_APPLIED, default="") != _digest(plan):
        apply(plan, settings, is_kept=True)


def _digest(plan: Plan) -> str:
    """Of the plan and of all code that says what it means."""
    digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode())
    for package in ("flows", "tasks", "cxr_model", "deployments"):
        for path in sorted(_folder(package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def load_flows() -> None:
    """Import every deployed flow, as Prefect's command does to learn its parameters."""
    for each in yaml.safe_load(_file("prefect.yaml").read_text())["deployments"]:
        import_module(each["entrypoint"].rpartition(".")[0])


def _run_prefect(*arguments: str) -> None:
    """Prefect's command line in this process, which spares its five seconds of imports."""
    typed, sys.argv = sys.argv, ["prefect", *arguments]
    try:
        prefect_cli()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = typed


def definition(plan: Plan) -> dict[str, Any]:
    """``prefect.yaml`` with the plan's settings and schedules in it."""
    defined: dict[str, Any] = yaml.safe_load(_file("prefect.yaml").read_text())
    deployments = {each["name"]: each for each in defined["deployments"]}
    for name in _CONFIGURED:
        deployments[name]["parameters"] = {"config": asdict(plan.config)}
    if plan.schedules_active:  # the operator has said which films: their champion answers
        deployments["predict"]["parameters"] = {"model": model_name(plan.config)}
    scheduled = {name: each for name, each in deployments.items() if "schedules" in each}
    for name, cron in plan.schedules.items():
        if name not in scheduled:
            raise ConfigError(f"--schedule {name}: use one of {', '.join(scheduled)}")
        (schedule,) = scheduled[name]["schedules"]
        schedule["active"] = cron != "off"
        if cron != "off":
            schedule["cron"] = _cron(name, cron)
    for each in scheduled.values():
        for schedule in each["schedules"]:
            schedule["active"] = plan.schedules_active and schedule.get("active", True)
    return defined


def _keep_what_was_set(client: SyncPrefectClient, defined: dict[str, Any]) -> None:
    """What operators set in the forms of deployments stays: Prefect's command would reset it.

    Parameters that no option of 'cxr deploy' configures, unless they are what it gave them last
    time; how many runs may be at work at once, and what their infrastructure is asked for.
    """
    ours = {each["name"]: each for each in defined["deployments"]}
    given = _last_parameters()
    for found in client.read_deployments(
        deployment_filter=DeploymentFilter(
            name=DeploymentFilterName(any_=list(ours)), tags=DeploymentFilterTags(all_=["cxr"])
        )
    ):
        own = ours[found.name]
        last, told = given.get(found.name, {}).items(), own.get("parameters", {})
        own["parameters"] = told | {
            name: value
            for name, value in found.parameters.items()
            if (name, value) not in last and (name != "config" or "config" not in told)
        }
        own["work_pool"] = own["work_pool"] | {"job_variables": found.job_variables}
        if found.global_concurrency_limit and "concurrency_limit" in own:
            limit = {"limit": found.global_concurrency_limit.limit}
            own["concurrency_limit"] = own["concurrency_limit"] | limit


def _last_parameters() -> dict[str, dict[str, Any]]:
    """What the plan before this one gave each deployment."""
    try:
        defined = definition(read_plan())
    except ConfigError:  # of another version: what is there may be the operator's
        return {}
    return {each["name"]: each.get("parameters", {}) for each in defined["deployments"]}


def _require_short(plan: Plan) -> None:
    try:
        VariableCreate(name=_PLAN, value=asdict(plan))
    except ValueError as error:
        raise ConfigError(
            "the settings are longer than the 5,000 characters that a Prefect server keeps; name "
            "the classes in a table (--set labels=FILE.csv) instead of by patterns"
        ) from error


def _cron(name: str, text: str) -> str:
    """Raises ``ConfigError``: Prefect's command would end half-way, in a page of its own words."""
    try:
        return CronSchedule(cron=text).cron
    except ValueError as error:
        raise ConfigError(
            f"--schedule {name}={text!r}: is no cron expression; write minute, hour, day, month "
            "and weekday, as in '0 3 * * 0', or off"
        ) from error


def _when(deployment: dict[str, Any]) -> str:
    told = [
        f"{schedule['cron']} UTC" if schedule["active"] else f"{schedule['cron']} UTC, paused"
        for schedule in deployment.get("schedules", [])
    ]
    told += [f"event {name}" for each in deployment.get("triggers", []) for name in each["expect"]]
    return "; ".join([*told, "by hand"])


def _require_pool(client: SyncPrefectClient, name: str) -> None:
    """Make the local stack's pool where it is missing; another one is made by its worker.

    Raises ``ConfigError`` where it is not there yet: it would be one of another type.
    """
    try:
        client.read_work_pool(name)
    except ObjectNotFound as error:
        if name != WORK_POOL:
            raise ConfigError(
                f"--pool {name}: is not there yet; start its worker first, which makes it"
            ) from error
        template = ProcessWorker.get_default_base_job_template()
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(
                WorkPoolCreate(name=name, type="process", base_job_template=template)
            )


def _make_queues(client: SyncPrefectClient, name: str) -> None:
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_queue(PREDICTIONS_QUEUE, priority=1, work_pool_name=name)
    for priority, queue in enumerate((PREDICTIONS_QUEUE, TRAINING_QUEUE), start=1):
        found = client.read_work_queue_by_name(queue, work_pool_name=name)
        client.update_work_queue(found.id, priority=priority)


def _deploy(defined: dict[str, Any], pool: str) -> None:
    os.environ["CXR_WORK_POOL"] = pool
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(defined, sort_keys=False))
        told = io.StringIO()
        try:
            with redirect_stdout(told):  # a page on each deployment
                _run_prefect("--no-prompt", "deploy", "--prefect-file", str(path), "--all")
        except SystemExit as end:
            raise StackError(f"prefect deploy: {_last_line(told.getvalue())}") from end


def _last_line(text: str) -> str:
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no word on standard output")


def _require_deployed(client: SyncPrefectClient, names: list[str]) -> None:
    """Prefect's command may tell of a deployment that it refuses and end well all the same."""
    found = client.read_deployments(
        deployment_filter=DeploymentFilter(
            name=DeploymentFilterName(any_=names), tags=DeploymentFilterTags(all_=["cxr"])
        )
    )
    missing = set(names) - {deployment.name for deployment in found}
    if missing:
        raise StackError(
            f"deployments {', '.join(sorted(missing))}: refused by the Prefect server; see above"
        )


def _file(name: str) -> Path:
    return _folder("deployments") / name


def _folder(package: str) -> Path:
    # Found, not imported: no code is needed, only where the files lie.
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])
