"""Models from elsewhere, over real sockets: locked once, then fetched by digest, from the next place if one is gone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnenv.spec.lockfile import ModelLock
from tests.e2e.model_world import GitServer, Hub, tls_server
from tests.e2e.world import User, World, tanh_model, toy_weights
from tests.support.flaky_server import FlakyServer

MODEL = tanh_model(toy_weights())
OTHER = tanh_model(-toy_weights())
DIGEST = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """An empty project in a world that has what images with models need."""
    world.offer("numpy", "2.0")
    world.offer("onnxruntime", "1.20")
    (tmp_path / "project").mkdir()
    return world.user(tmp_path / "project", tmp_path / "store")


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """Two addresses of the model."""
    with FlakyServer({"/a/net.onnx": MODEL, "/b/net.onnx": MODEL}) as made:
        yield made


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub."""
    with Hub().serving() as made:
        yield made


def declare(user: User, *lines: str) -> None:
    """A model with these lines, and one target."""
    text = '[project]\nname = "m"\nversion = "1"\n[models.net]\nversion = "1"\n' + "\n".join(lines)
    (user.project / "model.toml").write_text(text + "\n[targets.cpu]\n")


def locked(user: User) -> ModelLock:
    """The model as the lock has it."""
    (model,) = user.lock().models
    return model


def wiped(user: User) -> Path:
    """The model's object is gone from the store; where it was."""
    path = user.store / "objects" / "sha256" / DIGEST[:2] / DIGEST
    path.unlink()
    return path


def test_an_address(user: User, tmp_path: Path) -> None:
    """https: needs no digest, the lock records it; neither host nor address is in the lock."""
    with tls_server(tmp_path, {"/net.onnx": MODEL, "/v2/net.onnx": OTHER}) as (server, url, certificate):
        trusting = user.with_environment(SSL_CERT_FILE=str(certificate))
        declare(user, f'source = "{url}/net.onnx?download=1"')
        server.files["/net.onnx?download=1"] = MODEL
        trusting.must("lock")
        assert locked(user).file == DIGEST
        text = user.lock_path.read_text()
        assert "://" not in text
        assert "127.0.0.1" not in text
        trusting.must("lock", "--check")
        asked = len(server.requests("/net.onnx?download=1"))
        wiped(user)
        assert "--offline forbids" in trusting.refused("fetch", "--offline").err
        server.break_("/net.onnx?download=1", "cut")
        store = user.store
        trusting.run("fetch")
        assert store.joinpath("objects", "sha256", DIGEST[:2], DIGEST).exists()
        assert len(server.requests("/net.onnx?download=1")) > asked
        # Another address is another meaning, and the old bytes are no answer to it.
        declare(user, f'source = "{url}/v2/net.onnx"')
        assert "models from elsewhere" in trusting.refused("lock", "--check").err
        trusting.must("lock")
        assert locked(user).file == hashlib.sha256(OTHER).hexdigest()


def test_without_a_certificate_nothing_is_believed(user: User, tmp_path: Path) -> None:
    """A server that nobody vouches for."""
    with tls_server(tmp_path, {"/net.onnx": MODEL}) as (_, url, _certificate):
        declare(user, f'source = "{url}/net.onnx"')
        error = user.refused("lock", "--json").json()["errors"][0]
        assert error["code"] == "index-unreachable"
        assert not user.lock_path.exists()


def test_the_second_place_serves_when_the_first_is_gone(user: User, server: FlakyServer) -> None:
    """At the lock, and for bytes that the lock knows."""
    places = f'sources = ["{server.url("/a/net.onnx")}", "{server.url("/b/net.onnx")}"]'
    declare(user, places, f'sha256 = "{DIGEST}"')
    server.break_for_ever("/a/net.onnx", "404")
    user.must("lock")
    wiped(user)
    assert len(server.requests("/b/net.onnx")) == 1
    user.run("fetch")  # the .debs of this world are on paper alone, so it does not end well
    assert len(server.requests("/b/net.onnx")) == 2
    wiped(user)
    server.break_for_ever("/b/net.onnx", "404")
    refused = user.refused("fetch", "--json").json()["errors"][0]
    assert "none of the 2 places of model net" in refused["message"]
    assert len(refused["because"]) == 2


