"""Names of runs: file names, object keys and Prefect run names at once."""

import re
from datetime import UTC, datetime

from cxr_model.config import RunConfig


def new_run_id(config: RunConfig) -> str:
    """For example ``cxr3-standard-20260131-101530`` (UTC); sorts by time within a data set."""
    kind, _, rest = config.data.source.partition(":")
    name = kind if kind in ("phantom", "kaggle") else (rest or kind).rstrip("/").split("/")[-1]
    name = re.sub(r"[^a-z0-9]+", "-", name.lower().removesuffix(".zip")).strip("-")[:40]
    return f"{name or 'run'}-{config.preset}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
