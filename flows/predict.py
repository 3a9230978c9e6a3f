"""Score the films that arrived in the bucket, each exactly once, with the champion."""

from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from pydantic import Field

from cxr_model.config_checks import ModelNameOrEmpty
from flows.run_id import RunIdOrEmpty
from flows.settings import Settings
from flows.start import due_name, require_current, set_up_logging, started_again, turn_at
from tasks.artifacts import show, show_table
from tasks.fetched_model import fetch_registered
from tasks.inbox import BATCH_FILMS, find_new_films, lacks_champion, name_batch, score_batch

INBOX_LIMIT = "cxr-inbox"


@flow(name="predict", flow_run_name=lambda: due_name("predict"))
def predict(
    prefix: Annotated[str, Field(pattern="[^/]")] = "inbox",
    model: Annotated[str, ModelNameOrEmpty()] = "",
    version: RunIdOrEmpty = "",
) -> int:
    """Score the new films below ``prefix``; returns how many there were.

    Predictions and a page for each batch lie below ``predictions/``; the films stay where they
    are. A run that is killed repeats the batch it was in and no other. Before the first champion
    the films wait; only a model that this very run was given must have one.

    Args:
        prefix: Folder of the bucket that films arrive in.
        model: Of the registry; empty: its only one.
        version: Run that the network is of; empty: the champion.
    """
    set_up_logging()
    started_again()  # a run that crashes every time ends
    settings = Settings.from_environment()
    with turn_at(INBOX_LIMIT):  # two at once would both find the same films new
        films = find_new_films(settings.store, prefix)
        if not films:
            return 0
        if not (version or _was_asked_for(model)) and lacks_champion(settings.store, model):
            _say_films_wait(len(films), model)
            return 0
        registered = fetch_registered(settings.store, model, version, settings.fetched_dir)
        moment = runtime.flow_run.scheduled_start_time
        rows = []
        for start in range(0, len(films), BATCH_FILMS):
            require_current()
            batch = films[start : start + BATCH_FILMS]
            with turn_at(settings.device_slot):
                record = score_batch(
                    settings.store, prefix, name_batch(moment, batch), batch, registered.root
                )
            counts = {"scored": record.num_scored, "unreadable": record.num_unreadable}
            rows.append({"batch": record.batch, **counts, **record.num_decided})
        show_table("predictions", rows)
    return len(films)


def _was_asked_for(model: str) -> bool:
    """Whether the model was named for this run, and not for every run of its deployment."""
    if not (model and runtime.deployment.id):
        return bool(model)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment(UUID(runtime.deployment.id))
    return bool(deployment.parameters.get("model") != model)


def _say_films_wait(num_films: int, model: str) -> None:
    """A warning and no failure: it would be one every 15 minutes until a training is good."""
    told = (
        f"{num_films} films wait: {f'model {model}' if model else 'the registry'} has no champion "
        "yet; the first run whose gates are green becomes it, or 'cxr promote RUN --reason ...'"
    )
    get_run_logger().warning("%s", told)
    show(create_markdown_artifact, told, key="predictions")
