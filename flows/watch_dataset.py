"""Look whether the films changed since they were last trained on, and say so once a day."""

from prefect import flow

from cxr_model.config import RunConfig
from flows.run_id import data_name
from flows.settings import Settings
from flows.start import due_name, set_up_logging
from tasks.dataset_state import announce_change, look_at_source


@flow(name="watch-dataset", flow_run_name=lambda: due_name("watch-dataset"))
def watch_dataset(config: RunConfig = RunConfig()) -> bool:  # noqa: B008 (frozen)
    """Emit ``cxr.dataset.updated`` where the source is new; returns whether it was.

    A change is announced once, and again after a day where no training has followed.

    Args:
        config: Those of the training; the source of films is looked at.
    """
    set_up_logging()
    settings = Settings.from_environment()
    state = look_at_source(config, settings.store)
    return announce_change(settings.store, data_name(config.data.source), state)