def test_bytes_that_were_changed_are_refused_with_the_digest(user: User, server: FlakyServer) -> None:
    """By the first place, and then by all."""
    places = f'sources = ["{server.url("/a/net.onnx")}", "{server.url("/b/net.onnx")}"]'
    declare(user, places, f'sha256 = "{DIGEST}"')
    server.files["/a/net.onnx"] = OTHER
    user.must("lock")
    wiped(user)
    server.files["/b/net.onnx"] = OTHER
    error = user.refused("fetch", "--json").json()["errors"][0]
    assert error["code"] == "digest-mismatch"
    assert DIGEST in str(error)
    assert not (user.store / "objects" / "sha256" / DIGEST[:2] / DIGEST).exists()


def test_plain_http_needs_a_digest(user: User, server: FlakyServer) -> None:
    """And `sources` holds no file of the project, nor stands beside `source`."""
    declare(user, f'source = "{server.url("/a/net.onnx")}"')
    assert "sha256" in user.refused("lock").err
    declare(user, 'sources = ["file:net.onnx"]')
    assert "holds a file of the project" in user.refused("lock").err
    declare(user, 'source = "file:net.onnx"', 'sources = ["pypi:net-weights==1/net.onnx"]')
    assert "beside `source`" in user.refused("lock").err


def test_a_branch_of_a_hub_becomes_a_commit(user: User, hub: Hub) -> None:
    """The lock keeps commit and licence; the branch moves on, and the lock only when it is asked to."""
    first = hub.push("org/net", {"onnx/net.onnx": MODEL, "README.md": b"x"})
    hub.licences["org/net"] = "apache-2.0"
    here = user.with_environment(HF_ENDPOINT=hub.url)
    declare(user, 'source = "hf:org/net@main:onnx/net.onnx"')
    here.must("lock")
    model = locked(user)
    assert (model.file, model.revision, model.licence) == (DIGEST, first, "apache-2.0")
    assert user.lock().by_digest[model.file].origin == f"hf:org/net@{first}:onnx/net.onnx"
    second = hub.push("org/net", {"onnx/net.onnx": OTHER})
    assert second != first
    before = user.lock_path.read_bytes()
    here.must("lock")
    assert user.lock_path.read_bytes() == before
    wiped(user)
    here.run("fetch")
    assert (user.store / "objects" / "sha256" / DIGEST[:2] / DIGEST).exists()  # of the old commit
    moved = here.must("lock", "-P", "net")
    assert locked(user).revision == second
    assert f"model net {DIGEST[:12]} -> {hashlib.sha256(OTHER).hexdigest()[:12]}" in moved.out


