"""Classifiers without lungs find what is planted and say which evidence they had."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr_model.bootstrap import Bootstrap
from cxr_model.films import FilmSet
from cxr_model.shortcuts.classical import (
    border_probe,
    metadata_probe,
    surroundings_probe,
    thumbnail_probe,
)

TRUTH = np.arange(60) % 3


def bootstrap() -> Bootstrap:
    return Bootstrap(truth_N=TRUTH, groups_N=np.arange(60), num_classes=3, draws=100, seed=0)


def table(modes: list[str], seed: int) -> pd.DataFrame:
    sizes = np.random.default_rng(seed).integers(900, 1100, (2, 60))
    return pd.DataFrame(
        {"width": sizes[0], "height": sizes[1], "mode": modes, "format": "JPEG", "mask": "x"}
    )


def film_set(pixels_NCHW: Tensor) -> FilmSet:
    return FilmSet(
        pixels_NCHW=pixels_NCHW, rows_N=torch.arange(60), targets_N=torch.from_numpy(TRUTH)
    )


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (60, 1, 64, 64), generator=generator, dtype=torch.uint8)


def test_metadata_tell_a_class_that_has_a_mode_of_its_own() -> None:
    modes = ["RGB" if label == 2 else "L" for label in TRUTH]
    probe = metadata_probe(
        {"train": table(modes, 0), "holdout": table(modes, 1)}, film_set(noise(0)), bootstrap()
    )
    assert probe.evidence == "no lung"
    assert bootstrap().one_against_rest(probe.called_NC, 2)[0] == 1.0


def test_metadata_of_no_class_tell_nothing_and_unknown_modes_are_taken() -> None:
    probe = metadata_probe(
        {"train": table(["L"] * 60, 0), "holdout": table(["CMYK"] * 60, 1)},
        film_set(noise(0)),
        bootstrap(),
    )
    assert bootstrap().balanced_accuracy(probe.called_NC)[0] < 0.55


def test_a_bright_corner_is_seen_by_the_border_probe_and_by_the_thumbnail() -> None:
    films = [noise(0), noise(1)]
    for pixels_NCHW in films:
        pixels_NCHW[TRUTH == 2, :, :3, -3:] = 255
    train, holdout = map(film_set, films)
    thumbnail = thumbnail_probe(train, holdout, bootstrap())
    border = border_probe(train, holdout, bootstrap())
    assert (thumbnail.evidence, border.evidence) == ("both", "no lung")
    assert bootstrap().one_against_rest(border.called_NC, 2)[0] > 0.9


def test_classes_told_half_by_files_and_half_by_the_border_are_told_by_both_together() -> None:
    films = [noise(0), noise(1)]
    for pixels_NCHW in films:
        pixels_NCHW[TRUTH == 1, :, :3, :] = 255
    train, holdout = map(film_set, films)
    modes = ["RGB" if label == 2 else "L" for label in TRUTH]
    tables = {"train": table(modes, 0), "holdout": table(modes, 1)}
    alone = metadata_probe(tables, train, bootstrap()), border_probe(train, holdout, bootstrap())
    both = surroundings_probe(tables, train, holdout, bootstrap())
    assert both.evidence == "no lung"
    for probe in alone:
        assert bootstrap().balanced_accuracy(probe.called_NC).value < 0.85
    assert bootstrap().balanced_accuracy(both.called_NC).value > 0.95


def test_the_border_probe_is_blind_to_the_middle() -> None:
    films = [noise(0), noise(1)]
    for pixels_NCHW in films:
        for label in range(3):
            pixels_NCHW[label == TRUTH, :, 16:48, 16:48] //= 3 - label
    train, holdout = map(film_set, films)
    thumbnail = thumbnail_probe(train, holdout, bootstrap())
    border = border_probe(train, holdout, bootstrap())
    assert bootstrap().balanced_accuracy(thumbnail.called_NC)[0] > 0.75
    assert bootstrap().balanced_accuracy(border.called_NC)[0] < 0.55
