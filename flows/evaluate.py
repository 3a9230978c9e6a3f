"""A trained network on another data set than its own."""

from dataclasses import replace

from prefect import flow, runtime

from flows.configuration import change_config, config_from_values
from flows.run_id import RunIdOrEmpty, data_name
from flows.settings import Settings
from flows.start import alone_in, begin_run, due_name, set_up_logging, turn_at
from tasks.artifacts import show_link
from tasks.evaluate import evaluate_on
from tasks.fetched_model import fetch_trained
from tasks.ingest import ingest
from tasks.manifest import check_run_id
from tasks.prepare import build_image_cache, index_films
from tasks.publish import check_store, publish


def _run_id() -> str:
    parameters = runtime.flow_run.parameters
    given: str = parameters["run_id"]
    return given or due_name(f"{data_name(parameters['source'])}-evaluate")


@flow(name="evaluate", flow_run_name=lambda: f"evaluate-{_run_id()}")
def evaluate(
    source: str,
    run: str = "champion",
    run_id: RunIdOrEmpty = "",
    settings: tuple[str, ...] = (),
) -> str:
    """Measure a trained network on the films of ``source``; returns the evaluation's id.

    Films that the network met in its own data are left out. Labels, size and patient rule are
    the network's, unless ``settings`` say otherwise.

    Args:
        source: Films of elsewhere: phantom:N, kaggle:OWNER/SLUG, a folder or zip of the worker, or
            s3://BUCKET/PREFIX.
        run: A published run, latest, champion (of the only model), or MODEL/champion.
        run_id: Name of the evaluation; empty: made up from data and time.
        settings: How the films are read, as in labels.NAME=PATTERN; empty: as the network's own.
    """
    set_up_logging()
    run_id = _run_id()
    check_run_id(run_id)
    environment = Settings.from_environment()
    root = environment.runs_dir / run_id
    check_store(environment.store, run_id, new=root)
    trained = fetch_trained(environment.store, run, environment.fetched_dir)
    config = change_config(config_from_values(trained.settings), settings)
    config = replace(config, preset="evaluate", data=replace(config.data, source=source))
    with alone_in(root):
        folder = begin_run(root, config)
        films = ingest(config, environment.data_dir, environment.store)
        index_films(folder.root, config, films.root, every_class=False)
        cache = build_image_cache(folder.root, config, films.root, environment.cache_dir)
        with turn_at(environment.device_slot):
            headline = evaluate_on(
                folder.root, run_id, trained.root, config, cache, source=films.source
            )
        report_url = publish(environment.store, folder.root, run_id, headline)
        show_link(run_id, report_url)
    return run_id
