"""The application of ``cxr serve`` in this process, and models on a shelf instead of a bucket."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI

from cxr_model.batcher import BatchLimits
from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder
from flows.served_model import ServedModel
from flows.service import ServiceConfig, create_app
from tasks.named_model import Found
from tests.tiny_model import change_rules, write_tiny_model

LIMITS = BatchLimits(max_wait_s=0.001)


class Shelf:
    """Where models are found: as many as there are, or an error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: Found | Exception = StorageError("the shelf is empty; put a model on it")

    def put(self, seed: int, **rules: float) -> Found:
        run = RunFolder(self.folder / f"run-{seed}")
        digest = write_tiny_model(run, f"run-{seed}", seed=seed)
        change_rules(run, **rules)
        self.found = Found(run_id=f"run-{seed}", digest=digest, fetch=lambda: run)
        return self.found

    def __call__(self) -> Found:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def served(self, refresh_s: float = 3600) -> ServedModel:
        return ServedModel(self, torch.device("cpu"), refresh_s)


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application in uvicorn, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def client_of(shelf: Shelf, **config: Any) -> Iterator[httpx.Client]:
    with serving(create_app(shelf.served(), ServiceConfig(limits=LIMITS, **config))) as client:
        yield client


def wait_for_health(
    client: httpx.Client, condition: Callable[[dict[str, Any]], object], timeout_s: float = 30
) -> dict[str, Any]:
    """What ``/healthz`` says as soon as it fulfils ``condition``."""
    deadline = time.monotonic() + timeout_s
    while True:
        health: dict[str, Any] = client.get("/healthz").json()
        if condition(health):
            return health
        assert time.monotonic() < deadline, health
        time.sleep(0.01)


def wait_for_model(client: httpx.Client) -> dict[str, Any]:
    return wait_for_health(client, lambda health: health["model"])


def send(client: httpx.Client, data: bytes, name: str = "film.png", **options: Any) -> Any:
    return client.post("/predict", files={"file": (name, data)}, **options)
