"""Concurrency limits of the Prefect server."""

from contextlib import suppress

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound


def make_limit(client: SyncPrefectClient, name: str) -> None:
    """A global concurrency limit of one slot, where there is none: the operator's stays."""
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        with suppress(ObjectAlreadyExists):  # another run was first
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
