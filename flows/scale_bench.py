"""What grows with films, batches and runs beside the training itself, by simulation.

    cxr bench scale --json

Tables of film records are made up (one film in ten has a sibling of the same patient); runs
and batches are real objects in the embedded store on loopback. Each row has the seconds of
one call, and the peak memory of the process after it.
"""

import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.data_config import SplitConfig
from cxr_model.environment import environment_record
from cxr_model.metrics import evaluate_predictions
from cxr_model.splits import assign_splits
from flows.embedded_store import store_for
from flows.settings import Settings
from tasks.inbox import BATCH_FILMS, BatchRecord, predictions_prefix, read_ledger
from tasks.manifest import Manifest, ObjectRecord
from tasks.run_store import list_runs, render_index
from tasks.storage import ObjectStore, in_parallel

FILMS = (9_208, 112_120, 1_000_000)
"""Sait et al. 2020, ChestX-ray14 (Wang et al. 2017), and nine times as many."""
RUNS = (100, 1_000)
BATCHES = (100, 1_000)
_CLASSES = ["normal", "pneumonia", "covid"]


def measure_scale() -> dict[str, Any]:
    """Rows of ``what``, ``count``, ``seconds`` and ``peak_mb``; ratios of the largest to the
    smallest count of each kind, in seconds for each."""
    rows = [row for count in FILMS for row in _tables(count)]
    with (
        tempfile.TemporaryDirectory() as folder,
        store_for(Settings(home=Path(folder))) as location,
        ObjectStore(location) as store,
    ):
        rows += [_index_of_runs(store, count) for count in RUNS]
        rows += [_ledger(store, count) for count in BATCHES]
    ratios = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        same = [row for row in rows if row["what"] == what]
        each = [row["seconds"] / row["count"] for row in (same[0], same[-1])]
        ratios[what] = round(each[1] / max(each[0], 1e-9), 2)
    return {"rows": rows, "ratios": ratios, "environment": environment_record("CPU")}


def _row(what: str, count: int, work: Callable[[], object]) -> dict[str, Any]:
    started = time.perf_counter()
    work()
    return {
        "what": what,
        "count": count,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _tables(count: int) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(0)
    films = pd.DataFrame(
        {
            "path": [f"images/{i:08d}_000.png" for i in range(count)],
            "sha256": [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)],
            "label": np.array(_CLASSES)[generator.integers(3, size=count)],
            "patient": [f"{i * 9 // 10:08d}" for i in range(count)],
            "series": "",
            "copies": "",
            "error": "",
        }
    )
    yield _row("assign groups and splits", count, lambda: assign_splits(films, SplitConfig()))
    holdout = count // 5
    scores = generator.dirichlet(np.ones(3), size=holdout)
    truth = np.array(_CLASSES)[generator.integers(3, size=holdout)]
    groups = films["patient"].to_numpy(dtype=str)[:holdout]
    yield _row(
        "holdout figures with 2,000 bootstrap draws",
        holdout,
        lambda: evaluate_predictions(truth, scores, groups, _CLASSES, draws=2000, seed=0),
    )


def _index_of_runs(store: ObjectStore, count: int) -> dict[str, Any]:
    estimate = {"value": 0.9, "ci_low": 0.8, "ci_high": 0.95, "n": 225}
    headline = {"preset": "standard", "source": "films", "network": "cxresnet"}
    objects = tuple(
        ObjectRecord(key=f"figures/{i}.svg", size=1000, sha256="0" * 64) for i in range(40)
    )

    def put(number: int) -> None:
        manifest = Manifest(
            run_id=f"run-{number:05d}",
            created=f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}",
            headline=headline | {"accuracy": estimate, "balanced_accuracy": estimate},
            objects=objects,
        )
        key = f"runs/{manifest.run_id}/MANIFEST.json"
        store.write_bytes(key, manifest.to_json().encode())

    for _ in in_parallel(put, range(count)):
        pass
    return _row("list runs and write their index", count, lambda: render_index(list_runs(store)))


def _ledger(store: ObjectStore, count: int) -> dict[str, Any]:
    def put(number: int) -> None:
        films = [
            {"key": f"inbox/{number}-{i}.dcm", "etag": "0" * 32, "sha256": "0" * 64}
            for i in range(BATCH_FILMS)
        ]
        record = BatchRecord(
            batch=f"batch-{number:05d}",
            when="2026-01-01T00:00:00",
            model_run_id="run",
            model_digest="0" * 64,
            model_red_gates=[],
            films=films,
            num_scored=BATCH_FILMS,
            num_copies=0,
            num_unreadable=0,
            num_decided={},
        )
        key = f"{predictions_prefix('inbox')}{record.batch}/BATCH.json"
        store.write_bytes(key, json.dumps(asdict(record)).encode())

    for _ in in_parallel(put, range(count)):
        pass
    what = f"read the ledger of batches of {BATCH_FILMS} films"
    return _row(what, count, lambda: read_ledger(store, "inbox"))
