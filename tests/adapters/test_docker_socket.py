"""The two quick questions, asked of a small engine on a Unix socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnenv.adapters.docker_socket import answers, holds_image

IMAGE = "sha256:" + "1" * 64


@contextmanager
def engine(path: Path, answer: Callable[[str], bytes]) -> Iterator[list[str]]:
    """Answers each connection with `answer(first line of the request)`; the lines it was asked."""
    asked: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    line = connection.recv(4096).split(b"\r\n")[0].decode()
                    asked.append(line)
                    connection.sendall(answer(line))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def page(body: bytes, status: str = "200 OK") -> bytes:
    """An answer in HTTP."""
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode() + body


def whole(line: str) -> bytes:
    """An engine that holds the image under two names."""
    if line == "GET /_ping HTTP/1.0":
        return page(b"OK")
    if line == f"GET /images/{IMAGE}/json HTTP/1.0":
        return page(json.dumps({"Id": IMAGE, "RepoTags": ["other:1", "toy:1-cpu"]}).encode())
    return page(b'{"message":"No such image"}', "404 Not Found")


def test_an_engine_that_holds_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, and holds the image under the name; not under another name, and no other image."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'engine'}")
    with engine(tmp_path / "engine", whole) as asked:
        assert answers()
        assert holds_image(IMAGE, "toy:1-cpu")
        assert not holds_image(IMAGE, "toy:2-cpu")
        assert not holds_image("sha256:" + "2" * 64, "toy:1-cpu")
    assert asked[0] == "GET /_ping HTTP/1.0"


@pytest.mark.parametrize(
    "answer", [b"", b"garbage", page(b""), page(b"[]"), page(b'"OK"'), page(b"{"), page(b"OK", "500 Oops")]
)
def test_an_engine_that_talks_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """Whatever is no plain yes is a no: the way through the engine's own client tells what is wrong."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'engine'}")
    with engine(tmp_path / "engine", lambda line: answer):
        assert not answers()
        assert not holds_image(IMAGE, "toy:1-cpu")


def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, on a socket or on a port; of an engine on a port nothing is asked cheaply."""
    for host in (f"unix://{tmp_path / 'nobody'}", "tcp://127.0.0.1:9"):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert not answers()
        assert not holds_image(IMAGE, "toy:1-cpu")
