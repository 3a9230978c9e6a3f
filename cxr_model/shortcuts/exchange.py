"""Corners exchanged between films: does the network's answer go with the corner?

Corners hold letters, markers and collimation, and no lung. A film gets the four corners of a
film of another class and, as a control, those of another film of its own class: the seams are
the same, so what differs between the two is what corners tell of a class.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cxr_model.bootstrap import Bootstrap
from cxr_model.intervals import Estimate
from cxr_model.shortcuts.scores import Array

CORNER = 0.125
"""Side of an exchanged corner as a share of the film's side."""
ROUNDS = 2
"""Donors of either kind that each film gets."""


def draw_donors(truth_N: Array, *, same_class: bool, generator: np.random.Generator) -> Array:
    """The place of another film for each film (N,), of its class or of another one.

    A class is drawn first, so that rare ones give as often as common ones. The only film of a
    class has itself for a donor of its class.
    """
    donors_N = np.empty(len(truth_N), dtype=np.int64)
    classes = np.unique(truth_N)
    for film, label in enumerate(truth_N):
        given = label if same_class else generator.choice(classes[classes != label])
        fitting = np.flatnonzero((truth_N == given) & (np.arange(len(truth_N)) != film))
        donors_N[film] = generator.choice(fitting) if len(fitting) else film
    return donors_N


def exchange_corners(pixels_BCHW: Tensor, donors_BCHW: Tensor) -> Tensor:
    """A copy of the films with the four corners of the donors."""
    side_px = pixels_BCHW.shape[-1]
    corner_px = max(1, round(CORNER * side_px))
    mixed = pixels_BCHW.clone()
    for rows in (slice(corner_px), slice(side_px - corner_px, None)):
        for columns in (slice(corner_px), slice(side_px - corner_px, None)):
            mixed[..., rows, columns] = donors_BCHW[..., rows, columns]
    return mixed


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """What the network called each film with either kind of corner; K rounds."""

    given_KN: Array
    """Class of the corners from another class."""
    across_KN: Array
    """Class the network called the film with them."""
    within_KN: Array
    """Class the network called the film with corners of its own class."""

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Shares of films called as the corners' class, and what of that the corners did.

        ``followed`` is the share with the corners of that class, ``control`` the share called
        the very same class with corners of the film's own; each is a mean over classes.
        """
        followed_N = (self.across_KN == self.given_KN).mean(axis=0)
        control_N = (self.within_KN[:, None] == self.given_KN).mean(axis=(0, 1))
        followed, control = bootstrap.class_mean(followed_N), bootstrap.class_mean(control_N)
        figures: dict[str, Estimate] = {
            name: bootstrap.estimate(figure)
            for name, figure in (
                ("followed", followed),
                ("control", control),
                ("excess", followed.less(control)),
            )
        }
        return {"corner": CORNER, "rounds": len(self.given_KN), **figures}
