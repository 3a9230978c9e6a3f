"""Cross-validations joined to the committed table, and its paired comparisons.

    python -m benchmarks.crossval_table .cxr/runs/RUN --command "cxr crossval ..."

adds the rows of RUN to ``benchmarks/results/crossval-cxr3.json`` (a row of the same model
and protocol is replaced) with the predictions of each beside it, and prints the table.
"""

import argparse
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

from cxr_model.paired import compare_predictions
from cxr_model.run_folder import read_json, write_json
from cxr_model.stages import read_predictions

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "crossval-cxr3.json"


def add_run(run: Path, command: str) -> None:
    """Put the rows of a finished cross-validation into the table."""
    record = read_json(run / "crossval.json")
    table = read_json(TABLE) if TABLE.exists() else {"rows": []}
    added = [
        row
        | {
            "command": command,
            "epochs": read_json(run / "config.json")["training"]["epochs"],
            "size_px": read_json(run / "config.json")["data"]["size_px"],
            "classes": record["data"]["classes"],
            "data_digest": record["data"]["digest"],
            "git_revision": record["environment"]["git_revision"],
        }
        for row in record["rows"]
    ]
    names = {(row["model"], row["protocol"]) for row in added}
    kept = [row for row in table["rows"] if (row["model"], row["protocol"]) not in names]
    rows = sorted([*kept, *added], key=lambda row: (row["protocol"], row["model"]))
    for row in added:
        shutil.copyfile(run / f"predictions-{row['protocol']}.csv", predictions_file(row))
    write_json(TABLE, {"rows": rows})


def predictions_file(row: dict[str, Any]) -> Path:
    return RESULTS / f"crossval-cxr3-{row['model']}-{row['protocol']}.csv"


def print_table(rows: list[dict[str, Any]], draws: int = 2000) -> None:
    """Markdown: the rows, then cxresnet against each other model on the same films."""
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    print("| protocol | model | accuracy | balanced accuracy | macro F1 | COVID-19 sensitivity |"
          " parameters | epochs | px | training s | run |")  # fmt: skip
    print("|---" * 11 + "|")
    for row in rows:
        means = [*(row[name] for name in names), row["sensitivity"]["covid"]]
        cells = [f"{m['mean']:.3f} ({m['ci_low']:.2f}–{m['ci_high']:.2f})" for m in means]
        cells += [f"{row['num_parameters']:,}", str(row["epochs"]), str(row["size_px"])]
        cells += [f"{row['training_seconds']:.0f}", row["run_id"]]
        print(f"| {row['protocol']} | {row['model']} | {' | '.join(cells)} |")
    classes = rows[0]["classes"]
    for protocol, group in groupby(rows, key=lambda row: row["protocol"]):
        # Each film once: a comparison is of one repeat.
        tables = {
            row["model"]: read_predictions(predictions_file(row)).query("repeat == 1")
            for row in group
        }
        if "cxresnet" not in tables:
            continue
        ours = tables.pop("cxresnet")
        for model, theirs in tables.items():
            found = compare_predictions(ours, theirs, classes, draws=draws, seed=0)
            gap = found["accuracy"]
            folds = [table.sort_values("path")["fold"].tolist() for table in (ours, theirs)]
            where = "" if folds[0] == folds[1] else " (other folds: train one of them anew)"
            print(
                f"\n{protocol}: cxresnet minus {model}{where}, accuracy {gap['value']:+.3f} "
                f"({gap['ci_low']:+.3f} to {gap['ci_high']:+.3f}), McNemar p = "
                f"{found['mcnemar']['p_value']:.2g}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.crossval_table")
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished cross-validation")
    parser.add_argument("--command", default="", help="what was typed to get it")
    arguments = parser.parse_args()
    if arguments.run:
        add_run(arguments.run, arguments.command)
    print_table(read_json(TABLE)["rows"])


if __name__ == "__main__":
    main()
