"""A Python index on loopback that records what it is asked for the first time, and replays it ever after.

    python -m bench.replay_index --folder DIR [--upstream URL] [--delay-ms N] [--offline]

Prints its address, `http://127.0.0.1:PORT/simple`, and serves until its standard input ends. The upstream is the first
index that pip is configured for; it is asked at run time and noted nowhere but in the recordings. What was recorded is
answered from memory by one event loop, so that the server is not what limits a contestant.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import io
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from bench.docs import write_bytes
from bench.index_pages import ACCEPT, HTML_TYPE, JSON_TYPE, releases, served_page
from bench.peers import ROOT

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LARGEST: Final = 64 << 20
"""Bytes of a whole file that is passed on: no contestant shall pull gigabytes of CUDA by accident."""
FRESH: Final = "max-age=600, public"
FOREVER: Final = "max-age=365000000, immutable, public"
_TIMEOUT: Final = 60.0
_CONNECT: Final = 10.0
_PAUSES: Final = (0.2, 1.0, 2.0)
"""Seconds between tries."""
_TAIL: Final = 1 << 18
_NOT_THERE: Final = (403, 404, 410)


class UpstreamFailed(Exception):
    """The upstream index did not answer, or there is none: nothing is recorded, and the client gets 502."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    encoding: str = ""
    lifetime: str = ""
    etag: str = ""
    span: str = ""
    """Content-Range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""


# Upstream


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The real index; None as `index` means there is none to ask."""

    index: str | None
    context: ssl.SSLContext = field(default_factory=lambda: _context(os.environ))

    def insist(self) -> None:
        """UpstreamFailed if nobody listens there. Behind a proxy nobody can tell before the first question."""
        parts = urlsplit(self.index or "")
        if self.index is None or urllib.request.getproxies().get(parts.scheme):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=_CONNECT).close()
        except OSError as error:
            raise UpstreamFailed(f"the index does not answer: {error}") from None

    def page(self, name: str) -> tuple[bytes, str, str] | None:
        """(body, content type, address) of a project's page; None if the index does not know it."""
        if self.index is None:
            raise UpstreamFailed("offline")
        answer = self._ask(f"{self.index}/{name}/", {"Accept": ACCEPT})
        return None if answer is None else (answer[0], answer[1].get_content_type(), answer[2])

    def file(self, url: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """A file, or its bytes from `start` to `end` (exclusive); None if it is not there."""
        if self.index is None:
            raise UpstreamFailed("offline")
        span = {} if start is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        answer = self._ask(url, span)
        return None if answer is None else answer[0]

    def size(self, url: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        if self.index is None:
            raise UpstreamFailed("offline")
        answer = self._ask(url, {}, "HEAD")
        return None if answer is None else int(answer[1]["Content-Length"] or "0")

    def metadata(self, url: str) -> bytes | None:
        """METADATA of the wheel at `url`: the file beside it, else out of the zip by range reads."""
        beside = self.file(url + ".metadata")
        if beside is not None and beside.startswith(b"Metadata-Version"):
            return beside
        size = self.size(url)
        if not size:
            return None
        with zipfile.ZipFile(io.BufferedReader(_Remote(self, url, size), 1 << 16)) as wheel:
            names = [n for n in wheel.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA")]
            return wheel.read(names[0]) if len(names) == 1 else None

    def _ask(self, url: str, headers: Mapping[str, str], method: str = "GET") -> tuple[bytes, Message, str] | None:
        """(body, headers, address) of the answer; asked again where the network fails for a moment."""
        request = urllib.request.Request(url, headers=dict(headers), method=method)
        for pause in (*_PAUSES, None):
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT, context=self.context) as response:
                    return response.read(), response.headers, response.url
            except urllib.error.HTTPError as error:
                if error.code in _NOT_THERE:
                    return None
                reason = f"answered {error.code}"
            except OSError as error:
                reason = str(error)
            if pause is not None:
                time.sleep(pause)
        raise UpstreamFailed(reason)


class _Remote(io.RawIOBase):
    """A file behind range requests, to be read as a zip; its end, where the directory is, comes with the first."""

    def __init__(self, upstream: Upstream, url: str, size: int) -> None:
        self.upstream, self.url, self.total, self.position = upstream, url, size, 0
        self.tail_start = max(0, size - _TAIL)
        self.tail = upstream.file(url, self.tail_start, size) or b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.total)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        end = min(self.position + len(room), self.total)
        if end <= self.position:
            return 0
        if self.position >= self.tail_start:
            data = self.tail[self.position - self.tail_start : end - self.tail_start]
        else:
            data = self.upstream.file(self.url, self.position, end) or b""
        room[: len(data)] = data
        self.position += len(data)
        return len(data)


def _context(environment: Mapping[str, str]) -> ssl.SSLContext:
    chosen = [environment[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if environment.get(name)]
    return ssl.create_default_context(cafile=chosen[0] if chosen else None)


def configured_upstream() -> str:
    """The first index that pip is configured for on this machine; UpstreamFailed if it is none that HTTP reaches."""
    sys.path.insert(0, str(ROOT))
    from nnenv.adapters.pip_config import index_configuration
    from nnenv.errors import NnenvError

    try:
        configuration = index_configuration(os.environ, home=Path("~").expanduser())
    except NnenvError as error:
        raise UpstreamFailed(error.what) from None
    for index in configuration.indexes:
        if index.startswith(("http://", "https://")):
            return index.rstrip("/")
    raise UpstreamFailed("pip is configured for no index that speaks HTTP")


# Recordings


@dataclass(kw_only=True)
class Recordings:
    """Answers on disk and in memory; what is missing is fetched once, however many ask."""

    folder: Path
    upstream: Upstream
    fetched: int = 0
    """Questions that went upstream since the start."""
    _known: dict[tuple[str, ...], Answer] = field(default_factory=dict)
    _hosts: dict[str, str] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Read all pages that are on the disk, so that no first request is slower than the next."""
        hosts = self.folder / "hosts.json"
        if hosts.exists():
            self._hosts.update(json.loads(hosts.read_text("utf-8")))
        for folder in sorted((self.folder / "pages").glob("*")):
            self._keep_page(folder.name)
        for path in sorted((self.folder / "files").rglob("*.metadata")):
            key = "/files/" + path.relative_to(self.folder / "files").as_posix()
            self._known["file", key] = _file_answer(path.read_bytes())

    def known(self, question: Question) -> Answer | None:
        """The answer, if it is in memory already."""
        key = _key(question)
        answer = self._known.get(key)
        if answer is None and key[0] == "page":
            packed = self._known.get((*key[:3], "gzip"))
            if packed is None:
                return self._known.get(("page", key[1], "absent"))
            answer = self._known[key] = _page_answer(gzip.decompress(packed.body), packed.content_type, "")
        return answer

    def answer(self, question: Question) -> Answer:
        """The answer, from the disk or from upstream; may take long. UpstreamFailed."""
        key = _key(question)
        with self._lock(key[1]):
            known = self.known(question)
            if known is not None:
                return known
            if key[0] == "page":
                return self._page(key[1], question)
            if key[0] == "releases":
                return self._releases(key, question)
            if key[0] == "file":
                return self._file(key, question)
        return Answer(status=404)

    def _lock(self, name: str) -> threading.Lock:
        with self._mutex:
            return self._locks.setdefault(name, threading.Lock())

    def _page(self, name: str, question: Question) -> Answer:
        folder = self.folder / "pages" / name
        if not (folder / "json.gz").exists() and not (folder / "absent").exists():
            self.fetched += 1
            found = self.upstream.page(name)
            if found is None:
                write_bytes(folder / "absent", b"")
            else:
                page = served_page(name, *found)
                self._note_hosts(page.hosts)
                write_bytes(folder / "html.gz", gzip.compress(page.html, 6, mtime=0))
                write_bytes(folder / "json.gz", gzip.compress(page.json, 6, mtime=0))
        self._keep_page(name)
        return self.known(question) or Answer(status=404)

    def _keep_page(self, name: str) -> None:
        folder = self.folder / "pages" / name
        if (folder / "absent").exists():
            self._known["page", name, "absent"] = Answer(status=404)
            return
        for form, kind in (("json", JSON_TYPE), ("html", HTML_TYPE)):
            packed = (folder / f"{form}.gz").read_bytes()
            self._known["page", name, form, "gzip"] = _page_answer(packed, kind, "gzip")

    def _releases(self, key: tuple[str, ...], question: Question) -> Answer:
        asked = Question(method="GET", path=f"/simple/{key[1]}/", headers={"accept": JSON_TYPE})
        page = self.known(asked) or self._page(key[1], asked)
        if page.status != 200:
            return page
        body = gzip.compress(releases(page.body, question.headers.get("host", "")), 6, mtime=0)
        kept = Answer(
            status=200, body=body, content_type="application/json", encoding="gzip", lifetime=FRESH, etag=_etag(body)
        )
        self._known[key] = kept
        return kept

    def _file(self, key: tuple[str, ...], question: Question) -> Answer:
        """A recorded file; ranges of files that are too large to keep are passed on each time."""
        path = self.folder / "files" / key[1].removeprefix("/files/")
        if not path.exists() and not path.with_name(path.name + ".absent").exists():
            host, _, rest = key[1].removeprefix("/files/").partition("/")
            if host not in self._hosts:
                return Answer(status=404)
            self.fetched += 1
            url = f"{self._hosts[host]}/{rest}"
            body = self.upstream.metadata(url.removesuffix(".metadata")) if rest.endswith(".metadata") else None
            if not rest.endswith(".metadata"):
                size = self.upstream.size(url)
                if size is not None and size > LARGEST:
                    return self._span(url, size, question)
                body = self.upstream.file(url) if size is not None else None
            if body is None:
                write_bytes(path.with_name(path.name + ".absent"), b"")
            else:
                write_bytes(path, body)
        found = _file_answer(path.read_bytes()) if path.exists() else Answer(status=404)
        self._known[key] = found
        return found

    def _span(self, url: str, size: int, question: Question) -> Answer:
        if question.method == "HEAD":
            return Answer(status=200, body=b"", content_type="application/octet-stream", span=str(size))
        wanted = span_of(question.headers.get("range", ""), size)
        if wanted is None:
            return Answer(status=507, body=b"too large to pass on whole")
        start, end = wanted
        body = self.upstream.file(url, start, end)
        if body is None:
            return Answer(status=404)
        return Answer(status=206, body=body, span=f"bytes {start}-{end - 1}/{size}")

    def _note_hosts(self, hosts: Mapping[str, str]) -> None:
        with self._mutex:
            if hosts.items() - self._hosts.items():
                self._hosts.update(hosts)
                write_bytes(self.folder / "hosts.json", json.dumps(self._hosts, indent=1).encode())


def _key(question: Question) -> tuple[str, ...]:
    """What an answer depends on: ("page", project, form, encoding), ("releases", project, host), ("file", path)."""
    # Before anything is compared: `..%2F` leads as far out of the folder as `../`.
    parts = unquote(urlsplit(question.path).path).strip("/").split("/")
    if len(parts) == 2 and parts[0] == "simple":
        form = "json" if JSON_TYPE in question.headers.get("accept", "") else "html"
        encoding = "gzip" if "gzip" in question.headers.get("accept-encoding", "") else ""
        return "page", project_name(parts[1]), form, encoding
    if parts[-1:] == ["json"] and (len(parts) == 2 or (len(parts) == 3 and parts[0] == "pypi")):
        return "releases", project_name(parts[-2]), question.headers.get("host", "")
    if parts[0] == "files" and ".." not in parts and len(parts) > 2:
        return "file", "/" + "/".join(parts)
    return "nothing", ""


def project_name(text: str) -> str:
    """The normal form of a project's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", text).lower()


def span_of(text: str, size: int) -> tuple[int, int] | None:
    """(start, end) of a Range header of one part, end exclusive; None if there is none that fits the file."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if not found or found[0] == "bytes=-":
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    return (start, end) if start < end else None


def _page_answer(body: bytes, content_type: str, encoding: str) -> Answer:
    return Answer(status=200, body=body, content_type=content_type, encoding=encoding, lifetime=FRESH, etag=_etag(body))


def _file_answer(body: bytes) -> Answer:
    return Answer(status=200, body=body, content_type="application/octet-stream", lifetime=FOREVER, etag=_etag(body))


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'


# The server


def reply(question: Question, answer: Answer) -> bytes:
    """The bytes of an HTTP response: conditional, in parts, without a body for HEAD, as the question wants."""
    lines = ["Accept-Ranges: bytes", "Vary: Accept, Accept-Encoding"]
    if answer.lifetime:
        lines.append(f"Cache-Control: {answer.lifetime}")
    if answer.etag:
        lines.append(f"ETag: {answer.etag}")
    status, body = answer.status, answer.body
    if status == 200 and answer.etag and answer.etag in question.headers.get("if-none-match", ""):
        return _packet(304, lines, b"", None)
    lines.append(f"Content-Type: {answer.content_type}")
    if answer.encoding:
        lines.append(f"Content-Encoding: {answer.encoding}")
    length = len(body)
    if answer.span and status == 200:
        length = int(answer.span)
    elif answer.span:
        lines.append(f"Content-Range: {answer.span}")
    elif status == 200 and not answer.encoding and "range" in question.headers:
        wanted = span_of(question.headers["range"], len(body))
        if wanted is None:
            return _packet(416, [*lines, f"Content-Range: bytes */{len(body)}"], b"", 0)
        lines.append(f"Content-Range: bytes {wanted[0]}-{wanted[1] - 1}/{len(body)}")
        status, body = 206, body[wanted[0] : wanted[1]]
        length = len(body)
    return _packet(status, lines, b"" if question.method == "HEAD" else body, length)


def _packet(status: int, lines: list[str], body: bytes, length: int | None) -> bytes:
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *lines]
    if length is not None:
        head.append(f"Content-Length: {length}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def read_question(head: bytes) -> Question:
    """A request's head, without the empty line; ValueError if it is none."""
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in rest)
    return Question(method=method, path=path, headers={n.strip().lower(): value.strip() for n, _, value in pairs})


class _Connection(asyncio.Protocol):
    """One client: requests are answered in order; those in memory at once, the others by a thread."""

    def __init__(self, recordings: Recordings, pool: ThreadPoolExecutor, delay: float) -> None:
        self.recordings, self.pool, self.delay = recordings, pool, delay
        self.waiting = b""
        self.busy = False
        self.transport: asyncio.Transport | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        self._next()

    def _next(self) -> None:
        while not self.busy and self.transport is not None and b"\r\n\r\n" in self.waiting:
            head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
            try:
                question = read_question(head)
            except ValueError:
                self.transport.write(_packet(400, ["Connection: close"], b"", 0))
                self.transport.close()
                return
            known = self.recordings.known(question)
            if known is not None and not self.delay:
                self.transport.write(reply(question, known))
                continue
            self.busy = True
            task = asyncio.get_running_loop().create_task(self._later(question, known))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _later(self, question: Question, known: Answer | None) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if known is None and question.path == "/fetched":
            known = Answer(status=200, body=str(self.recordings.fetched).encode())
        if known is None:
            loop = asyncio.get_running_loop()
            try:
                known = await loop.run_in_executor(self.pool, self.recordings.answer, question)
            except Exception as error:  # whatever went wrong upstream, the client gets an answer
                known = Answer(status=502, body=f"{type(error).__name__}: {error}"[:300].encode())
                sys.stderr.write(f"replay: {question.path}: {known.body.decode()}\n")
        self.busy = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(reply(question, known))
            self._next()


async def serve(recordings: Recordings, delay: float) -> None:
    """Serve on a free port of loopback until standard input ends; the address goes to standard output."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max_workers=16)
    server = await loop.create_server(lambda: _Connection(recordings, pool, delay), "127.0.0.1", 0, backlog=256)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/simple\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()
    pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    """Serve; 1 if there is no upstream to record from and `--offline` is not given."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay_index", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where recordings are")
    parser.add_argument("--upstream", help="the index to record (default: the one that pip is configured for)")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="wait before each answer, as a distant index would")
    parser.add_argument("--offline", action="store_true", help="never ask the upstream")
    options = parser.parse_args()
    try:
        upstream = Upstream(index=None if options.offline else (options.upstream or configured_upstream()))
        upstream.insist()
    except UpstreamFailed as reason:
        sys.stderr.write(f"error: nothing to record from: {reason}\n")
        return 1
    recordings = Recordings(folder=options.folder, upstream=upstream)
    recordings.load()
    asyncio.run(serve(recordings, options.delay_ms / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
