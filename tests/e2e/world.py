"""A small real world on loopback: a Python index, a signed Debian archive, toy models, and nnenv as a user runs it.

The index speaks like those in the wild, good and bad (`Habits`). The archive is signed with a throw-away key and holds
either records alone, which is all that locking reads, or the real .debs that another store already has. Whoever runs
nnenv in this world gets an environment in which nothing else is configured.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from nnenv.adapters.store import Store
from nnenv.formats.deb import read_deb
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.lock_toml import read_lock
from nnenv.spec.lockfile import Lockfile
from tests.debian.archive import Signer
from tests.formats.archives import record_line, wheel

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

SUITES = ("bookworm", "bookworm-security")
SIGNED = "Sat, 03 Jan 2026 10:00:00 UTC"
"""Date of the archive's Release files."""

# Running nnenv


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def all(self) -> str:
        """Both streams."""
        return self.out + self.err

    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody who types nnenv commands: where, with which store, in which environment."""

    project: Path
    store: Path
    environment: Mapping[str, str]
    python: str = sys.executable

    @property
    def lock_path(self) -> Path:
        """model.lock."""
        return self.project / "model.lock"

    def command(self, *arguments: str) -> list[str]:
        """The argument vector; behind `--` stands a command's own."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return [self.python, "-m", "nnenv", *arguments[:end], "--store", str(self.store), *arguments[end:]]

    def run(self, *arguments: str, timeout: float = 300, before: Sequence[str] = (), **variables: str) -> Finished:
        """Run `nnenv ARGUMENTS` in the project's folder; `before` is a command to run it under."""
        begun = time.monotonic()
        done = subprocess.run(
            [*before, *self.command(*arguments)],
            cwd=self.project,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        finished = Finished(code=done.returncode, out=done.stdout, err=done.stderr, seconds=time.monotonic() - begun)
        assert "Traceback" not in finished.all, finished.all
        assert "error: a bug in nnenv" not in finished.all, finished.all
        return finished

    def must(self, *arguments: str, **options: Any) -> Finished:
        """Run it; anything but exit code 0 fails the test, with what was printed."""
        finished = self.run(*arguments, **options)
        assert finished.code == 0, finished.all
        return finished

    def refused(self, *arguments: str, **options: Any) -> Finished:
        """Run it; anything but exit code 1 fails the test."""
        finished = self.run(*arguments, **options)
        assert finished.code == 1, (finished.code, finished.all)
        return finished

    def lock(self) -> Lockfile:
        """The lock as it is on the disk."""
        return read_lock(self.lock_path.read_bytes())

    def elsewhere(self, folder: Path, *, store: Path | None = None) -> User:
        """The same user in a copy of the project."""
        shutil.copytree(self.project, folder, symlinks=True)
        return User(project=folder, store=store or self.store, environment=self.environment, python=self.python)

    def with_environment(self, **variables: str) -> User:
        """The same user with more variables."""
        environment = {**self.environment, **variables}
        return User(project=self.project, store=self.store, environment=environment, python=self.python)


def bare_environment(home: Path) -> dict[str, str]:
    """Nothing that configures nnenv, pip, Docker's colours or a locale."""
    return {
        "HOME": str(home),
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONFIG_FILE": os.devnull,
        **{name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ},
    }


def users_environment() -> dict[str, str]:
    """This machine's own configuration of index and archive, without other nnenv settings."""
    kept = ("NNENV_INDEX_URL", "NNENV_EXTRA_INDEX_URL", "NNENV_FIND_LINKS", "NNENV_DEBIAN")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NNENV_") or k.startswith(kept)}
    return {**environment, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


# Wheels


def make_wheel(
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    requires_python: str = "",
    tag: str = "py3-none-any",
    files: Mapping[str, bytes] | None = None,
) -> tuple[str, bytes]:
    """(file name, bytes) of a small honest wheel; its bytes depend on nothing but the arguments."""
    dist_info = f"{name}-{version}.dist-info"
    lines = [f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    module = {f"{name}/__init__.py": f'"""{name}."""\n\n__version__ = "{version}"\n'.encode()}
    content = {**(module if files is None else files)}
    content[f"{dist_info}/METADATA"] = ("\n".join(["Metadata-Version: 2.1", *lines]) + "\n").encode()
    content[f"{dist_info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: world\nRoot-Is-Purelib: {'true' if tag.endswith('any') else 'false'}\n"
        f"Tag: {tag}\n"
    ).encode()
    record = [record_line(path, data) for path, data in content.items()]
    content[f"{dist_info}/RECORD"] = "".join([*record, f"{dist_info}/RECORD,,\n"]).encode()
    return f"{name}-{version}-{tag}.whl", wheel(content)


def small_library() -> bytes:
    """A real shared library: compiled where there is a compiler, else the smallest one that numpy brings."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        import numpy as np

        return min((p.read_bytes() for p in Path(np.__file__).parent.rglob("*.so")), key=len)
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "small.c"), Path(folder, "small.so")
        source.write_text("#include <stdlib.h>\nint small(const char *text) { return atoi(text); }\n")
        subprocess.run([compiler, "-shared", "-fPIC", "-s", "-o", library, source], check=True)
        return library.read_bytes()


def metadata_of(data: bytes) -> bytes:
    """METADATA of a wheel."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")))


