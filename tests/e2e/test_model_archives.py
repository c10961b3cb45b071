"""Models of torch hub, of Kaggle and in the ONNX model zoo's layout, over real sockets: locked, then got by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.model_world import GitServer, tls_server
from tests.e2e.registry_world import basic, tar_of
from tests.e2e.test_model_sources import DIGEST, MODEL, OTHER, declare, locked, wiped
from tests.e2e.world import User, World
from tests.support.flaky_server import FlakyServer

DOWNLOAD = "/api/v1/models/who/net/onnx/small/3/download"
KAGGLE = "kaggle:who/net/onnx/small/3:deep/net.onnx"
PACKED = tar_of({"deep/net.onnx": MODEL, "deep/config.json": b"{}", "other.onnx": OTHER}, zipped=True)
ZOO = {"net/model.onnx": MODEL, "net/test_data_set_0/input_0.pb": b"x", "net/test_data_set_0/output_0.pb": b"y"}


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """An empty project in a world that has what images with models need."""
    world.offer("numpy", "2.0")
    world.offer("onnxruntime", "1.20")
    (tmp_path / "project").mkdir()
    return world.user(tmp_path / "project", tmp_path / "store")


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """Kaggle's API, and files."""
    with FlakyServer({DOWNLOAD: PACKED, "/zoo/net.tar.gz": tar_of(ZOO, zipped=True), "/b/net.onnx": MODEL}) as made:
        yield made


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    """The code host."""
    (tmp_path / "git" / "who").mkdir(parents=True)
    with GitServer(tmp_path / "git") as made:
        yield made


def error_of(user: User, *command: str) -> dict[str, Any]:
    """The one error of a command that is refused."""
    (error,) = user.refused(*command, "--json").json()["errors"]
    return dict(error)


def in_store(user: User, digest: str) -> Path:
    """Where the store has it."""
    return user.store / "objects" / "sha256" / digest[:2] / digest


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("scheme", ["kaggle", "tfhub"])
def test_a_file_of_kaggle(user: User, server: FlakyServer, scheme: str) -> None:
    """Out of the version's archive, which may be packed anew; the file is what is locked."""
    here = user.with_environment(NNENV_KAGGLE_URL=server.url("/"))
    declare(user, f'source = "{scheme}{KAGGLE.removeprefix("kaggle")}"')
    here.must("lock")
    model = locked(user)
    artifact = user.lock().by_digest[model.file]
    assert (model.file, model.revision, artifact.filename) == (DIGEST, "3", "net.onnx")
    assert artifact.origin == f"kaggle:who/net/onnx/small/3@{sha256(PACKED)}:deep/net.onnx"
    assert "127.0.0.1" not in user.lock_path.read_text()
    here.must("lock", "--check")
    wiped(user)
    here.run("fetch")  # the .debs of this world are on paper alone, so it does not end well
    assert in_store(user, DIGEST).exists()
    assert len(server.requests(DOWNLOAD)) == 1  # the archive is still in the store
    wiped(user)
    in_store(user, sha256(PACKED)).unlink()
    assert error_of(here, "fetch", "--offline")["code"] == "offline"
    server.files[DOWNLOAD] = tar_of({"deep/net.onnx": MODEL})
    here.run("fetch")
    assert in_store(user, DIGEST).exists()
    wiped(user)
    server.files[DOWNLOAD] = tar_of({"deep/net.onnx": OTHER})
    error = error_of(here, "fetch")
    assert (error["code"], error["because"]) == ("digest-mismatch", [f"wanted {DIGEST}", f"found  {sha256(OTHER)}"])
    assert not in_store(user, DIGEST).exists()


