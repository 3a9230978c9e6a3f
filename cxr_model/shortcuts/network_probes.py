"""The run's network on holdout films that are hidden, exchanged or standardised in part."""

import logging
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from cxr_model.batches import TrainingFilms
from cxr_model.cache import Color
from cxr_model.config import RunConfig
from cxr_model.errors import DivergenceError, OutOfMemory
from cxr_model.shortcuts.exchange import (
    CORNER,
    ROUNDS,
    Exchange,
    draw_donors,
    exchange_corners,
)
from cxr_model.shortcuts.retrain import retrain
from cxr_model.shortcuts.scores import Array, Probe, one_hot
from cxr_model.shortcuts.standardise import mean_histogram, standardised_films
from cxr_model.shortcuts.subject import Subject

_BATCH = 64

log = logging.getLogger(__name__)


def model_probe(subject: Subject, predictions: pd.DataFrame) -> Probe:
    """The network on the films as they are, from the run's table of predictions."""
    predicted = predictions.set_index("path")["predicted"]
    number = {label: c for c, label in enumerate(subject.card.classes)}
    called_N = predicted.loc[subject.tables["holdout"]["path"]].map(number).to_numpy()
    return Probe(
        name="model",
        title="model",
        evidence="both",
        how="the network on whole films",
        called_NC=one_hot(called_N, subject.bootstrap.num_classes),
        by_network=True,
    )


def hidden_probes(subject: Subject) -> list[Probe]:
    """The network, not trained for it, on films of which each view hides a part."""
    called: dict[str, list[Array]] = {view.name: [] for view in subject.views}
    for pixels_BCHW in subject.films["holdout"].batches():
        for view in subject.views:
            hidden_BCHW = view.hide(pixels_BCHW, subject.grey)
            called[view.name].append(subject.call([hidden_BCHW]))
    return [
        Probe(
            name=f"network-{view.name}",
            title=f"network, {view.title}",
            evidence=view.evidence,
            how=f"the network as it is; {view.what}",
            called_NC=one_hot(np.concatenate(called[view.name]), subject.bootstrap.num_classes),
            by_network=True,
        )
        for view in subject.views
    ]


def standardised_probe(subject: Subject, root: Path) -> Probe:
    """The network on films without what scanner and archive left in them."""
    films = subject.films
    pixels_NCHW = standardised_films(
        root,
        subject.tables["holdout"],
        subject.card.size_px,
        cast(Color, subject.card.color),
        mean_histogram(films["train"], subject.bootstrap.num_classes),
    )
    batches = (part.to(films["holdout"].device) for part in torch.split(pixels_NCHW, _BATCH))
    return Probe(
        name="network-standardised",
        title="network, standardised films",
        evidence="both",
        how="the network as it is; films cut to their central square, their histogram matched to "
        "the training films' mean",
        called_NC=one_hot(subject.call(batches), subject.bootstrap.num_classes),
        by_network=True,
    )


def measure_exchange(subject: Subject) -> Exchange:
    """What the network calls each holdout film with the corners of others."""
    films, truth_N = subject.films["holdout"], subject.bootstrap.truth_N
    generator = np.random.default_rng(subject.bootstrap.seed)
    called: dict[bool, list[Array]] = {True: [], False: []}
    given: list[Array] = []
    for _ in range(ROUNDS):
        for same_class, rounds in called.items():
            donors_N = draw_donors(truth_N, same_class=same_class, generator=generator)
            mixed = (
                exchange_corners(films.gather(places_B), films.gather(donors_B))
                for places_B, donors_B in zip(
                    torch.split(torch.arange(len(films)), _BATCH),
                    torch.split(torch.from_numpy(donors_N), _BATCH),
                    strict=True,
                )
            )
            rounds.append(subject.call(mixed))
            if not same_class:
                given.append(truth_N[donors_N])
    return Exchange(
        given_KN=np.stack(given),
        across_KN=np.stack(called[False]),
        within_KN=np.stack(called[True]),
    )


def exchange_probes(exchange: Exchange, num_classes: int) -> list[Probe]:
    """Judged by the films' own classes; either kind keeps all of a film but its corners."""
    return [
        Probe(
            name=name,
            title=f"network, corners of {whose}",
            evidence="both",
            how=f"the network as it is; the four corners ({CORNER:.1%} of the side) are of "
            f"{whose}, {ROUNDS} draws",
            called_NC=one_hot(called_KN, num_classes).mean(axis=0),
            by_network=True,
        )
        for name, whose, called_KN in (
            ("corners-other-class", "another class", exchange.across_KN),
            ("corners-own-class", "their own class", exchange.within_KN),
        )
    ]


def retrained_probes(subject: Subject, config: RunConfig) -> tuple[list[Probe], list[str]]:
    """Networks trained anew on films of which a part is hidden, one a view.

    Also a sentence for each that is left out, as its training failed where the run's did not.
    """
    films = TrainingFilms(
        train=subject.films["train"],
        validation=subject.films.get("validation"),
        num_classes=subject.bootstrap.num_classes,
    )
    holdout = subject.films["holdout"]
    probes, left_out = [], []
    for view in subject.views:
        title = f"retrained, {view.title}"
        log.info("shortcuts: a network is %s", title)
        try:
            called_N = retrain(config, subject.card, films, holdout, view)
        except (DivergenceError, OutOfMemory, torch.OutOfMemoryError) as error:
            left_out.append(f"{title}: {str(error).splitlines()[0]}")
            log.warning("probe left out: %s", left_out[-1])
            continue
        probes.append(
            Probe(
                name=f"retrained-{view.name}",
                title=title,
                evidence=view.evidence,
                how=f"a network trained anew with the run's settings; in all films {view.what}",
                called_NC=one_hot(called_N, subject.bootstrap.num_classes),
            )
        )
    return probes, left_out
