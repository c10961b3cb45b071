"""Places that models come from, on loopback: a TLS server, and a hub that speaks the hub's documented endpoints."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

from tests.support.flaky_server import FlakyServer


@contextmanager
def tls_server(folder: Path, files: Mapping[str, bytes]) -> Iterator[tuple[FlakyServer, str, Path]]:
    """(server, its https: URL without a slash at the end, the certificate that clients must trust)."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = FlakyServer(files)
    server.wrap(context)
    with server:
        yield server, server.url("").replace("http:", "https:").rstrip("/"), certificate


@dataclass
class Hub:
    """A hub: repositories with files at commits, branches that move, gated ones, and a host of its own for the bytes.

    Endpoints: GET /api/models/ORG/NAME/revision/REVISION, GET and HEAD /ORG/NAME/resolve/COMMIT/PATH, which redirects.
    """

    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """(repository, commit) -> path -> content."""
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    """(repository, branch) -> commit."""
    gated: dict[str, str] = field(default_factory=dict)
    """Repository -> the token that opens it."""
    licences: dict[str, str] = field(default_factory=dict)
    shown: list[tuple[str, str]] = field(default_factory=list)
    """(path, Authorization) of each request."""
    url: str = ""
    bytes_url: str = ""

    def push(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A new commit; its name comes back."""
        seed = json.dumps([repository, sorted(files), [hashlib.sha256(files[name]).hexdigest() for name in files]])
        commit = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[(repository, commit)] = dict(files)
        self.branches[(repository, branch)] = commit
        return commit

    def commit(self, repository: str, revision: str) -> str | None:
        """What a branch or commit is."""
        if (repository, revision) in self.commits:
            return revision
        return self.branches.get((repository, revision))

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        """The hub answers at `url`, and at `bytes_url` for what it redirects to."""
        servers = [_Listener(("127.0.0.1", 0), _Answers) for _ in range(2)]
        for server in servers:
            server.hub = self
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url, self.bytes_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
        try:
            yield self
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """API, redirect, or bytes."""
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization", "")
        hub.shown.append((path, authorization))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self._info(f"{parts[2]}/{parts[3]}", "/".join(parts[5:]), authorization)
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), authorization)
        elif parts[:1] == ["bytes"]:
            found = next((data for data in self._contents() if hashlib.sha256(data).hexdigest() == parts[1]), None)
            self._send(404 if found is None else 200, found or b"")
        else:
            self._send(404, b"")

    def _contents(self) -> Iterator[bytes]:
        for files in self.server.hub.commits.values():
            yield from files.values()

    def _refuses(self, repository: str, authorization: str) -> bool:
        token = self.server.hub.gated.get(repository)
        if token is None or authorization == f"Bearer {token}":
            return False
        self._send(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        return True

    def _info(self, repository: str, revision: str, authorization: str) -> None:
        hub = self.server.hub
        if self._refuses(repository, authorization):
            return
        if not any(name == repository for name, _ in hub.commits):
            self._send(404, b'{"error": "none"}', {"X-Error-Code": "RepoNotFound"})
            return
        commit = hub.commit(repository, revision)
        if commit is None:
            self._send(404, b'{"error": "none"}', {"X-Error-Code": "RevisionNotFound"})
            return
        body = {
            "_id": "1",
            "id": repository,
            "modelId": repository,
            "sha": commit,
            "private": False,
            "gated": repository in hub.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": {"license": hub.licences[repository]} if repository in hub.licences else {},
            "siblings": [_sibling(path, data) for path, data in hub.commits[(repository, commit)].items()],
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, commit: str, path: str, authorization: str) -> None:
        hub = self.server.hub
        if self._refuses(repository, authorization):
            return
        data = hub.commits.get((repository, commit), {}).get(path)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self._send(302, b"", {"Location": f"{hub.bytes_url}/bytes/{hashlib.sha256(data).hexdigest()}"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(path: str, data: bytes) -> dict[str, object]:
    sha256 = hashlib.sha256(data).hexdigest()
    large = {"lfs": {"sha256": sha256, "size": len(data), "pointerSize": 130}} if path.endswith(".onnx") else {}
    return {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest(), **large}


class GitServer:
    """Repositories by `git http-backend`, and an LFS server (batch API, basic transfers) beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.large: dict[str, bytes] = {}
        """Objects of the LFS server by sha256."""
        self._server = _GitListener(("127.0.0.1", 0), _GitAnswers)
        self._server.owner = self

    def __enter__(self) -> GitServer:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(self, name: str, files: Mapping[str, bytes], *, tag: str = "", lfs: bool = False) -> str:
        """A commit on `main` with these files; its name. With `lfs` the repository holds pointers to them."""
        bare, work = self.folder / f"{name}.git", self.folder / f"{name}.work"
        if not bare.exists():
            git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", bare)
            git(bare, "config", "http.receivepack", "true")
            git(self.folder, "clone", "--quiet", bare, work)
            git(work, "checkout", "--quiet", "-B", "main")
        for path, data in files.items():
            place = work / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self._pointer(data) if lfs else data)
        git(work, "add", "--all")
        git(work, "commit", "--quiet", "--allow-empty", "-m", "x")
        if tag:
            git(work, "tag", tag)
        git(work, "push", "--quiet", "origin", "main", *([tag] if tag else []))
        return git(work, "rev-parse", "HEAD").strip()

    def _pointer(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).hexdigest()
        self.large[sha256] = data
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()


def git(folder: Path, *words: str | Path) -> str:
    """What git says, without anybody's configuration."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


class _GitListener(ThreadingHTTPServer):
    daemon_threads = True
    owner: GitServer


class _GitAnswers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: _GitListener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """LFS objects, else git's own program."""
        if self.path.startswith("/lfs/"):
            self._answer(200, self.server.owner.large[self.path.removeprefix("/lfs/")], "application/octet-stream")
        else:
            self._backend()

    def do_POST(self) -> None:
        """The batch API of LFS, else git's own program."""
        if not self.path.endswith("/info/lfs/objects/batch"):
            self._backend()
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.server.owner
        rows = [
            {**one, "actions": {"download": {"href": f"{owner.url}/lfs/{one['oid']}"}}}
            if one["oid"] in owner.large
            else {**one, "error": {"code": 404, "message": "not there"}}
            for one in asked["objects"]
        ]
        body = json.dumps({"transfer": "basic", "objects": rows}).encode()
        self._answer(200, body, "application/vnd.git-lfs+json")

    def _backend(self) -> None:
        """git-http-backend(1), by the Common Gateway Interface."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.owner.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": unquote(parts.path),
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().splitlines() if ": " in line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        self.send_response(status)
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
