"""The look at a set of films as one file that opens in a browser, without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_model.reports.figures import svg_bytes
from cxr_model.reports.hygiene_figures import hygiene_figures
from cxr_model.reports.page import data_uri, template_environment
from cxr_model.run_folder import atomic_path

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
        .render(record=record, source=source, pictures=pictures, alt=ALT)
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