def test_a_key_of_kaggle(user: User, server: FlakyServer) -> None:
    """Shown to Kaggle, and neither to what it redirects to nor in the clear to another host, and kept nowhere."""
    here = user.with_environment(NNENV_KAGGLE_URL=server.url(""), NNENV_HTTP_RETRIES="0")
    declare(user, f'source = "{KAGGLE}"')
    server.break_for_ever(DOWNLOAD, "403")
    error = error_of(here, "lock")
    assert (error["code"], error["where"]) == ("model-unreachable", KAGGLE)
    assert any("KAGGLE_KEY" in line for line in error["fix"])
    with FlakyServer({"/signed": PACKED}) as elsewhere:
        server.break_for_ever(DOWNLOAD, f"redirect:{elsewhere.url('/signed')}")
        here.with_environment(KAGGLE_USERNAME="who", KAGGLE_KEY="k3y-secret").must("lock")
        assert server.requests(DOWNLOAD)[-1].headers["authorization"] == f"Basic {basic('who', 'k3y-secret')}"
        assert ["authorization" in one.headers for one in elsewhere.requests("/signed")] == [False]
    written = [path for top in (user.project, user.store) for path in top.rglob("*") if path.is_file()]
    assert not [path for path in written if b"k3y-secret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("files", "path", "because"),
    [
        ({"deep/net.onnx": MODEL}, ":net.onnx", "it has no net.onnx"),
        ({"net.onnx": b"->deep/net.onnx"}, ":net.onnx", "as a link to deep/net.onnx"),
        ({"a.onnx": MODEL, "b.onnx": OTHER}, "", "it has not one model but 2: a.onnx, b.onnx"),
        ({}, "", "it holds no file"),
    ],
)
def test_what_an_archive_does_not_have(
    user: User, server: FlakyServer, files: dict[str, bytes], path: str, because: str
) -> None:
    """An error that names the source."""
    server.files[DOWNLOAD] = tar_of(files, zipped=True)
    source = f"kaggle:who/net/onnx/small/3{path}"
    declare(user, f'source = "{source}"')
    error = error_of(user.with_environment(NNENV_KAGGLE_URL=server.url("")), "lock")
    assert (error["code"], error["where"]) == ("model-unreachable", source)
    assert because in error["because"][0]


@pytest.mark.parametrize("fault", ["cut", "reset", "500", "flip", "short-length"])
def test_faults_on_the_way(user: User, server: FlakyServer, fault: str) -> None:
    """An archive of unknown digest that breaks once arrives whole; one that is changed is seen by its own checksum."""
    server.break_(DOWNLOAD, fault)
    declare(user, f'source = "{KAGGLE}"')
    here = user.with_environment(NNENV_KAGGLE_URL=server.url(""))
    if fault in ("flip", "short-length"):
        assert error_of(here, "lock")["code"] in ("archive-refused", "model-unreachable")
        assert not user.lock_path.exists()
    else:
        here.must("lock")
        assert locked(user).file == DIGEST


def test_the_second_place(user: User, server: FlakyServer) -> None:
    """When Kaggle is gone, or its archive is damaged."""
    here = user.with_environment(NNENV_KAGGLE_URL=server.url(""), NNENV_HTTP_RETRIES="0")
    declare(user, f'sources = ["{KAGGLE}", "{server.url("/b/net.onnx")}"]', f'sha256 = "{DIGEST}"')
    server.files[DOWNLOAD] = PACKED[:-30]
    here.must("lock")
    assert user.lock().by_digest[locked(user).file].origin.startswith("web:")
    wiped(user)
    server.break_for_ever(DOWNLOAD, "404")
    here.run("fetch")
    assert in_store(user, DIGEST).exists()


def test_an_archive_in_the_layout_of_the_zoo(user: User, tmp_path: Path) -> None:
    """At an address, or in the project: its one model, of whatever name."""
    archive = tar_of(ZOO, zipped=True)
    with tls_server(tmp_path, {"/zoo/net.tar.gz": archive}) as (server, url, certificate):
        here = user.with_environment(SSL_CERT_FILE=str(certificate))
        declare(user, f'source = "onnxzoo:{url}/zoo/net.tar.gz"')
        here.must("lock")
        model, artifact = locked(user), user.lock().by_digest[DIGEST]
        assert (model.file, model.revision, artifact.filename) == (DIGEST, f"sha256:{sha256(archive)}", "model.onnx")
        assert artifact.origin.endswith(f"/net.tar.gz@{sha256(archive)}")
        text = user.lock_path.read_text()
        assert "127.0.0.1" not in text
        assert "://" not in text
        wiped(user)
        in_store(user, sha256(archive)).unlink()
        assert error_of(here, "fetch", "--offline")["code"] == "offline"
        server.files["/zoo/net.tar.gz"] = tar_of({**ZOO, "net/model.onnx": OTHER})
        error = error_of(here, "fetch")
        assert (error["code"], error["because"]) == ("digest-mismatch", [f"wanted {DIGEST}", f"found  {sha256(OTHER)}"])
        server.files["/zoo/net.tar.gz"] = archive
        here.run("fetch")
        assert in_store(user, DIGEST).exists()
    (user.project / "zoo").mkdir()
    (user.project / "zoo" / "net.tar").write_bytes(tar_of(ZOO))
    declare(user, 'source = "onnxzoo:file:zoo/net.tar"')
    user.must("lock")
    assert user.lock().by_digest[DIGEST].origin == f"onnxzoo:file:zoo/net.tar@{sha256(tar_of(ZOO))}"
    wiped(user)
    user.run("fetch")
    assert in_store(user, DIGEST).exists()
    declare(user, 'source = "onnxzoo:file:zoo/none.tar"')
    assert error_of(user, "lock")["code"] == "file-unreadable"


