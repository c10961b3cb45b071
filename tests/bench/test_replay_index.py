"""The replaying index, as a process, asked over HTTP, with a small index of ours behind it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.index_pages import JSON_TYPE, served_page
from bench.replay_index import read_question, span_of

ROOT = Path(__file__).resolve().parents[2]
METADATA = b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"


def wheel() -> bytes:
    """A wheel with metadata and some ballast before it, so that its end is not all of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("toy/ballast.bin", bytes(range(256)) * 2000)
        archive.writestr("toy-1.0.dist-info/METADATA", METADATA)
    return buffer.getvalue()


WHEEL = wheel()


@dataclass
class World:
    """What the index behind the replay offers, and what it was asked."""

    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Path -> content type and body."""
    asked: list[str] = field(default_factory=list)
    broken: bool = False
    slow: str = ""
    """A path that takes its time."""


@pytest.fixture
def world() -> Iterator[tuple[World, str]]:
    """An index on loopback, and its address."""
    world = World()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            world.asked.append(self.path)
            kind, body = world.answers.get(self.path, ("", b""))
            status = 500 if world.broken else (200 if kind else 404)
            if self.path == world.slow:
                time.sleep(0.5)
            span = self.headers.get("Range")
            if status == 200 and span:
                start, _, end = span.removeprefix("bytes=").partition("-")
                body, status = body[int(start) : int(end) + 1], 206
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    digest = hashlib.sha256(WHEEL).hexdigest()
    files = [
        {"filename": "toy-1.0-py3-none-any.whl", "url": f"{address}/f/toy-1.0-py3-none-any.whl",
         "hashes": {"sha256": digest}, "size": len(WHEEL), "requires-python": ">=3.8", "yanked": False},
        {"filename": "toy-1.0.tar.gz", "url": "../../f/toy-1.0.tar.gz", "hashes": {"sha256": "0" * 64},
         "yanked": "a \"bad\" one"},
    ]  # fmt: skip
    page = {"meta": {"api-version": "1.1"}, "name": "toy", "versions": ["1.0"], "files": files}
    world.answers["/simple/toy/"] = (JSON_TYPE, json.dumps(page).encode())
    world.answers["/f/toy-1.0-py3-none-any.whl"] = ("application/octet-stream", WHEEL)
    yield world, f"{address}/simple"
    server.shutdown()
    server.server_close()


@contextmanager
def replaying(folder: Path, *options: str) -> Iterator[str]:
    """The replay as a process; its address without `/simple`."""
    command = [sys.executable, "-m", "bench.replay_index", "--folder", str(folder), *options]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip().removesuffix("/simple")
    finally:
        server.communicate(timeout=20)
        assert server.returncode == 0


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of an answer, whatever the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=named, method=method), timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_pages_are_recorded_and_replayed(world: tuple[World, str], tmp_path: Path) -> None:
    """A page is asked of the real index once; without it the same bytes come, as JSON or HTML, packed or plain."""
    upstream, address = world
    seen = {}
    for options in (("--upstream", address), ("--offline",)):
        with replaying(tmp_path, *options) as replay:
            url = f"{replay}/simple/toy/"
            _, headers, body = ask(url, Accept=JSON_TYPE)
            assert headers["Content-Type"] == JSON_TYPE
            assert headers["Cache-Control"] == "max-age=600, public"
            _, packed_headers, packed = ask(url, Accept=JSON_TYPE, Accept_Encoding="gzip")
            assert packed_headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(packed) == body
            _, html_headers, html = ask(url)
            assert html_headers["Content-Type"] == "text/html"
            seen[options[0]] = (body, html)
    assert seen["--upstream"] == seen["--offline"]
    assert upstream.asked == ["/simple/toy/"]
    body, html = seen["--offline"]
    first, second = json.loads(body)["files"]
    assert first["url"].startswith("/files/")
    assert first["core-metadata"] is True
    assert (first["size"], first["requires-python"]) == (len(WHEEL), ">=3.8")
    assert (second["yanked"], "core-metadata" in second) == ('a "bad" one', False)
    assert b'data-requires-python="&gt;=3.8"' in html
    assert b'data-yanked="a &quot;bad&quot; one"' in html


def test_names_are_normal_and_unknown_ones_stay_unknown(world: tuple[World, str], tmp_path: Path) -> None:
    """`Toy` is `toy`; a project that the real index does not know is 404, and it is asked for that once."""
    upstream, address = world
    with replaying(tmp_path, "--upstream", address) as replay:
        assert ask(f"{replay}/simple/TOY/")[0] == 200
        assert [ask(f"{replay}/simple/no.thing/")[0] for _ in range(3)] == [404, 404, 404]
        assert ask(f"{replay}/fetched")[2] == b"2"
    assert upstream.asked == ["/simple/toy/", "/simple/no-thing/"]


def test_a_client_that_has_a_page_is_told_so(world: tuple[World, str], tmp_path: Path) -> None:
    """If-None-Match with the ETag gives 304 without a body; another tag gives the page."""
    with replaying(tmp_path, "--upstream", world[1]) as replay:
        _, headers, _ = ask(f"{replay}/simple/toy/")
        status, _, body = ask(f"{replay}/simple/toy/", If_None_Match=headers["ETag"])
        assert (status, body) == (304, b"")
        assert ask(f"{replay}/simple/toy/", If_None_Match='"other"')[0] == 200


@pytest.mark.parametrize("beside", [True, False])
def test_metadata_comes_from_its_file_or_out_of_the_wheel(
    world: tuple[World, str], tmp_path: Path, beside: bool
) -> None:
    """Every wheel has its metadata file, though the real index may have none: then it is read from the zip's end."""
    upstream, address = world
    stated = METADATA + b"Summary: beside the wheel\n"
    if beside:
        upstream.answers["/f/toy-1.0-py3-none-any.whl.metadata"] = ("text/plain", stated)
    for options in (("--upstream", address), ("--offline",)):
        with replaying(tmp_path, *options) as replay:
            page = json.loads(ask(f"{replay}/simple/toy/", Accept=JSON_TYPE)[2])
            status, headers, body = ask(replay + page["files"][0]["url"] + ".metadata")
            assert (status, body) == (200, stated if beside else METADATA)
            assert "immutable" in headers["Cache-Control"]


