"""A whole training with validation after each epoch, on a set of the curated one's size.

5,525 films to train on and 1,842 to validate on are what three quarters and one quarter of
the curated set (Sait et al. 2020) come to, duplicates left out; ``--data phantom:7368`` draws
one more to train on, ``--data phantom:614 --times 12`` draws 614 and copies them to as many. A
training of its first epochs, in all sizes of films, that is then thrown away warms up.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.prepare import Prepared, copy_films, prepare
from benchmarks.rounds import result, wait_for_device
from cxr_model.config import RunConfig


def measure_epochs(prepared: Prepared, config: RunConfig, work: Path, times: int) -> dict[str, Any]:
    """Seconds of ``training.epochs`` epochs; every fourth film validates."""
    if times > 1:
        films = copy_films(prepared, work / "films", times)
        source = replace(config, data=replace(config.data, source=str(films)))
        prepared = prepare(source, work / "copies")
    validation = pd.Series(range(len(prepared.films))) % 4 == 3
    once = replace(config, training=replace(config.training, epochs=4))
    for _ in prepared.trainer(once, validation=validation).epochs():
        pass
    trainer = prepared.trainer(config, validation=validation)
    wait_for_device()
    started = time.perf_counter()
    for record in trainer.epochs():
        last = record
    wait_for_device()
    seconds = time.perf_counter() - started
    num_train = len(trainer.films.train)
    return result(
        {"training and validation": config.training.epochs * num_train / seconds},
        {"seconds_per_epoch": seconds / config.training.epochs},
        trainer.device,
        seconds=round(seconds, 2),
        epochs=config.training.epochs,
        num_train=num_train,
        num_validation=int(validation.sum()),
        size_px=config.data.size_px,
        batch_size=config.training.batch_size,
        precision=str(trainer.precision).removeprefix("torch."),
        validation_balanced_accuracy=round(last.validation_balanced_accuracy, 4),
    )
