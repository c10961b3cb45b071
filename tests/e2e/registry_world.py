"""A real registry (Debian's docker-registry) on loopback, and artifacts in the forms that models are pushed in."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from nnenv.formats.oci import MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST

PASSWORD = "s3cret-word"
HTPASSWD = "reader:$2b$04$woVXW88kmUHsXdL8VvqIQOH/jiJ66s2J.88ebjmYbvzLPvALOz4O6\n"
"""Of that password, by bcrypt; the registry takes no other."""
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where it answers, and what opens it."""

    host: str
    authorization: str = ""

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://{self.host}/v2"

    def push(self, repository: str, document: bytes, tag: str = "", kind: str = MEDIA_MANIFEST) -> str:
        """A manifest or index under a tag, or under its digest alone; the digest comes back."""
        digest = digest_of(document)
        self._send("PUT", f"{self.url}/{repository}/manifests/{tag or digest}", document, kind)
        return digest

    def blob(self, repository: str, data: bytes) -> str:
        """Its digest."""
        location = self._send("POST", f"{self.url}/{repository}/blobs/uploads/", b"")
        digest = digest_of(data)
        self._send("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", data)
        return digest

    def artifact(self, repository: str, tag: str, *layers: Layer, **more: object) -> str:
        """An artifact of these layers; its digest."""
        for data in (b"{}", *(layer.data for layer in layers)):
            self.blob(repository, data)
        return self.push(repository, manifest_of(*layers, **more), tag)

    def delete(self, repository: str, digest: str) -> None:
        """Remove a manifest."""
        self._send("DELETE", f"{self.url}/{repository}/manifests/{digest}", None)

    def _send(self, method: str, url: str, body: bytes | None, kind: str = "application/octet-stream") -> str:
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
        if self.authorization:
            request.add_header("Authorization", self.authorization)
        with urllib.request.urlopen(request) as answer:
            return str(answer.headers.get("Location", ""))


@dataclass(frozen=True)
class Layer:
    """One blob and what its descriptor says."""

    kind: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)


def digest_of(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(*layers: Layer, config: str = "application/vnd.oci.empty.v1+json", **more: object) -> bytes:
    """The manifest of an artifact with an empty config."""
    rows = [
        {"mediaType": one.kind, "digest": digest_of(one.data), "size": len(one.data), "annotations": one.annotations}
        for one in layers
    ]
    empty = {"mediaType": config, "digest": digest_of(b"{}"), "size": 2}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": empty, "layers": rows, **more}
    ).encode()


def image_of(*layers: Layer) -> bytes:
    """The manifest of an image."""
    return manifest_of(*layers, config=MEDIA_CONFIG)


def index_of(*documents: bytes, attestation: bytes = b"") -> bytes:
    """An index of these manifests, and perhaps of an attestation as BuildKit makes them."""
    rows: list[dict[str, object]] = [
        {"mediaType": MEDIA_MANIFEST, "digest": digest_of(one), "size": len(one)} for one in documents
    ]
    if attestation:
        note = {"vnd.docker.reference.type": "attestation-manifest"}
        rows.append(
            {
                "mediaType": MEDIA_MANIFEST,
                "digest": digest_of(attestation),
                "size": len(attestation),
                "annotations": note,
            }
        )
    return json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": rows}).encode()


def tar_of(files: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT, zipped: bool = False) -> bytes:
    """A tar archive; a content of b"->target" makes a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = 1.5  # type: ignore[assignment]
            if data.startswith(b"->"):
                entry.type, entry.linkname = tarfile.SYMTYPE, data[2:].decode()
                archive.addfile(entry)
            else:
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0) if zipped else buffer.getvalue()


@contextmanager
def registry(folder: Path, auth: str = "") -> Iterator[Registry]:
    """A registry with its data in `folder`; `auth` is the section of that name in its configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = folder / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {folder}/data}}\n"
        f"  delete: {{enabled: true}}\nhttp: {{addr: '{host}'}}\n{auth}"
    )
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{host}/v2/").close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        yield Registry(host=host)
    finally:
        process.terminate()
        process.wait()


class TokenServer:
    """Gives tokens that a registry believes (distribution, "Token Authentication Specification"): to anybody for
    `public/`, to `reader` for all."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens", "-keyout",
             self.key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        self.asked: list[tuple[str, str]] = []
        """(scope, Authorization) of each request."""
        self._server = _TokenListener(("127.0.0.1", 0), _TokenAnswers)
        self._server.owner = self

    @property
    def auth(self) -> str:
        """The section of a registry's configuration."""
        realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        return f"auth: {{token: {{realm: '{realm}', service: r, issuer: i, rootcertbundle: {self.certificate}}}}}\n"

    def __enter__(self) -> TokenServer:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, repository: str, actions: Sequence[str]) -> str:
        """A JSON Web Token, signed with RS256."""
        chain = re.sub(r"-----[^-]+-----|\n", "", self.certificate.read_text())
        now = int(time.time())
        claims = {
            "iss": "i", "sub": "", "aud": "r", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        signed = ".".join(_web64(json.dumps(part).encode()) for part in (head, claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=signed.encode(), check=True, capture_output=True
        )
        return f"{signed}.{_web64(done.stdout)}"


def basic(user: str = "reader", password: str = PASSWORD) -> str:
    """The base64 of Docker's configuration, and of HTTP's basic authentication."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def docker_config(folder: Path, host: str, auth: str) -> Path:
    """What `docker login` leaves behind: a folder for DOCKER_CONFIG."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder


def _web64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _TokenListener(ThreadingHTTPServer):
    daemon_threads = True
    owner: TokenServer


class _TokenAnswers(BaseHTTPRequestHandler):
    server: _TokenListener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """A token for the scope that is asked for, which may allow nothing."""
        owner = self.server.owner
        scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
        authorization = self.headers.get("Authorization", "")
        owner.asked.append((scope, authorization))
        _, repository, actions = scope.split(":")
        allowed = authorization == f"Basic {basic()}" or (repository.startswith("public/") and actions == "pull")
        body = json.dumps({"token": owner.token(repository, actions.split(",") if allowed else [])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
