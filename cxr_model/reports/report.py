"""One self-contained ``report.html`` from the files of a run, and the pictures it shows.

The page needs no network, no script and no other file; whatever comes from names of films
and folders is escaped.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr_model.errors import DataError
from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.explanations.figure import explanation_panel, film_tile, heat_map_tile, jpeg_bytes
from cxr_model.reports import figures
from cxr_model.reports.architecture_figure import architecture_figure
from cxr_model.reports.page import data_uri, flatten, format_duration, template_environment
from cxr_model.run_folder import RunFolder, atomic_path
from cxr_model.splits import SPLITS, read_splits
from cxr_model.stages import read_predictions

# These keep the page below 5 MB however many classes and files there are.
GALLERY_FILMS = 12  # of the sample, and again of the mistakes
LISTED_FILES = 200


def build_report(run: RunFolder) -> Path:
    """Write ``report.html`` and ``figures/`` from the other files of ``run``; return its path.

    Raises ``DataError`` when one of those files is missing.
    """
    _require_files(run)
    metrics = json.loads(run.metrics.read_text())
    model = json.loads(run.model_card.read_text())
    films, num_explained = _explained_films(run)
    page = template_environment().get_template("report.html.j2").render(
        metrics=metrics,
        model=model,
        pictures=_draw_figures(run, metrics, model),
        splits=_split_rows(run),
        overlaps=_overlaps(run),
        films=films,
        num_explained=num_explained,
        method_titles=METHOD_TITLES,
        stage_times={
            stage: format_duration(seconds)
            for stage, seconds in metrics["timing"]["stages"].items()
        },
        settings=dict(flatten(json.loads(run.config.read_text()))),
        listed_files=LISTED_FILES,
    )  # fmt: skip
    with atomic_path(run.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run.report


def _require_files(run: RunFolder) -> None:
    for path in (
        run.metrics, run.config, run.splits, run.history, run.model_card, run.predictions,
        run.attributions / "index.csv",
    ):  # fmt: skip
        if not path.is_file():
            raise DataError(
                f"{path}: not found, the report needs it; run 'cxr train' to its end first"
            )


def _draw_figures(run: RunFolder, metrics: dict[str, Any], model: dict[str, Any]) -> dict[str, str]:
    """Write each drawing to ``figures/NAME.svg``; name to data URI."""
    history = pd.read_csv(run.history)
    holdout = metrics["holdout"]
    labels, probabilities = _holdout_predictions(run, holdout["classes"])
    channels = 3 if model["color"] == "rgb" else 1
    film_shape = (channels, model["size_px"], model["size_px"])
    drawings: dict[str, Figure] = {
        "class-counts": figures.class_counts_figure(metrics["data"]["counts"]),
        "architecture": architecture_figure(model["layers"], film_shape),
        "loss": figures.loss_curves(history),
        "balanced-accuracy": figures.balanced_accuracy_curve(
            history, metrics["training"]["best_epoch"]
        ),
        "learning-rate": figures.learning_rate_curve(history),
        "confusion-matrix": figures.confusion_figure(
            holdout["confusion_matrix"], holdout["classes"]
        ),
        "roc": figures.roc_curves(labels, probabilities, holdout["per_class"]),
        "precision-recall": figures.precision_recall_curves(
            labels, probabilities, holdout["per_class"]
        ),
    }
    uris = {}
    for name, drawing in drawings.items():
        svg = figures.svg_bytes(drawing)
        _write_bytes(run.figures / f"{name}.svg", svg)
        uris[name] = data_uri("image/svg+xml", svg)
    return uris


def _holdout_predictions(run: RunFolder, classes: list[str]) -> tuple[Any, Any]:
    """True class names (N,) and probabilities (N, C) of the holdout films."""
    table = read_predictions(run.predictions)
    table = table[table["split"] == "holdout"]
    probabilities = table[[f"probability_{label}" for label in classes]]
    return table["label"].to_numpy(dtype=str), probabilities.to_numpy(dtype=np.float64)


def _split_rows(run: RunFolder) -> list[dict[str, Any]]:
    """Films and groups of each split."""
    splits = read_splits(run.splits)
    rows = []
    for name in SPLITS:
        films = splits[splits["split"] == name]
        rows.append({"split": name, "films": len(films), "groups": int(films["group"].nunique())})
    return rows


def _overlaps(run: RunFolder) -> dict[str, int]:
    """How many groups and how many digests stand in more than one split; both ought to be 0."""
    splits = read_splits(run.splits)
    return {
        column: int((splits.groupby(column)["split"].nunique() > 1).sum())
        for column in ("group", "sha256")
    }


def _explained_films(run: RunFolder) -> tuple[list[dict[str, Any]], int]:
    """The gallery in the order of ``attributions/index.csv``, and how many films have maps.

    Writes each film's panel to ``figures/explanation-NN.jpg``, so that the pictures can be
    shown elsewhere too.
    """
    index = pd.read_csv(run.attributions / "index.csv", dtype=str, keep_default_na=False)
    for stale in run.figures.glob("explanation-*.jpg"):
        stale.unlink()
    by_film = [rows for _, rows in index.groupby("file", sort=False)]
    shown = {"sample": 0, "mistake": 0}
    films: list[dict[str, Any]] = []
    for rows in by_film:
        chosen = rows["chosen"].iloc[0]
        shown[chosen] += 1
        if shown[chosen] <= GALLERY_FILMS:
            films.append(_explained_film(run, rows, len(films) + 1))
    return films, len(by_film)


def _explained_film(run: RunFolder, rows: pd.DataFrame, number: int) -> dict[str, Any]:
    first = rows.iloc[0]
    explained = []
    with np.load(run.attributions / first["file"]) as arrays:
        film = arrays["film"]
        mask = arrays["mask"] if "mask" in arrays and arrays["mask"].any() else None
        original = film_tile(film, mask)
        for target, maps in rows.groupby("target", sort=False):
            tiles = {
                row["method"]: heat_map_tile(film, arrays[row["array"]], row["method"], mask)
                for _, row in maps.iterrows()
            }
            explained.append((target, tiles))
    title = f"true {first['label']}, predicted {first['predicted']}"
    panel = [
        [("film", original)]
        + [(f"{METHOD_TITLES[method]}: {target}", tile) for method, tile in tiles.items()]
        for target, tiles in explained
    ]
    _write_bytes(
        run.figures / f"explanation-{number:02d}.jpg", jpeg_bytes(explanation_panel(title, panel))
    )
    return {
        **{name: first[name] for name in ("path", "label", "predicted", "chosen")},
        "probability": float(first["probability"]),
        "outlined": mask is not None,
        "picture": data_uri("image/jpeg", jpeg_bytes(original)),
        "targets": [
            {
                "name": target,
                "maps": {
                    method: data_uri("image/jpeg", jpeg_bytes(tile))
                    for method, tile in tiles.items()
                },
            }
            for target, tiles in explained
        ],
    }


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
