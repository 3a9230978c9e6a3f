"""``cxr serve`` under 1, 4 and 16 clients, beside the bare forward pass of its network.

- ``forward, batch 1`` and ``batch 16``: films per second from decoded pixels to logits, in
  this process while the service rests;
- ``served, N clients``: requests per second of N clients that each wait for their answer
  before they send the next film. Reading the request, decoding, batching, JSON and the
  clients' own work are part of it, on the same cores;
- a row for each number of clients: median and 99th percentile of the latency, and how many
  films a forward pass took.

An untrained network is as fast as a trained one.
"""

import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.rounds import Contestant, films_per_second, result
from cxr_model.cache import Pixels
from cxr_model.serving import LoadedModel

CLIENTS = (1, 4, 16)

_FORWARD_FILMS = 128
_BATCH = 16
_REQUESTS = 64  # a turn, and 16 more for each client
_HEADERS = {"Content-Type": "multipart/form-data; boundary=film"}


def measure_serving(
    address: str, films: Sequence[bytes], model: LoadedModel, *, rounds: int
) -> dict[str, Any]:
    """``films``, files of any size, sent to the service at ``address``; ``model`` is its own."""
    pixels = [model.decode(film, "film") for film in films]
    crowds = {num: _Crowd(address, films, num) for num in CLIENTS}
    contestants: dict[str, Contestant] = {
        f"forward, batch {size}": _Forward(model, pixels, size) for size in (1, _BATCH)
    }
    contestants |= {f"served, {num} clients": crowd for num, crowd in crowds.items()}
    rates = films_per_second(contestants, rounds)
    most = CLIENTS[-1]
    ratios = {
        "one_client_of_forward": rates["served, 1 clients"] / rates["forward, batch 1"],
        "most_clients_of_forward": rates[f"served, {most} clients"]
        / rates[f"forward, batch {_BATCH}"],
    }
    return result(
        rates,
        ratios,
        next(model.network.parameters()).device,
        rows=[crowd.row(rates[f"served, {num} clients"]) for num, crowd in crowds.items()],
        size_px=model.card.size_px,
        num_parameters=model.card.num_parameters,
        median_film_kb=round(statistics.median(map(len, films)) / 1000, 1),
    )


class _Forward:
    def __init__(self, model: LoadedModel, pixels: Sequence[Pixels], batch_size: int) -> None:
        self._model = model
        self._batches = [
            [pixels[i % len(pixels)] for i in range(start, start + batch_size)]
            for start in range(0, _FORWARD_FILMS, batch_size)
        ]

    def __call__(self) -> int:
        for batch in self._batches:
            self._model.probabilities(batch)
        return _FORWARD_FILMS


class _Crowd:
    """Clients that send films at the same time; each call is a turn of theirs."""

    def __init__(self, address: str, films: Sequence[bytes], num_clients: int) -> None:
        self._server = str(urlsplit(address).netloc)
        self._bodies = [_form(film) for film in films]
        self._num_clients = num_clients
        self._latencies_s: list[list[float]] = []
        self._batches: list[float] = []

    def __call__(self) -> int:
        films, passes = self._counted()
        each = _REQUESTS // self._num_clients + 16
        with ThreadPoolExecutor(self._num_clients) as clients:
            turns = clients.map(lambda i: self._client(i, each), range(self._num_clients))
            self._latencies_s.append([latency for turn in turns for latency in turn])
        films_after, passes_after = self._counted()
        self._batches.append((films_after - films) / (passes_after - passes))
        return each * self._num_clients

    def row(self, rate: float) -> dict[str, float]:
        """Over all turns but the first, which warmed up."""
        latencies_ms = 1000 * np.concatenate(self._latencies_s[1:])
        return {
            "clients": self._num_clients,
            "films_per_s": round(rate, 1),
            "p50_ms": round(float(np.percentile(latencies_ms, 50)), 1),
            "p99_ms": round(float(np.percentile(latencies_ms, 99)), 1),
            "num_requests": len(latencies_ms),
            "films_per_pass": round(statistics.mean(self._batches[1:]), 1),
        }

    def _client(self, number: int, num_requests: int) -> list[float]:
        latencies_s = []
        line = HTTPConnection(self._server, timeout=60)
        for i in range(num_requests):
            body = self._bodies[(number + i * self._num_clients) % len(self._bodies)]
            started = time.perf_counter()
            line.request("POST", "/predict", body, _HEADERS)
            answer = line.getresponse()
            told = answer.read()
            latencies_s.append(time.perf_counter() - started)
            if answer.status != 200:
                raise RuntimeError(f"the service answers {answer.status}: {told[:200]!r}")
        line.close()
        return latencies_s

    def _counted(self) -> tuple[float, float]:
        line = HTTPConnection(self._server, timeout=60)
        line.request("GET", "/metrics")
        text = line.getresponse().read().decode()
        line.close()
        films, passes = (
            re.findall(rf"^cxr_batch_size_{name} (\S+)", text, re.MULTILINE)[0]
            for name in ("sum", "count")
        )
        return float(films), float(passes)


def _form(film: bytes) -> bytes:
    head = b'--film\r\nContent-Disposition: form-data; name="file"; filename="film"\r\n\r\n'
    return head + film + b"\r\n--film--\r\n"
