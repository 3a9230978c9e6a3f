import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shell import Shell

from cxr_model.run_folder import RunFolder, write_table
from flows.embedded_store import store_for
from tasks.run_store import publish_run
from tasks.storage import ObjectStore


def write_run(root: Path, share_right: float) -> RunFolder:
    run, truth = RunFolder(root), np.arange(80) % 2
    right = np.random.default_rng(0).random(80) < share_right
    predicted = np.where(right, truth, 1 - truth)
    films = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(80)],
            "sha256": [f"{i:064x}" for i in range(80)],
            "label": np.where(truth, "covid", "normal"),
            "split": "holdout",
            "predicted": np.where(predicted, "covid", "normal"),
            "probability_normal": 1.0 - predicted,
            "probability_covid": 1.0 * predicted,
        }
    )
    write_table(run.predictions, films)
    write_table(
        run.splits,
        films.assign(group=films["path"])[["path", "sha256", "label", "group", "split"]],
    )
    return run


@pytest.mark.slow
def test_two_published_runs_are_compared(shell: Shell, headline: dict[str, Any]) -> None:
    with store_for(shell.settings) as location, ObjectStore(location) as store:
        for run_id, share_right in (("good", 0.95), ("poor", 0.6)):
            publish_run(store, write_run(shell.folder / run_id, share_right), run_id, headline)
        (shell.folder / "page").mkdir()
        (shell.folder / "page" / "report.html").write_text("")
        publish_run(store, RunFolder(shell.folder / "page"), "page", headline)
    told = json.loads(shell.ok("compare", "good", "poor", "--json"))
    assert told["runs"] == ["good", "poor"]
    assert told["n"] == 80
    assert told["verdict"].startswith("good is better than poor on 80 films that neither was tra")
    assert told["balanced_accuracy"]["ci_low"] > 0
    shown = shell.ok("compare", "poor", "good")
    assert "good is better than poor on 80 films" in shown
    assert "right alone" in shown
    assert "poor: is named twice; name two different runs" in shell.refused(
        "compare", "poor", "poor"
    )
    assert "page: holds no predictions; name a training" in shell.refused("compare", "good", "page")