def test_files_come_whole_or_in_parts(world: tuple[World, str], tmp_path: Path) -> None:
    """A wheel is passed on whole; its parts by Range, from the start, from the end, and beyond it."""
    with replaying(tmp_path, "--upstream", world[1]) as replay:
        url = replay + json.loads(ask(f"{replay}/simple/toy/", Accept=JSON_TYPE)[2])["files"][0]["url"]
        assert ask(url)[2] == WHEEL
        status, headers, body = ask(url, Range="bytes=2-5")
        assert (status, body) == (206, WHEEL[2:6])
        assert headers["Content-Range"] == f"bytes 2-5/{len(WHEEL)}"
        assert ask(url, Range="bytes=-7")[2] == WHEEL[-7:]
        assert ask(url, Range=f"bytes={len(WHEEL)}-")[0] == 416
        status, headers, body = ask(url, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(WHEEL)))


def test_trouble_is_not_recorded(world: tuple[World, str], tmp_path: Path) -> None:
    """An index that fails gives 502 and leaves nothing behind: the next start asks it again."""
    upstream, address = world
    upstream.broken = True
    with replaying(tmp_path, "--upstream", address) as replay:
        assert ask(f"{replay}/simple/toy/")[0] == 502
        upstream.broken = False
        assert ask(f"{replay}/simple/toy/")[0] == 200


@pytest.mark.parametrize("path", ["/files/deadbeef/x.whl", "/x", "/"])
def test_other_paths_lead_nowhere(world: tuple[World, str], tmp_path: Path, path: str) -> None:
    """A file of no recorded host, and anything else, are 404."""
    with replaying(tmp_path, "--upstream", world[1]) as replay:
        ask(f"{replay}/simple/toy/")
        assert ask(replay + path)[0] == 404


@pytest.mark.parametrize("step", ["../", "..%2F", "%2e%2e/"])
def test_no_path_leads_out_of_the_files(world: tuple[World, str], tmp_path: Path, step: str) -> None:
    """What lies beside the recorded files is not served, however the way there is spelled."""
    with replaying(tmp_path, "--upstream", world[1]) as replay:
        path = json.loads(ask(f"{replay}/simple/toy/", Accept=JSON_TYPE)[2])["files"][0]["url"]
        assert ask(replay + path)[0] == 200
        host = path.split("/")[2]
        assert (tmp_path / "files" / host / ".." / ".." / "hosts.json").exists()
        assert ask(f"{replay}/files/{host}/{step}{step}hosts.json")[0] == 404


def test_requests_on_one_connection_are_answered_in_order(world: tuple[World, str], tmp_path: Path) -> None:
    """Two requests sent at once get two answers, also if the first must be fetched."""
    world[0].slow = "/simple/toy/"
    with replaying(tmp_path, "--upstream", world[1]) as replay:
        port = int(replay.rpartition(":")[2])
        request = "GET /simple/{}/ HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall((request.format("toy") + request.format("nothing")).encode())
            received = b""
            while received.count(b"HTTP/1.1") < 2:
                received += connection.recv(65536)
        assert received.index(b"200 OK") < received.index(b"404 Not Found")


def test_a_page_in_html_is_read_as_well() -> None:
    """An index without JSON: links with digest, Requires-Python and yanked mark become the same page."""
    body = (
        b'<a href="../../f/toy-1.0-py3-none-any.whl#sha256=abc" data-requires-python="&gt;=3.8">x</a>'
        b'<a href="https://elsewhere/toy-2.0.tar.gz#sha256=def" data-yanked="bad">y</a>'
    )
    page = served_page("toy", body, "text/html", "http://index/simple/toy/")
    first, second = json.loads(page.json)["files"]
    assert (first["filename"], first["hashes"]) == ("toy-1.0-py3-none-any.whl", {"sha256": "abc"})
    assert first["url"].endswith("/f/toy-1.0-py3-none-any.whl")
    assert second["yanked"] == "bad"
    assert sorted(page.hosts.values()) == ["http://index", "https://elsewhere"]


@pytest.mark.parametrize(
    ("text", "span"),
    [("bytes=0-0", (0, 1)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=-30", (0, 10)),
     ("bytes=8-99", (8, 10)), ("bytes=10-", None), ("bytes=-", None), ("bytes=1-2,4-5", None), ("", None)],
)  # fmt: skip
def test_spans(text: str, span: tuple[int, int] | None) -> None:
    """One part of a file of ten bytes, or none."""
    assert span_of(text, 10) == span


def test_what_is_no_request_is_refused() -> None:
    """A first line that is not three words raises."""
    with pytest.raises(ValueError, match="unpack"):
        read_question(b"nonsense")