# Servers


@dataclass
class Habits:
    """How an index behaves."""

    json: bool = True
    """PEP 691; else PEP 503 HTML, which has no sizes and no upload times."""
    serves_metadata: bool = True
    """PEP 658 files exist; else 404."""
    advertises_metadata: bool = True
    etags: bool = True
    ranges: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """One wheel of the index, with what its page says of it."""

    filename: str
    data: bytes
    upload_time: str
    yanked: bool = False
    requires_python: str = ""


class World:
    """A server on 127.0.0.1 with `/simple`, `/files`, and `/debian` and `/debian-security` from folders.

    Entering the `with` starts it. Everything asked for is counted in `requests`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.habits = Habits()
        self.offers: dict[str, list[Offer]] = {}
        self.requests: Counter[str] = Counter()
        self.mutex = threading.Lock()
        self._server = _Listener(("127.0.0.1", 0), _Answers)
        self._server.world = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        (folder / "home").mkdir(parents=True)
        self.keyring = folder / "keys.gpg"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def offer(
        self, name: str, version: str, *, upload_time: str = "2025-06-01T00:00:00Z", yanked: bool = False, **made: Any
    ) -> None:
        """Put a wheel on the index; `made` goes to `make_wheel`."""
        filename, data = make_wheel(name, version, **made)
        self.offers.setdefault(name.replace("_", "-"), []).append(
            Offer(
                filename=filename,
                data=data,
                upload_time=upload_time,
                yanked=yanked,
                requires_python=made.get("requires_python", ""),
            )
        )

    def environment(self) -> dict[str, str]:
        """An environment in which this world is all that is configured."""
        return {
            **bare_environment(self.folder / "home"),
            "NNENV_INDEX_URL": f"{self.url}/simple",
            "NNENV_DEBIAN_MIRROR": f"{self.url}/debian",
            "NNENV_DEBIAN_SECURITY_MIRROR": f"{self.url}/debian-security",
            "NNENV_DEBIAN_KEYRING": str(self.keyring),
            "NNENV_HTTP_RETRIES": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def user(self, project: Path, store: Path) -> User:
        """Somebody who works in `project` in this world."""
        return User(project=project, store=store, environment=self.environment())

    def sign_archive(self, packages: Mapping[str, str], *, date: str = SIGNED) -> None:
        """Make the archive of those records (architecture -> Packages), the same in each suite but empty in
        -security."""
        with signer() as key:
            shutil.copyfile(key.keyring, self.keyring)
            for suite, area in zip(SUITES, ("debian", "debian-security"), strict=True):
                records = packages if suite == "bookworm" else dict.fromkeys(packages, "")
                write_suite(self.folder / area / "dists" / suite, key, suite, records, date)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    world: World

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the game."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer as the world's habits say."""
        world = self.server.world
        path = unquote(self.path)
        with world.mutex:
            world.requests[path] += 1
        if path.startswith("/simple/"):
            self._page(path.split("/")[2])
        elif path.startswith("/files/"):
            self._wheel(path.removeprefix("/files/"))
        else:
            file = world.folder / path.lstrip("/")
            self._send(file.read_bytes() if ".." not in path and file.is_file() else None)

    def _page(self, name: str) -> None:
        world = self.server.world
        offers = world.offers.get(name)
        if offers is None:
            self._send(None)
        elif world.habits.json:
            body = json.dumps(
                {"meta": {"api-version": "1.1"}, "name": name, "files": [self._row(offer) for offer in offers]}
            )
            self._send(body.encode(), "application/vnd.pypi.simple.v1+json")
        else:
            self._send("".join(self._link(offer) for offer in offers).encode(), "text/html")

    def _row(self, offer: Offer) -> dict[str, object]:
        world = self.server.world
        row: dict[str, object] = {
            "filename": offer.filename,
            "url": f"{world.url}/files/{offer.filename}",
            "hashes": {"sha256": hashlib.sha256(offer.data).hexdigest()},
            "size": len(offer.data),
            "upload-time": offer.upload_time,
            "yanked": offer.yanked,
        }
        if offer.requires_python:
            row["requires-python"] = offer.requires_python
        if world.habits.advertises_metadata:
            row["core-metadata"] = {"sha256": hashlib.sha256(metadata_of(offer.data)).hexdigest()}
        return row

    def _link(self, offer: Offer) -> str:
        digest = hashlib.sha256(offer.data).hexdigest()
        more = ' data-yanked=""' if offer.yanked else ""
        if offer.requires_python:
            more += f' data-requires-python="{offer.requires_python.replace("<", "&lt;").replace(">", "&gt;")}"'
        if self.server.world.habits.advertises_metadata:
            more += ' data-core-metadata="true"'
        return f'<a href="/files/{offer.filename}#sha256={digest}"{more}>{offer.filename}</a>\n'

    def _wheel(self, filename: str) -> None:
        world = self.server.world
        wanted = filename.removesuffix(".metadata")
        found = next((o.data for offers in world.offers.values() for o in offers if o.filename == wanted), None)
        if found is not None and filename != wanted:
            found = metadata_of(found) if world.habits.serves_metadata else None
        self._send(found, "application/octet-stream")

    def _send(self, body: bytes | None, content_type: str = "application/octet-stream") -> None:
        if body is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        habits = self.server.world.habits
        etag = '"' + hashlib.sha256(body).hexdigest()[:16] + '"'
        if habits.etags and self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.send_header("ETag", etag)
            self.end_headers()
            return
        part, status, span = self._ranged(body) if habits.ranges else (body, 200, "")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if habits.etags:
            self.send_header("ETag", etag)
        if span:
            self.send_header("Content-Range", span)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def _ranged(self, body: bytes) -> tuple[bytes, int, str]:
        first, dash, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not dash:
            return body, 200, ""
        start = int(first) if first else max(0, len(body) - int(last))
        end = min(int(last) + 1 if first and last else len(body), len(body))
        return body[start:end], 206, f"bytes {start}-{end - 1}/{len(body)}"


