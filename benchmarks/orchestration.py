"""What a run costs beside its work: from typing the command to the first step, and to the end.

``cxr train`` is run as its user runs it. What it writes tells the times: the run's folder
appears as the flow begins, ``history.csv`` with its first line as the first epoch ends, and
``.timing.json`` has each stage's seconds of work, which is what the library did: the epochs,
the other stages' products, the report. All else is orchestration: server, store and worker
that come up and go down, imports, Prefect, checkpoints, publishing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_model.errors import ConfigError, CxrError
from cxr_model.run_folder import RunFolder, read_json

GOAL_SHARE, GOAL_S = 0.05, 20.0
"""Orchestration may take so much of the wall time or so many seconds, whichever is more."""

_POLL_S = 0.05


def measure_orchestration(
    arguments: Sequence[str], runs_dir: Path, run_id: str, *, stack: str
) -> dict[str, Any]:
    """Seconds and shares of ``cxr train *arguments --run-id run_id``, which is published.

    ``stack`` says whether one was up already, ``fetched`` what came from the results cache: a
    stack that was up keeps to its own ``PREFECT_TASKS_REFRESH_CACHE``. Raises ``CxrError`` if
    the command fails, ``ConfigError`` where the run has a folder: its files would be taken for
    those of the new one.
    """
    run = RunFolder(runs_dir / run_id)
    if run.root.exists():
        raise ConfigError(f"--run-id {run_id}: {run.root} is there already; use another")
    command = [sys.executable, "-m", "flows.cli", "train", *arguments, "--run-id", run_id]
    began = time.time()
    # Standard output is the benchmark's own.
    environment = {**os.environ, "PREFECT_TASKS_REFRESH_CACHE": "true"}
    with subprocess.Popen(command, stdout=sys.stderr, env=environment) as process:
        _wait_for(run.config, process)
        first_epoch_ended = _wait_for(run.history, process)
        process.wait()
    ended = time.time()
    if process.returncode:
        raise CxrError(f"cxr train ended with exit code {process.returncode}; see above")
    first_step_ended = first_epoch_ended - _seconds_after_first_step(run)
    record = by_stage(read_json(run.timing), began=began, ended=ended)
    record["seconds"]["to_first_step"] = round(first_step_ended - began, 1)
    metrics = read_json(run.metrics)
    return record | {
        "fetched": metrics["timing"]["fetched"],
        "stack": stack,
        "arguments": list(arguments),
        "environment": metrics["environment"],
    }


def by_stage(timing: dict[str, Any], *, began: float, ended: float) -> dict[str, Any]:
    """A row a stage, with what comes before, between and after; sums and shares.

    ``timing`` is a run's ``.timing.json``; times are seconds since the epoch.
    """
    stages: list[dict[str, Any]] = timing["stages"]
    flow_s = timing["ended"] - timing["began"]
    in_stages_s = sum(row["work_s"] + row["orchestration_s"] for row in stages)
    rows = [
        _beside("command, stack, worker and flow come up", timing["began"] - began),
        *stages,
        _beside("between the stages", flow_s - in_stages_s),
        _beside("flow, worker, stack and command end", ended - timing["ended"]),
    ]
    work_s, orchestration_s = (
        sum(row[name] for row in rows) for name in ("work_s", "orchestration_s")
    )
    wall_s = ended - began
    rows.append({"stage": "sum", "work_s": work_s, "orchestration_s": orchestration_s})
    for row in rows:
        row |= {name: round(row[name], 2) for name in ("work_s", "orchestration_s")}
    goal_s = max(GOAL_SHARE * wall_s, GOAL_S)
    return {
        "rows": rows,
        "seconds": {
            "wall": round(wall_s, 1),
            "orchestration": round(orchestration_s, 1),
            "goal": round(goal_s, 1),
        },
        "ratios": {
            "orchestration_share": round(orchestration_s / wall_s, 4),
            "of_goal": round(orchestration_s / goal_s, 4),
        },
    }


def _beside(place: str, seconds: float) -> dict[str, Any]:
    return {"stage": place, "work_s": 0.0, "orchestration_s": seconds}


def _seconds_after_first_step(run: RunFolder) -> float:
    """Of the first epoch, whose steps are taken to be equally long."""
    first = pd.read_csv(run.history).iloc[0]
    counts = read_json(run.metrics)["data"]["counts"].values()
    num_train = sum(count["train"] for count in counts)
    steps = -(-num_train // read_json(run.config)["training"]["batch_size"])
    return float(first["seconds"] - num_train / first["films_per_second"] / steps)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> float:
    """When the file was there, or the process had ended."""
    while process.poll() is None and not path.exists():
        time.sleep(_POLL_S)
    return time.time()