def hubconf(url: str) -> dict[str, bytes]:
    """A repository whose entry point `net` loads what is at an address."""
    text = f"urls = {{'net': '{url}'}}\ndef _load(name, pretrained):\n    load_state_dict_from_url(urls[name])\n"
    hub = b"dependencies = ['torch']\nfrom inner.nets import net\nraise RuntimeError('it was run')\n"
    return {
        "hubconf.py": hub,
        "inner/nets.py": text.encode() + b"def net(pretrained=True):\n    _load('net', pretrained)\n",
    }


def test_an_entry_point_of_torch_hub(user: User, git_server: GitServer, server: FlakyServer) -> None:
    """A branch becomes a commit; its hubconf.py is read again for later fetches, and never run."""
    name = f"net-{DIGEST[:8]}.onnx"
    server.files |= {f"/hub/{name}": MODEL}
    first = git_server.push("who/nets", hubconf(server.url(f"/hub/{name}")))
    here = user.with_environment(NNENV_CODE_HOST=git_server.url, NNENV_HTTP_RETRIES="0")
    declare(user, 'source = "torchhub:who/nets@main:net"')
    here.must("lock")
    model, artifact = locked(user), user.lock().by_digest[DIGEST]
    assert (model.file, model.revision, artifact.filename) == (DIGEST, first, name)
    assert artifact.origin == f"torchhub:who/nets@{first}:net"
    text = user.lock_path.read_text()
    assert "127.0.0.1" not in text
    assert "://" not in text
    git_server.push("who/nets", hubconf(server.url("/hub/gone.onnx")))
    here.must("lock", "--check")
    wiped(user)
    assert error_of(here, "fetch", "--offline")["code"] == "offline"
    here.run("fetch")
    assert in_store(user, DIGEST).exists()
    wiped(user)
    server.files[f"/hub/{name}"] = OTHER
    error = error_of(here, "fetch")
    assert error["code"] == "digest-mismatch"
    assert DIGEST in str(error)
    # Another file under a name with the first one's digest.
    git_server.push("who/nets", hubconf(server.url(f"/hub/{name}")))
    error = error_of(here, "lock", "-P", "net")
    assert error["code"] == "digest-mismatch"
    assert error["because"] == [f"named {name}, so wanted {DIGEST[:8]}...", f"found  {sha256(OTHER)}"]


@pytest.mark.parametrize(
    ("source", "because"),
    [
        ("torchhub:who/nets@main:none", "defines no entry point none"),
        ("torchhub:who/nets@main:made", "put together when the code runs: hubconf.py line 2"),
        ("torchhub:who/nets@gone:net", "gone"),
        ("torchhub:who/none@main:net", "not found"),
        ("torchhub:who/bare@main:net", "it has no hubconf.py"),
        ("torchhub:who/nets@main:clear", "by plain http"),
    ],
)
def test_what_torch_hub_does_not_say(user: User, git_server: GitServer, source: str, because: str) -> None:
    """Repository, revision, entry point, address: an error that names the source."""
    text = "def made(n):\n    load(f'https://h.example/{n}.onnx')\ndef clear(): load('http://h.example/net.onnx')\n"
    git_server.push("who/nets", {"hubconf.py": text.encode()})
    git_server.push("who/bare", {"README": b"x"})
    declare(user, f'source = "{source}"')
    error = error_of(user.with_environment(NNENV_CODE_HOST=git_server.url), "lock")
    assert (error["code"], error["where"]) == ("model-unreachable", source)
    assert because in " ".join(error["because"])
