"""A registered model on another data set than its own."""

from dataclasses import replace

from prefect import flow, runtime

from flows.configuration import config_from_values
from flows.run_id import data_name
from flows.settings import Settings
from flows.start import due_name, set_up_logging, started_run, turn_at
from tasks.evaluate import evaluate_on, fetch_registered
from tasks.ingest import ingest
from tasks.manifest import check_run_id
from tasks.prepare import build_image_cache, index_films
from tasks.publish import check_store, publish
from tasks.report import show_link


def _run_id() -> str:
    parameters = runtime.flow_run.parameters
    given: str = parameters["run_id"]
    return given or due_name(f"{data_name(parameters['source'])}-evaluate")


@flow(name="evaluate", flow_run_name=lambda: f"evaluate-{_run_id()}")
def evaluate(source: str, model: str = "", version: str = "", run_id: str = "") -> str:
    """Measure ``version`` of ``model`` on the films of ``source``; returns the run's id.

    Without ``model`` the registry's only one, without ``version`` its champion. Films that the
    model met in its own data are left out. Labels, size and patient rule are the model's.
    """
    set_up_logging()
    run_id = _run_id()
    check_run_id(run_id)
    settings = Settings.from_environment()
    check_store(settings.store, run_id)
    registered = fetch_registered(settings.store, model, version, settings.fetched_dir)
    config = config_from_values(registered.settings)
    config = replace(config, preset="evaluate", data=replace(config.data, source=source))
    with started_run(settings.runs_dir / run_id, config) as run:
        films = ingest(config, settings.data_dir, settings.store)
        index_films(run.root, config, films.root)
        cache = build_image_cache(run.root, config, films.root, settings.cache_dir)
        with turn_at(settings.device_slot):
            headline = evaluate_on(
                run.root, run_id, registered.root, config, cache, source=films.source
            )
        report_url = publish(settings.store, run.root, run_id, headline)
        show_link(run_id, report_url)
    return run_id
