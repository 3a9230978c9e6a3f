"""What a cross-validation found: ``crossval.json``, the predictions and the page."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from cxr_model.config import RunConfig
from cxr_model.crossval import leakage_estimate, summarise_protocol
from cxr_model.environment import environment_record
from cxr_model.folds import PROTOCOLS, CrossvalConfig, plan_folds
from cxr_model.index import data_digest, patient_summary, read_index
from cxr_model.intervals import Estimate
from cxr_model.labels import order_classes
from cxr_model.reports import figures
from cxr_model.reports.page import data_uri, template_environment
from cxr_model.run_folder import RunFolder, atomic_path, read_json, write_json, write_table
from cxr_model.stages import read_predictions

SCHEMA_VERSION = 1
TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
}


def write_crossval(
    run: RunFolder, run_id: str, config: RunConfig, crossval: CrossvalConfig, *, source: str
) -> dict[str, Any]:
    """Join the folds below ``run``; write and return ``crossval.json``, and the page.

    ``predictions-PROTOCOL.csv`` holds a row a film and repeat, each predicted by the one
    network that was not trained on it.
    """
    index = read_index(run.index)
    classes = order_classes(index.loc[index["error"] == "", "label"], config.labels)
    tables: dict[str, pd.DataFrame] = {}
    rows: list[dict[str, Any]] = []
    for protocol in crossval.protocols:
        folds = [fold for fold in plan_folds(crossval) if fold.protocol == protocol]
        runs = [run.fold(fold.name) for fold in folds]
        tables[protocol] = pd.concat(
            read_predictions(each.predictions)
            .drop(columns="split")
            .assign(repeat=fold.repeat, fold=fold.number)
            for each, fold in zip(runs, folds, strict=True)
        ).reset_index(drop=True)
        write_table(run.protocol_predictions(protocol), tables[protocol])
        records = [read_json(each.metrics) for each in runs]
        rows.append(
            {
                "model": config.network.name,
                "protocol": protocol,
                "folds": crossval.num_folds,
                "repeats": crossval.repeats,
                **summarise_protocol(tables[protocol], records, classes),
                "run_id": run_id,
            }
        )
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": config.preset,
        "source": source,
        "data": {
            "digest": data_digest(index),
            "num_films": int((index["error"] == "").sum()),
            "classes": classes,
            "patients": patient_summary(index),
        },
        "crossval": asdict(crossval),
        "rows": rows,
        "leakage_estimate": (
            leakage_estimate(
                tables["naive"],
                tables["grouped"],
                classes,
                draws=config.evaluate.bootstrap_draws,
                seed=config.evaluate.seed,
            )
            if len(tables) == 2
            else None
        ),
        "environment": environment_record(rows[0]["device"]),
    }
    write_json(run.crossval, record)
    _write_page(run, record, tables)
    return record


def _write_page(run: RunFolder, record: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    classes = record["data"]["classes"]
    pictures = {}
    for protocol, table in tables.items():
        confusion = pd.crosstab(table["label"], table["predicted"]).reindex(
            index=classes, columns=classes, fill_value=0
        )
        drawing = figures.confusion_figure(confusion.to_numpy().tolist(), classes)
        pictures[protocol] = figures.svg_bytes(drawing)
        with atomic_path(run.figures / f"confusion-{protocol}.svg") as temporary:
            temporary.write_bytes(pictures[protocol])
    page = (
        template_environment()
        .get_template("crossval.html.j2")
        .render(
            record=record,
            titles=TITLES,
            pictures={name: data_uri("image/svg+xml", data) for name, data in pictures.items()},
        )
    )
    with atomic_path(run.report) as temporary:
        temporary.write_text(page, encoding="utf-8")


def as_estimate(figure: dict[str, Any], n: int) -> Estimate:
    """A mean over folds in the shape of all other figures."""
    return {
        "value": figure["mean"],
        "ci_low": figure["ci_low"],
        "ci_high": figure["ci_high"],
        "n": n,
    }


def _dealt(row: dict[str, Any]) -> str:
    times = f", {row['repeats']} times" if row["repeats"] > 1 else ""
    return f"{row['folds']} folds{times}"


def crossval_headline(record: dict[str, Any]) -> dict[str, Any]:
    """What lists of runs show: the figures of the stricter protocol, and what the other adds."""
    row = max(record["rows"], key=lambda row: PROTOCOLS.index(row["protocol"]))
    n = record["data"]["num_films"]
    leakage = record["leakage_estimate"]
    naive = next((row for row in record["rows"] if row["protocol"] == "naive"), None)
    return {
        "preset": record["preset"],
        "source": record["source"],
        "network": f"{row['model']}, {_dealt(row)}, {row['protocol']}",
        "accuracy": as_estimate(row["accuracy"], n),
        "balanced_accuracy": as_estimate(row["balanced_accuracy"], n),
        **(
            {
                "naive_accuracy": as_estimate(naive["accuracy"], n),
                "leakage_estimate": leakage["accuracy"],
            }
            if naive and leakage
            else {}
        ),
    }


def summary_markdown(record: dict[str, Any]) -> str:
    """The table of the protocols, for the Prefect UI."""
    lines = [
        f"# {record['run_id']}",
        "",
        "| protocol | accuracy | balanced accuracy | macro F1 |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        figures_ = " | ".join(
            f"{row[name]['mean']:.3f} ({row[name]['ci_low']:.2f}–{row[name]['ci_high']:.2f})"
            for name in TITLES
        )
        lines.append(f"| {row['protocol']} | {figures_} |")
    leakage = record["leakage_estimate"]
    if leakage:
        gap = leakage["accuracy"]
        lines += [
            "",
            f"Leakage estimate (naive minus grouped accuracy): {gap['value']:+z.3f} "
            f"({gap['ci_low']:+z.2f} to {gap['ci_high']:+z.2f}).",
        ]
    return "\n".join([*lines, "", "Not a medical device."])
