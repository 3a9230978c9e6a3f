"""The Prefect task that writes a run's record, its report and their documents."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cxr_model.config import RunConfig
from cxr_model.hygiene.datasheet import write_datasheet
from cxr_model.run_folder import RunFolder
from cxr_model.stages import TrainSummary
from cxr_model.summary import headline, write_metrics
from tasks.stage_clock import working


@task(cache_policy=NO_CACHE)
def write_report(
    run_root: Path,
    run_id: str,
    config: RunConfig,
    *,
    source: str,
    provenance: dict[str, Any],
    training: TrainSummary,
    holdout: dict[str, Any],
    explanations: dict[str, Any],
    stage_seconds: dict[str, float],
    fetched: list[str],
) -> dict[str, Any]:
    """Write ``metrics.json``, the report and its documents; returns the headline of the run."""
    # matplotlib and Captum load for seconds, which a training need not wait for.
    from cxr_model.reports.documents import write_documents
    from cxr_model.reports.report import build_report

    run = RunFolder(run_root)
    with working():
        metrics = write_metrics(
            run,
            run_id,
            config,
            source=source,
            provenance=provenance,
            training=training,
            holdout=holdout,
            explanations=explanations,
            stage_seconds=stage_seconds,
            fetched=fetched,
        )
        write_datasheet(run, config, source, provenance)
        write_documents(run)
        build_report(run)
    return headline(metrics)
