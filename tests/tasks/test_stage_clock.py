"""A stage's seconds are its work and the rest."""

import time

import pytest

from tasks.stage_clock import StageClock, add_work, working


def test_what_is_not_told_as_work_is_orchestration() -> None:
    clock = StageClock()
    with clock("index"):
        with working():
            time.sleep(0.05)
        time.sleep(0.02)
        with working():
            time.sleep(0.01)
    with clock("train"):
        add_work(40.0)
    assert 0.06 <= clock.work["index"] < clock.seconds["index"] - 0.02
    index, train = clock.rows()
    assert index["stage"] == "index"
    assert index["work_s"] == pytest.approx(clock.work["index"], abs=0.005)
    assert index["orchestration_s"] >= 0.02
    assert train["work_s"] == 40.0


def test_work_outside_of_a_stage_is_no_stages() -> None:
    clock = StageClock()
    with working():
        pass
    with clock("index"):
        pass
    assert clock.work == {"index": 0.0}


def test_a_stage_that_fails_is_not_in_the_table_and_ends_all_the_same() -> None:
    clock = StageClock()
    with pytest.raises(KeyError), clock("index"):
        raise KeyError("films")
    with clock("split"), working():
        pass
    assert [row["stage"] for row in clock.rows()] == ["split"]
