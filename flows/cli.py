"""``cxr``, the command line. Heavy modules are imported by the command that needs them."""

import json
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError, CxrError
from cxr_model.run_folder import RunFolder, read_json
from flows.settings import Settings

if TYPE_CHECKING:
    from tasks.storage import ObjectStore
    from tasks.storage_location import StoreLocation

app = typer.Typer(
    name="cxr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, measure and explain a residual network on chest radiographs. "
    "Not a medical device.",
)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
out = Console(soft_wrap=True, markup=False, highlight=False)

PRESET_HELP = "smoke, standard, best or seed."
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or "
        "s3://bucket/prefix. Default: phantom.",
    ),
]
Preset = Annotated[str, typer.Option(help=PRESET_HELP)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated."),
]
RunId = Annotated[str, typer.Option(help="Name of the run; default: made up.")]
Resume = Annotated[
    str,
    typer.Option(metavar="RUN", help="Go on with an interrupted run, from its newest checkpoint."),
]
Local = Annotated[
    bool, typer.Option("--local", help="Run the flow in this process, without a worker.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or 'latest'.")]


def main() -> None:
    """Entry point: a ``CxrError`` becomes one line and exit code 2."""
    try:
        app()
    except CxrError as error:
        err.print(f"error: {error}", style="red")
        sys.exit(2)


