"""The look at a set of films as one file that opens in a browser, without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_model.reports.figures import svg_bytes
from cxr_model.reports.hygiene_figures import hygiene_figures
from cxr_model.reports.page import data_uri, template_environment
from cxr_model.run_folder import atomic_path

MOST_LISTED = 200
"""Entries of a list on the page."""
ALT = {
    "hygiene-grey-levels": "Share of the pixels by grey level, a line for each class",
    "hygiene-sizes": "Width, height, aspect and grey of the border by class",
    "hygiene-files": "Formats, modes and JPEG quality by class",
    "hygiene-told-apart": "Balanced accuracy of each property of the files alone",
}


def write_audit_page(record: Mapping[str, Any], source: str, path: Path) -> None:
    """``record`` is an ``evidence/hygiene.json``, ``source`` the name of the films."""
    pictures = {
        name: data_uri("image/svg+xml", svg_bytes(figure))
        for name, figure in hygiene_figures(record).items()
    }
    page = (
        template_environment()
        .get_template("audit.html.j2")
        .render(
            record=record,
            source=source,
            pictures=pictures,
            alt=ALT,
            found=_found(record),
            most_listed=MOST_LISTED,
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _found(record: Mapping[str, Any]) -> dict[str, list[tuple[list[str], str]]]:
    """By finding: the films of each entry, and what is to be said of them."""
    patients = record["patients"]["shared"]
    return {
        "cannot be decoded": [([film["path"]], film["error"]) for film in record["unreadable"]],
        "exact copies": [(paths, "") for paths in record["exact_duplicates"]["groups"]],
        "near copies": [
            (group["paths"], f"distance {group['distance']}")
            for group in record["near_duplicates"]["groups"]
        ],
        "several classes": [
            (each["paths"], f"{', '.join(each['labels'])} ({each['kind']})")
            for each in record["label_conflicts"]
        ],
        "patient in several classes": [
            (each["paths"], f"{each['patient']}: {', '.join(each['labels'])}")
            for each in patients
            if len(each["labels"]) > 1
        ],
        "blank": [([path], "") for path in record["blank"]],
        "inverted": [([path], "") for path in record["inverted"]],
        "perhaps no upright radiograph": [
            ([film["path"]], film["why"]) for film in record["not_radiographs"]
        ],
        "odd size": [
            ([film["path"]], f"{film['width']} x {film['height']}") for film in record["odd_sizes"]
        ],
    }