# The Debian archive


@contextmanager
def signer() -> Iterator[Signer]:
    """A throw-away key; its agent ends with the `with`."""
    # Not below pytest's folder: the path of gpg-agent's socket must stay shorter than 108 bytes.
    with tempfile.TemporaryDirectory(prefix="nnenv-key-", ignore_cleanup_errors=True) as home:
        key = Signer(Path(home), "world")
        try:
            yield key
        finally:
            key.stop()


def write_suite(folder: Path, key: Signer, suite: str, packages: Mapping[str, str], date: str) -> None:
    """InRelease and Packages.gz of one suite, for each architecture."""
    rows = []
    for architecture, text in packages.items():
        path = f"main/binary-{architecture}/Packages.gz"
        data = gzip.compress(text.encode(), mtime=0)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        rows.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}")
    head = [
        "Origin: World",
        f"Codename: {suite}",
        f"Date: {date}",
        f"Architectures: {' '.join(packages)}",
        "Components: main",
        "SHA256:",
    ]
    (folder / "InRelease").write_bytes(key.clear_sign("\n".join([*head, *rows]) + "\n"))


_RECORDS: Mapping[str, tuple[str, str]] = {
    "base-files": ("12.4", ""),
    "ca-certificates": ("20230311", ""),
    "libc6": ("2.36-9", "libgcc-s1"),
    "libgcc-s1": ("12.2.0-14", "libc6 (>= 2.35)"),
    "libgomp1": ("12.2.0-14", "libc6 (>= 2.34)"),
    "libpython3.11-stdlib": ("3.11.2-6", "python3.11-minimal (= 3.11.2-6), libc6"),
    "libstdc++6": ("12.2.0-14", "libc6 (>= 2.36)"),
    "python3.11-minimal": ("3.11.2-6", "libc6 (>= 2.36)"),
    "tzdata": ("2024a-0", ""),
    "zlib1g": ("1:1.2.13", "libc6 (>= 2.14)"),
}


def records_only(architecture: str) -> str:
    """Packages of an archive whose .debs exist on paper only: enough to lock, not to build."""
    paragraphs = []
    for name, (version, depends) in _RECORDS.items():
        filename = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        lines = [f"Package: {name}", f"Version: {version}", f"Architecture: {architecture}"]
        lines += [f"Depends: {depends}"] if depends else []
        lines += [
            f"Filename: pool/main/{name[0]}/{name}/{filename}",
            "Size: 1000",
            f"SHA256: {hashlib.sha256(filename.encode()).hexdigest()}",
        ]
        paragraphs.append("\n".join(lines) + "\n")
    return "\n".join(paragraphs)