@app.command(epilog="Example: cxr train --data ../films --preset standard --set training.epochs=40")
def train(
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
        _refuse_beside_resume(data, config, settings_, run_id)
        run_config, run_id = _settings_of(resume, settings), resume
    else:
        run_config = load_config(preset, config_file=config, settings=settings_ or (), source=data)
    _start("train", run_config, run_id, settings, resume=bool(resume), local=local)


@app.command(epilog="Example: cxr crossval --data ../films --folds 5 --protocol naive")
def crossval(
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
    from cxr_model.folds import PROTOCOLS
    from flows.configuration import crossval_config, load_config

    settings = Settings.from_environment()
    if resume:
        _refuse_beside_resume(data, config, settings_, run_id, protocol)
        run_config, run_id = _settings_of(resume, settings), resume
        plan = crossval_config(read_json(settings.runs_dir / resume / "crossval-config.json"))
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
    parameters = {"crossval": asdict(plan)}
    _start("crossval", run_config, run_id, settings, resume=bool(resume), local=local, **parameters)


@app.command("settings", epilog="Example: cxr settings --preset best")
def show_settings(
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "standard", as_json: Json = False
) -> None:
    """List every KEY that --set takes, with its value in a preset."""
    from flows.configuration import describe_settings, load_config

    rows = describe_settings(load_config(preset))
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("key", f"value in {preset}", "what it is")
    for row in rows:
        table.add_row(row.key, json.dumps(row.value), row.description)
    out.print(table)


@app.command(epilog="Example: cxr runs --json")
def runs(as_json: Json = False) -> None:
    """List the published runs, newest first."""
    from cxr_model.metrics import format_estimate
    from tasks.run_store import list_runs

    with _open_store() as store:
        manifests = list_runs(store)
    if as_json:
        rows = [{"run_id": run.run_id, "created": run.created, **run.headline} for run in manifests]
        print(json.dumps(rows, indent=2))
        return
    if not manifests:
        out.print("no run is published yet; begin with 'cxr train'")
        return
    table = Table(
        Column("run", no_wrap=True),
        "published (UTC)",
        "data",
        "network",
        "accuracy",
        "balanced accuracy",
    )
    for run in manifests:
        figures = (
            format_estimate(run.headline[name]) for name in ("accuracy", "balanced_accuracy")
        )
        table.add_row(
            run.run_id,
            run.created[:16].replace("T", " "),
            run.headline["source"],
            run.headline["network"],
            *figures,
        )
    out.print(table)


@app.command(epilog="Example: cxr report latest --to reports")
def report(
    run: RunName,
    to: Annotated[
        Path | None, typer.Option(help="Folder for the run's files; default: below CXR_HOME.")
    ] = None,
    url: Annotated[bool, typer.Option("--url", help="Print an address valid for a day.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
) -> None:
    """Fetch a run's report and files, each checked against its digest."""
    from tasks.run_store import fetch_run, read_manifest, report_url
    from tasks.storage import ObjectStore

    settings = Settings.from_environment()
    with _open_store(settings) as store:
        if url:
            run_id = read_manifest(store, run).run_id
        else:
            folder = fetch_run(store, run, to or settings.fetched_dir)
    if url:
        # Signed for the store's usual place: the one started for this command ends with it.
        with ObjectStore(settings.store) as store:
            print(report_url(store, run_id))
        if settings.uses_embedded_store:
            err.print("note: the address answers while the local stack runs ('cxr up')")
        return
    page = (folder / "report.html").resolve()
    print(page)
    if open_:
        webbrowser.open(page.as_uri())


@app.command(epilog="Example: cxr predict film1.jpg film2.png --csv")
def predict(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Image files.", exists=True, dir_okay=False),
    ],
    run: Annotated[str, typer.Option(help="The run whose network answers.")] = "latest",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
    as_json: Json = False,
) -> None:
    """Class probabilities of films. For research only, not a diagnosis."""
    from cxr_model.device import resolve_device
    from cxr_model.model_files import load_model
    from cxr_model.predict import predict_files

    network, card = load_model(_fetch_model(run), resolve_device("auto"))
    table = predict_files(files, network, card)
    if as_json:
        print(json.dumps({"run_id": card.run_id, "films": table.to_dict("records")}, indent=2))
    elif as_csv:
        table.to_csv(sys.stdout, index=False)
    else:
        shown = Table(*(name.removeprefix("probability_") for name in table.columns))
        for row in table.itertuples(index=False):
            shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
        out.print(shown)


@app.command(epilog="Example: cxr export latest --format onnx --films ../films/normal")
def export(
    run: RunName,
    format_: Annotated[
        str, typer.Option("--format", help="onnx, torchscript or safetensors.")
    ] = "onnx",
    to: Annotated[Path | None, typer.Option(help="File to write; default: RUN.<suffix>.")] = None,
    films: Annotated[
        Path | None,
        typer.Option(
            help="Folder of films to compare the answers on, beside noise.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's network for other programs, and compare its answers with PyTorch's."""
    from cxr_model.export import FORMATS, SUFFIXES, export_model
    from cxr_model.model_files import ModelCard
    from cxr_model.predict import decode_folder

    if format_ not in FORMATS:
        raise ConfigError(f"--format {format_!r}: use one of {', '.join(FORMATS)}")
    model = _fetch_model(run)
    card = ModelCard.read(model.model_card)
    path = to or Path(card.run_id).with_suffix(SUFFIXES[format_])
    compared = decode_folder(films, card)
    difference = export_model(model, format_, path, compared)
    if as_json:
        told = {"path": str(path), "num_films": len(compared), "max_difference": difference}
        print(json.dumps(told))
    else:
        out.print(
            f"{path}: differs from PyTorch by {difference:.1e} at most in a probability, on "
            f"{len(compared)} films and as many of noise"
        )


@app.command(epilog="Example: cxr doctor")
def doctor(as_json: Json = False) -> None:
    """Versions, device, disk, memory, and what can be reached; exit code 1 if something fails."""
    from flows.doctor import examine

    findings = examine(Settings.from_environment())
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table("what", "state", "found", "remedy")
        for finding in findings:
            table.add_row(finding.name, finding.state, finding.found, finding.remedy)
        out.print(table)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: cxr up")
def up() -> None:
    """Start the local stack: Prefect server and UI, object store, worker. Ctrl-C ends it."""
    from flows.stack import run_stack

    raise typer.Exit(run_stack(Settings.from_environment()))


@app.command(epilog="Example: cxr down")
def down() -> None:
    """End the local stack that 'cxr up' started."""
    from flows.stack import stop_stack

    out.print(stop_stack(Settings.from_environment()))


@contextmanager
def _open_store(settings: Settings | None = None) -> Iterator["ObjectStore"]:
    """The bucket of the settings; the embedded one is started for the block if it is down."""
    from flows.embedded_store import store_for
    from tasks.storage import ObjectStore

    settings = settings or Settings.from_environment()
    with store_for(settings) as location, ObjectStore(location) as store:
        yield store


def _fetch_model(run: str) -> RunFolder:
    from tasks.run_store import fetch_run

    settings = Settings.from_environment()
    keys = ["model/model.safetensors", "model/model.json"]
    with _open_store(settings) as store:
        return RunFolder(fetch_run(store, run, settings.fetched_dir, keys))


def _refuse_beside_resume(*others: object) -> None:
    if any(others):
        raise ConfigError(
            "--resume goes on with the settings the run began with; leave --data, --config, "
            "--set and --run-id out"
        )


def _settings_of(run_id: str, settings: Settings) -> RunConfig:
    from flows.configuration import config_from_values
    from tasks.checkpoint_store import read_run_settings
    from tasks.manifest import check_run_id

    check_run_id(run_id)
    with _open_store(settings) as store:
        values = read_run_settings(store, RunFolder(settings.runs_dir / run_id), run_id)
    return config_from_values(values)


def _start(
    flow: str, run_config: RunConfig, run_id: str, settings: Settings, *, local: bool, **others: Any
) -> None:
    """Check what can be checked here, then run ``flow`` on a worker or in this process."""
    from flows import jobs
    from flows.run_id import new_run_id
    from tasks.manifest import check_run_id
    from tasks.sources import check_source
    from tasks.storage import ObjectStore

    run_config = check_source(run_config, settings.data_dir)
    run_id = run_id or new_run_id(run_config)
    check_run_id(run_id)
    if not settings.uses_embedded_store:
        with ObjectStore(settings.store) as store:
            store.check()
    parameters = {"config": asdict(run_config), "run_id": run_id, **others}
    job = jobs.Job(name=flow, run_id=run_id, parameters=parameters)

    def tell_outcome(location: "StoreLocation") -> None:
        _print_outcome(run_id, settings, location)

    if local:
        jobs.run_here(job, settings, tell_outcome)
    else:
        jobs.run_on_worker(job, settings, out, err, tell_outcome)


def _print_outcome(run_id: str, settings: Settings, location: "StoreLocation") -> None:
    from cxr_model.metrics import format_estimate
    from tasks.run_store import read_manifest
    from tasks.storage import ObjectStore

    with ObjectStore(location) as store:
        headline = read_manifest(store, run_id).headline
    n = headline["accuracy"]["n"]
    out.print(f"\nrun                {run_id}")
    out.print(f"network            {headline['network']}")
    for name, key in (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")):
        figure = format_estimate(headline[key])
        out.print(f"{name:<18} {figure} on {n} films, 95 % interval")
    out.print(f"report             {location.uri(f'runs/{run_id}/report.html')}")
    copy = settings.runs_dir / run_id / "report.html"
    if copy.exists():  # not when the worker is another machine
        out.print(f"                   {copy}")
    out.print(f"                   show it: cxr report {run_id} --open")


if __name__ == "__main__":
    main()
