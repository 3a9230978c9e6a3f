"""The shortcut audit of a run: how far one gets without the lungs, and what the network reads.

Reviews found networks that read the hospital instead of the lung (DeGrave et al. 2021,
doi:10.1038/s42256-021-00338-7) and near-equal accuracy with the lungs blacked out (Maguolo &
Nanni 2021, doi:10.1016/j.inffus.2021.04.008). Every run is asked the same.
"""

from pathlib import Path
from typing import Any

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.shortcuts.alarms import RULES, find_doubt, raise_alarms, told_apart, verdict
from cxr_model.shortcuts.classical import (
    border_probe,
    metadata_probe,
    surroundings_probe,
    thumbnail_probe,
)
from cxr_model.shortcuts.exchange import Exchange
from cxr_model.shortcuts.network_probes import (
    exchange_probes,
    hidden_probes,
    measure_exchange,
    model_probe,
    retrained_probes,
    standardised_probe,
)
from cxr_model.shortcuts.scores import Probe
from cxr_model.shortcuts.subgroups import measure_subgroups
from cxr_model.shortcuts.subject import Subject
from cxr_model.stages import read_predictions


def audit_shortcuts(
    run: RunFolder, config: RunConfig, cache: FilmCache, root: Path
) -> dict[str, Any]:
    """Probe the run's films and network; write ``evidence/shortcuts.json`` and return it.

    Needs the index, the splits, the model and the predictions of the run; ``root`` is where
    the films lie. Every figure is of the holdout, which nothing here is fitted on. Probes that
    could not be made are told under ``left_out``.
    """
    subject = Subject.load(run, config, cache)
    model = model_probe(subject, read_predictions(run.predictions))
    exchange = measure_exchange(subject)
    train, holdout = subject.films["train"], subject.films["holdout"]
    retrained, left_out = (
        retrained_probes(subject, config) if config.shortcuts.retrain else ([], [])
    )
    probes = [
        metadata_probe(subject.tables, train, subject.bootstrap),
        border_probe(train, holdout, subject.bootstrap),
        surroundings_probe(subject.tables, train, holdout, subject.bootstrap),
        thumbnail_probe(train, holdout, subject.bootstrap),
        *hidden_probes(subject),
        *retrained,
        standardised_probe(subject, root),
        *exchange_probes(exchange, subject.bootstrap.num_classes),
    ]
    record = judge_probes(subject, model, probes, exchange) | {"left_out": left_out}
    write_json(run.shortcuts, record)
    return record


def judge_probes(
    subject: Subject, model: Probe, probes: list[Probe], exchange: Exchange
) -> dict[str, Any]:
    """Figures, alarms and verdict from what each probe called each film.

    The strongest of the probes without lungs is picked by the same films that it is judged
    on, which makes the headline too low; what no probe looks for makes it too high.
    """
    bootstrap, classes = subject.bootstrap, subject.card.classes
    figures = {probe.name: bootstrap.balanced_accuracy(probe.called_NC) for probe in probes}
    without = [probe for probe in probes if probe.evidence == "no lung"]
    strongest = max(without, key=lambda probe: figures[probe.name].value)
    model_figure = bootstrap.balanced_accuracy(model.called_NC)
    above = {name: bootstrap.estimate(model_figure.less(each)) for name, each in figures.items()}
    of_model, headline = bootstrap.estimate(model_figure), above[strongest.name]
    told = told_apart(without, model, classes, bootstrap)
    corners = exchange.record(bootstrap)
    alarms = raise_alarms(told, corners["excess"], {probe.name: probe.title for probe in without})
    doubt = "" if alarms else find_doubt(told, headline, classes, bootstrap)
    return {
        "chance": bootstrap.chance,
        "model": of_model,
        "probes": [
            {
                "name": probe.name,
                "title": probe.title,
                "evidence": probe.evidence,
                "how": probe.how,
                "balanced_accuracy": bootstrap.estimate(figures[probe.name]),
                "model_above": above[probe.name],
            }
            for probe in probes
        ],
        "told_apart": told,
        "corner_exchange": corners,
        "subgroups": measure_subgroups(model, subject.tables["holdout"], classes, bootstrap),
        "headline": headline,
        "strongest": strongest.name,
        "alarm": bool(alarms),
        "alarms": alarms,
        "doubt": doubt,
        "rules": list(RULES),
        "verdict": verdict(alarms, doubt, headline, strongest, of_model),
    }
