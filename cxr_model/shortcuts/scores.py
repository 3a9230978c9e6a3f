"""What a probe gave on each holdout film.

Shape suffixes: N holdout films, C classes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Evidence = Literal["no lung", "lung", "both"]
METADATA, BORDER = "metadata", "border"
SURROUNDINGS = "surroundings"
"""Names of probes: the last has what the other two have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """One way to tell the classes, with the evidence that it was given."""

    name: str
    title: str
    evidence: Evidence
    how: str
    """One sentence: who judged, and what was seen."""
    called_NC: Array
    """Share of its passes in which it called each film each class; rows sum to one."""
    by_network: bool = False
    """The run's own network as it is, not one fitted to the probe's films."""


def one_hot(classes_N: Array, num_classes: int) -> Array:
    """Class numbers (N,) to what a `Probe` of a single pass says (N, C)."""
    return np.eye(num_classes)[classes_N]
