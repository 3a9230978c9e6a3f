"""The drawings of each part of the evidence, by the section that shows them."""

from matplotlib.figure import Figure

from cxr_model.reports.evidence import Evidence


def part_figures(evidence: Evidence) -> dict[str, dict[str, Figure]]:
    """Section id to its drawings by name; an empty dict for a part that was not examined."""
    sections = ("hygiene", "shortcuts", "calibration", "abstention", "robustness", "explanations")
    return {section: {} for section in sections}


def caption(name: str) -> str:
    """``risk-coverage`` as ``Risk coverage.``"""
    return f"{name.replace('-', ' ').capitalize()}."
