"""What every page has in common: templates, pictures within the page, plain words for numbers."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr_model.intervals import format_estimate
from cxr_model.reports.architecture_figure import short_kind
from cxr_model.run_folder import atomic_path

RULE_TITLES = {
    "youden": "maximum Youden",
    "sensitivity-0.95": "sensitivity 0.95",
    "specificity-0.95": "specificity 0.95",
}


def template_environment() -> Environment:
    """For the templates of this package: escaping, and with no silently empty name."""
    environment = Environment(
        loader=PackageLoader("cxr_model.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": format_estimate,
        "figure": format_figure,
        "rule": rule_title,
        "sentence": sentence,
        "count": lambda number: f"{number:,}",
        "percent": lambda share: f"{100 * float(share):g} %",
        "short_kind": short_kind,
        "flatten": lambda values: dict(flatten(values)),
    }
    return environment


def data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def format_figure(figure: Mapping[str, Any] | float | None) -> str:
    """An `Estimate` with its interval, a bare number with three decimals."""
    if isinstance(figure, Mapping):
        return format_estimate(dict(figure))
    return "undefined" if figure is None else f"{figure:.3f}"


def rule_title(rule: str) -> str:
    return RULE_TITLES.get(rule, rule)


def sentence(words: str) -> str:
    """With a capital and a full stop, as the verdicts of some parts come without."""
    return words[:1].upper() + words[1:].removesuffix(".") + "."


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as ``("training.epochs", "30")``; empty values as a dash."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value) or "–"
        else:
            yield f"{prefix}{key}", "–" if value in (None, "", {}) else str(value)


def format_duration(seconds: float) -> str:
    """``8.2 s``, ``3 min 07 s`` or ``1 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
