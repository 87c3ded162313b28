# SPDX-License-Identifier: GPL-2.0-or-later
"""An S3 server's GET and HEAD, and a plain web server's, for files of a folder: counts, and cuts connections."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves ``/bucket/name`` from a folder, by ranges.

    Attributes
    ----------
    requests : list of tuple of two int
        The bytes ``[start, stop)`` of each GET, in the order in which they came.
    n_cut : int
        How many answers are still cut in their middle: every other one.
    has_ranges : bool
        Whether it heeds what of a file is asked for.
    headers : list of email.message.Message
        Those of all requests.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[tuple[int, int]] = []
        self.n_cut = 0
        self.has_ranges = True
        self.headers: list[Message] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def nbytes(self) -> int:
        return sum(stop - start for start, stop in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        self.server.headers.append(self.headers)
        path = self.server.folder / self.path.partition("?")[0].rpartition("/")[2]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        start, stop = 0, size
        asked = self.headers.get("Range") if self.server.has_ranges else None
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, size) if last else size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{size:x}"')
        self.send_header("Last-Modified", "Wed, 25 Nov 2026 12:00:00 GMT")
        self.end_headers()
        if has_body:
            self._send(path, start, stop)

    def _send(self, path: Path, start: int, stop: int) -> None:
        with self.server.lock:
            self.server.requests.append((start, stop))
            is_cut = self.server.n_cut > 0 and len(self.server.requests) % 2 == 1
            self.server.n_cut -= is_cut
        with open(path, "rb") as file:
            data = os.pread(file.fileno(), stop - start, start)
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder until the context ends."""
    with FileServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
