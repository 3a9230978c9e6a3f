"""The HTTP application behind ``cxr serve``: films in, probabilities and heat maps out.

Only ``/predict`` and ``/metrics`` want the key, where there is one: the page, the
documentation and ``/healthz`` hold nothing of anybody's.
"""

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from starlette.requests import ClientDisconnect

from cxr_model.batcher import BatchLimits
from cxr_model.errors import DataError, OverloadError
from cxr_model.serving import FilmService, LoadedModel
from flows.served_model import ServedModel
from flows.service_bodies import FILM_FORM, PROBLEMS, HealthBody, ModelBody, PredictionBody
from flows.service_metrics import CountRequests, ServiceMetrics
from flows.service_upload import MEGABYTE, read_film

_RETRY = {"Retry-After": "1"}
_PAGE = Path(__file__).with_name("service_page.html")
_KEY = APIKeyHeader(name="X-API-Key", auto_error=False)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    limits: BatchLimits = field(default_factory=BatchLimits)
    max_bytes: int = 32 * MEGABYTE
    """Largest body of a request."""
    max_under_way: int = 64
    """Films that are read, decoded or answered at a time; more are sent away."""
    api_key: str | None = field(default=None, repr=False)


def create_app(served: ServedModel, config: ServiceConfig) -> FastAPI:
    """The application; while it runs, ``served`` keeps itself fresh."""
    metrics = ServiceMetrics()
    films = FilmService(config.limits, metrics.batch_size.observe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with films:
            watch = asyncio.create_task(served.keep_fresh())
            try:
                yield
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    # It brings the scripts of /docs along: FastAPI's own page loads them from elsewhere.
    app = FastAPIOffline(
        title="CXResnet",
        description="Class probabilities of chest radiographs. **Not a medical device.**",
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},
        lifespan=lifespan,
    )
    app.add_middleware(CountRequests, metrics=metrics)
    app.add_exception_handler(DataError, _unreadable)
    app.add_exception_handler(OverloadError, _overloaded)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    _add_routes(app, Endpoints(served, films, metrics, config))
    return app


def _add_routes(app: FastAPI, endpoints: "Endpoints") -> None:
    keyed = [Depends(endpoints.require_key)]
    app.add_api_route(
        "/predict",
        endpoints.predict,
        methods=["POST"],
        dependencies=keyed,
        openapi_extra=FILM_FORM,
        responses=PROBLEMS,
    )
    app.add_api_route("/metrics", endpoints.metrics, dependencies=keyed, response_class=Response)
    app.add_api_route("/healthz", endpoints.healthz, responses={503: {"model": HealthBody}})
    app.add_api_route("/", endpoints.page, include_in_schema=False)


class Endpoints:
    def __init__(
        self,
        served: ServedModel,
        films: FilmService,
        metrics: ServiceMetrics,
        config: ServiceConfig,
    ) -> None:
        self._served = served
        self._films = films
        self._metrics = metrics
        self._config = config
        self._num_under_way = 0
        self._page = _PAGE.read_text(encoding="utf-8")
        self._page_headers = {
            "Content-Security-Policy": content_security_policy(self._page),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    async def require_key(self, given: Annotated[str | None, Security(_KEY)]) -> None:
        """Asked before the body is read."""
        expected = self._config.api_key
        if expected is None:
            return
        # A header comes as Latin-1, whatever its bytes meant.
        if not secrets.compare_digest(expected.encode(), (given or "").encode("latin-1")):
            raise HTTPException(401, "X-API-Key: missing or wrong; send the key of this service")

    async def predict(self, request: Request, explain: bool = False) -> PredictionBody:
        """Probabilities of each class; with ``explain`` a Grad-CAM heat map of the decision."""
        self._model()  # before a film is sent for nothing
        with self._admitted():
            name, data = await read_film(request, self._config.max_bytes)
            answer = await self._films.answer(self._model(), data, name, explain=explain)
        return PredictionBody.of(answer)

    async def metrics(self) -> Response:
        """Counters in Prometheus' text format."""
        text = self._metrics.exposition(self._served.current)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def healthz(self, response: Response) -> HealthBody:
        """The network that answers, if there is one, and whether the last look for it failed."""
        model = self._served.current
        response.status_code = 200 if model else 503
        return HealthBody(
            model=ModelBody.of(model) if model else None, error=self._served.error or None
        )

    async def page(self) -> HTMLResponse:
        return HTMLResponse(self._page, headers=self._page_headers)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """A place among those under way: each holds its film in memory."""
        most = self._config.max_under_way
        if self._num_under_way >= most:
            raise OverloadError(f"{most} films are under way; try again in a second")
        self._num_under_way += 1
        try:
            yield
        finally:
            self._num_under_way -= 1

    def _model(self) -> LoadedModel:
        if self._served.current is None:
            raise HTTPException(503, "no model is loaded; /healthz says why", headers=_RETRY)
        return self._served.current


def content_security_policy(page: str) -> str:
    """The page's own script and style by their hashes, its own server, and nothing else."""

    def hashes(tag: str) -> str:
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in contents)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers)


async def _unreadable(_: Request, error: Exception) -> Response:
    return _problem(422, str(error))


async def _overloaded(_: Request, error: Exception) -> Response:
    return _problem(503, str(error), _RETRY)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _problem(422, f"{first['loc'][-1]}: {first['msg']}")


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this answer, but it is counted: 499 is nginx's word for it."""
    return Response(status_code=499)
