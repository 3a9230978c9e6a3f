"""A film from the body of a request, within limits of size and time."""

import asyncio

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

MEGABYTE = 2**20

_TIMEOUT_S = 60.0


async def read_film(request: Request, max_bytes: int) -> tuple[str, bytes]:
    """Name and bytes of the form's ``file``; ``HTTPException`` where there is none.

    A body of more than ``max_bytes`` is refused by its head where that tells its length,
    and otherwise as soon as so much has come: the rest is not read.
    """
    if int(request.headers.get("Content-Length", 0)) > max_bytes:
        raise _too_large(max_bytes)
    limited = Request(request.scope, _limit(request.receive, max_bytes))
    try:
        async with asyncio.timeout(_TIMEOUT_S), limited.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(422, "file: missing; send the film as 'file' of a form")
            return file.filename or "file", await file.read()
    except TimeoutError as error:
        raise HTTPException(
            408, f"the film did not come within {_TIMEOUT_S:.0f} s; send it again"
        ) from error


def _limit(receive: Receive, max_bytes: int) -> Receive:
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        return message

    return counted


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413,
        f"the request has more than {max_bytes / MEGABYTE:g} MB; send a smaller file",
        headers={"Connection": "close"},  # what is left of the body stands in it
    )
