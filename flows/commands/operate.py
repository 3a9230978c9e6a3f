"""Commands that operate: ``deploy``, ``status``, ``models``, ``promote`` and ``rollback``."""

import getpass
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from cxr_model.config_json import read_config
from cxr_model.errors import ConfigError, StackError
from flows.commands.shared import (
    ConfigFile,
    Data,
    Json,
    Preset,
    RunName,
    Setting,
    err,
    open_store,
    out,
    refuse_beside,
)
from flows.settings import Settings, prefect_environment, shown

if TYPE_CHECKING:
    from tasks.registry import Champion
    from tasks.storage_location import StoreLocation

Model = Annotated[
    str, typer.Option(help="Model of the registry; default: as the run's settings say.")
]
Reason = Annotated[str, typer.Option(help="Why; kept in the model's log.")]


def deploy(
    context: typer.Context,
    data: Data = None,
    preset: Preset = "standard",
    config: ConfigFile = None,
    settings_: Setting = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CRON",
            help="When a deployment runs (UTC), or NAME=off; may be repeated.",
        ),
    ] = None,
    notify: Annotated[
        str,
        typer.Option(
            metavar="TYPE/NAME", help="Notification block for failures, crashes and red gates."
        ),
    ] = "",
    pool: Annotated[
        str, typer.Option(help="Work pool; any but cxr-local is made by its worker.")
    ] = "cxr-local",
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="As this server was last told; before that, with all schedules paused.",
        ),
    ] = False,
) -> None:
    """Apply deployments, schedules, triggers, limits and automations; twice gives the same."""
    from flows.configuration import load_config
    from tasks.sources import check_source

    settings = Settings.from_environment()
    if again:
        refuse_beside(context, "--again repeats what was deployed last", ("again",))
        _say_where(_use_api(settings))
        from flows.deploy import apply, read_plan

        for line in apply(read_plan(), settings, is_kept=True):
            out.print(line)
        return
    run_config = load_config(preset, config_file=config, settings=settings_ or (), source=data)
    run_config = check_source(run_config, settings.data_dir)
    schedules = dict(_pair("--schedule", text) for text in schedule or ())
    _say_where(_use_api(settings))
    from flows.deploy import Plan, apply, keep_plan, require_data_told

    if data is None:
        require_data_told(run_config)
    plan = Plan(config=run_config, schedules=schedules, notify=notify, pool=pool)
    for line in apply(plan, settings):
        out.print(line)
    keep_plan(plan)


def status(as_json: Json = False) -> None:
    """What runs and where, what waits, and how the last runs ended."""
    settings = Settings.from_environment()
    api_url = _use_api(settings)
    from flows.status import read_status

    found = read_status(api_url)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    out.print(f"Prefect            {found.page}")
    workers = Table("worker", "pool", "state", "last heard of (UTC)", title="Workers")
    for worker in found.workers:
        workers.add_row(worker.name, worker.pool, worker.state, worker.last_heard)
    runs = Table(
        *(Column(name, overflow="fold") for name in ("run", "state", "where")),
        *("since (UTC)", "took"),
        title="Runs, those under way first",
    )
    for run in found.runs:
        runs.add_row(run.name, run.state, run.where, run.since, run.took)
    limits = Table("limit", "taken", "of", title="Limits")
    for limit in found.limits:
        limits.add_row(limit.name, str(limit.taken), str(limit.slots))
    for table in (workers, runs, limits):
        out.print(table)


