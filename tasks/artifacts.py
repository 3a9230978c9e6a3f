"""What a run shows in the Prefect UI, under stable keys."""

import base64
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE

from cxr_model.intervals import format_estimate
from cxr_model.run_folder import RunFolder

logger = logging.getLogger(__name__)

SHOWN_FIGURES = {
    "loss.svg": "svg+xml",
    "balanced-accuracy.svg": "svg+xml",
    "confusion-matrix.svg": "svg+xml",
    "explanation-01.jpg": "jpeg",
}


def show(create: Callable[..., Any], *content: object, **options: object) -> UUID | None:
    """An artifact for the UI, or None: a server that is away costs the picture and not the run."""
    try:
        artifact = create(*content, **options)
    except httpx.HTTPError as error:
        logger.warning("not shown in the Prefect UI, the work goes on: %s", error)
        return None
    assert isinstance(artifact, UUID)  # a coroutine only when called from async code
    return artifact


@task(cache_policy=NO_CACHE)
def show_figures(run_root: Path, run_id: str, holdout: dict[str, Any]) -> None:
    """Artifacts with stable keys, so that the UI shows each one's history over runs.

    Heat maps bear the verdicts of their methods, as everywhere.
    """
    # Captum's import takes seconds, which the other artifacts need not wait for.
    from cxr_model.reports.explained_films import verdicts_in_words

    show(create_table_artifact, _table(holdout), key="holdout", description=f"Holdout of {run_id}")
    run = RunFolder(run_root)
    maps = f"{run_id}; {verdicts_in_words(run)}"
    for name, kind in SHOWN_FIGURES.items():
        picture = base64.b64encode((run.figures / name).read_bytes()).decode()
        key = name.partition(".")[0]
        show(
            create_image_artifact,
            f"data:image/{kind};base64,{picture}",
            key=key,
            description=maps if key.startswith("explanation") else run_id,
        )


@task(cache_policy=NO_CACHE)
def show_report(
    run_id: str,
    holdout: dict[str, Any],
    report_url: str,
    stages: list[dict[str, str | float]],
) -> None:
    """The summary, the published report's address, and what each stage took."""
    show_link.fn(run_id, report_url)
    show(create_markdown_artifact, _summary(run_id, holdout, report_url), key="summary")
    show(create_table_artifact, stages, key="stages", description=f"Seconds of {run_id}")


@task(cache_policy=NO_CACHE)
def show_link(run_id: str, report_url: str) -> None:
    """The published report's address, valid for a day or as long as the keys that signed it."""
    show(
        create_link_artifact,
        report_url,
        link_text=f"report of {run_id}",
        key="report",
        description=f"Valid for a day at most; later: cxr report {run_id} --open",
    )


def show_table(key: str, rows: list[dict[str, Any]]) -> None:
    """A table artifact under ``key``."""
    show(create_table_artifact, rows, key=key)


def _summary(run_id: str, holdout: dict[str, Any], report_url: str) -> str:
    return (
        f"# {run_id}\n\n"
        f"Holdout of {holdout['n']} films, 95 % intervals:\n\n"
        f"- accuracy {format_estimate(holdout['accuracy'])}\n"
        f"- balanced accuracy {format_estimate(holdout['balanced_accuracy'])}\n"
        f"- macro F1 {format_estimate(holdout['macro_f1'])}\n"
        f"- MCC {format_estimate(holdout['mcc'])}\n\n"
        f"[Report]({report_url}) (for a day at most; later: `cxr report {run_id} --open`). "
        "Not a medical device."
    )


def _table(holdout: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"class": name}
        | {figure: format_estimate(estimate) for figure, estimate in figures.items()}
        for name, figures in holdout["per_class"].items()
    ]