def test_a_gated_repository(user: User, hub: Hub) -> None:
    """By the token from the environment, which no other host is shown and nothing stores."""
    hub.push("org/gated", {"net.onnx": MODEL})
    hub.gated["org/gated"] = "hf_secret_token"
    declare(user, 'source = "hf:org/gated@main:net.onnx"')
    here = user.with_environment(HF_ENDPOINT=hub.url)
    error = here.refused("lock", "--json").json()["errors"][0]
    assert error["code"] == "model-unreachable"
    assert any("HF_TOKEN" in line for line in error["fix"])
    here.with_environment(HF_TOKEN="hf_secret_token").must("lock")
    assert locked(user).file == DIGEST
    assert {authorization for path, authorization in hub.shown if path.startswith("/bytes/")} == {""}
    written = [path for top in (user.project, user.store) for path in top.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hf_secret_token" in path.read_bytes()]


@pytest.mark.parametrize(
    "source", ["hf:org/none@main:net.onnx", "hf:org/net@gone:net.onnx", "hf:org/net@main:other.onnx"]
)
def test_what_a_hub_does_not_have(user: User, hub: Hub, source: str) -> None:
    """Repository, revision, file: an error that names the source."""
    hub.push("org/net", {"net.onnx": MODEL})
    declare(user, f'source = "{source}"')
    error = user.with_environment(HF_ENDPOINT=hub.url).refused("lock", "--json").json()["errors"][0]
    assert (error["code"], error["where"]) == ("model-unreachable", source)


def test_a_member_of_a_wheel(user: User, world: World) -> None:
    """A range becomes a version; the file comes out of the wheel by its RECORD, and again by digest."""
    for version, data in (("1.0", OTHER), ("1.2", MODEL), ("2.0", OTHER)):
        world.offer("net_weights", version, files={"net_weights/net.onnx": data})
    declare(user, 'source = "pypi:Net.Weights >=1,<2/net_weights/net.onnx"')
    user.must("lock")
    model = locked(user)
    assert (model.file, model.revision) == (DIGEST, "1.2")
    assert user.lock().by_digest[model.file].origin == "pypi:net-weights==1.2/net_weights/net.onnx"
    shutil.rmtree(user.store)
    user.run("fetch")
    assert (user.store / "objects" / "sha256" / DIGEST[:2] / DIGEST).exists()
    for source, because in (
        ("pypi:net-weights==3/net_weights/net.onnx", "no version is in the range"),
        ("pypi:net-weights==1.2/net_weights/gone.onnx", "has no such member"),
        ("pypi:unheard-of==1/x.onnx", "knows the name"),
    ):
        declare(user, f'source = "{source}"')
        assert because in user.refused("lock").err


def test_a_file_that_is_no_model(user: User, server: FlakyServer) -> None:
    """As for files of the project."""
    server.files["/a/net.onnx"] = b"<html>not found</html>"
    digest = hashlib.sha256(server.files["/a/net.onnx"]).hexdigest()
    declare(user, f'source = "{server.url("/a/net.onnx")}"', f'sha256 = "{digest}"')
    assert user.refused("lock", "--json").json()["errors"][0]["code"] == "model-invalid"


@pytest.mark.parametrize("fault", ["cut", "reset", "500", "drip"])
def test_faults_on_the_way(user: User, tmp_path: Path, fault: str) -> None:
    """A file of unknown digest that breaks once arrives whole."""
    with tls_server(tmp_path, {"/net.onnx": MODEL}) as (server, url, certificate):
        server.break_("/net.onnx", fault)
        declare(user, f'source = "{url}/net.onnx"')
        user.with_environment(SSL_CERT_FILE=str(certificate)).must("lock")
        assert locked(user).file == DIGEST


def test_an_answer_that_claims_to_be_whole_and_is_not(user: User, tmp_path: Path) -> None:
    """Without a digest only the model's own format can tell."""
    with tls_server(tmp_path, {"/net.onnx": MODEL}) as (server, url, certificate):
        server.break_("/net.onnx", "short-length")
        declare(user, f'source = "{url}/net.onnx"')
        error = user.with_environment(SSL_CERT_FILE=str(certificate)).refused("lock", "--json").json()["errors"][0]
        assert error["code"] == "model-invalid"
        assert not user.lock_path.exists()


def of_opset(opset: int, ir: int = 10) -> bytes:
    """The model as another release of the format has it."""
    import onnx

    model = onnx.load_model_from_string(MODEL)
    model.opset_import[0].version = opset
    model.ir_version = ir
    return bytes(model.SerializeToString())


def test_a_model_that_the_runtime_does_not_load(user: User, world: World) -> None:
    """A newer runtime is chosen where that is allowed; a pinned one is refused, with a repair that works."""
    world.offer("onnxruntime", "1.23.2")
    world.offer("onnxruntime", "1.22.1")
    (user.project / "net.onnx").write_bytes(of_opset(22))
    declare(user, 'source = "file:net.onnx"', "[requires]", 'packages = ["onnxruntime<1.23"]')
    user.must("lock")
    assert {wheel.version for wheel in user.lock().artifacts if wheel.name == "onnxruntime"} == {"1.22.1"}
    user.lock_path.unlink()
    (user.project / "net.onnx").write_bytes(of_opset(23, ir=11))
    refused = user.refused("lock")
    assert "opset-unsupported" in user.refused("lock", "--json").out
    assert "onnxruntime 1.22.1 loads operator sets of ai.onnx up to 22, and model net has 23" in refused.err
    assert "the first release with it is 1.23" in refused.err
    assert "onnxruntime==1.23.2 instead of onnxruntime<1.23" in refused.err
    assert not user.lock_path.exists()
    user.must("lock", "--apply-fix", "1")
    assert {wheel.version for wheel in user.lock().artifacts if wheel.name == "onnxruntime"} == {"1.23.2"}
    (user.project / "net.onnx").write_bytes(of_opset(23, ir=99))
    assert "none is known" in user.refused("lock").err


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    """A server for git repositories."""
    (tmp_path / "git").mkdir()
    with GitServer(tmp_path / "git") as made:
        yield made


@pytest.mark.parametrize("lfs", [False, True], ids=["plain", "lfs"])
def test_a_file_of_a_git_repository(user: User, git_server: GitServer, lfs: bool) -> None:
    """A tag becomes a commit, and stays what it was locked as when the tag is moved; LFS gives the bytes behind it."""
    first = git_server.push("net", {"onnx/net.onnx": MODEL, "README": b"x"}, tag="v1", lfs=lfs)
    source = f"git+{git_server.url}/net.git@main#onnx/net.onnx"
    declare(user, f'source = "{source}"', f'sha256 = "{DIGEST}"')
    user.must("lock")
    model = locked(user)
    assert (model.file, model.revision) == (DIGEST, first)
    origin = user.lock().by_digest[model.file].origin
    assert origin.startswith("git:")
    assert origin.endswith(f"@{first}#onnx/net.onnx")
    assert "127.0.0.1" not in user.lock_path.read_text()
    git_server.push("net", {"onnx/net.onnx": OTHER}, lfs=lfs)
    wiped(user)
    user.run("fetch")
    assert (user.store / "objects" / "sha256" / DIGEST[:2] / DIGEST).exists()
    declare(user, f'source = "{source.replace("@main", "@v1")}"', f'sha256 = "{DIGEST}"')
    user.must("lock")
    assert locked(user).revision == first
    declare(user, f'source = "{source}"', f'sha256 = "{DIGEST}"')
    assert user.refused("lock", "--json").json()["errors"][0]["code"] == "digest-mismatch"


@pytest.mark.parametrize("change", ["/gone.git@", "@gone#", "#gone.onnx"])
def test_what_a_git_server_does_not_have(user: User, git_server: GitServer, change: str) -> None:
    """Repository, revision, file: an error that names the source."""
    git_server.push("net", {"net.onnx": MODEL})
    source = f"git+{git_server.url}/net.git@main#net.onnx"
    for part in ("/net.git@", "@main#", "#net.onnx"):
        if part[0] == change[0] and part[-1] == change[-1]:
            source = source.replace(part, change)
    declare(user, f'source = "{source}"', f'sha256 = "{DIGEST}"')
    error = user.refused("lock", "--json").json()["errors"][0]
    assert (error["code"], error["where"]) == ("model-unreachable", source)
    assert not user.lock_path.exists()


def test_an_object_that_lfs_has_lost(user: User, git_server: GitServer) -> None:
    """The pointer is no model."""
    git_server.push("net", {"net.onnx": MODEL}, lfs=True)
    git_server.large.clear()
    declare(user, f'source = "git+{git_server.url}/net.git@main#net.onnx"', f'sha256 = "{DIGEST}"')
    assert user.refused("lock", "--json").json()["errors"][0]["code"] == "model-unreachable"
