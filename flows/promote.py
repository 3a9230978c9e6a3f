"""The operator's word on a model's champion; a run, so that it stands in Prefect too."""

from prefect import flow

from flows.settings import Settings
from flows.start import set_up_logging
from tasks.promotion import promote_by_hand
from tasks.registry import Champion


@flow(name="promote", flow_run_name="promote-{model}-{run_id}")
def promote(model: str, run_id: str, who: str, why: str) -> Champion:
    """Make a published run the champion of ``model``, whatever gates and tests say."""
    set_up_logging()
    return promote_by_hand(Settings.from_environment().store, model, run_id, who, why)
