"""``metrics.json``: what a run was trained on, how well it does, what it cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cxr_model.config import RunConfig
from cxr_model.environment import environment_record
from cxr_model.gates import Gate, check_gates, gate_records
from cxr_model.index import data_digest, patient_summary, read_index, unreadable_films
from cxr_model.labels import order_classes
from cxr_model.run_folder import RunFolder, read_json, write_json
from cxr_model.splits import SPLITS, read_splits
from cxr_model.stages import TrainSummary

SCHEMA_VERSION = 1


def write_metrics(
    run: RunFolder,
    run_id: str,
    config: RunConfig,
    *,
    source: str,
    provenance: dict[str, Any],
    training: TrainSummary,
    holdout: dict[str, Any],
    explanations: dict[str, Any],
    stage_seconds: dict[str, float],
    fetched: Sequence[str] = (),
) -> dict[str, Any]:
    """Assemble and write ``metrics.json``; returns what was written.

    The run's evidence stands in it under the names of its files.
    """
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": config.preset,
        "data": data_record(run, config) | {"source": source, "provenance": provenance},
        "network": {"name": training.network, "num_parameters": training.num_parameters},
        "training": asdict(training),
        "holdout": holdout,
        "explanations": explanations,
        **_evidence(run),
        "gates": gate_records(check_gates(run, config)),
        "timing": {
            "stages": {name: round(seconds, 2) for name, seconds in stage_seconds.items()},
            "fetched": list(fetched),
            "training_images_per_second": round(training.films_per_second, 1),
        },
        "environment": environment_record(training.device),
    }
    write_json(run.metrics, metrics)
    return metrics


def _evidence(run: RunFolder) -> dict[str, Any]:
    """What the run says against itself; what was switched off has no file and no name here."""
    files = (run.hygiene, run.reliability, run.outliers, run.robustness, run.shortcuts)
    return {path.stem: read_json(path) for path in files if path.exists()}


def data_record(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    """Digest, counts and what was found wrong, from the index and the splits."""
    index, splits = read_index(run.index), read_splits(run.splits)
    classes = order_classes(splits["label"], config.labels)
    counts = Counter(zip(splits["label"], splits["split"], strict=True))
    return {
        "digest": data_digest(index),
        "num_films": len(index),
        "unreadable": unreadable_films(index),
        "classes": classes,
        "counts": {name: {split: counts[name, split] for split in SPLITS} for name in classes},
        "num_groups": int(splits["group"].nunique()),
        "patients": patient_summary(index),
        "exact_duplicates": int(splits["sha256"].duplicated().sum()),
    }


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """What lists of runs show; part of the run's manifest."""
    holdout = metrics["holdout"]
    return {
        "preset": metrics["preset"],
        "source": metrics["data"]["source"],
        "network": metrics["network"]["name"],
        "accuracy": holdout["accuracy"],
        "balanced_accuracy": holdout["balanced_accuracy"],
        "gates": {gate["name"]: Gate(**gate).state for gate in metrics.get("gates", ())},
    }
