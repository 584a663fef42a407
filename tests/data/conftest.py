"""A real HTTP server on this machine, with the faults that real ones have."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class FileServer:
    """Serves `files` by path; supports ranges unless told otherwise, and remembers what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    """Status codes of the next answers."""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of the body the next answers break off."""
    etag: str | None = '"first"'
    ranges: bool = True
    lengths: bool = True
    """Whether answers state their length."""
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0
    """Seconds of silence after half of the body."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of every request."""
    authorization: list[str | None] = field(default_factory=list)
    url: str = ""
    server: ThreadingHTTPServer | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def asked_for(self, path: str) -> list[str | None]:
        """The Range headers with which a path was asked for."""
        return [requested for name, requested in self.asked if name == path]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path, handler.headers.get("Range")
        self.asked.append((path, wanted))
        self.authorization.append(handler.headers.get("Authorization"))
        if self.failures:
            return self._empty(handler, self.failures.pop(0))
        if path in self.redirects:
            return self._empty(handler, 302, {"Location": self.redirects[path]})
        if path not in self.files:
            return self._empty(handler, 404)
        content, start = self.files[path], 0
        if wanted and self.ranges and handler.headers.get("If-Range") in (None, self.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self._empty(handler, 416, {"Content-Range": f"bytes */{len(content)}"})
        body = content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", self.types.get(path, "application/octet-stream"))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        for name, value in {**self.headers, **({"ETag": self.etag} if self.etag else {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.stall:
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            self.closing.wait(self.stall)
            body = body[len(body) // 2 :]
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)

    @staticmethod
    def _empty(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None) -> None:
        handler.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the other side was killed or gave up, as the test wants
                served.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        served.server, served.url = server, f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield served
        served.closing.set()
        server.shutdown()
