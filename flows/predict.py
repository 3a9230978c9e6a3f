"""Score the films that arrived in the bucket, each exactly once, with the champion."""

from typing import Annotated

from prefect import flow, runtime
from pydantic import Field

from flows.settings import Settings
from flows.start import due_name, set_up_logging, started_again, turn_at
from tasks.artifacts import show_table
from tasks.fetched_model import fetch_registered
from tasks.inbox import BATCH_FILMS, find_new_films, name_batch, score_batch

INBOX_LIMIT = "cxr-inbox"


@flow(name="predict", flow_run_name=lambda: due_name("predict"))
def predict(
    prefix: Annotated[str, Field(pattern="[^/]")] = "inbox", model: str = "", version: str = ""
) -> int:
    """Score the new films below ``prefix``; returns how many there were.

    Predictions and a page for each batch lie below ``predictions/``; the films stay where they
    are. A run that is killed repeats the batch it was in and no other.

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
        registered = fetch_registered(settings.store, model, version, settings.fetched_dir)
        moment = runtime.flow_run.scheduled_start_time
        rows = []
        for start in range(0, len(films), BATCH_FILMS):
            batch = films[start : start + BATCH_FILMS]
            with turn_at(settings.device_slot):
                record = score_batch(
                    settings.store, prefix, name_batch(moment, batch), batch, registered.root
                )
            counts = {"scored": record.num_scored, "unreadable": record.num_unreadable}
            rows.append({"batch": record.batch, **counts, **record.num_decided})
        show_table("predictions", rows)
    return len(films)
