"""How seconds and memory grow with the number of films.

The source's films are copied as often as wanted. Each count is worked through
in a process of its own: index, decode, one epoch of training. Its memory is the peak of
what belongs to it alone (``RssAnon``, read 20 times a second); pages of the mapped cache
are the kernel's, which takes them back when it wants them.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.prepare import Prepared, copy_films, prepare
from cxr_model.config import RunConfig
from cxr_model.config_json import read_config
from cxr_model.device import device_name, resolve_device
from cxr_model.environment import environment_record
from cxr_model.run_folder import write_json


def measure_growth(
    prepared: Prepared, config: RunConfig, all_times: Sequence[int]
) -> dict[str, Any]:
    """A row for each multiple of the films: seconds of each stage, peak of memory.

    The ratios are of the last row to the first.
    """
    rows = []
    for times in all_times:
        with tempfile.TemporaryDirectory() as work:
            rows.append(_measure(prepared, config, Path(work), times))
    first, last = rows[0], rows[-1]
    seconds_per_film = [row["seconds"] / row["num_films"] for row in (first, last)]
    return {
        "rows": rows,
        "ratios": {
            "seconds_per_film": round(seconds_per_film[1] / seconds_per_film[0], 3),
            "peak_mb": round(last["peak_mb"] / first["peak_mb"], 3),
        },
        "size_px": config.data.size_px,
        "environment": environment_record(device_name(resolve_device(config.training.device))),
    }


def _measure(prepared: Prepared, config: RunConfig, work: Path, times: int) -> dict[str, Any]:
    films = copy_films(prepared, work / "films", times)
    data = replace(config.data, source=str(films))
    write_json(work / "config.json", asdict(replace(config, data=data)))
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", str(work)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    row: dict[str, Any] = json.loads(told.stdout)
    return row


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """A list of one number, the largest ``RssAnon`` of the block so far, in kB."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        ended = False
        while not ended:
            ended = done.wait(0.05)  # and once at the end: a block may be shorter
            status = Path("/proc/self/status").read_text()
            now = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], int(now.split()[1]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def main() -> None:
    """Work through the films that ``config.json`` in a folder names; print the row."""
    work = Path(sys.argv[1])
    config = read_config(work / "config.json")
    once = replace(config, training=replace(config.training, epochs=1))
    with peak_memory() as peak:
        started = time.perf_counter()
        prepared = prepare(once, work)
        decoded = time.perf_counter()
        for _ in prepared.trainer(once).epochs():
            pass
        ended = time.perf_counter()
    row = {
        "num_films": len(prepared.films),
        "seconds": round(ended - started, 2),
        "index_and_cache_seconds": round(decoded - started, 2),
        "epoch_seconds": round(ended - decoded, 2),
        "peak_mb": round(peak[0] / 1024),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
