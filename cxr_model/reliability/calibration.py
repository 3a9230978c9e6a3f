"""Do the probabilities mean what they say? One temperature, fitted on the validation films."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def temper(probabilities_NC: Array, temperature: float) -> Array:
    """``softmax(log p / T)``, (N, C) as float64: the tempered softmax (Guo et al. 2017).

    No logits are needed: they are the logarithms but for a constant of each film. A
    temperature above 1 draws the probabilities together, the largest one stays the largest.
    """
    scaled_NC = log_probabilities(probabilities_NC) / temperature
    powers_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
    tempered_NC: Array = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    return tempered_NC


def log_probabilities(probabilities_NC: Array) -> Array:
    """Natural logarithms; a probability that float64 rounded to 0 counts as 1e-300."""
    logarithms_NC: Array = np.log(np.maximum(probabilities_NC.astype(np.float64), 1e-300))
    return logarithms_NC
