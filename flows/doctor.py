"""The worker looks at itself: what ``cxr doctor`` finds, as a run whose worker is asked."""

from dataclasses import asdict

from prefect import flow

from cxr_model.errors import StackError
from flows.examine import examine
from flows.settings import Settings
from flows.start import due_name, set_up_logging
from tasks.artifacts import show_table


@flow(name="doctor", flow_run_name=lambda: due_name("doctor"))
def doctor() -> None:
    """A table of the findings; fails where something that a run needs does."""
    set_up_logging()
    findings = examine(Settings.from_environment())
    show_table("doctor", [asdict(finding) for finding in findings])
    failed = [f"{each.name} ({each.found})" for each in findings if each.state == "failed"]
    if failed:
        raise StackError(f"the worker lacks: {', '.join(failed)}; see the table")
