"""A web server on this machine that gives one file, well or badly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Answers every address with `data`; counts what it sends, and misbehaves as its attributes say."""

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.data = data
        self.etag = '"1"'
        self.ranges = True  # whether a part may be asked for
        self.cut_after: list[int] = []  # how many bytes the next answers send before the line breaks
        self.length = True  # whether the size is announced
        self.status = 200
        self.kind = "application/octet-stream"
        self.location: str | None = None
        self.pause = 0.0  # seconds after every 64 KiB
        self.requests: list[str | None] = []  # the ranges that were asked for
        self.sent: list[int] = []  # how many bytes were sent for each

    def url(self, name: str = "file.pkl") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that were killed."""


class _Answer(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        number = len(server.requests)
        server.requests.append(asked)
        server.sent.append(0)
        if server.location is not None:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start and start >= len(server.data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        if server.length:
            self.send_header("Content-Length", str(len(server.data) - start))
        self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.kind)
        self.end_headers()
        body = server.data[start:]
        body = body[: server.cut_after.pop(0)] if server.cut_after else body
        for begin in range(0, len(body), 1 << 16):
            piece = body[begin : begin + (1 << 16)]
            server.sent[number] += len(piece)  # before, because the client may look as soon as it has everything
            self.wfile.write(piece)
            time.sleep(server.pause)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def serving(data: bytes) -> Iterator[FileServer]:
    """Serve `data` until the block ends."""
    with FileServer(data) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
