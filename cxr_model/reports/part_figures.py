"""The drawings of each part of the evidence, by the section that shows them."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from cxr_model.reports.evidence import Evidence
from cxr_model.reports.explanation_check_figures import explanation_check_figures
from cxr_model.reports.hygiene_figures import hygiene_figures
from cxr_model.reports.reliability_figures import reliability_figures
from cxr_model.reports.robustness_figures import outlier_figures, robustness_figures
from cxr_model.reports.shortcut_figures import shortcut_figures

Draw = Callable[[dict[str, Any]], dict[str, Figure]]

# Part of the evidence, the function that draws it, the section its drawings stand in.
PARTS: tuple[tuple[str, Draw, str], ...] = (
    ("hygiene", hygiene_figures, "hygiene"),
    ("shortcuts", shortcut_figures, "shortcuts"),
    ("reliability", reliability_figures, "calibration"),
    ("outliers", outlier_figures, "outliers"),
    ("robustness", robustness_figures, "robustness"),
    ("explanations", explanation_check_figures, "explanations"),
)
ELSEWHERE = {"risk-coverage": "abstention", "operating-points": "operating"}
"""Drawings that stand in another section than the rest of their part."""
CAPTIONS = {
    "hygiene-grey-levels": "Grey levels of each class's films.",
    "hygiene-sizes": "Width, height, aspect and border of each class's films.",
    "hygiene-files": "Formats, modes and JPEG quality of each class's files.",
    "hygiene-told-apart": "How well one property alone tells the classes apart.",
    "reliability-before": "Reliability as trained: on the diagonal, a probability means what it "
    "says.",
    "reliability-after": "Reliability with the temperature.",
    "risk-coverage": "Share of wrong answers by share of films answered, surest first.",
    "operating-points": "Sensitivity and specificity of each operating point on the holdout.",
    "randomisation": "Likeness to the trained network's maps as its layers are made random: a "
    "method that depends on the weights falls. Bands are 95 % intervals.",
    "insertion": "The class's probability as cells are put in, strongest first.",
    "deletion": "The class's probability as cells are taken out, strongest first.",
    "outliers": "Outlier scores of the films and of strangers.",
    "shortcuts": "Balanced accuracy of the model and of each probe, with 95 % intervals.",
    "robustness": "Balanced accuracy by strength of each damage; the band is the 95 % interval, "
    "the hollow point the undamaged films.",
}


def part_figures(evidence: Evidence) -> dict[str, dict[str, Figure]]:
    """Section id to its drawings by name, of the parts whose record is there."""
    drawings: dict[str, dict[str, Figure]] = {}
    for part, draw, section in PARTS:
        record = getattr(evidence, part)
        for name, figure in draw(record).items() if record else ():
            drawings.setdefault(ELSEWHERE.get(name, section), {})[name] = figure
    return drawings


def caption(name: str) -> str:
    """What is said of a drawing; else its name, ``jpeg-quality`` as ``Jpeg quality.``"""
    return CAPTIONS.get(name, f"{name.replace('-', ' ').capitalize()}.")
