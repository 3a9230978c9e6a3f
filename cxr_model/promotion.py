"""Whether a newly trained network takes the champion's place: its gates, and a paired test."""

from dataclasses import dataclass
from typing import Any

from cxr_model.config_json import read_config
from cxr_model.errors import DataError
from cxr_model.gates import Gate, check_gates
from cxr_model.intervals import format_estimate
from cxr_model.run_comparison import compare_runs, is_better, too_few_groups
from cxr_model.run_folder import RunFolder, read_json

DRAWS = 2000
_OPERATOR = "'cxr promote' can decide otherwise"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    promote: bool
    why: str
    """One sentence."""
    gates: list[Gate]
    comparison: dict[str, Any] | None
    """What `compare_runs` says of challenger minus champion; None where there is none."""


def promotion_gates(run: RunFolder) -> list[Gate]:
    """The run's own gates, by its own settings, and that it does better than chance."""
    return [*check_gates(run, read_config(run.config)), _better_than_chance(run)]


def judge(challenger: RunFolder, champion: RunFolder | None) -> Verdict:
    """Promote where every gate is green and, on the same films, the paired test is won.

    Every gate: whether it binds or not, and to do better than chance too. One that is undecided
    is left to the operator, as nobody looked, or nobody can tell.
    The films are those that both networks were tested on, and neither trained on. The test is
    won where the 95 % interval of the difference in balanced accuracy, from a paired bootstrap
    over groups, lies above 0, with `run_comparison.LEAST_GROUPS` groups of each class at least.
    """
    gates = promotion_gates(challenger)
    others = [f"{gate.name} {gate.state}" for gate in gates if not gate.passed]
    if others:
        why = f"not promoted: {', '.join(others)}; {_OPERATOR}"
        return Verdict(promote=False, why=why, gates=gates, comparison=None)
    if champion is None:
        why = "promoted: every gate is green and there was no champion"
        return Verdict(promote=True, why=why, gates=gates, comparison=None)
    try:
        found = compare_runs(challenger, champion, draws=DRAWS, seed=0)
    except DataError as error:
        why = f"not promoted: cannot be compared with the champion: {error}; {_OPERATOR}"
        return Verdict(promote=False, why=why, gates=gates, comparison=None)
    gain = found["balanced_accuracy"]
    is_won = is_better(found)
    why = (
        f"{'promoted: better' if is_won else 'not promoted: not shown to be better'} than the "
        f"champion on {found['n']} films of both holdouts: balanced accuracy differs by "
        f"{format_estimate(gain)}, McNemar p = {found['mcnemar']['p_value']:.2g}"
        f"{too_few_groups(found)}"
    )
    return Verdict(promote=is_won, why=why, gates=gates, comparison=found)


def _better_than_chance(run: RunFolder) -> Gate:
    holdout = read_json(run.metrics)["holdout"]
    chance, estimate = 1 / len(holdout["classes"]), holdout["balanced_accuracy"]
    is_better = estimate["ci_low"] is not None and estimate["ci_low"] > chance
    found = f"balanced accuracy {format_estimate(estimate)}, chance {chance:.2f}"
    return Gate("better than chance", is_better, found)
