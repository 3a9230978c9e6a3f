"""One self-contained ``report.html`` from the files of a run, and the pictures it shows.

The page needs no network and no other file; its one script is its own, allowed by its digest.
Whatever comes from names of films and folders is escaped.
"""

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxr_model.errors import DataError
from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.reliability.calibration import temper
from cxr_model.reports import figures
from cxr_model.reports.architecture_figure import architecture_figure
from cxr_model.reports.evidence import (
    Evidence,
    hygiene_rows,
    read_evidence,
    report_sections,
    state_in_words,
)
from cxr_model.reports.explained_films import explained_films, mean_maps
from cxr_model.reports.film_gallery import gallery_films
from cxr_model.reports.page import (
    data_uri,
    flatten,
    format_duration,
    rule_title,
    template_environment,
    write_bytes,
)
from cxr_model.reports.part_figures import caption, part_figures
from cxr_model.reports.standards import decide_checklists
from cxr_model.reports.thresholds import class_scores, outcome_at
from cxr_model.run_folder import RunFolder, atomic_path, read_json
from cxr_model.run_verdicts import SHOWN_METHOD
from cxr_model.splits import SPLITS, read_splits
from cxr_model.stages import read_predictions

MOST_BYTES = 15_000_000
"""Of the page; the gallery takes what the rest leaves of it."""
LISTED_FILES = 200
_TRAINED_BY = {
    "gamma": "gamma", "blur": "smoothing", "noise": "noise", "crop": "scale",
    "rotation": "rotation_deg",
}  # fmt: skip
"""Damage of `perturbations` to the setting of `AugmentConfig` that does the same to films."""


