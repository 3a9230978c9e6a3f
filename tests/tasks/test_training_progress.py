"""The live table of a training; that it is shown is tested with a stack (`tests/flows`)."""

from dataclasses import replace
from math import nan

from cxr_model.trainer import EpochRecord
from tasks.training_progress import describe_epoch

RECORD = EpochRecord(
    epoch=12,
    learning_rate=1e-3,
    train_loss=0.5123,
    validation_loss=0.6234,
    validation_accuracy=0.8,
    validation_balanced_accuracy=0.8731,
    seconds=5.25,
    films_per_second=106.4,
)


def test_the_newest_figures_stand_in_a_table() -> None:
    best = replace(RECORD, epoch=9, validation_balanced_accuracy=0.9)
    assert describe_epoch("mine", RECORD, best, 60).splitlines() == [
        "Training of mine",
        "",
        "| | |",
        "|---|---|",
        "| epoch | 12 of 60 |",
        "| loss | 0.512 |",
        "| validation loss | 0.623 |",
        "| balanced accuracy | 0.873 |",
        "| highest so far | 0.900 in epoch 9 |",
        "| films per second | 106 |",
        "| time left | 4:12 |",
    ]


def test_without_validation_there_are_no_figures_of_it() -> None:
    record = replace(RECORD, validation_loss=nan, validation_balanced_accuracy=nan)
    told = describe_epoch("mine", record, record, 60)
    assert "nan" not in told
    assert "| loss | 0.512 |" in told
