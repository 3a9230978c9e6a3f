"""Films with parts of them hidden: what a probe may see."""

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cxr_model.ahead import map_ahead
from cxr_model.explanations.lung_field import lung_field
from cxr_model.shortcuts.scores import Evidence

BORDER = 0.85
"""Side of the hidden centre that leaves the border alone, as a share of the film's side."""
_CENTRES = (0.5, 0.7)
_MARGIN = 0.03  # of the side: the lung field's edge is not exact
Where = Literal["centre", "lung box", "outside lungs"]


@dataclass(frozen=True, kw_only=True)
class View:
    """Which part of the films is hidden under the training films' mean grey."""

    name: str
    title: str
    evidence: Evidence
    what: str
    """What is hidden, in words."""
    where: Where
    side: float = 0.0
    """Of the hidden centre, as a share of the film's side."""

    def hide(self, pixels_BCHW: Tensor, lungs_BHW: Tensor, grey: int) -> Tensor:
        """A copy of uint8 films (B, C, H, W) with the part hidden; ``lungs_BHW`` is bool."""
        hidden_BHW = self.hidden(lungs_BHW).to(pixels_BCHW.device)
        return pixels_BCHW.masked_fill(hidden_BHW.unsqueeze(1), grey)

    def hidden(self, lungs_BHW: Tensor) -> Tensor:
        """True where a film is hidden (B, H, W)."""
        if self.where == "outside lungs":
            return ~lungs_BHW
        if self.where == "lung box":
            return lung_boxes(lungs_BHW)
        side_px = lungs_BHW.shape[-1]
        first = round(side_px * (1 - self.side) / 2)
        hidden = torch.zeros_like(lungs_BHW)
        hidden[:, first : side_px - first, first : side_px - first] = True
        return hidden


NO_LUNGS = View(
    name="no-lungs",
    title="lungs hidden",
    evidence="no lung",
    what="the upright box around the lung field, 3 % wider on each side, is hidden",
    where="lung box",
)
BORDER_ALONE = View(
    name="border",
    title="border alone",
    evidence="no lung",
    what=f"all but the outer {100 * (1 - BORDER) / 2:.1f} % of each side is hidden",
    where="centre",
    side=BORDER,
)
LUNGS_ALONE = View(
    name="lungs",
    title="lungs alone",
    evidence="lung",
    what="all outside the lung field is hidden",
    where="outside lungs",
)
VIEWS = (
    *(
        View(
            name=f"centre-{100 * side:.0f}",
            title=f"centre of {100 * side:.0f} % hidden",
            evidence="both",
            what=f"a central square of {100 * side:.0f} % of the side is hidden, parts of the "
            "lungs stay",
            where="centre",
            side=side,
        )
        for side in _CENTRES
    ),
    NO_LUNGS,
    BORDER_ALONE,
    LUNGS_ALONE,
)


def lung_boxes(lungs_BHW: Tensor) -> Tensor:
    """The upright box around each film's lung field and a margin; the outline says less of it.

    What is dense enough to be left out of a lung field (a consolidation, for one) lies inside
    of the box.
    """
    side_px = lungs_BHW.shape[-1]
    margin_px = round(_MARGIN * side_px)
    boxes = torch.ones_like(lungs_BHW)
    for box_HW, lungs_HW in zip(boxes, lungs_BHW, strict=True):
        for axis in (0, 1):
            places = torch.nonzero(lungs_HW.any(dim=1 - axis)).flatten()
            first = max(0, int(places[0]) - margin_px)
            end = min(side_px, int(places[-1]) + 1 + margin_px)
            box_HW.narrow(axis, 0, first).fill_(False)
            box_HW.narrow(axis, end, side_px - end).fill_(False)
    return boxes


def find_lungs(pixels_NCHW: Tensor) -> Tensor:
    """The lung field of each uint8 film as bool (N, H, W), on the CPU."""
    grey_NHW = pixels_NCHW.float().mean(dim=1).byte().cpu().numpy()
    num_threads = os.cpu_count() or 1  # SciPy's filters let go of the GIL
    fields = map_ahead(lung_field, grey_NHW, num_threads=num_threads, num_ahead=2 * num_threads)
    return torch.from_numpy(np.stack(list(fields)))
