"""Commands that train or measure: ``train``, ``crossval`` and ``evaluate``."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError
from cxr_model.run_folder import RunFolder, read_json
from flows.commands.shared import (
    ConfigFile,
    Data,
    Local,
    Preset,
    Resume,
    RunId,
    Setting,
    err,
    open_store,
    out,
    refuse_beside,
)
from flows.settings import Settings

if TYPE_CHECKING:
    from flows.jobs import Job
    from tasks.storage_location import StoreLocation


def train(
    context: typer.Context,
    data: Data = None,
    preset: Preset = "standard",
    config: ConfigFile = None,
    settings_: Setting = None,
    run_id: RunId = "",
    resume: Resume = "",
    local: Local = False,
) -> None:
    """Run the main job: from films to a published report."""
    from flows.configuration import load_config

    settings = Settings.from_environment()
    if resume:
        _refuse_beside_resume(context)
        run_config, run_id = _settings_of(resume, settings), resume
        if RunFolder(settings.runs_dir / resume).crossval_config.exists():
            raise ConfigError(
                f"run {resume}: is a cross-validation; use 'cxr crossval --resume {resume}'"
            )
    else:
        run_config = load_config(preset, config_file=config, settings=settings_ or (), source=data)
    _start("train", run_config, run_id, settings, resume=bool(resume), local=local)


def crossval(
    context: typer.Context,
    data: Data = None,
    preset: Preset = "standard",
    config: ConfigFile = None,
    settings_: Setting = None,
    folds: Annotated[int, typer.Option(help="Parts the films are dealt out to.")] = 5,
    repeats: Annotated[int, typer.Option(help="Times they are dealt out anew.")] = 1,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="naive or grouped; may be repeated. Default: both."),
    ] = None,
    validation_fraction: Annotated[
        float, typer.Option(help="Share of a fold's training films that chooses the epoch.")
    ] = 0.0,
    run_id: RunId = "",
    resume: Resume = "",
    local: Local = False,
) -> None:
    """Train and test on every film in turn, dealt out singly and by patient."""
    from cxr_model.crossval import require_begun
    from cxr_model.folds import PROTOCOLS, require_one_device
    from flows.configuration import crossval_config, load_config

    settings = Settings.from_environment()
    if resume:
        _refuse_beside_resume(context)
        run_config, run_id = _settings_of(resume, settings), resume
        run = RunFolder(settings.runs_dir / resume)
        require_begun(run)
        plan = crossval_config(read_json(run.crossval_config))
    else:
        run_config = load_config(preset, config_file=config, settings=settings_ or (), source=data)
        plan = crossval_config(
            {
                "num_folds": folds,
                "repeats": repeats,
                "protocols": protocol or list(PROTOCOLS),
                "validation_fraction": validation_fraction,
            }
        )
    require_one_device(run_config.training.num_devices)
    parameters = {"crossval": asdict(plan)}
    _start("crossval", run_config, run_id, settings, resume=bool(resume), local=local, **parameters)


def evaluate(
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="A published run's id, latest, champion or MODEL/champion."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="Films that the network never saw, named as for 'cxr train'."
        ),
    ],
    settings_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How these films are read (data, labels, phantom); default: as the run's.",
        ),
    ] = None,
    run_id: RunId = "",
    local: Local = False,
) -> None:
    """Measure a run's network on another data set: external validation.

    Films that the run met are left out. The result is published as a run of its own.
    """
    from flows import jobs
    from flows.configuration import change_config, config_from_values
    from flows.run_id import new_run_id
    from tasks.checkpoint_store import require_unbegun
    from tasks.manifest import LATEST, check_run_id
    from tasks.named_model import find_model
    from tasks.registry import VERSION_FILES
    from tasks.run_store import require_unpublished
    from tasks.sources import check_source, parse_source

    settings = Settings.from_environment()
    parse_source(data)  # refused before a network is fetched
    if run_id:
        check_run_id(run_id)
    with open_store(settings) as store:
        store.check()
        if run_id:
            require_unpublished(store, run_id)
            require_unbegun(store, RunFolder(settings.runs_dir / run_id), run_id)
        found = find_model(store, run, settings.fetched_dir, VERSION_FILES)
        trained = found.fetch()
    if run == LATEST:  # which may be another one when the worker's turn comes
        run = found.run_id
    other = change_config(config_from_values(read_json(trained.config)), settings_ or ())
    other = replace(other, preset="evaluate", data=replace(other.data, source=data))
    other = check_source(other, settings.data_dir, every_class=False)
    run_id = run_id or new_run_id(other)
    parameters = {"source": other.data.source, "run": run, "settings": settings_ or []}
    job = jobs.Job(name="evaluate", run_id=run_id, parameters=parameters | {"run_id": run_id})
    _run(job, settings, local=local)


def _refuse_beside_resume(context: typer.Context) -> None:
    refuse_beside(
        context,
        "--resume goes on with the settings the run began with",
        ("resume", "local"),
    )


def _settings_of(run_id: str, settings: Settings) -> RunConfig:
    from flows.configuration import config_from_values
    from tasks.checkpoint_store import read_run_settings
    from tasks.manifest import check_run_id

    check_run_id(run_id)
    with open_store(settings) as store:
        values = read_run_settings(store, RunFolder(settings.runs_dir / run_id), run_id)
    return config_from_values(values)


def _start(
    flow: str, run_config: RunConfig, run_id: str, settings: Settings, *, local: bool, **others: Any
) -> None:
    """Check what can be checked here, then run ``flow`` on a worker or in this process."""
    from flows import jobs
    from flows.run_id import new_run_id
    from tasks.bucket_source import require_objects
    from tasks.checkpoint_store import require_unbegun
    from tasks.manifest import check_run_id
    from tasks.run_store import has_manifest, require_unpublished
    from tasks.sources import check_source

    run_config = check_source(run_config, settings.data_dir)
    run_id = run_id or new_run_id(run_config)
    check_run_id(run_id)
    with open_store(settings) as store:  # refused here in a second, on the worker in thirty
        store.check()
        is_worker_here = settings.prefect_api_url is None
        if is_worker_here and run_config.data.source.startswith("s3://"):
            require_objects(store.location.at(run_config.data.source))
        if others.get("resume") and has_manifest(store, run_id):
            raise ConfigError(
                f"run {run_id}: is published, nothing is left to do; 'cxr report {run_id}' fetches "
                f"it, 'cxr promote {run_id} --reason ...' decides on its network"
            )
        require_unpublished(store, run_id)
        if not others.get("resume"):
            require_unbegun(store, RunFolder(settings.runs_dir / run_id), run_id)
    training = run_config.training
    asks_for_devices = training.device != "auto" or training.num_devices > 1
    if is_worker_here and asks_for_devices:
        from cxr_model.device import check_devices

        check_devices(training.device, training.num_devices)
    parameters = {"config": asdict(run_config), "run_id": run_id, **others}
    _run(jobs.Job(name=flow, run_id=run_id, parameters=parameters), settings, local=local)


def _run(job: "Job", settings: Settings, *, local: bool) -> None:
    from flows import jobs

    def tell_outcome(location: "StoreLocation") -> None:
        _print_outcome(job.run_id, settings, location)

    if local:
        try:
            jobs.run_here(job, settings, tell_outcome)
        except KeyboardInterrupt:
            err.print(f"interrupted{job.way_back}")
            raise
    else:
        jobs.run_on_worker(job, settings, out, err, tell_outcome)


def _print_outcome(run_id: str, settings: Settings, location: "StoreLocation") -> None:
    from cxr_model.intervals import format_estimate
    from tasks.run_store import read_manifest
    from tasks.storage import ObjectStore

    with ObjectStore(location) as store:
        headline = read_manifest(store, run_id).headline
    n = headline["accuracy"]["n"]
    out.print(f"\nrun                {run_id}")
    out.print(f"network            {headline['network']}")
    for name, key in (
        ("accuracy", "accuracy"),
        ("balanced accuracy", "balanced_accuracy"),
        ("naive accuracy", "naive_accuracy"),  # of a cross-validation
    ):
        if key in headline:
            figure = format_estimate(headline[key])
            out.print(f"{name:<18} {figure} on {n} films, 95 % interval")
    if leakage := headline.get("leakage_estimate"):
        out.print(
            f"leakage estimate   {leakage['value']:+z.3f} ({leakage['ci_low']:+z.3f} to "
            f"{leakage['ci_high']:+z.3f}): naive minus grouped accuracy; the luck of trainings is "
            "in the difference and not in its interval"
        )
    if gates := headline.get("gates"):
        told = (
            f"{name} {state.upper() if state == 'failed' else state}"
            for name, state in gates.items()
        )
        whose = "its run's gates" if "model" in headline else "gates"  # of an evaluation
        out.print(f"{whose:<18} {', '.join(told)}")
    out.print(f"report             {location.uri(f'runs/{run_id}/report.html')}")
    copy = settings.runs_dir / run_id / "report.html"
    if copy.exists():  # not when the worker is another machine
        out.print(f"                   {copy}")
    out.print(f"                   show it: cxr report {run_id} --open")