def mirror_debs(world: World, lockfile: Lockfile, target: str, store: Store) -> None:
    """Make the world's archive of the real .debs that `target` of a fetched lock names."""
    locked = lockfile.target(target)
    assert locked is not None
    paragraphs = []
    for deb in lockfile.debs_of(locked):
        path = f"pool/main/{deb.name}/{deb.filename}"
        place = world.folder / "debian" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        source = store.path(deb.sha256)
        shutil.copyfile(source, place)
        with source.open("rb") as stream:
            control = read_deb(stream, deb.filename).control.rstrip("\n")
        paragraphs.append(f"{control}\nFilename: {path}\nSize: {deb.size}\nSHA256: {deb.sha256}\n")
    world.sign_archive({"amd64": "\n".join(paragraphs)})


def local_sources(lockfiles: Iterable[Lockfile], store: Store, folder: Path) -> dict[str, str]:
    """A folder of wheels and a tree of .debs, linked from the store, and the variables that name them: what a
    build on a machine without network, with an empty store, is fed with."""
    for artifact in {a.sha256: a for lockfile in lockfiles for a in lockfile.artifacts}.values():
        place = _local_place(artifact, folder)
        if place is not None and not place.exists() and store.contains(artifact.sha256):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.path(artifact.sha256), place)
    return {
        "NNENV_NO_INDEX": "1",
        "NNENV_FIND_LINKS": (folder / "wheels").as_uri(),
        "NNENV_DEBIAN_MIRROR": (folder / "debian").as_uri(),
        "NNENV_DEBIAN_SECURITY_MIRROR": (folder / "debian-security").as_uri(),
    }


def _local_place(artifact: Artifact, folder: Path) -> Path | None:
    if artifact.kind is Kind.WHEEL:
        return folder / "wheels" / artifact.filename
    if artifact.kind is Kind.DEB:
        _, suite, path = artifact.origin.split(":", 2)
        return folder / ("debian-security" if suite.endswith("-security") else "debian") / path
    return None


# Projects


def tanh_model(weights: Any, *, names: tuple[str, str] = ("x", "y")) -> bytes:
    """`y = tanh(x @ weights)` as an ONNX file; two rows at a time."""
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[0], "weights"], ["product"]),
            helper.make_node("Tanh", ["product"], [names[1]]),
        ],
        "toy",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [2, rows])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [2, columns])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def toy_weights() -> Any:
    """4 x 3 seeded weights."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(1)).standard_normal((4, 3)).astype(np.float32)


def write_case(folder: Path, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """One data set in the ONNX layout."""
    from onnx import numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    for role, tensors in (("input", given), ("output", expected)):
        for index, (name, array) in enumerate(tensors.items()):
            (folder / f"{role}_{index}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())


TOY = """\
[project]
name = "toy"
version = "1.0.0"

[models.toy]
version = "1"
source = "file:model.onnx"
[[models.toy.tests]]
data = "tests/toy"

[targets.cpu]
"""
"""A model, two cases, one target."""

TWO_TARGETS = TOY + '\n[targets.cpu-arm64]\nplatform = "linux/arm64"\n'


def toy_project(folder: Path, manifest: str = TOY) -> Path:
    """A project with the toy model and two right cases."""
    import numpy as np

    folder.mkdir(parents=True)
    weights = toy_weights()
    (folder / "model.toml").write_text(manifest)
    (folder / "model.onnx").write_bytes(tanh_model(weights))
    generator = np.random.Generator(np.random.PCG64(2))
    for number in range(2):
        x = generator.standard_normal((2, 4)).astype(np.float32)
        write_case(folder / f"tests/toy/test_data_set_{number}", {"x": x}, {"y": np.tanh(x @ weights)})
    return folder


PLAIN = """\
[project]
name = "plain"
version = "1.0.0"

[requires]
packages = ["a"]

[targets.cpu]
"""
"""No model: what it resolves to is the index's business alone."""


def plain_project(folder: Path, manifest: str = PLAIN) -> Path:
    """A project without a model."""
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(manifest)
    return folder


def listing(folder: Path) -> dict[str, str]:
    """Path -> digest of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def linked_copy(store: Path, folder: Path) -> Path:
    """A copy of a store that shares the bytes: nnenv never writes into a file that is there."""
    shutil.copytree(store, folder, symlinks=True, copy_function=_link)
    return folder


def _link(source: str, destination: str) -> None:
    os.link(source, destination, follow_symlinks=False)


def flip_bit(path: Path) -> None:
    """Turn one bit of a file, and leave its other names as they are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
