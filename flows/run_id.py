"""Names of runs and of models: file names, object keys and Prefect run names at once."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from cxr_model.config import RunConfig
from tasks.kaggle_source import KaggleSource
from tasks.manifest import RUN_ID, TAKEN

RunIdOrEmpty = Annotated[
    str, Field(json_schema_extra={"pattern": f"^(?!({'|'.join(TAKEN)})$)({RUN_ID})?$"})
]
"""Of a flow's parameter: what `check_run_id` allows, for the Prefect UI and API."""


def data_name(source: str) -> str:
    """For example ``cxr3`` for ``../films/cxr3``: what runs and models of it are called."""
    kind, _, rest = source.partition(":")
    if kind == "phantom":
        name = kind
    elif f"{source}/".startswith(f"{KaggleSource()}/"):
        name = kind  # what 'kaggle' alone stands for, and reports call by its full name
    elif kind == "kaggle" and "/" in rest:
        name = rest.split("/")[1]
    else:
        name = (rest or kind).rstrip("/").split("/")[-1]
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removesuffix(".zip")).strip("-")[:40] or "run"


def model_name(config: RunConfig) -> str:
    """Of the model that runs with these settings compete for."""
    return config.gates.model or data_name(config.data.source)


def new_run_id(config: RunConfig, moment: datetime | None = None, mark: str = "") -> str:
    """For example ``cxr3-standard-20260131-101530`` (UTC); sorts by time within a data set.

    ``mark`` tells runs of one second apart.
    """
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    name = f"{data_name(config.data.source)}-{config.preset}-{moment:%Y%m%d-%H%M%S}"
    return f"{name}-{mark}" if mark else name
