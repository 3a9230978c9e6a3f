"""Each rule speaks on its own evidence, and a margin keeps luck silent."""

import math
from typing import Any

import numpy as np
import pytest

from cxr_model.bootstrap import Bootstrap
from cxr_model.intervals import Estimate
from cxr_model.shortcuts.alarms import find_doubt, raise_alarms, told_apart, verdict
from cxr_model.shortcuts.scores import Probe, one_hot

NOTHING: Estimate = {"value": 0.0, "ci_low": -0.02, "ci_high": 0.03, "n": 60}
TITLES = {"metadata": "metadata", "network-border": "network, border alone"}


def told(value: float, ci_low: float, model: float, *, by_network: bool = False) -> dict[str, Any]:
    return {
        "probe": "network-border" if by_network else "metadata",
        "class": "covid",
        "by_network": by_network,
        "p_value": 0.001,
        "balanced_accuracy": {"value": value, "ci_low": ci_low, "ci_high": 1.0, "n": 60},
        "model": {"value": model, "ci_low": model, "ci_high": model, "n": 60},
    }


@pytest.mark.parametrize(
    ("row", "alarm"),
    [
        (told(0.90, 0.80, 0.95), True),
        (told(0.90, 0.59, 0.95), False),  # may be luck
        (told(0.94, 0.80, 0.69) | {"p_value": 0.12}, False),  # so may this, on 12 films
        (told(0.70, 0.65, 0.95), False),  # the model has far more
        (told(0.70, 0.65, 0.40), True),  # the model has nothing
        (told(0.70, 0.65, 0.95, by_network=True), True),  # what it tells, it reads
        (told(0.50, 0.50, 0.95, by_network=True), False),  # calls everything one class
    ],
)
def test_class_told_without_lungs_raises_the_alarm(row: dict[str, Any], alarm: bool) -> None:
    assert bool(raise_alarms([row], NOTHING, TITLES)) == alarm


def test_network_that_follows_corners_raises_the_alarm() -> None:
    excess = NOTHING | {"value": 0.3, "ci_low": 0.2, "ci_high": 0.4}
    assert raise_alarms([], excess, TITLES) == [
        "the network's answer goes with exchanged corners in 0.300 (0.20–0.40) of the films, "
        "beyond what goes there anyway"
    ]
    assert raise_alarms([], excess | {"ci_low": 0.04}, TITLES) == []
    undefined: Estimate = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    assert raise_alarms([], undefined, TITLES) == []


def test_of_the_classes_that_a_probe_tells_the_plainest_is_named_first() -> None:
    rows = [told(0.80, 0.7, 0.9), told(0.99, 0.9, 0.9) | {"class": "normal"}]
    alarms = raise_alarms(rows, NOTHING, TITLES)
    assert len(alarms) == 1
    assert alarms[0].startswith("normal is told from the rest by metadata, no lung in sight: 0.990")
    assert f"; so is {rows[0]['class']}: 0.800" in alarms[0]


def test_what_metadata_and_border_tell_together_alarms_where_neither_does_alone() -> None:
    titles = {"metadata": "metadata", "surroundings": "metadata and border"}
    weak, both = told(0.67, 0.57, 0.9), told(0.87, 0.75, 0.9) | {"probe": "surroundings"}
    [alarm] = raise_alarms([weak, both], NOTHING, titles)
    assert "by metadata and border" in alarm
    [alarm] = raise_alarms([told(0.87, 0.75, 0.9), both], NOTHING, titles)
    assert "by metadata," in alarm


@pytest.mark.parametrize(("num_groups", "is_enough"), [(4, False), (30, True)])
def test_where_a_perfect_probe_could_not_alarm_silence_says_nothing(
    num_groups: int, is_enough: bool
) -> None:
    truth_N = np.arange(2 * num_groups) % 2
    bootstrap = Bootstrap(
        truth_N=truth_N, groups_N=np.arange(2 * num_groups), num_classes=2, draws=100, seed=0
    )
    perfect = Probe(
        name="metadata", title="", evidence="no lung", how="", called_NC=one_hot(truth_N, 2)
    )
    rows = told_apart([perfect] * 4, perfect, ["a", "b"], bootstrap)
    assert bool(raise_alarms(rows, NOTHING, TITLES)) == is_enough
    above = NOTHING | {"value": 0.3, "ci_low": 0.2, "ci_high": 0.4}
    doubt = find_doubt(rows, above, ["a", "b"], bootstrap)
    assert doubt == (
        "" if is_enough else "there are too few films to find out whether a is told without lungs"
    )
    assert find_doubt(rows, NOTHING, ["a", "b"], bootstrap)


def test_verdict_is_one_sentence_with_the_headline() -> None:
    probe = Probe(
        name="metadata", title="metadata", evidence="no lung", how="", called_NC=np.eye(3)
    )
    headline = NOTHING | {"value": 0.2, "ci_low": 0.1, "ci_high": 0.3}
    quiet = verdict([], "", headline, probe, headline)
    assert quiet.startswith("No shortcut found by 3 rules")
    assert "less that of the strongest evidence without lungs" in quiet
    unsure = verdict([], "there are too few films", headline, probe, headline)
    assert unsure.startswith("No alarm by 3 rules, but there are too few films; the model's")
    loud = verdict(["covid is told", "another"], "", headline, probe, headline)
    assert loud.startswith("Shortcut alarm: covid is told, and 1 more; the model's")
    assert loud.count(".") == loud.count("0.") + 1


def test_perfect_probe_tells_every_class() -> None:
    truth_N = np.arange(30) % 3
    bootstrap = Bootstrap(truth_N=truth_N, groups_N=np.arange(30), num_classes=3, draws=100, seed=0)
    perfect = Probe(
        name="metadata",
        title="metadata",
        evidence="no lung",
        how="",
        called_NC=one_hot(truth_N, 3),
    )
    rows = told_apart([perfect], perfect, ["a", "b", "c"], bootstrap)
    assert [row["class"] for row in rows] == ["a", "b", "c"]
    # Ten films of a class and twenty others, all right: Wilson's limits, added as squares.
    below = math.hypot(1 - 0.7225, 1 - 0.8389) / 2
    for row in rows:
        assert row["balanced_accuracy"]["ci_low"] == pytest.approx(1 - below, abs=1e-3)
    assert all(row["p_value"] < 1e-6 for row in rows)
    assert len(raise_alarms(rows, NOTHING, TITLES)) == 1
