"""``cxr``, the command line. Heavy modules are imported by the command that needs them."""

import json
import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Column, Table

from cxr_model.config import RunConfig
from cxr_model.errors import CxrError
from flows.settings import Settings, prefect_environment

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
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or "
            "s3://bucket/prefix. Default: phantom.",
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "standard",
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file with settings.")
    ] = None,
    settings_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated."),
    ] = None,
    run_id: Annotated[str, typer.Option(help="Name of the run; default: made up.")] = "",
    local: Annotated[
        bool, typer.Option("--local", help="Run the flow in this process, without a worker.")
    ] = False,
) -> None:
    """Run the main job: from films to a published report."""
    from flows.configuration import load_config
    from flows.run_id import new_run_id
    from tasks.manifest import check_run_id
    from tasks.sources import check_source
    from tasks.storage import ObjectStore

    settings = Settings.from_environment()
    run_config = load_config(preset, config_file=config, settings=settings_ or (), source=data)
    run_config = check_source(run_config, settings.data_dir)
    run_id = run_id or new_run_id(run_config)
    check_run_id(run_id)
    if not settings.uses_embedded_store:
        with ObjectStore(settings.store) as store:
            store.check()
    if local:
        _train_here(run_config, run_id, settings)
    else:
        _train_on_worker(run_config, run_id, settings)


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
    from cxr_model.checkpoint import load_model
    from cxr_model.device import resolve_device
    from cxr_model.predict import predict_files
    from cxr_model.run_folder import RunFolder
    from tasks.run_store import fetch_run

    settings = Settings.from_environment()
    with _open_store(settings) as store:
        folder = fetch_run(
            store, run, settings.fetched_dir, ["model/model.safetensors", "model/model.json"]
        )
    network, card = load_model(RunFolder(folder), resolve_device("auto"))
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


def _train_here(run_config: RunConfig, run_id: str, settings: Settings) -> None:
    from flows.embedded_store import store_for
    from flows.stack import require_healthy, running_stack

    os.environ.update(prefect_environment(settings))
    if settings.prefect_api_url:
        require_healthy(settings.prefect_api_url)
    elif stack := running_stack(settings):
        os.environ["PREFECT_API_URL"] = stack.api_url  # two servers would share its database
    with store_for(settings) as location:
        if settings.uses_embedded_store:
            os.environ["CXR_S3_PORT"] = str(urlsplit(location.endpoint_url).port)
        from flows.train import train as train_flow

        train_flow(run_config, run_id)
        _print_outcome(run_id, settings, location)


def _train_on_worker(run_config: RunConfig, run_id: str, settings: Settings) -> None:
    from flows.embedded_store import store_for
    from flows.stack import api_with_worker

    os.environ.update(prefect_environment(settings))
    with ExitStack() as stack:
        api_url = stack.enter_context(api_with_worker(settings, err.print))
        # The local stack has the store in it; another server's worker looks for it there.
        location = settings.store
        if settings.prefect_api_url:
            location = stack.enter_context(store_for(settings, settings.store_port))
        from flows.submit import flow_run_page, train_on_worker

        flow_run_id = train_on_worker(run_config, run_id, api_url, out)
        _print_outcome(run_id, settings, location)
    out.print(f"Prefect UI         {flow_run_page(api_url, flow_run_id)}")
    if settings.prefect_api_url is None:
        out.print(
            "                   (it answers while the local stack runs: 'make up' or 'cxr up')"
        )


def _print_outcome(run_id: str, settings: Settings, location: "StoreLocation") -> None:
    from cxr_model.metrics import format_estimate
    from tasks.run_store import read_manifest
    from tasks.storage import ObjectStore

    with ObjectStore(location) as store:
        headline = read_manifest(store, run_id).headline
    n = headline["accuracy"]["n"]
    out.print(f"\nrun                {run_id}")
    for name, key in (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")):
        figure = format_estimate(headline[key])
        out.print(f"{name:<18} {figure} on {n} holdout films, 95 % interval")
    out.print(f"report             {location.uri(f'runs/{run_id}/report.html')}")
    copy = settings.runs_dir / run_id / "report.html"
    if copy.exists():  # not when the worker is another machine
        out.print(f"                   {copy}")
    out.print(f"                   show it: cxr report {run_id} --open")


if __name__ == "__main__":
    main()
