"""``cxr``, the command line."""

import json
import os
import sys
from dataclasses import asdict

import typer
from rich.table import Column, Table

from cxr_model.errors import CxrError
from flows.commands import audit, bench, compare, jobs, operate, predict, results, serve
from flows.commands.shared import Json, Preset, err, out
from flows.settings import LOOPBACK, Settings

app = typer.Typer(
    name="cxr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, measure and explain a residual network on chest radiographs. "
    "Not a medical device.",
)
app.command(epilog="Example: cxr train --data ../films --preset standard --set training.epochs=40")(
    jobs.train
)
app.command(epilog="Example: cxr crossval --data ../films --folds 5 --protocol naive")(
    jobs.crossval
)
app.command(epilog="Example: cxr evaluate --run latest --data ../other-films --run-id elsewhere")(
    jobs.evaluate
)
app.command(epilog="Example: cxr audit ../films --to audit")(audit.audit)
app.command(epilog="Example: cxr bench train --data ../films --json")(bench.bench)
app.command(epilog="Example: cxr runs --json")(results.runs)
app.command(epilog="Example: cxr report latest --to reports")(results.report)
app.command(epilog="Example: cxr compare cxr3-standard latest --json")(compare.compare)
app.command(epilog="Example: cxr predict inbox 'study/*.dcm' --to predictions.csv")(predict.predict)
app.command(epilog="Example: cxr export latest --format onnx --films ../films/normal")(
    results.export
)
app.command(epilog="Example: cxr deploy --data ../films --schedule train='0 3 * * 0'")(
    operate.deploy
)
app.command(epilog="Example: cxr status --json")(operate.status)
app.command(epilog="Example: cxr models --json")(operate.models)
app.command(epilog="Example: cxr promote latest --reason 'approved by the reading room'")(
    operate.promote
)
app.command(epilog="Example: cxr rollback cxr3 --reason 'more false alarms'")(operate.rollback)
app.command(epilog="Example: cxr serve --model latest --port 8080")(serve.serve)


def main() -> None:
    """Entry point: a ``CxrError`` becomes one line and exit code 2."""
    _spare_loopback_the_proxy()
    try:
        app()
    except CxrError as error:
        err.print(f"error: {error}", style="red")
        sys.exit(2)


def _spare_loopback_the_proxy() -> None:
    """What is reached on this machine is not asked of a proxy, here and in what is started."""
    names = ("NO_PROXY", "no_proxy")  # programs prefer either, and the user may have set one
    others = [host for name in names for host in os.environ.get(name, "").split(",") if host]
    for name in names:
        os.environ[name] = ",".join(dict.fromkeys([*others, LOOPBACK, "localhost"]))


@app.command("settings", epilog="Example: cxr settings --preset best")
def show_settings(preset: Preset = "standard", as_json: Json = False) -> None:
    """List every KEY that --set takes, with its value in a preset."""
    from flows.configuration import describe_settings, load_config

    rows = describe_settings(load_config(preset))
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    others = (Column(name, overflow="fold") for name in (f"value in {preset}", "what it is"))
    table = Table(Column("key", no_wrap=True), *others)  # to be copied whole
    for row in rows:
        table.add_row(row.key, json.dumps(row.value), row.description)
    out.print(table)


@app.command(epilog="Example: cxr doctor")
def doctor(as_json: Json = False) -> None:
    """Versions, device, disk, memory, and what can be reached; exit code 1 if something fails."""
    from flows.examine import examine

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


if __name__ == "__main__":
    main()
