"""Back to the champion before this one."""

from prefect import flow

from flows.settings import Settings
from flows.start import set_up_logging
from tasks.promotion import roll_back
from tasks.registry import Champion


@flow(name="rollback", flow_run_name="rollback-{model}")
def rollback(model: str, who: str, why: str) -> Champion:
    """Make the champion before this one of ``model`` the champion again."""
    set_up_logging()
    return roll_back(Settings.from_environment().store, model, who, why)
