"""Concurrency limits of the Prefect server."""

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound


def make_limit(client: SyncPrefectClient, name: str) -> None:
    """A global concurrency limit of one slot, where there is none: the operator's stays."""
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.upsert_global_concurrency_limit_by_name(name, 1)
