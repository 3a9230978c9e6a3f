"""Films with parts of them hidden: what a probe may see."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxr_model.ahead import map_ahead
from cxr_model.explanations.lung_field import lung_field
from cxr_model.films import FilmSet
from cxr_model.shortcuts.scores import Evidence

BORDER = 0.85
"""Side of the hidden centre that leaves the border alone, as a share of the film's side."""
_CENTRES = (0.5, 0.7)
Box = tuple[float, float, float, float]
"""Top, bottom, left and right, as shares of the film's side."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Which part of the films is hidden under the training films' mean grey.

    A box is the same in every film: one drawn around each film's own lungs would tell how large
    they are, and from that alone a forest told the real films' classes with 0.5 (chance 0.33).
    """

    name: str
    title: str
    evidence: Evidence
    what: str
    """What is hidden, in words."""
    box: Box | None
    """Hidden in every film; None: all outside of the film's lung field is."""

    def hide(self, pixels_BCHW: Tensor, grey: int) -> Tensor:
        """A copy of uint8 films (B, C, H, W) with the part hidden."""
        hidden_BHW = self.hidden(pixels_BCHW).to(pixels_BCHW.device)
        return pixels_BCHW.masked_fill(hidden_BHW.unsqueeze(1), grey)

    def hidden(self, pixels_BCHW: Tensor) -> Tensor:
        """True where a film is hidden, (B, H, W), or (1, H, W) where all films' parts are one."""
        if self.box is None:
            return ~find_lungs(pixels_BCHW)
        side = pixels_BCHW.shape[-1]
        top, bottom, left, right = (round(side * edge) for edge in self.box)
        hidden_1HW = torch.zeros((1, side, side), dtype=torch.bool)
        hidden_1HW[:, top:bottom, left:right] = True
        return hidden_1HW


def _centre(side: float) -> Box:
    first = (1 - side) / 2
    return first, 1 - first, first, 1 - first


def no_lungs(lungs_HW: Tensor) -> View:
    """The box that holds the lung field of any film, bool (H, W), is hidden.

    What is dense enough to be left out of a lung field (a consolidation, for one) lies inside
    of it.
    """
    edges: list[float] = []
    for axis in (1, 0):
        places = torch.nonzero(lungs_HW.any(dim=axis)).flatten()
        edges += [int(places[0]) / lungs_HW.shape[-1], (int(places[-1]) + 1) / lungs_HW.shape[-1]]
    top, bottom, left, right = edges
    return View(
        name="no-lungs",
        title="lungs hidden",
        evidence="no lung",
        what="the box that holds the lung fields of all training films is hidden",
        box=(top, bottom, left, right),
    )


BORDER_ALONE = View(
    name="border",
    title="border alone",
    evidence="no lung",
    what=f"all but the outer {100 * (1 - BORDER) / 2:.1f} % of each side is hidden",
    box=_centre(BORDER),
)
LUNGS_ALONE = View(
    name="lungs",
    title="lungs alone",
    evidence="lung",
    what="all outside the lung field is hidden",
    box=None,
)
_FIXED = (
    *(
        View(
            name=f"centre-{100 * side:.0f}",
            title=f"centre of {100 * side:.0f} % hidden",
            evidence="both",
            what=f"a central square of {100 * side:.0f} % of the side is hidden, parts of the "
            "lungs stay",
            box=_centre(side),
        )
        for side in _CENTRES
    ),
    BORDER_ALONE,
    LUNGS_ALONE,
)


def views_of(train: FilmSet) -> tuple[View, ...]:
    """Every view, of a run with these films to train on."""
    lungs_HW = torch.zeros(train.pixels_NCHW.shape[2:], dtype=torch.bool)
    for pixels_BCHW in train.batches():
        lungs_HW |= find_lungs(pixels_BCHW).any(dim=0)
    return *_FIXED, no_lungs(lungs_HW)


def find_lungs(pixels_NCHW: Tensor) -> Tensor:
    """The lung field of each uint8 film as bool (N, H, W), on the CPU."""
    is_grey = pixels_NCHW.shape[1] == 1
    films = (pixels_NCHW[:, 0] if is_grey else pixels_NCHW.permute(0, 2, 3, 1)).cpu().numpy()
    num_threads = os.cpu_count() or 1  # SciPy's filters let go of the GIL
    fields = map_ahead(lung_field, films, num_threads=num_threads, num_ahead=2 * num_threads)
    return torch.from_numpy(np.stack(list(fields)))
