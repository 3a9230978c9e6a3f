"""Commands about what is published: ``runs``, ``report`` and ``export``."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from cxr_model.errors import ConfigError
from cxr_model.run_folder import RunFolder, make_folder
from flows.commands.shared import Json, RunName, err, open_store, out
from flows.settings import Settings


def runs(as_json: Json = False) -> None:
    """List the published runs, newest first."""
    from cxr_model.intervals import format_estimate
    from tasks.run_store import list_runs

    with open_store() as store:
        manifests = list_runs(store)
    if as_json:
        rows = [{"run_id": run.run_id, "created": run.created, **run.headline} for run in manifests]
        print(json.dumps(rows, indent=2))
        return
    if not manifests:
        out.print("no run is published yet; begin with 'cxr train'")
        return
    names = ("run", "accuracy", "balanced accuracy", "not green")
    table = Table(*(Column(name, overflow="fold") for name in names), show_lines=True)
    for run in manifests:
        gates = run.headline.get("gates", {})
        figures = (
            format_estimate(run.headline[name]) for name in ("accuracy", "balanced_accuracy")
        )
        table.add_row(
            f"{run.run_id}\n{run.created[:16].replace('T', ' ')} UTC\n"
            f"{run.headline['source']}, {run.headline['network']}",
            *figures,
            "\n".join(f"{name}\n  {state}" for name, state in gates.items() if state != "passed")
            or ("none" if gates else ""),
        )
    out.print(table)


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

    if url and (to or open_):
        raise ConfigError("--url fetches nothing; leave --to and --open out")
    settings = Settings.from_environment()
    with open_store(settings) as store:
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


def export(
    run: RunName,
    format_: Annotated[
        str, typer.Option("--format", help="onnx, torchscript or safetensors.")
    ] = "onnx",
    to: Annotated[
        Path | None, typer.Option(help="File to write, or its folder; default: RUN.<suffix>.")
    ] = None,
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
    """Write a run's network for other programs, and compare its answers with PyTorch's.

    Its classes and the size of its films are written beside it, as JSON.
    """
    from cxr_model.export import FORMATS, NUM_NOISE, SUFFIXES, export_model
    from cxr_model.model_files import ModelCard
    from cxr_model.predict import decode_folder
    from tasks.named_model import NETWORK_FILES

    if format_ not in FORMATS:
        raise ConfigError(f"--format {format_!r}: use one of {', '.join(FORMATS)}")
    if to:
        make_folder(to.parent)
    model = fetch_model(run, NETWORK_FILES)
    card = ModelCard.read(model.model_card)
    path = to or Path()
    if path.is_dir():
        path /= card.run_id + SUFFIXES[format_]
    compared = decode_folder(films, card)
    difference = export_model(model, format_, path, compared)
    beside = path.with_suffix(".json")
    if as_json:
        told = {"path": str(path), "card": str(beside), "run_id": card.run_id}
        compared_on = {"num_films": len(compared), "num_noise": NUM_NOISE}
        print(json.dumps(told | compared_on | {"max_difference": difference}))
    elif difference is None:
        out.print(f"{path}: the weights of run {card.run_id} as they are; its card: {beside}")
    else:
        on = f"{len(compared)} films and " if len(compared) else ""
        out.print(
            f"{path}: the network of run {card.run_id} (its card: {beside}); differs from PyTorch "
            f"by {difference:.1e} at most in a probability, on {on}{NUM_NOISE} pictures of noise"
        )


def fetch_model(name: str, files: tuple[str, ...]) -> RunFolder:
    """Fetch those files of a run, the newest one that has them, or a champion."""
    from tasks.named_model import find_model

    settings = Settings.from_environment()
    with open_store(settings) as store:
        return find_model(store, name, settings.fetched_dir, files).fetch()
