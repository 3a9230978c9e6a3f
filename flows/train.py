"""The main job: from a data source to a published, explained and measured network."""

import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from prefect import flow, runtime

from cxr_model.config import RunConfig
from cxr_model.device import check_devices
from cxr_model.errors import OtherFilms
from cxr_model.run_folder import RunFolder, read_json, write_json
from cxr_model.stages import TrainSummary
from flows.run_id import RunIdOrEmpty, data_name, model_name
from flows.settings import Settings
from flows.start import (
    alone_in,
    begin_run,
    own_run_id,
    require_current,
    set_up_logging,
    started_again,
    this_run_id,
    turn_at,
)
from tasks.artifacts import show_figures, show_report
from tasks.dataset_state import SourceState, look_at_source, remember_trained
from tasks.evaluate import evaluate_holdout, explain_holdout
from tasks.evidence import (
    enforce_gates,
    examine_films,
    measure_inputs,
    measure_probabilities,
    probe_shortcuts,
)
from tasks.ingest import ingest
from tasks.prepare import build_image_cache, index_films, split_films
from tasks.promotion import consider_promotion
from tasks.publish import (
    check_begun,
    check_store,
    fetch_if_published,
    find_checkpoint,
    forget_checkpoints,
    publish,
)
from tasks.report import write_report
from tasks.stage_clock import StageClock
from tasks.train import train_network

logger = logging.getLogger(__name__)


@flow(name="train", flow_run_name=lambda: f"train-{this_run_id()}")
def train(
    config: RunConfig = RunConfig(),  # noqa: B008 (frozen)
    run_id: RunIdOrEmpty = "",
    resume: bool = False,
) -> str:
    """From a source of films to a published report, and a try at the place of champion.

    A training that goes on does again, quickly, what comes before it, from what is kept on
    disk. So it does by itself when the flow run crashed and is started anew. Returns the run's
    id. Raises a ``CxrError`` for whatever the user can mend; nothing is published then.

    Args:
        config: Films, network, training and evidence, as 'cxr settings' lists them.
        run_id: Name of the run; empty: made up from data, preset and time.
        resume: Go on from the newest checkpoint of the run that run_id names.
    """
    clock = StageClock()
    set_up_logging()
    restarted = started_again()
    run_id = own_run_id()
    settings = Settings.from_environment()
    # Asked first: hours of training are not to end at a closed door.
    check_devices(config.training.device, config.training.num_devices)
    root = settings.runs_dir / run_id
    with alone_in(root):
        # Asked here: the process that this one waited for may have come to its end.
        if restarted and fetch_if_published(settings.store, settings.runs_dir, run_id):
            # The crash may have come between the publication and this.
            _remember_trained(RunFolder(root), config, settings)
        else:
            goes_on = resume or restarted
            check_store(settings.store, run_id, new=None if goes_on else root)
            if resume:
                check_begun(settings.store, root, run_id, config)
            run = begin_run(root, config, keep=(".checkpoints",) if goes_on else ())
            _work_through(run, config, run_id, settings, clock, goes_on=goes_on, resume=resume)
    with clock("promote"):
        consider_promotion(settings.store, root, model_name(config), run_id)  # tells of red gates
        enforce_gates(root, config)
    timing = {"began": clock.began, "ended": time.time(), "stages": clock.rows()}
    write_json(RunFolder(root).timing, timing)
    return run_id


def _work_through(
    run: RunFolder,
    config: RunConfig,
    run_id: str,
    settings: Settings,
    clock: StageClock,
    *,
    goes_on: bool,
    resume: bool,
) -> None:
    store = settings.store
    if goes_on:
        find_checkpoint(store, run.root, run_id)
    else:
        forget_checkpoints(store, run_id)
    with clock("ingest"):
        state = look_at_source(config, store)  # before: what comes later is news
        write_json(run.source_state, asdict(state))
        films = ingest(config, settings.data_dir, store)
    with clock("index"):
        index_films(run.root, config, films.root)
    with clock("hygiene"):
        examine_films(store, run.root, config, films.root)
    with clock("split"):
        split_films(run.root, config)
    with clock("cache"):
        cache = build_image_cache(run.root, config, films.root, settings.cache_dir)
    with turn_at(settings.device_slot):
        with clock("train"):
            ours = [each for each in (cache, films.root) if each.is_relative_to(settings.home)]
            training = _train(run, run_id, config, cache, settings, ours, resume=resume)
        with clock("evaluate"):
            holdout = evaluate_holdout(run.root, config, cache)
        with clock("reliability"):
            measure_probabilities(store, run.root, config)
            measure_inputs(store, run.root, config, cache)
        if config.shortcuts.audit:
            with clock("shortcuts"):
                probe_shortcuts(store, run.root, config, cache, films.root)
        with clock("explain"):
            explanations = explain_holdout(store, run.root, config, cache, films.root)
    with clock("report"):
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
            fetched=clock.fetched,
        )
    require_current()
    with clock("publish"):
        report_url = publish(store, run.root, run_id, headline)
    _remember_trained(run, config, settings)
    show_figures(run.root, run_id, holdout)  # a UI that is away holds no publication up
    show_report(run_id, holdout, report_url, clock.rows())


def _remember_trained(run: RunFolder, config: RunConfig, settings: Settings) -> None:
    """Where the run goes on on another machine nothing is known: the source then is news again."""
    if run.source_state.exists():
        state = SourceState(**read_json(run.source_state))
        remember_trained(settings.store, data_name(config.data.source), state)


def _train(
    run: RunFolder,
    run_id: str,
    config: RunConfig,
    cache: Path,
    settings: Settings,
    in_use: list[Path],
    *,
    resume: bool,
) -> TrainSummary:
    """From the newest checkpoint; a run that nobody restarted by hand may have to begin anew.

    Its source may have got films since: the splits are others, and so is the training.
    """
    store = settings.store if runtime.deployment.id is not None else None
    try:
        return train_network(run.root, run_id, config, cache, store, in_use)
    except OtherFilms as error:
        if resume:
            raise
        logger.warning("the films are others than when the run began, training anew: %s", error)
        forget_checkpoints(settings.store, run_id)
        shutil.rmtree(run.checkpoints)
        return train_network(run.root, run_id, config, cache, store, in_use)
