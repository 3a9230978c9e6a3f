"""``cxr compare``: two published runs on the films that both were tested on."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from cxr_model.errors import ConfigError
from cxr_model.run_folder import RunFolder
from flows.commands.shared import Json, RunName, open_store, out
from flows.settings import Settings

if TYPE_CHECKING:
    from tasks.manifest import Manifest

_COMPARED = ("accuracy", "balanced_accuracy", "macro_f1")
_DRAWS = 2000


def compare(
    first: RunName,
    second: Annotated[str, typer.Argument(metavar="RUN", help="The run to compare it with.")],
    as_json: Json = False,
) -> None:
    """Compare two runs on the films that neither was trained on, matched by content.

    Paired bootstrap over patients and McNemar's test; of a cross-validation each film counts
    under the network of the fold that left it out.
    """
    from cxr_model.run_comparison import compare_runs, tell_comparison
    from tasks.run_store import fetch_run, read_manifest

    settings = Settings.from_environment()
    with open_store(settings) as store:
        manifests = [read_manifest(store, name) for name in (first, second)]
        names = [manifest.run_id for manifest in manifests]
        if names[0] == names[1]:
            raise ConfigError(f"{names[0]}: is named twice; name two different runs")
        folders = [
            RunFolder(fetch_run(store, run.run_id, settings.fetched_dir, _predictions_of(run)))
            for run in manifests
        ]
    found = compare_runs(*folders, draws=_DRAWS, seed=0)
    verdict = tell_comparison(found, *names)
    if as_json:
        print(json.dumps({"runs": names, "verdict": verdict, **found}, indent=2))
        return
    out.print(_table(found, names))
    out.print(f"{verdict}.")
    if found["protocol"]:
        out.print(f"A cross-validation counts by its {found['protocol']} folds, first repeat.")


def _predictions_of(run: "Manifest") -> list[str]:
    """The keys that the comparison reads; none of a run that has no predictions."""
    keys = {record.key for record in run.objects}
    single = ["predictions.csv", "data/splits.csv"]
    if set(single) <= keys:
        return single
    return sorted(key for key in keys if key.startswith("predictions-"))


def _table(found: dict[str, Any], names: list[str]) -> Table:
    from cxr_model.intervals import format_estimate

    table = Table("", *(Column(name, overflow="fold") for name in names), "difference")
    for name in _COMPARED:
        estimates = (found["first"][name], found["second"][name], found[name])
        table.add_row(name.replace("_", " "), *map(format_estimate, estimates))
    alone = found["mcnemar"]
    table.add_row("right alone", str(alone["only_first"]), str(alone["only_second"]), "")
    return table