def models(as_json: Json = False) -> None:
    """List the registered models, their versions and who is champion."""
    from cxr_model.intervals import format_estimate
    from tasks.registry import find_champion, list_models, list_versions

    with open_store() as store:
        found = {
            name: (find_champion(store, name), list_versions(store, name))
            for name in list_models(store)
        }
    if as_json:
        told = {
            name: {
                "champion": asdict(champion) if champion else None,
                "versions": [asdict(version) for version in versions],
            }
            for name, (champion, versions) in found.items()
        }
        print(json.dumps(told, indent=2))
        return
    if not found:
        out.print(
            "no model is registered yet; the first is a run whose gates are all green, or one "
            "that 'cxr promote RUN --reason ...' names"
        )
        return
    names = ("model", "version", "balanced accuracy", "why")
    table = Table(*(Column(name, overflow="fold") for name in names), show_lines=True)
    for name, (champion, versions) in found.items():
        for version in versions:
            is_champion = champion is not None and champion.run_id == version.run_id
            since = f"\nchampion since\n{champion.when[:16]}" if champion and is_champion else ""
            table.add_row(
                name,
                f"{version.run_id}\n{version.metrics['source']}{since}",
                format_estimate(version.metrics["balanced_accuracy"]),
                _reason_of(champion) if champion and is_champion else "",
            )
    out.print(table)


def promote(run: RunName, reason: Reason, model: Model = "") -> None:
    """Make a published run's network the champion, whatever gates and tests say."""
    from flows.jobs import Job, run_here
    from flows.run_id import model_name
    from tasks.run_store import fetch_object, read_manifest

    settings = Settings.from_environment()
    _require_reason(reason)
    with open_store(settings) as store, tempfile.TemporaryDirectory() as folder:
        manifest = read_manifest(store, run, ["model/model.safetensors"])
        if not model:
            fetch_object(store, manifest, "config.json", path := Path(folder, "config.json"))
            try:
                model = model_name(read_config(path))
            except ConfigError as error:
                raise ConfigError(
                    f"run {manifest.run_id}: its settings are of another version; name the model "
                    "with --model"
                ) from error
    parameters = {"model": model, "run_id": manifest.run_id, "who": _who(), "why": reason}
    job = Job(name="promote", run_id=manifest.run_id, parameters=parameters)
    run_here(job, settings, lambda _: out.print(f"champion of {model}: {manifest.run_id}"))


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model of the registry.")],
    reason: Reason,
) -> None:
    """Make the champion before this one the champion again."""
    from flows.jobs import Job, run_here
    from tasks.registry import read_champion, read_log, rollback_target
    from tasks.storage import ObjectStore

    settings = Settings.from_environment()
    _require_reason(reason)
    with open_store(settings) as store:  # refused here in a second, by the flow in twenty
        read_champion(store, model)
        rollback_target(read_log(store, model))
    parameters = {"model": model, "who": _who(), "why": reason}

    def tell(location: "StoreLocation") -> None:
        with ObjectStore(location) as store:
            out.print(f"champion of {model}: {read_champion(store, model).run_id}")

    job = Job(name="rollback", run_id=model, parameters=parameters)
    run_here(job, settings, tell)


def _reason_of(champion: "Champion") -> str:
    """Why it is champion; a gate's reasons are a sentence of their own."""
    by_hand = f"{champion.action} by {champion.who}: "
    return ("" if champion.who == "gate" else by_hand) + champion.why


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option} {text!r}: write NAME=CRON, for example train='0 3 * * 0'")
    return name, value


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise ConfigError("--reason '': say why; it is kept in the model's log")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _say_where(api_url: str) -> None:
    err.print(f"deploying to {shown(api_url)}; it takes a minute where the server is busy")


def _use_api(settings: Settings) -> str:
    """Point Prefect, before it is imported, to the user's server or the running local stack."""
    from flows.stack import require_healthy, require_up, running_stack

    os.environ.update(prefect_environment(settings))
    if settings.prefect_api_url:
        require_healthy(settings.prefect_api_url)
        return settings.prefect_api_url
    stack = running_stack(settings)
    if stack is None:
        raise StackError(
            "no Prefect server runs; start the local stack with 'make up' or 'cxr up', or set "
            "PREFECT_API_URL to one of your own"
        )
    require_up(stack)
    os.environ["PREFECT_API_URL"] = stack.api_url
    return stack.api_url
