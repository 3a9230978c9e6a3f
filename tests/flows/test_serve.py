"""``cxr serve`` as a process, over the registry of a real bucket."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from shell import Shell, shell_in

from cxr_model.predict import Predictor
from cxr_model.run_folder import RunFolder
from cxr_model.serving import decode_sent, load_to_serve
from flows.commands.serve import listen_on
from tasks.registry import decide, promotion, register_version
from tasks.run_store import publish_run
from tasks.storage import ObjectStore
from tests.conftest import S3Server
from tests.flows.http_service import send, wait_for_health, wait_for_model
from tests.tiny_model import film_bytes, write_tiny_run

NUM_CLIENTS = 12


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own, and the environment that names it."""

    shell: Shell
    store: ObjectStore

    def publish(self, seed: int, headline: dict[str, Any]) -> Predictor:
        run = RunFolder(self.shell.folder / f"run-{seed}")
        write_tiny_run(run, f"run-{seed}", seed=seed)
        publish_run(self.store, run, f"run-{seed}", headline)
        return load_to_serve(run, torch.device("cpu"))

    def promote(self, run_id: str) -> None:
        version = register_version(self.store, "chest", run_id)
        decide(self.store, "chest", lambda now: promotion(now, version, who="a test", why="new"))


@pytest.fixture
def bucket(tmp_path: Path, rclone_server: S3Server) -> Iterator[Bucket]:
    shell = shell_in(tmp_path)
    location = rclone_server.location(tmp_path.name)
    environment = {
        "CXR_S3_ENDPOINT_URL": str(location.endpoint_url),
        "CXR_S3_BUCKET": location.bucket,
        "CXR_S3_PREFIX": location.prefix,
        "AWS_SHARED_CREDENTIALS_FILE": str(location.credentials_file),
    }
    with ObjectStore(location) as store:
        yield Bucket(replace(shell, environment=shell.environment | environment), store)


@contextmanager
def served(
    shell: Shell, *arguments: str
) -> Iterator[tuple[httpx.Client, "subprocess.Popen[bytes]", Path]]:
    """A client of ``cxr serve``, its process, and the file of what it prints."""
    printed = shell.folder / "serve.log"
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", "0", *arguments]
    with (
        printed.open("wb") as log,
        subprocess.Popen(
            command, cwd=shell.folder, env=shell.environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            while not (found := re.match(r"(http://127\.0\.0\.1:\d+) ", printed.read_text())):
                assert process.poll() is None, printed.read_text()
                time.sleep(0.02)
            with httpx.Client(base_url=found[1], trust_env=False, timeout=30) as client:
                yield client, process, printed
        finally:
            process.terminate()


def scores_of(answer: Any) -> list[float]:
    return list(answer.json()["probabilities"].values())


@pytest.mark.slow
def test_the_champion_answers_many_at_once_and_its_successor_without_a_restart(
    bucket: Bucket, headline: dict[str, Any]
) -> None:
    models = [bucket.publish(seed, headline) for seed in (0, 1)]
    waits = ("--refresh-s", "0.2", "--max-wait-ms", "200", "--max-batch", "8")
    with served(bucket.shell, *waits) as (client, process, printed):
        health = wait_for_health(client, lambda health: health["error"])
        assert health["model"] is None
        assert "has no champion" in health["error"]
        assert client.get("/healthz").status_code == 503

        bucket.promote("run-0")
        wait_for_model(client)
        films = [film_bytes(number) for number in range(NUM_CLIENTS)]
        with ThreadPoolExecutor(NUM_CLIENTS) as clients:
            answers = list(clients.map(lambda film: send(client, film), films))
        for film, answer in zip(films, answers, strict=True):
            assert answer.json()["digest"] == models[0].digest
            alone = models[0].probabilities(decode_sent(models[0], film, "film.png")[None])[0]
            np.testing.assert_allclose(scores_of(answer), alone, atol=1e-5)
        metrics = client.get("/metrics").text
        assert f"cxr_batch_size_sum {NUM_CLIENTS:.1f}" in metrics
        found = re.search(r"cxr_batch_size_count (\S+)", metrics)
        assert found is not None
        assert float(found[1]) < NUM_CLIENTS / 2

        bucket.promote("run-1")
        wait_for_health(client, lambda health: health["model"]["run_id"] == "run-1")
        alone = models[1].probabilities(decode_sent(models[1], films[0], "film.png")[None])[0]
        np.testing.assert_allclose(scores_of(send(client, films[0])), alone, atol=1e-5)

        with ThreadPoolExecutor(1) as clients:  # one is under way when the end is asked for
            last = clients.submit(send, client, films[1])
            while not last.running():
                pass
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(20) == 0
        assert last.exception() is None or isinstance(last.exception(), httpx.ConnectError)
    assert "Traceback" not in printed.read_text()
    assert "the network of run run-1 answers" in printed.read_text()


def test_of_several_models_the_champion_is_to_be_named(
    bucket: Bucket, headline: dict[str, Any]
) -> None:
    bucket.publish(0, headline)
    for model in ("chest", "films"):
        register_version(bucket.store, model, "run-0")
    told = bucket.shell.refused("serve", "--port", "0")
    assert "holds chest, films; say which one, as MODEL/champion" in told


@pytest.mark.slow
def test_a_run_by_name_is_served_from_the_embedded_store_which_ends_with_the_service(
    shell: Shell, headline: dict[str, Any]
) -> None:
    from flows.commands.shared import open_store

    with open_store(shell.settings) as store:
        run = RunFolder(shell.folder / "run")
        digest = write_tiny_run(run, "mine")
        publish_run(store, run, "mine", headline)
    locked = replace(shell, environment=shell.environment | {"CXR_API_KEY": "sesame"})
    with served(locked, "--model", "mine", "--max-mb", "0.1") as (client, process, printed):
        health = wait_for_model(client)
        assert (health["model"]["run_id"], health["model"]["digest"]) == ("mine", digest)
        assert send(client, film_bytes(0)).status_code == 401
        key = {"X-API-Key": "sesame"}
        assert send(client, film_bytes(0), headers=key).status_code == 200
        assert send(client, bytes(200_000), headers=key).status_code == 413
        (own_store,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        own_store.wait(20)
        assert "Traceback" not in printed.read_text()


def test_an_answer_does_not_wait_for_its_head_to_be_acknowledged() -> None:
    with (
        listen_on("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_cannot_be_listened_on_is_told(shell: Shell) -> None:
    told = shell.refused("serve", "--host", "192.0.2.1", "--port", "8000")
    assert "192.0.2.1:8000: cannot be listened on" in told
    assert "set --host and --port" in told
