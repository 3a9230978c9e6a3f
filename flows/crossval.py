"""Cross-validation: the same films dealt out singly and by patient, every fold a task run."""

from dataclasses import asdict
from pathlib import Path

from prefect import flow
from prefect.futures import wait

from cxr_model.config import RunConfig
from cxr_model.crossval import check_begun_settings, require_begun
from cxr_model.device import resolve_device
from cxr_model.folds import CrossvalConfig, Fold, plan_folds, require_one_device
from cxr_model.run_folder import RunFolder, write_json
from flows.run_id import RunIdOrEmpty
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
from flows.task_runner import fold_runner
from tasks.artifacts import show_link
from tasks.crossval import settle_begun_folds, train_fold, write_crossval_report
from tasks.ingest import ingest
from tasks.prepare import build_image_cache, check_folds, index_films
from tasks.publish import check_store, publish, settle_if_published
from tasks.storage_location import StoreLocation


@flow(name="folds", validate_parameters=False)
def train_folds(
    location: StoreLocation,
    root: Path,
    folds: list[Fold],
    config: RunConfig,
    crossval: CrossvalConfig,
    cache_folder: Path,
    num_threads: int | None,
) -> None:
    """Every fold a task run, on the task runner that this flow is given."""
    futures = [
        train_fold.submit(location, root, fold, config, crossval, cache_folder, num_threads)
        for fold in folds
    ]
    wait(futures)
    for future in futures:
        future.result()


@flow(name="crossval", flow_run_name=lambda: f"crossval-{this_run_id()}")
def crossval(
    config: RunConfig = RunConfig(),  # noqa: B008 (frozen)
    crossval: CrossvalConfig = CrossvalConfig(),  # noqa: B008 (frozen)
    run_id: RunIdOrEmpty = "",
    resume: bool = False,
) -> str:
    """Ingest, index, cache, train every fold, compare the protocols, publish; returns the id.

    With ``resume``, and when the flow run crashed and is started anew, folds that are done
    stay done, and one that was interrupted goes on from its checkpoint. Where the source got
    films meanwhile a restart by itself trains all folds anew, and ``resume`` is refused; so it
    is with settings that would train other networks than those of the folds that are done.

    Args:
        config: Films, network and training, as 'cxr settings' lists them.
        crossval: How the films are dealt out.
        run_id: Name of the run; empty: made up from data, preset and time.
        resume: Go on with the run that run_id names, on the machine that began it.
    """
    set_up_logging()
    restarted = started_again()
    goes_on = resume or restarted
    run_id = own_run_id()
    settings = Settings.from_environment()
    device = resolve_device(config.training.device)
    require_one_device(config.training.num_devices)
    folds = plan_folds(crossval)
    runner = fold_runner(settings.task_runner, len(folds), on_gpu=device.type == "cuda")
    root = settings.runs_dir / run_id
    with alone_in(root):
        # Asked here: the process that this one waited for may have come to its end.
        if restarted and settle_if_published(settings.store, root, run_id):
            return run_id
        check_store(settings.store, run_id, new=None if goes_on else root)
        if resume:
            if not restarted:  # which may be on another machine, where all folds begin anew
                require_begun(RunFolder(root))
            check_begun_settings(RunFolder(root), config, crossval)
        run = begin_run(root, config, keep=("folds",) if goes_on else ())
        write_json(run.crossval_config, asdict(crossval))
        films = ingest(config, settings.data_dir, settings.store)
        index_films(run.root, config, films.root)
        check_folds(run.root, crossval)
        # Whoever asks for a resumption is told, a run that goes on by itself begins them anew.
        settle_begun_folds(run.root, crossval, drop=not resume)
        cache = build_image_cache(run.root, config, films.root, settings.cache_dir)
        with turn_at(settings.device_slot):
            train_folds.with_options(task_runner=runner.runner)(
                settings.store, run.root, folds, config, crossval, cache, runner.num_threads
            )
        headline = write_crossval_report(run.root, run_id, config, crossval, films.source)
        require_current()
        report_url = publish(settings.store, run.root, run_id, headline)
        show_link(run_id, report_url)
    return run_id
