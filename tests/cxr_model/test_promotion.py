from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_model.config import RunConfig
from cxr_model.index import COLUMNS, write_index
from cxr_model.metrics import evaluate_predictions
from cxr_model.model_files import ModelCard
from cxr_model.promotion import judge, promotion_gates
from cxr_model.run_folder import RunFolder, read_json, write_json, write_table
from cxr_model.splits import write_splits

CLASSES = ["normal", "covid"]
NO_ALARM = {
    "alarm": False,
    "alarms": [],
    "doubt": "",
    "verdict": "",
    "headline": {"value": 0.0, "ci_low": -0.1, "ci_high": 0.1, "n": 300},
}
MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A finished run whose network is right in ``share_right`` of its holdout films."""

    def make(
        name: str,
        share_right: float,
        *,
        films: range = range(300),
        classes: list[str] = CLASSES,
        leaks: bool = False,
    ) -> RunFolder:
        run = RunFolder(tmp_path / name)
        truth = np.array(films) % 2
        right = np.random.default_rng(len(name)).random(len(films)) < share_right
        predicted = np.where(right, truth, 1 - truth)
        digests = [f"{film:064x}" for film in films]
        table = pd.DataFrame(
            {
                # Called otherwise in each run: what counts is the content.
                "path": [f"{name}/{film}.png" for film in films],
                "sha256": digests,
                "label": np.array(classes)[truth],
                "group": [f"patient {film // 2}" for film in films],
                "split": "holdout",
            }
        )
        trained = table.assign(sha256="f" * 64, group="else", split="train", path="t.png").head(1)
        if leaks:
            trained = trained.assign(group="patient 0")
        write_splits(pd.concat([table, trained]), run.splits)
        others = dict.fromkeys(set(COLUMNS) - {"path", "sha256", "label"}, "")
        others |= dict.fromkeys(("width", "height", "jpeg_quality", "chroma"), 1)
        write_index(table.assign(**others)[list(COLUMNS)], run.index)
        scores = np.stack([1.0 - predicted, 1.0 * predicted], axis=1)
        write_table(
            run.predictions,
            table.drop(columns="group").assign(
                predicted=np.array(classes)[predicted],
                **{f"probability_{each}": scores[:, i] for i, each in enumerate(classes)},
            ),
        )
        holdout = evaluate_predictions(
            table["label"].to_numpy(dtype=str),
            scores,
            table["group"].to_numpy(dtype=str),
            classes,
            draws=200,
            seed=0,
        )
        write_json(run.metrics, {"holdout": holdout})
        write_json(run.config, asdict(RunConfig()))
        card = ModelCard(
            run_id=name,
            network={},
            classes=classes,
            size_px=64,
            color="grey",
            mean=0.5,
            std=0.2,
            num_parameters=1,
            layers=[],
        )
        write_json(run.model_card, asdict(card))
        write_json(run.shortcuts, NO_ALARM)
        write_json(run.reliability, {"calibration": {"passed": True, "verdict": ""}})
        tested = {"num_groups": 24, "methods": {"a": {"title": "A", "passed": True}}}
        write_json(run.explanations, tested)
        return run

    return make


def test_the_first_network_is_promoted_when_its_gates_are_green(make_run: MakeRun) -> None:
    verdict = judge(make_run("first", 0.8), None)
    assert verdict.promote
    states = {gate.name: gate.passed for gate in verdict.gates}
    assert list(states) == [
        *("leakage", "shortcut", "calibration", "explanation", "better than chance")
    ]
    assert all(states.values())


def test_what_nobody_looked_at_or_can_tell_is_left_to_the_operator(make_run: MakeRun) -> None:
    unseen, untold = make_run("unseen", 0.95), make_run("untold", 0.95)
    unseen.shortcuts.unlink()
    write_json(untold.reliability, {"calibration": {"passed": None, "verdict": "few films"}})
    for run, told in ((unseen, "shortcut undecided"), (untold, "calibration undecided")):
        verdict = judge(run, None)
        assert not verdict.promote
        assert told in verdict.why
        assert "; 'cxr promote' can decide otherwise" in verdict.why


def test_a_better_network_takes_the_champions_place_and_a_worse_or_equal_one_does_not(
    make_run: MakeRun,
) -> None:
    weak, strong = make_run("weak", 0.7), make_run("strong", 0.95)
    verdict = judge(strong, weak)
    assert verdict.promote
    assert verdict.comparison is not None
    assert verdict.comparison["n"] == 300
    assert "McNemar p = " in verdict.why
    assert not judge(weak, strong).promote
    assert not judge(strong, strong).promote
    assert judge(strong, strong).why.startswith("not promoted: not shown to be better")


def test_only_films_that_neither_network_was_trained_on_are_compared(make_run: MakeRun) -> None:
    verdict = judge(make_run("a", 0.95, films=range(100, 400)), make_run("bb", 0.6))
    assert verdict.comparison is not None
    assert verdict.comparison["n"] == 200


def test_the_order_of_the_classes_does_not_matter(make_run: MakeRun) -> None:
    # PostgreSQL keeps a flow run's settings, and with them the classes, in an order of its own.
    strong, weak = make_run("strong", 0.95), make_run("weak", 0.7)
    expected = judge(strong, weak).comparison
    write_json(strong.model_card, read_json(strong.model_card) | {"classes": CLASSES[::-1]})
    turned = judge(strong, weak)
    assert turned.promote
    assert turned.comparison is not None
    assert expected is not None
    assert turned.comparison["accuracy"]["value"] == expected["accuracy"]["value"]


def test_networks_without_films_or_classes_in_common_are_left_to_the_operator(
    make_run: MakeRun,
) -> None:
    champion = make_run("champion", 0.6)
    far = judge(make_run("far", 0.95, films=range(280, 600)), champion)
    other = judge(make_run("other", 0.95, classes=["cat", "dog"]), champion)
    assert not far.promote
    assert "20 films were unseen by both, fewer than 30" in far.why
    assert not other.promote
    assert "classes are cat, dog in one run and normal, covid in the other" in other.why


def test_a_red_gate_bars_the_way_even_where_there_is_no_champion(make_run: MakeRun) -> None:
    for run, gate in (
        (make_run("leaking", 0.95, leaks=True), "leakage"),
        (make_run("guessing", 0.5), "better than chance"),
    ):
        verdict = judge(run, None)
        assert not verdict.promote
        assert verdict.why.startswith(f"not promoted: {gate} failed; 'cxr promote' can")
    leak, *_, chance = promotion_gates(make_run("leaking", 0.95, leaks=True))
    assert (leak.passed, chance.passed) == (False, True)
    assert "group patient 0 stands in 2 splits" in leak.found


def test_a_red_gate_bars_the_way_whether_it_ends_the_run_or_only_warns(make_run: MakeRun) -> None:
    run = make_run("alarmed", 0.95)
    assert judge(run, None).promote
    write_json(run.shortcuts, NO_ALARM | {"alarm": True, "alarms": ["the border tells"]})
    for fail_on in (["leakage"], ["leakage", "shortcut"]):
        write_json(run.config, asdict(RunConfig()) | {"gates": {"fail_on": fail_on}})
        verdict = judge(run, None)
        assert not verdict.promote
        assert "shortcut failed" in verdict.why
