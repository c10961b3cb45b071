"""Whole outputs of `nnenv init`, `add` and `remove`, piped and on a terminal (rules: `test_cli_snapshots`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.test_authoring import STYLED
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped, without_sizes
from tests.e2e.world import User, World, plain_project, tanh_model, toy_weights, write_case
from tests.verify.models import image, random_convnet


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody with a manifest of their own style, in a world with a few packages."""
    for name, version in (("a", "1.0"), ("b", "1.0"), ("b", "2.0"), ("c", "1.0")):
        world.offer(name, version)
    offer_tiny_wheels(world)
    return world.user(plain_project(tmp_path / "project", STYLED), tmp_path / "store")


def test_add_and_remove(user: User) -> None:
    """A first addition, one that replaces, one for a target, what is there already, and removals."""
    outputs = [
        piped(user, "add", "b<2"),
        piped(user, "add", "b"),
        piped(user, "add", "b"),
        piped(user, "add", "--target", "edge", "numpy", "--no-lock"),
        piped(user, "add", "--system", "zlib1g", "-q"),
        piped(user, "remove", "--target", "edge", "numpy"),
        on_a_terminal(user, "remove", "b"),
        piped(user, "add", "b", "--color", "always").replace("\x1b", "ESC"),
    ]
    outputs.append(f"model.toml\n{(user.project / 'model.toml').read_text()}")
    compare("add-remove", without_sizes("\n".join(outputs)))


def test_add_and_remove_json(user: User) -> None:
    """One object each; nothing on standard error."""
    outputs = [piped(user, "add", "b<2", "--json"), piped(user, "remove", "b", "--no-lock", "--json")]
    compare("add-remove-json", without_sizes("\n".join(outputs)))


def test_what_add_and_remove_refuse(user: User) -> None:
    """What, where, because, fix; on a terminal too."""
    user.must("lock")
    outputs = [
        piped(user, "add", "b>=3"),
        piped(user, "add", "not a requirement"),
        piped(user, "add", "-t", "gpu", "b"),
        piped(user, "remove", "libgomp1"),
        piped(user, "remove", "numpy", "--json"),
        on_a_terminal(user, "remove", "numpy"),
    ]
    compare("add-remove-errors", "\n".join(outputs))


def test_init(world: World, tmp_path: Path) -> None:
    """Two models, one of them with tests; a folder of its own; what is there already; the file itself."""
    user = world.user(tmp_path / "classifier", tmp_path / "store")
    (user.project / "zoo").mkdir(parents=True)
    (user.project / "net.onnx").write_bytes(tanh_model(toy_weights(), names=("eingang für x", "y")))
    (user.project / "zoo/model.onnx").write_bytes(random_convnet().SerializeToString())
    write_case(user.project / "zoo/test_data_set_0", {"image": image()}, {"logits": image()})
    line = ("init", "--model", "net.onnx", "--model", "zoo/model.onnx", "--schema")
    outputs = [piped(user, *line), f"model.toml\n{(user.project / 'model.toml').read_text()}"]
    outputs += [on_a_terminal(user, "init"), piped(user, "init", "--schema"), piped(user, "init", "--json")]
    (user.project / "model.toml").unlink()
    outputs.append(piped(user, "init", "--json", "-t", "cpu-arm64"))
    (user.project / "model.toml").unlink()
    outputs.append(on_a_terminal(user, "init"))
    outputs += [piped(user, "init", "empty"), piped(user, "init", "other", "--model", "net.onnx")]
    compare("init", "\n".join(outputs))
