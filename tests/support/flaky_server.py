"""A real HTTP server on 127.0.0.1 that serves bytes from memory and breaks in chosen ways.

    with FlakyServer({"/a.whl": data}) as server:
        server.break_("/a.whl", "cut", "reset")       # the next two answers, then right ones
        server.break_for_ever("/a.whl", "flip")
        ... server.url("/a.whl") ...
        assert server.requests("/a.whl") == [...]

Faults: cut, reset, stall, short-length, long-length, extra, ignore-range, wrong-range, other-file, no-total, flip,
gzip, bad-gzip, chunked, chunked-cut, drip, weak-etag, redirect-loop, redirect:URL, error-page, and `STATUS`
or `STATUS:RETRY-AFTER` such as `500`, `404`, `429:2`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the server was asked."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""


class FlakyServer:
    """The server; entering the `with` starts it, leaving stops it and frees stalled clients."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.ranges = True
        """False: every Range header is ignored."""
        self.etags = True
        self.types: dict[str, str] = {}
        """Path -> Content-Type; others state none."""
        self.extra: dict[str, str] = {}
        """Headers of every answer."""
        self.released = threading.Event()
        """Set at the end; stalled answers wait for it."""
        self._once: dict[str, list[str]] = {}
        self._always: dict[str, str] = {}
        self._requests: list[Request] = []
        self._mutex = threading.Lock()
        self._server = _Listener(("127.0.0.1", 0), _Answers)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS; before it is entered."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def url(self, path: str, userinfo: str = "") -> str:
        """The address of `path`."""
        return f"http://{userinfo}127.0.0.1:{self._server.server_address[1]}{path}"

    def break_(self, path: str, *faults: str) -> None:
        """The next answers for `path` have these faults, one each; an empty name is a right answer."""
        with self._mutex:
            self._once.setdefault(path, []).extend(faults)

    def break_for_ever(self, path: str, fault: str) -> None:
        """Every answer for `path` has this fault."""
        self._always[path] = fault

    def requests(self, path: str) -> list[Request]:
        """What was asked for `path`, in order."""
        with self._mutex:
            return [request for request in self._requests if request.path == path]

    def counts(self) -> Counter[str]:
        """How often each path was asked for."""
        with self._mutex:
            return Counter(request.path for request in self._requests)

    def next_fault(self, request: Request) -> str:
        """Note the request, and say how to break its answer."""
        with self._mutex:
            self._requests.append(request)
            waiting = self._once.get(request.path)
            return waiting.pop(0) if waiting else self._always.get(request.path, "")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: FlakyServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        """Say what every answer says."""
        for name, value in self.server.owner.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        """Answer, rightly or not."""
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = owner.next_fault(Request(path=self.path, headers=headers))
        data = owner.files.get(self.path)
        if re.fullmatch(r"[0-9]{3}(:.*)?", fault):
            self._status(int(fault[:3]), fault[4:])
        elif fault.startswith("redirect"):
            self._redirect(self.path if fault == "redirect-loop" else fault.partition(":")[2])
        elif data is None:
            self._status(404, "")
        elif fault == "error-page":
            self._whole(b"<html>log in to this network</html>", "")
        else:
            self._file(data, fault)

    def _file(self, data: bytes, fault: str) -> None:
        etag = '"' + hashlib.sha256(data).hexdigest()[:16] + '"'
        span = self._span(len(data), etag) if fault != "ignore-range" else None
        if span is None:
            self._whole(data, fault, etag)
            return
        first, last = span
        if first >= len(data):
            self._status(416, "")
            return
        part, said, total = data[first : last + 1], first, str(len(data))
        if fault == "wrong-range":
            part, said = data[first - 1 : last], first - 1
        if fault == "other-file":
            part, total = bytes(len(part)), str(len(data) + 7)
        if fault == "no-total":
            total = "*"
        self._send(206, part, fault, etag, {"Content-Range": f"bytes {said}-{said + len(part) - 1}/{total}"})

    def _span(self, size: int, etag: str) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", ""))
        if not match or not self.server.owner.ranges or self.headers.get("If-Range", etag) != etag:
            return None
        if not match[1]:
            return max(0, size - int(match[2])), size - 1
        return int(match[1]), min(int(match[2] or size - 1), size - 1)

    def _whole(self, data: bytes, fault: str, etag: str = "") -> None:
        self._send(200, data, fault, etag, {})

    def _status(self, status: int, retry_after: str) -> None:
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, body: bytes, fault: str, etag: str, headers: Mapping[str, str]) -> None:
        if fault == "flip":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        if fault == "extra":
            body += b"more"
        if fault == "short-length":
            body = body[: len(body) // 2]
        encoded = gzip.compress(body, mtime=0) if fault in ("gzip", "bad-gzip") else body
        if fault == "bad-gzip":
            encoded = encoded[:-8] + bytes(8)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.path in self.server.owner.types:
            self.send_header("Content-Type", self.server.owner.types[self.path])
        if etag and self.server.owner.etags:
            self.send_header("ETag", f"W/{etag}" if fault == "weak-etag" else etag)
        if encoded is not body:
            self.send_header("Content-Encoding", "gzip")
        if fault.startswith("chunked"):
            self._chunked(encoded, cut=fault == "chunked-cut")
            return
        self.send_header("Content-Length", str(len(encoded) + (100 if fault == "long-length" else 0)))
        self.end_headers()
        self._body(encoded, fault)

    def _body(self, body: bytes, fault: str) -> None:
        half = len(body) // 2
        if fault in ("cut", "reset", "stall"):
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.close_connection = True
            if fault == "stall":
                self.server.owner.released.wait(30)
            if fault == "reset":
                # Linger 0: closing sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        elif fault == "drip":
            for position in range(len(body)):
                self.wfile.write(body[position : position + 1])
                if self.server.owner.released.wait(0.01):
                    return
        else:
            self.wfile.write(body)
            self.close_connection = self.close_connection or fault == "long-length"

    def _chunked(self, body: bytes, *, cut: bool) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(body) // 2
        for part in (body[:half], body[half:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            if cut:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")
