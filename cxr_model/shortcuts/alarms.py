"""When a shortcut is called one: three rules, each on a whole interval and with a margin.

The margins keep the rules silent where many figures are looked at and one of them is high by
luck; how often they err on clean phantoms is measured by ``benchmarks/shortcut_alarms.py``.
"""

from typing import Any

import pandas as pd
from scipy.stats import fisher_exact

from cxr_model.bootstrap import Bootstrap
from cxr_model.intervals import Estimate, format_estimate
from cxr_model.shortcuts.scores import BORDER, METADATA, SURROUNDINGS, Probe, one_hot

LEAST_TOLD = 0.6
"""Mean of sensitivity and specificity of one class against the rest; chance is 0.5."""
MOST_LUCK = 0.01
"""Fisher's exact p, one-sided, times the number of probes and classes looked at (Bonferroni);
on a handful of films the best of many intervals lies high by luck. At most one clean data set in
a hundred is to raise an alarm."""
LEAST_FOLLOWED = 0.05
"""Share of predictions that go with the corners, beyond what goes anyway."""
LEAST_OF_MODEL = 0.5
"""Share of what the model has above chance."""

_NO_LUCK = f"Fisher's exact p over all probes and classes is below {MOST_LUCK}"
RULES = (
    f"A class is told without lungs: a probe's interval, class against rest, lies above "
    f"{LEAST_TOLD} (chance 0.5), {_NO_LUCK}, and its value has at least "
    f"{LEAST_OF_MODEL:.0%} of what the model has above 0.5.",
    f"The network tells a class with the lungs hidden: the interval, class against rest, lies "
    f"above {LEAST_TOLD}, and {_NO_LUCK}.",
    f"The network follows corners: the share of predictions that go to the class of exchanged "
    f"corners, less the share that goes there with corners of the film's own class, has its "
    f"interval above {LEAST_FOLLOWED}.",
)


def told_apart(
    probes: list[Probe], model: Probe, classes: list[str], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Each class against the rest by each of ``probes``, beside the model's figure."""
    rows = []
    num_looks = len(probes) * len(classes)
    for c, label in enumerate(classes):
        of_model = bootstrap.estimate(bootstrap.one_against_rest(model.called_NC, c))
        for probe in probes:
            found = bootstrap.estimate(bootstrap.one_against_rest(probe.called_NC, c))
            rows.append(
                {
                    "probe": probe.name,
                    "class": label,
                    "by_network": probe.by_network,
                    "balanced_accuracy": found,
                    "model": of_model,
                    "p_value": min(1.0, num_looks * _luck(probe, bootstrap, c)),
                }
            )
    return rows


def raise_alarms(told: list[dict[str, Any]], excess: Estimate, titles: dict[str, str]) -> list[str]:
    """A sentence for each probe and rule that speaks; none where there is no alarm.

    ``told`` comes from `told_apart`, ``excess`` from ``Exchange.record``, ``titles`` are the
    probes' by name. Of several classes that a probe tells, the plainest comes first. What
    metadata and border tell together is an alarm of its own where neither tells it alone.
    """
    spoken: dict[str, list[dict[str, Any]]] = {}
    for row in told:
        found, model = row["balanced_accuracy"], row["model"]
        if not _is_above(found, LEAST_TOLD) or row["p_value"] >= MOST_LUCK:
            continue
        if not row["by_network"]:
            gain = max(model["value"] - 0.5, 0.0)
            if found["value"] - 0.5 < LEAST_OF_MODEL * gain:
                continue
        spoken.setdefault(row["probe"], []).append(row)
    if METADATA in spoken or BORDER in spoken:
        spoken.pop(SURROUNDINGS, None)
    for rows in spoken.values():
        rows.sort(key=_value, reverse=True)
    plainest_first = sorted(spoken.values(), key=lambda rows: _value(rows[0]), reverse=True)
    alarms = [_sentence(rows, titles) for rows in plainest_first]
    if _is_above(excess, LEAST_FOLLOWED):
        alarms.append(
            f"the network's answer goes with exchanged corners in {format_estimate(excess)} of "
            "the films, beyond what goes there anyway"
        )
    return alarms


def _value(row: dict[str, Any]) -> float:
    return float(row["balanced_accuracy"]["value"])


def _sentence(rows: list[dict[str, Any]], titles: dict[str, str]) -> str:
    """The classes that one probe tells, the plainest first."""
    parts: list[str] = []
    for row in rows:
        how = f"is told from the rest by {titles[row['probe']]}, no lung in sight"
        found, model = format_estimate(row["balanced_accuracy"]), format_estimate(row["model"])
        begin = f"so is {row['class']}" if parts else f"{row['class']} {how}"
        parts.append(f"{begin}: {found}, the model has {model}")
    return "; ".join(parts)


def find_doubt(
    told: list[dict[str, Any]], headline: Estimate, classes: list[str], bootstrap: Bootstrap
) -> str:
    """Why silence of the rules says nothing, in words; empty where it says something."""
    num_looks = len(told)
    perfect = Probe(
        name="perfect", title="", evidence="no lung", how="",
        called_NC=one_hot(bootstrap.truth_N, bootstrap.num_classes),
    )  # fmt: skip
    for c, label in enumerate(classes):
        best = bootstrap.estimate(bootstrap.one_against_rest(perfect.called_NC, c))
        if not _is_above(best, LEAST_TOLD) or num_looks * _luck(perfect, bootstrap, c) >= MOST_LUCK:
            return f"there are too few films to find out whether {label} is told without lungs"
    if not _is_above(headline, 0.0):
        return "nothing is shown above what is told without lungs"
    return ""


def verdict(
    alarms: list[str], doubt: str, headline: Estimate, strongest: Probe, model: Estimate
) -> str:
    """The audit's outcome in one sentence."""
    above = (
        f"the model's balanced accuracy, {format_estimate(model)}, less that of the strongest "
        f"evidence without lungs ({strongest.title}) is {format_estimate(headline)}"
    )
    if not alarms and doubt:
        return f"No alarm by {len(RULES)} rules, but {doubt}; {above}."
    if not alarms:
        return f"No shortcut found by {len(RULES)} rules; {above}."
    others = f", and {len(alarms) - 1} more" if len(alarms) > 1 else ""
    return f"Shortcut alarm: {alarms[0]}{others}; {above}."


def _luck(probe: Probe, bootstrap: Bootstrap, label: int) -> float:
    """Chance of calling this class's films by it so often and others so seldom, or better.

    A group has one call, that of most of its films: they are not independent.
    """
    films = pd.DataFrame(
        {
            "group": bootstrap.groups_N,
            "own": bootstrap.truth_N == label,
            "called": probe.called_NC[:, label],
        }
    )
    calls = films.groupby(["group", "own"])["called"].mean().gt(0.5).reset_index()
    counts = calls.value_counts(["own", "called"])
    table = [[counts.get((own, called), 0) for own in (True, False)] for called in (True, False)]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _is_above(estimate: Estimate, least: float) -> bool:
    return estimate["ci_low"] is not None and estimate["ci_low"] > least
