"""The command ``serve``."""

import logging
import signal
import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_model.errors import StackError
from flows.commands.shared import err, open_store
from flows.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_SHUTDOWN_S = 20


def serve(
    model: Annotated[
        str,
        typer.Option(help="champion or MODEL/champion of the registry, a run's id, or latest."),
    ] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    max_mb: Annotated[float, typer.Option(help="Largest request, in MB.", min=0.001)] = 32.0,
    max_batch: Annotated[int, typer.Option(help="Films in one forward pass.", min=1)] = 16,
    max_wait_ms: Annotated[
        float, typer.Option(help="How long a film waits for others.", min=0, max=1000)
    ] = 5.0,
    refresh_s: Annotated[
        float, typer.Option(help="Seconds between looks for another model.", min=0.1)
    ] = 30.0,
) -> None:
    """Answer over HTTP: POST /predict, a page at /. For research only, not a diagnosis.

    With CXR_API_KEY set, requests must bring it as X-API-Key.
    """
    # From here on SIGTERM unwinds what is open, the embedded store among it; so it does
    # after the server has answered its last request, when uvicorn raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_environment()
    with listen_on(host, port) as listener:  # before seconds of imports
        from cxr_model.batcher import BatchLimits
        from cxr_model.device import resolve_device
        from flows.served_model import ServedModel
        from flows.service import ServiceConfig, create_app
        from flows.service_upload import MEGABYTE
        from tasks.manifest import LATEST
        from tasks.named_model import CHAMPION, find_model
        from tasks.registry import list_models, read_champion

        config = ServiceConfig(
            limits=BatchLimits(max_size=max_batch, max_wait_s=max_wait_ms / 1000),
            max_bytes=round(max_mb * MEGABYTE),
            api_key=settings.api_key,
        )
        with open_store(settings) as store:
            if model == CHAMPION and len(list_models(store)) > 1:
                read_champion(store)  # says that one is to be named: no waiting helps
            # A champion, or a newest run, may come to be while it serves.
            if model != LATEST and model.rpartition("/")[2] != CHAMPION:
                find_model(store, model, settings.fetched_dir)
            _tell_address(host, listener, settings)
            served = ServedModel(
                lambda: find_model(store, model, settings.fetched_dir),
                resolve_device("auto"),
                refresh_s,
            )
            _run(create_app(served, config), listener)


def _tell_address(host: str, listener: socket.socket, settings: Settings) -> None:
    address, port = listener.getsockname()[:2]
    err.print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
    if settings.api_key is None and not ip_address(address).is_loopback:
        err.print("no CXR_API_KEY is set: whoever reaches this address may ask")


def _run(app: "FastAPI", listener: socket.socket) -> None:
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("flows").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,  # /metrics counts
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    with suppress(KeyboardInterrupt):  # raised once more when all is answered
        uvicorn.Server(config).run(sockets=[listener])


def listen_on(host: str, port: int) -> socket.socket:
    """A socket whose connections send what they are given at once; ``StackError`` if taken."""
    try:
        family: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise StackError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); set --host and --port to "
            "an address of this machine and a free port"
        ) from error
    # Connections inherit it. asyncio would set it, but not on those of a listener that, like
    # this one, was made without a protocol number: the body of each answer would then wait
    # 40 ms for the client to acknowledge its head (Nagle's algorithm and delayed ACK).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
