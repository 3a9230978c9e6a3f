from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forecasts import draw_forecasts

from cxr_model.config import EvaluateConfig, RunConfig
from cxr_model.errors import DataError
from cxr_model.model_files import Decision, ModelCard
from cxr_model.reliability.measure import measure_reliability
from cxr_model.run_folder import RunFolder, read_json, write_json, write_table

CLASSES = ["normal", "pneumonia", "covid"]
CONFIG = RunConfig(evaluate=EvaluateConfig(bootstrap_draws=200))
Change = Callable[[pd.DataFrame], pd.DataFrame]


def write_run(root: Path, change: Change = lambda table: table) -> RunFolder:
    """An overconfident network's predictions of 200 validation and 200 holdout films."""
    run = RunFolder(root)
    truth, stated, _, groups = draw_forecasts(
        np.random.default_rng(0), 200, films_per_group=2, temperature=0.5
    )
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(400)],
            "sha256": [f"{i:064x}" for i in range(400)],
            "split": np.repeat(["validation", "holdout"], 200),
            "label": np.array(CLASSES)[truth],
            "predicted": np.array(CLASSES)[stated.argmax(axis=1)],
            **{f"probability_{name}": stated[:, c] for c, name in enumerate(CLASSES)},
        }
    )
    splits = table.assign(group=[f"patient {g}" for g in groups])
    write_table(run.splits, splits[["path", "sha256", "label", "group", "split"]])
    write_table(run.predictions, change(table))
    card = ModelCard(
        run_id="r", network={}, classes=CLASSES, size_px=32, color="grey", mean=0.5, std=0.25,
        num_parameters=1, layers=[],
    )  # fmt: skip
    write_json(run.model_card, asdict(card))
    return run


def test_a_runs_record_and_decision_are_written_and_agree(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    record = measure_reliability(run, CONFIG)
    assert read_json(run.reliability) == record
    decision = Decision.read(run.decision)
    assert decision.temperature == record["calibration"]["temperature"] > 1
    assert decision.abstain_below == record["risk_coverage"]["threshold"]
    assert len(record["operating_points"]) == 9
    for row in record["operating_points"]:
        assert decision.operating_points[row["class"]][row["rule"]] == row["threshold"]
        if row["rule"] == "sensitivity-0.95":
            assert row["validation"]["sensitivity"] >= 0.95
        if row["rule"] == "specificity-0.95":
            assert row["validation"]["specificity"] >= 0.95
    assert record["calibration"]["after"]["ece"]["n"] == 200
    assert decision.outlier_above is None


def test_nothing_is_chosen_by_the_holdout(tmp_path: Path) -> None:
    def shuffle_holdout(table: pd.DataFrame) -> pd.DataFrame:
        holdout = table["split"] == "holdout"
        labels = table.loc[holdout, "label"].sample(frac=1, random_state=1).to_numpy()
        return table.assign(label=table["label"].where(~holdout, "")).assign(
            label=lambda films: np.where(holdout, np.resize(labels, len(films)), films["label"])
        )

    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", shuffle_holdout)]
    records = [measure_reliability(run, CONFIG) for run in runs]
    assert Decision.read(runs[0].decision) == Decision.read(runs[1].decision)
    before = [record["calibration"]["before"]["nll"]["value"] for record in records]
    assert before[0] != before[1]


def test_a_second_measurement_says_the_same_and_keeps_the_outlier_bound(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    first = measure_reliability(run, CONFIG)
    replace(Decision.read(run.decision), outlier_above=4.0).write(run.decision)
    assert measure_reliability(run, CONFIG) == first
    assert Decision.read(run.decision).outlier_above == 4.0


def test_the_order_of_the_classes_is_the_networks(tmp_path: Path) -> None:
    turned = [*CLASSES[::-1]]
    columns = [f"probability_{name}" for name in turned]
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", lambda table: table[[*table.columns[:5], *columns]]),
    ]
    records = [measure_reliability(run, CONFIG) for run in runs]
    assert records[0] == records[1]


@pytest.mark.parametrize("split", ["validation", "holdout"])
def test_a_run_without_films_to_choose_or_measure_on_is_told(tmp_path: Path, split: str) -> None:
    run = write_run(tmp_path, lambda table: table[table["split"] != split])
    with pytest.raises(DataError, match=f"predictions.csv: holds no {split} films; calibration"):
        measure_reliability(run, CONFIG)
