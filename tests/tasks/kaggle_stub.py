"""A stand-in for Kaggle's service on loopback, for the real client to talk to.

It serves one data set of one owner, redirects downloads to a second address that knows
ranges, and misbehaves as told. ``requests`` keeps what was asked for.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNER, SLUG, CURRENT_VERSION = "owner", "xrays", 3
TOKEN = "KGAT_valid"


@dataclass
class KaggleStub:
    archive: bytes
    """What the next downloads deliver."""
    second_archive: bytes | None = None
    """What is delivered from the second whole download on."""
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers to GetDataset; empty: all is well."""
    num_drops: int = 0
    """Downloads cut by closing the line after half of what was to come."""
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def count(self, method: str) -> int:
        return sum(method in request for request in self.requests)


@contextmanager
def serve(stub: KaggleStub) -> Iterator[KaggleStub]:
    """Serve ``stub`` at ``stub.endpoint`` until the block ends."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stub.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    stub: KaggleStub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.rpartition("/")[2]
        self.stub.requests.append(method)
        if method == "IntrospectToken":
            self._answer(200, {"active": body["token"] == TOKEN, "username": "tester"})
        elif method == "GetDataset" and self.stub.failures:
            status, headers = self.stub.failures.pop(0)
            self._answer(status, {"code": status, "message": "as told"}, headers)
        elif (body["ownerSlug"], body["datasetSlug"]) != (OWNER, SLUG):
            self._answer(404, {"code": 404, "message": "not found"})
        elif method == "GetDataset":
            dataset = {"currentVersionNumber": CURRENT_VERSION, "licenseName": "CC BY 4.0"}
            self._answer(200, dataset)
        elif method == "DownloadDataset" and body["datasetVersionNumber"] <= CURRENT_VERSION:
            self._answer(302, {}, {"Location": f"{self.stub.endpoint}/store/archive.zip"})
        else:
            self._answer(404, {"code": 404, "message": "no such version"})

    def do_GET(self) -> None:
        start, whole = self._range_start(), self.stub.archive
        self.stub.requests.append(f"GET from {start}")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"etag"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        end = len(whole)
        if self.stub.num_drops:
            self.stub.num_drops -= 1
            end = (start + end) // 2
        else:
            self.stub.archive = self.stub.second_archive or whole
        with suppress(ConnectionError):  # the client may hang up once it knows the size
            self.wfile.write(whole[start:end])

    def _range_start(self) -> int:
        if self.headers.get("If-Range") != '"etag"':
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def _answer(
        self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