def build_report(run: RunFolder) -> Path:
    """Write ``report.html`` and ``figures/`` from the other files of ``run``; return its path.

    Sections of evidence stand there for the files below ``evidence/`` that are there. The page
    has at most `MOST_BYTES`, for which films are left out of its gallery. Raises ``DataError``
    when a file that every run has is missing.
    """
    _require_files(run)
    evidence, metrics = read_evidence(run), read_json(run.metrics)
    holdout = _holdout(run, metrics["holdout"]["classes"], evidence.temperature)
    data = _page_data(evidence, holdout)
    context = _context(run, evidence, metrics) | _script() | {"at_half": _rates_at_half(holdout)}
    template = template_environment().get_template("report.html.j2")
    without_films = template.render(**context, page_data=data)
    room = MOST_BYTES - len(without_films.encode())
    data["films"] = gallery_films(
        run, holdout.paths_N, holdout.truth_N, holdout.scores_NC, most_bytes=room
    )
    page = template.render(**context, page_data=data)
    with atomic_path(run.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run.report


def _require_files(run: RunFolder) -> None:
    for path in (
        run.metrics, run.config, run.splits, run.history, run.model_card, run.predictions,
        run.attributions / "index.csv", run.attributions / "mean.npz",
    ):  # fmt: skip
        if not path.is_file():
            raise DataError(
                f"{path}: not found, the report needs it; run 'cxr train' to its end first"
            )


def _context(run: RunFolder, evidence: Evidence, metrics: dict[str, Any]) -> dict[str, Any]:
    """What the sections show."""
    model, sections = read_json(run.model_card), report_sections(evidence)
    parts = part_figures(evidence)
    drawings = _drawings(run, metrics, model)
    for drawn in parts.values():
        drawings |= drawn
    films, num_explained = explained_films(run)
    return {
        "metrics": metrics,
        "model": model,
        "evidence": evidence,
        "sections": sections,
        "pictures": _write_figures(run, drawings),
        "figures_of": {
            part: {name: caption(name) for name in drawn} for part, drawn in parts.items()
        },
        "hygiene_rows": hygiene_rows(evidence.hygiene) if evidence.hygiene else [],
        "trained_for": _trained_for(run),
        "verdicts": evidence.method_verdicts(),
        "heat_map": evidence.method_verdicts()[SHOWN_METHOD],
        "checklists": decide_checklists(run, sections),
        "splits": _split_rows(run),
        "overlaps": _overlaps(run),
        "films": films,
        "num_explained": num_explained,
        "mean_maps": mean_maps(run, metrics["holdout"]["classes"]),
        "method_titles": METHOD_TITLES,
        "stage_times": {
            stage: format_duration(seconds)
            + (", from the results cache" if stage in metrics["timing"]["fetched"] else "")
            for stage, seconds in metrics["timing"]["stages"].items()
        },
        "settings": dict(flatten(read_json(run.config))),
        "listed_files": LISTED_FILES,
    }


def _trained_for(run: RunFolder) -> list[str]:
    """The damages whose like the training films met."""
    augment = read_json(run.config)["augment"]
    return [damage for damage, setting in _TRAINED_BY.items() if augment.get(setting)]


def _script() -> dict[str, Any]:
    """The page's script, and the digest by which its content-security policy knows it."""
    script = (files("cxr_model.reports") / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"script": Markup(script), "script_digest": f"sha256-{digest}"}


@dataclass(frozen=True)
class _Holdout:
    classes: list[str]
    paths_N: NDArray[np.str_]
    truth_N: NDArray[np.int64]
    """Class indices."""
    probabilities_NC: NDArray[np.float64]
    scores_NC: NDArray[np.float64]
    """The probabilities, calibrated where the run has a temperature."""


def _holdout(run: RunFolder, classes: list[str], temperature: float | None) -> _Holdout:
    table = read_predictions(run.predictions)
    table = table[table["split"] == "holdout"]
    columns = [f"probability_{label}" for label in classes]
    probabilities_NC = table[columns].to_numpy(dtype=np.float64)
    return _Holdout(
        classes=classes,
        paths_N=table["path"].to_numpy(dtype=str),
        truth_N=np.array([classes.index(label) for label in table["label"]], dtype=np.int64),
        probabilities_NC=probabilities_NC,
        scores_NC=temper(probabilities_NC, temperature) if temperature else probabilities_NC,
    )


def _page_data(evidence: Evidence, holdout: _Holdout) -> dict[str, Any]:
    """What the script works on, still without the gallery's films."""
    reliability = evidence.reliability
    number_of = {label: c for c, label in enumerate(holdout.classes)}
    points = reliability["operating_points"] if reliability else []
    return {
        "classes": holdout.classes,
        "scores": class_scores(holdout.truth_N, holdout.scores_NC),
        "points": [
            {"class": number_of[each["class"]], "rule": rule_title(each["rule"])}
            | {"threshold": each["threshold"]}
            for each in points
        ],
        "abstain_below": reliability["risk_coverage"]["threshold"] if reliability else None,
        "heat_map": {
            "method": METHOD_TITLES[SHOWN_METHOD],
            "state": state_in_words(evidence.method_verdicts()[SHOWN_METHOD]["passed"]),
        },
        "films": [],
    }


def _rates_at_half(holdout: _Holdout) -> list[dict[str, Any]]:
    """What the page shows of thresholds where no script runs."""
    return [
        {"class": label} | outcome_at(holdout.truth_N == c, holdout.scores_NC[:, c], 0.5, 0.05)
        for c, label in enumerate(holdout.classes)
    ]


def _drawings(run: RunFolder, metrics: dict[str, Any], model: dict[str, Any]) -> dict[str, Figure]:
    history = pd.read_csv(run.history)
    holdout = metrics["holdout"]
    predicted = _holdout(run, holdout["classes"], None)
    labels, probabilities = (
        np.array(predicted.classes)[predicted.truth_N],
        predicted.probabilities_NC,
    )
    channels = 3 if model["color"] == "rgb" else 1
    film_shape = (channels, model["size_px"], model["size_px"])
    return {
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


def _write_figures(run: RunFolder, drawings: dict[str, Figure]) -> dict[str, str]:
    """Each drawing in ``figures/NAME.svg``; name to data URI."""
    uris = {}
    for name, drawing in drawings.items():
        svg = figures.svg_bytes(drawing)
        write_bytes(run.figures / f"{name}.svg", svg)
        uris[name] = data_uri("image/svg+xml", svg)
    return uris


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
