"""The main job: from a data source to a published, explained and measured network."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prefect import flow, runtime

from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.errors import CxrError
from cxr_model.run_folder import RunFolder, write_json
from flows.run_id import new_run_id
from flows.settings import Settings
from tasks.evaluate import evaluate_holdout, explain_holdout
from tasks.ingest import ingest
from tasks.manifest import check_run_id
from tasks.prepare import build_image_cache, index_films, split_films
from tasks.publish import check_store, publish
from tasks.report import show_figures, show_report, write_report
from tasks.train import train_network


@dataclass
class StageClock:
    """Wall-clock seconds of each stage, Prefect's share included."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


def _flow_run_name() -> str:
    return f"train-{runtime.flow_run.parameters['run_id'] or runtime.flow_run.id}"


def _without_users_traceback(record: logging.LogRecord) -> bool:
    """A ``CxrError`` is the user's to mend: its line tells all, a traceback hides it."""
    if record.exc_info and isinstance(record.exc_info[1], CxrError):
        record.exc_info = None
    return True


def _set_up_logging() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_users_traceback)
    # Prefect forwards these (PREFECT_LOGGING_EXTRA_LOGGERS) but leaves their level.
    for name in ("cxr_model", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)


def start_run(root: Path, config: RunConfig) -> RunFolder:
    """An empty folder of the run with its ``config.json``."""
    if root.exists():
        shutil.rmtree(root)
    run = RunFolder(root)
    write_json(run.config, asdict(config))
    return run


@flow(name="train", flow_run_name=_flow_run_name)
def train(config: RunConfig = RunConfig(), run_id: str = "") -> str:  # noqa: B008 (frozen)
    """Ingest, index, split, cache, train, evaluate, explain, report, publish; returns the run's id.

    Raises a ``CxrError`` for whatever the user can mend; nothing is published then.
    """
    _set_up_logging()
    run_id = run_id or new_run_id(config)
    check_run_id(run_id)
    settings, clock = Settings.from_environment(), StageClock()
    # Asked first: hours of training are not to end at a closed door.
    resolve_device(config.training.device)
    check_store(settings.store, run_id)
    run = start_run(settings.runs_dir / run_id, config)
    with clock("ingest"):
        films = ingest(config, settings.data_dir, settings.store)
    with clock("index"):
        index_films(run.root, config, films.root)
    with clock("split"):
        split_films(run.root, config)
    with clock("cache"):
        cache = build_image_cache(run.root, config, films.root, settings.cache_dir)
    with clock("train"):
        training = train_network(run.root, run_id, config, cache)
    with clock("evaluate"):
        holdout = evaluate_holdout(run.root, config, cache)
    with clock("explain"):
        explanations = explain_holdout(run.root, config, cache, films.root)
    headline = write_report(
        run.root,
        run_id,
        config,
        source=films.source,
        provenance=films.provenance,
        training=training,
        holdout=holdout,
        explanations=explanations,
        stage_seconds=clock.seconds,
    )
    show_figures(run.root, run_id, holdout)
    report_url = publish(settings.store, run.root, run_id, headline)
    show_report(run_id, holdout, report_url)
    return run_id
