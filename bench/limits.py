"""Suite `limits`: what this machine can do at all, with the libraries that nnenv uses, on one core.

No command can be faster than these figures, whoever writes it. The payload is the standard library of the running
Python, over and over: it compresses about as well as wheels do. What is read lies in the kernel's memory: it was just
written.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import os
import shutil
import statistics
import subprocess
import sysconfig
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from bench.image_project import settle
from bench.run import Run
from bench.tables import MEGA, Table, number

_CHUNK: Final = 1 << 20
_LINKS: Final = 2_000
_SMALL_FILES: Final = 100
_REQUESTS: Final = 300

Trial = Callable[[], float]
"""One measurement: how much work was done; the time is taken around it."""


def suite(run: Run) -> Iterator[Table]:
    """Throughput and rates, medians of some rounds."""
    data = payload(16 * MEGA if run.quick else 128 * MEGA)
    folder = run.folder("limits")
    try:
        with serving(data) as port:
            rounds = run.rounds_or(5)
            yield table("Limits of this machine, one core, MB/s of the uncompressed input", "MB/s",
                        measured(throughputs(data, folder, port), rounds), MEGA)  # fmt: skip
            yield table("Limits of this machine, operations", "a second", measured(rates(folder, port), rounds), 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(title: str, unit: str, found: Mapping[str, list[float]], scale: float) -> Table:
    """One row a limit: median and range."""
    rows = [
        (name, number(statistics.median(rates) / scale), f"{number(min(rates) / scale)}-{number(max(rates) / scale)}")
        for name, rates in found.items()
    ]
    return Table(title=title, columns=("what", unit, "range"), rows=tuple(rows))


def measured(trials: Mapping[str, Trial], rounds: int) -> dict[str, list[float]]:
    """Work a second of each trial, every trial once a round."""
    found: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(rounds):
        for name, trial in trials.items():
            settle()
            begun = time.perf_counter()
            work = trial()
            found[name].append(work / (time.perf_counter() - begun))
    return found


def payload(size: int) -> bytes:
    """So many bytes of sources and libraries of this Python."""
    library = Path(sysconfig.get_path("stdlib"))
    found = bytearray()
    for path in sorted([*library.glob("*.py"), *library.glob("lib-dynload/*.so")]):
        found += path.read_bytes()
    return (bytes(found) * (size // len(found) + 1))[:size]


def throughputs(data: bytes, folder: Path, port: int) -> dict[str, Trial]:
    """Trials whose work is counted in bytes."""
    size = float(len(data))
    part = data[: len(data) // 8]
    packed = zlib.compress(data, 6)
    file, tar = folder / "file", folder / "file.tar"
    file.write_bytes(data)
    members = _members(data)
    _write_tar(tar, members)

    def of_all(work: Callable[[], object]) -> Trial:
        def trial() -> float:
            work()
            return size

        return trial

    def of_part(work: Callable[[], object]) -> Trial:
        def trial() -> float:
            work()
            return float(len(part))

        return trial

    trials = {
        "sha256, in memory": of_all(lambda: hashlib.sha256(data).digest()),
        "sha256, from a file": of_all(lambda: _hash_file(file)),
        "crc32 (zlib)": of_all(lambda: zlib.crc32(data)),
        "inflate (zlib)": of_all(lambda: zlib.decompress(packed)),
        "gzip -1 (zlib)": of_part(lambda: zlib.compress(part, 1)),
        "gzip -6 (zlib)": of_part(lambda: zlib.compress(part, 6)),
        "tar, write (tarfile)": of_all(lambda: _write_tar(tar, members)),
        "tar, read (tarfile)": of_all(lambda: _read_tar(tar)),
        "write a file": of_all(lambda: _write(folder / "new", data, durable=False)),
        "write a file, with fsync": of_all(lambda: _write(folder / "new", data, durable=True)),
        "read a file": of_all(lambda: _read(file)),
        "copy a file in the kernel": of_all(lambda: shutil.copyfile(file, folder / "copy")),
        "HTTP from this machine": of_all(lambda: _get(port, "/all")),
    }
    for words in (["sha256sum"], ["openssl", "dgst", "-sha256"]):
        if shutil.which(words[0]):
            run = functools.partial(subprocess.run, [*words, str(file)], capture_output=True, check=True)
            trials[f"sha256, from a file (`{' '.join(words)}`)"] = of_all(run)
    return trials


def rates(folder: Path, port: int) -> dict[str, Trial]:
    """Trials whose work is counted in operations."""
    counter = iter(range(1 << 30))

    def links() -> float:
        place = folder / f"links{next(counter)}"
        place.mkdir()
        (place / "0").touch()
        for link in range(1, _LINKS):
            os.link(place / "0", place / str(link))
        return _LINKS

    def small_files() -> float:
        place = folder / f"small{next(counter)}"
        place.mkdir()
        for name in range(_SMALL_FILES):
            _write(place / str(name), b"small", durable=True)
        return _SMALL_FILES

    def requests() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(_REQUESTS):
            connection.request("GET", "/small")
            connection.getresponse().read()
        connection.close()
        return _REQUESTS

    def processes() -> float:
        for _ in range(20):
            subprocess.run(["true"], check=True)
        return 20

    return {
        "hard links": links,
        "small files, each with fsync": small_files,
        "HTTP requests to this machine, one connection": requests,
        "processes started (`true`)": processes,
    }


def _members(data: bytes) -> list[tuple[str, bytes]]:
    """Files of 64 KiB, about the mean of a wheel."""
    step = 1 << 16
    return [(f"member{start}", data[start : start + step]) for start in range(0, len(data), step)]


def _write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _read_tar(path: Path) -> None:
    with tarfile.open(path) as tar:
        for entry in tar:
            stream = tar.extractfile(entry)
            while stream is not None and stream.read(_CHUNK):
                pass


def _hash_file(path: Path) -> None:
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    view = memoryview(data)
    with path.open("wb", buffering=0) as stream:
        for start in range(0, len(data), _CHUNK):
            stream.write(view[start : start + _CHUNK])
        if durable:
            os.fsync(stream.fileno())


def _read(path: Path) -> None:
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    while answer.read(_CHUNK):
        pass
    connection.close()


@contextmanager
def serving(data: bytes) -> Iterator[int]:
    """The port of a server on loopback, in threads of this process: `/all` is the data, anything else a few bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Without these two each small answer waits 40 ms for an acknowledgement that is delayed.
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            body = data if self.path == "/all" else b"small"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
