"""What `cxr serve` counts, for Prometheus, and the middleware that counts it."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr_model.serving import LoadedModel

PATHS = frozenset({"/", "/predict", "/healthz", "/metrics", "/docs", "/openapi.json"})
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServiceMetrics:
    """The counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter(
            "cxr_requests", "Requests answered.", labels, registry=self._registry
        )
        self.seconds = Histogram(
            "cxr_request_seconds",
            "From the request's head to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_size = Histogram(
            "cxr_batch_size",
            "Films in one forward pass.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._model = Gauge(
            "cxr_model_info",
            "The network that answers: 1.",
            ("run_id", "digest"),
            registry=self._registry,
        )

    def exposition(self, model: LoadedModel | None) -> bytes:
        """In Prometheus' text format; without a model nothing is said of one."""
        self._model.clear()
        if model is not None:
            self._model.labels(model.card.run_id, model.digest).set(1)
        return generate_latest(self._registry)


class CountRequests:
    """ASGI middleware: each request by path and status, and how long it took."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what the server answers if the application raises

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, observe)
        finally:
            # Other paths are the clients' to choose, without end.
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
