"""Two quick questions to a Docker engine on a Unix socket: is it there, and does it hold an image?

Importing the engine's client takes longer than a build that changes nothing.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Final

from nnenv.errors import NnenvError

_PATIENCE: Final = 600.0
"""Seconds that an engine may take to answer, as `docker_engine.connect` waits."""
_ANSWER_LIMIT: Final = 16 << 20


def answers() -> bool:
    """Whether an engine answers; costs no import of the engine's client where it listens on a Unix socket."""
    if (path := _socket_path()) is not None:
        return _asked(path, "/_ping") == b"OK"
    from nnenv.adapters.docker_engine import connect

    try:
        connect()
    except NnenvError:
        return False
    return True


def holds_image(image_id: str, reference: str) -> bool:
    """Whether an engine on a Unix socket holds the image under that name; False also where one cannot tell cheaply."""
    path = _socket_path()
    answer = None if path is None else _asked(path, f"/images/{image_id}/json")
    try:
        facts = json.loads(answer or b"{}")
        return bool(facts["Id"] == image_id and reference in facts["RepoTags"])
    except (ValueError, KeyError, TypeError):
        return False


def _socket_path() -> str | None:
    """The Unix socket that DOCKER_HOST, or its absence, leads to; None for engines elsewhere."""
    host = os.environ.get("DOCKER_HOST", "").strip() or "unix:///var/run/docker.sock"
    return "/" + host.removeprefix("unix://").lstrip("/") if host.startswith("unix://") else None


def _asked(path: str, what: str) -> bytes | None:
    """The engine's answer to one GET, None unless it is a 200. HTTP/1.0: the answer ends with the connection."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            connection.sendall(f"GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            while chunk := connection.recv(1 << 16):
                answer += chunk
                if len(answer) > _ANSWER_LIMIT:
                    return None
    except OSError:
        return None
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    return body if head.split(b" ")[1:2] == [b"200"] else None
