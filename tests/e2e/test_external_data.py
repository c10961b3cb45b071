"""Models of several files: weights beside the model, taken with every rule about where they may lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from nnenv.verify import harness
from tests.e2e.world import User, World, toy_weights, users_environment, write_case

MANIFEST = """
[project]
name = "m"
version = "1"
[models.net]
version = "1"
source = "file:models/net.onnx"
[[models.net.tests]]
data = "tests/net"
[targets.cpu]
"""


def split_model(location: str = "weights/w.bin", *, inside: str = "graph", **entries: str) -> bytes:
    """y = tanh(x @ w), where w lies at `location`; as an initializer, or hidden in a constant's attribute."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        weights.external_data.add(key=key, value=value)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    if inside == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
    if inside == "branch":
        branch = helper.make_graph(
            [], "b", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3])], [weights]
        )
        true = helper.make_tensor("c", TensorProto.BOOL, [], [True])
        nodes[:0] = [
            helper.make_node("Constant", [], ["c"], value=true),
            helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weights] if inside == "graph" else [],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """A project with a model of two files and a case."""
    world.offer("numpy", "2.0")
    world.offer("onnxruntime", "1.20")
    project = tmp_path / "project"
    (project / "models" / "weights").mkdir(parents=True)
    (project / "model.toml").write_text(MANIFEST)
    (project / "models" / "net.onnx").write_bytes(split_model())
    (project / "models" / "weights" / "w.bin").write_bytes(toy_weights().astype("<f4").tobytes())
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    write_case(project / "tests" / "net", {"x": x}, {"y": np.tanh(x @ toy_weights())})
    return world.user(project, tmp_path / "store")


def test_both_files_are_locked_and_watched(user: User) -> None:
    """The weights are an artifact with a path beside the model; other weights make the lock stale."""
    user.must("lock")
    lock = user.lock()
    (model,) = lock.models
    ((path, digest),) = model.files
    assert (path, lock.by_digest[digest].origin) == ("weights/w.bin", "file:models/weights/w.bin")
    assert "lock" in user.must("lock", "--check").all
    (user.project / "models" / "weights" / "w.bin").write_bytes((-toy_weights()).astype("<f4").tobytes())
    assert user.refused("lock", "--check", "--json").json()["errors"][0]["code"] == "lock-stale"


def link(project: Path) -> None:
    """The weights are a symbolic link."""
    weights = project / "models" / "weights" / "w.bin"
    weights.rename(project / "elsewhere.bin")
    weights.symlink_to(project / "elsewhere.bin")


def linked_folder(project: Path) -> None:
    """Their folder is one."""
    (project / "models" / "weights").rename(project / "w")
    (project / "models" / "weights").symlink_to(project / "w")


def hard_link(project: Path) -> None:
    """They have a second name."""
    os.link(project / "models" / "weights" / "w.bin", project / "other.bin")


def pipe(project: Path) -> None:
    """They are a pipe, which would block whoever opens it."""
    weights = project / "models" / "weights" / "w.bin"
    weights.unlink()
    os.mkfifo(weights)


def at(location: str, **entries: str) -> Callable[[Path], None]:
    """The model says this of where they lie."""

    def spoil(project: Path) -> None:
        (project / "models" / "net.onnx").write_bytes(split_model(location, **entries))

    return spoil


HOSTILE = {
    "parent": (at("../secret.bin"), "it holds .."),
    "inner parent": (at("weights/../../secret.bin"), "it holds .."),
    "absolute": (at("/etc/passwd"), "absolute path"),
    "backslash": (at("..\\secret.bin"), "backslash"),
    "drive": (at("C:secret.bin"), "drive"),
    "nul": (at("weights/w.bin\0.txt"), "control character"),
    "not shortest": (at("./weights/w.bin"), "shortest form"),
    "empty": (at(""), "it is empty"),
    "missing": (at("weights/none.bin"), "No such file"),
    "a folder": (at("weights"), "not a regular file"),
    "behind the end": (at("weights/w.bin", offset="8"), "bytes 8 to 56 are wanted of a file of 48"),
    "far behind": (at("weights/w.bin", offset="999999999999"), "are wanted of a file of 48"),
    "negative": (at("weights/w.bin", offset="-1"), "no number"),
    "other length": (at("weights/w.bin", length="44"), "type and shape ask for 48"),
    "hidden in a constant": (at("/etc/passwd", inside="constant"), "absolute path"),
    "hidden in a branch": (at("../../x", inside="branch"), "it holds .."),
    "link": (link, "symbolic link"),
    "linked folder": (linked_folder, "symbolic link"),
    "hard link": (hard_link, "hard link"),
    "pipe": (pipe, "not a regular file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_lies_elsewhere_is_refused(user: User, name: str) -> None:
    """Each rule, with the file and the rule in the message, and no lock."""
    spoil, rule = HOSTILE[name]
    spoil(user.project)
    (error,) = user.refused("lock", "--json", timeout=60).json()["errors"]
    assert error["code"] == "model-invalid"
    assert "net.onnx" in error["where"] + error["message"]
    assert rule in " ".join(error["because"]), error
    assert not user.lock_path.exists()


@pytest.mark.parametrize("inside", ["graph", "constant", "branch"])
def test_their_benign_twins_are_taken(user: User, inside: str) -> None:
    """The same constructs with a location that keeps the rules."""
    at("weights/w.bin", offset="0", length="48", inside=inside)(user.project)
    user.must("lock")
    assert len(user.lock().models[0].files) == 1


@pytest.mark.network
@pytest.mark.slow
def test_an_image_runs_it(user: User, shared_store: Path) -> None:
    """Real runtimes find the weights beside the model, in the image."""
    real = User(project=user.project, store=shared_store, environment=users_environment())
    with (user.project / "model.toml").open("a") as manifest:
        manifest.write('[policy]\nexclude-newer = "2026-11-20T00:00:00Z"\n')
    real.must("lock", timeout=900)
    found = real.must("verify", "--runner", "sandbox", "--json", timeout=900).json()
    assert [report["status"] for report in found["reports"]] == ["verified"]
    assert real.run("verify", "--json", timeout=900).json()["reports"][0]["status"] == "verified"


def test_the_harness_finds_other_weights(tmp_path: Path) -> None:
    """A weight file that was replaced in an image is named, with both digests, before the model is opened."""
    (tmp_path / "net.onnx").write_bytes(split_model("w.bin"))
    (tmp_path / "w.bin").write_bytes(bytes(48))
    action = {"model": str(tmp_path / "net.onnx"), "sha256": None, "beside": {str(tmp_path / "w.bin"): "0" * 64}}
    with pytest.raises(harness.RefusedError) as caught:
        harness.Sessions().open(action)
    assert caught.value.kind == "digest-mismatch"
    assert "w.bin" in str(caught.value)
