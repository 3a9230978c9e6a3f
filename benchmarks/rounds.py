"""Contestants measured in turn, so that a slow minute of the machine meets them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from cxr_model.device import device_name
from cxr_model.environment import environment_record

Contestant = Callable[[], int]
"""Does a stretch of work and returns how many films it took."""


def films_per_second(
    contestants: Mapping[str, Contestant],
    rounds: int,
    before: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, float]:
    """The median over ``rounds`` for each contestant; a first round warms up and is dropped.

    What ``before`` holds under a contestant's name is done before each turn, untimed.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            if before and name in before:
                before[name]()
            started = time.perf_counter()
            num_films = work()
            wait_for_device()
            if number:
                rates[name].append(num_films / (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in rates.items()}


def wait_for_device() -> None:
    """Until a GPU has done what it was given; a CPU is done already."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def result(
    rates: Mapping[str, float], ratios: Mapping[str, float], device: torch.device, **about: Any
) -> dict[str, Any]:
    """What a benchmark prints and what is committed of it."""
    return {
        "films_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        **about,
        "environment": environment_record(device_name(device)),
    }
