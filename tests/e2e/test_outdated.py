"""`nnenv outdated`: what the names of models come to now, asked of real servers on loopback; nothing is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.model_world import GitServer, Hub, tls_server
from tests.e2e.registry_world import Registry, registry
from tests.e2e.test_model_registries import weight
from tests.e2e.world import User, World, tanh_model, toy_weights

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
def open_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that anybody may read and write."""
    (tmp_path / "registry").mkdir()
    with registry(tmp_path / "registry") as made:
        yield made


def standings(user: User, *more: str) -> dict[str, Any]:
    """Model -> how it stands."""
    return {one["name"]: one for one in user.must("outdated", "--json", *more).json()["models"]}


def test_what_moved_is_told_and_nothing_is_changed(user: User, world: World, tmp_path: Path) -> None:
    """A branch of a hub, a branch and a tag of git, a range of wheels, an address; then the lock moves on."""
    world.offer("net_weights", "1.0", files={"net_weights/net.onnx": MODEL})
    (tmp_path / "git").mkdir()
    with (
        Hub().serving() as hub,
        GitServer(tmp_path / "git") as git,
        tls_server(tmp_path, {"/net.onnx": MODEL}) as (_, url, certificate),
    ):
        hub.push("org/net", {"net.onnx": MODEL})
        git.push("net", {"net.onnx": MODEL}, tag="v1")
        sources = {
            "hub": "hf:org/net@main:net.onnx",
            "branch": f"git+{git.url}/net.git@main#net.onnx",
            "tag": f"git+{git.url}/net.git@v1#net.onnx",
            "wheel": "pypi:net-weights>=1/net_weights/net.onnx",
            "address": f"{url}/net.onnx",
        }
        text = '[project]\nname = "m"\nversion = "1"\n[targets.cpu]\n'
        for name, source in sources.items():
            text += f'[models.{name}]\nversion = "1"\nsource = "{source}"\n'
            text += f'sha256 = "{DIGEST}"\n' if "http:" in source else ""
        (user.project / "model.toml").write_text(text)
        here = user.with_environment(HF_ENDPOINT=hub.url, SSL_CERT_FILE=str(certificate))
        here.must("lock")
        found = standings(here)
        assert {name: one["standing"] for name, one in found.items()} == {
            "hub": "current", "branch": "current", "tag": "current", "wheel": "current", "address": "fixed",
        }  # fmt: skip
        new = hub.push("org/net", {"net.onnx": OTHER})
        git.push("net", {"net.onnx": OTHER})
        world.offer("net_weights", "1.5", files={"net_weights/net.onnx": OTHER})
        before = user.lock_path.read_bytes()
        found = standings(here)
        assert [name for name, one in found.items() if one["standing"] == "outdated"] == ["branch", "hub", "wheel"]
        assert (found["hub"]["offered"], found["wheel"]["offered"]) == (new, "1.5")
        said = here.must("outdated").out
        assert "move on with: nnenv lock -P branch -P hub -P wheel" in said
        assert user.lock_path.read_bytes() == before
        here.must("lock", "-P", "hub", "-P", "wheel")
        assert [name for name, one in standings(here).items() if one["standing"] == "outdated"] == ["branch"]
    gone = standings(here, "--offline")
    assert {one["standing"] for one in gone.values()} <= {"unreachable", "fixed", "current"}
    assert gone["branch"]["standing"] == "unreachable"
    assert gone["branch"]["why"]


@pytest.mark.registry
def test_a_tag_of_a_registry(user: User, open_registry: Registry) -> None:
    """A tag that was pushed again."""
    open_registry.artifact("zoo/net", "v1", weight())
    source = f"oci:{open_registry.host}/zoo/net:v1"
    (user.project / "model.toml").write_text(
        f'[project]\nname = "m"\nversion = "1"\n[models.net]\nversion = "1"\nsource = "{source}"\n[targets.cpu]\n'
    )
    user.must("lock")
    assert standings(user)["net"]["standing"] == "current"
    second = open_registry.artifact("zoo/net", "v1", weight(OTHER))
    found = standings(user)["net"]
    assert (found["standing"], found["offered"]) == ("outdated", second)


def test_without_models_from_elsewhere(user: User) -> None:
    """Files of the project have no source to ask."""
    (user.project / "net.onnx").write_bytes(MODEL)
    (user.project / "model.toml").write_text(
        '[project]\nname = "m"\nversion = "1"\n[models.net]\nversion = "1"\nsource = "file:net.onnx"\n[targets.cpu]\n'
    )
    assert user.refused("outdated", "--json").json()["errors"][0]["code"] == "lock-missing"
    user.must("lock")
    assert "no model of model.lock comes from elsewhere" in user.must("outdated").out
