"""The command ``audit``."""

import json
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from cxr_model.run_folder import RunFolder, make_folder
from flows.commands.shared import Json, Preset, Setting, err, out
from flows.settings import Settings

if TYPE_CHECKING:
    from cxr_model.config import RunConfig

_MOST_SHOWN = 10


def audit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="phantom[:N], kaggle[:owner/slug[/version]], a folder, a zip file or "
            "s3://bucket/prefix.",
        ),
    ],
    preset: Preset = "standard",
    settings_: Setting = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for a page, a datasheet and all findings.", file_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a set of films: copies, damage, wrong files, patients, what gives classes away."""
    from flows.configuration import load_config

    config = load_config(preset, settings=settings_ or (), source=source)
    if to:
        make_folder(to)  # refused before minutes of work
    # Here unreadable films are a finding, however many there are, unless no film is readable.
    config = replace(config, data=replace(config.data, max_unreadable_fraction=1.0))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        record, name = _examine(run, config, Settings.from_environment())
        if to:
            from cxr_model.reports.audit_page import write_audit_page

            write_audit_page(record, name, to / "audit.html")
            for file in (run.hygiene, run.findings, run.datasheet):
                shutil.copyfile(file, to / file.name)
    if as_json:
        print(json.dumps(record, indent=2))
        return
    _print(record, name)
    if to:
        out.print(f"\n{to / 'audit.html'}")


def _examine(run: RunFolder, config: "RunConfig", settings: Settings) -> tuple[dict[str, Any], str]:
    """The record of `audit_films`, and the source's name."""
    from cxr_model.hygiene.audit import audit_films
    from cxr_model.hygiene.datasheet import write_datasheet
    from cxr_model.index import build_index, write_index
    from flows.embedded_store import store_for
    from tasks.ingest import ingest
    from tasks.sources import check_source

    config = check_source(config, settings.data_dir, every_class=False)
    bucket = config.data.source.startswith("s3://")
    with store_for(settings) if bucket else nullcontext(settings.store) as location:
        films = ingest.fn(config, settings.data_dir, location)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("films", total=None)
        index = build_index(
            films.root,
            config.data,
            config.labels,
            near_duplicates=config.hygiene.near_duplicates,
            every_class=False,
            thumbnails=run.thumbnails,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    write_index(index, run.index)
    record = audit_films(run, config, films.root)
    write_datasheet(run, config, films.source, films.provenance)
    return record, films.source


def _print(record: dict[str, Any], source: str) -> None:
    from cxr_model.intervals import format_estimate

    patients, groups = record["patients"], record["groups"]
    out.print(f"{source}: {record['num_films']:,} films in {groups['count']:,} groups")
    out.print(
        f"{patients['count']:,} patients, {patients['in_several_classes']:,} of them in several "
        f"classes; {patients['films_sharing']:,} films share their patient, "
        f"{patients['films_without']:,} name none"
    )
    table = Table("finding", "films", "first of them")
    for finding, lines in _findings(record).items():
        is_known = finding != "near duplicate" or record["near_duplicates"]["searched"]
        count = f"{record['counts'][finding]:,}" if is_known else "not looked for"
        table.add_row(finding, count, "\n".join(lines[:_MOST_SHOWN]))
    out.print(table)
    table = Table("class", "films", "size (median)", "formats", "modes", "JPEG quality", "border")
    for label, films in record["fingerprint"].items():
        table.add_row(
            label,
            f"{films['films']:,}",
            f"{films['width']['median']:.0f} x {films['height']['median']:.0f}",
            *(
                ", ".join(f"{kind} {n:,}" for kind, n in films[name].items())
                for name in ("formats", "modes")
            ),
            f"{films['jpeg_quality']['median']:.0f}" if films["jpeg_quality"] else "",
            f"{films['border_grey']['median']:.0f}",
        )
    out.print(table)
    told = record["told_apart_by"]
    for row in told[:3]:
        out.print(
            f"{row['property'].replace('_', ' ')} alone tells the classes apart with balanced "
            f"accuracy {format_estimate(row['balanced_accuracy'])} (chance {row['chance']:.2f})"
        )
    for label in told[0]["against_the_rest"] if told else ():
        best = max(told, key=lambda row: row["against_the_rest"][label]["value"])
        out.print(
            f"{label} is told from the rest best by {best['property'].replace('_', ' ')}: "
            f"{format_estimate(best['against_the_rest'][label])} (chance 0.50; the best of "
            f"{len(told)} properties, which lifts it a little)"
        )


def _findings(record: dict[str, Any]) -> dict[str, list[str]]:
    """By the names of ``record["counts"]``: a line for each of the first groups or films."""
    near, conflicts = record["near_duplicates"]["groups"], record["label_conflicts"]
    return {
        "unreadable": [f"{film['path']}: {film['error']}" for film in record["unreadable"]],
        "exact duplicate": [" = ".join(paths) for paths in record["exact_duplicates"]["groups"]],
        "near duplicate": [f"{' ~ '.join(g['paths'])} ({g['distance']})" for g in near],
        "label conflict": [
            f"{' ~ '.join(c['paths'])} ({', '.join(c['labels'])})" for c in conflicts
        ],
        "blank": record["blank"],
        "inverted": record["inverted"],
        "not a radiograph": [
            f"{film['path']}: {film['why']}" for film in record["not_radiographs"]
        ],
        "odd size": [
            f"{film['path']}: {film['width']} x {film['height']}" for film in record["odd_sizes"]
        ],
        "shared patient": [
            f"{' ~ '.join(each['paths'])} ({', '.join(each['labels'])})"
            for each in record["patients"]["shared"]
        ],
    }
