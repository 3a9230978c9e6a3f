"""What a run costs beside its work: from typing the command to the first step, and to the end.

``cxr train`` is run as its user runs it, without a stack that is up already. What it writes
tells the times: the run's folder appears as the flow begins, ``history.csv`` with its first
line as the first epoch ends, and ``metrics.json`` has the seconds of each stage. Work is
what the library did: the epochs, the other stages and the report whole. All else is
orchestration: server, store and worker that come up and go down, imports, Prefect,
checkpoints, publishing.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_model.errors import ConfigError, CxrError
from cxr_model.run_folder import RunFolder, read_json

_POLL_S = 0.05


def measure_orchestration(arguments: Sequence[str], runs_dir: Path, run_id: str) -> dict[str, Any]:
    """Seconds and shares of ``cxr train *arguments --run-id run_id``, which is published.

    Raises ``CxrError`` if the command fails, ``ConfigError`` where the run has a folder: its
    files would be taken for those of the new one.
    """
    run = RunFolder(runs_dir / run_id)
    if run.root.exists():
        raise ConfigError(f"--run-id {run_id}: {run.root} is there already; use another")
    command = [sys.executable, "-m", "flows.cli", "train", *arguments, "--run-id", run_id]
    began = time.time()
    # Standard output is the benchmark's own.
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        flow_began = _appears(run.config, process)
        first_epoch_ended = _appears(run.history, process)
        process.wait()
    ended = time.time()
    if process.returncode:
        raise CxrError(f"cxr train ended with exit code {process.returncode}; see above")
    metrics, history = read_json(run.metrics), pd.read_csv(run.history)
    stages = metrics["timing"]["stages"]
    num_train = sum(counts["train"] for counts in metrics["data"]["counts"].values())
    first = history.iloc[0]
    steps = -(-num_train // read_json(run.config)["training"]["batch_size"])
    first_step_ended = (
        first_epoch_ended - first["seconds"] + num_train / first["films_per_second"] / steps
    )
    work = {name: seconds for name, seconds in stages.items() if name != "train"}
    work["train"] = float(history["seconds"].sum())
    work["report"] = run.report.stat().st_mtime - flow_began - sum(stages.values())
    wall = ended - began
    places = {
        "command, stack and worker come up": flow_began - began,
        "training beside its epochs": stages["train"] - work["train"],
    }
    places["publishing, run and stack end"] = wall - sum(work.values()) - sum(places.values())
    return {
        "seconds": {
            "wall": round(wall, 1),
            "to_first_step": round(first_step_ended - began, 1),
            "work": {name: round(seconds, 1) for name, seconds in work.items()},
            "orchestration": {name: round(seconds, 1) for name, seconds in places.items()},
        },
        "ratios": {"orchestration_share": round(sum(places.values()) / wall, 4)},
        "arguments": list(arguments),
        "environment": metrics["environment"],
    }


def _appears(path: Path, process: subprocess.Popen[bytes]) -> float:
    """When the file was there, or the process had ended."""
    while process.poll() is None and not path.exists():
        time.sleep(_POLL_S)
    return time.time()
