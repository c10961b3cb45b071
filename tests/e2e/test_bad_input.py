"""Bad input: an error that names the file and the fix, no traceback, nothing written, no long wait."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.world import TOY, User, World, listing, tanh_model, toy_project, toy_weights

SECONDS = 20.0
"""Far more than any refusal takes on an idle machine (under one), and far less than a bomb would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrong:
    """One way to spoil the toy project."""

    says: tuple[str, ...]
    """All of this stands in the error."""
    spoil: Callable[[Path], object]


def manifest(text: str | bytes) -> Callable[[Path], object]:
    """Another model.toml."""
    return lambda project: (project / "model.toml").write_bytes(text if isinstance(text, bytes) else text.encode())


def model(data: bytes) -> Callable[[Path], object]:
    """Another model.onnx."""
    return lambda project: (project / "model.onnx").write_bytes(data)


def source(path: str) -> str:
    """The toy's manifest with another model path."""
    return TOY.replace("file:model.onnx", f"file:{path}")


def become_folder(path: Path) -> None:
    """A folder of the file's name."""
    path.unlink()
    path.mkdir()


def link_out(project: Path) -> None:
    """model.onnx leads outside of the project."""
    outside = project.parent / "outside.onnx"
    outside.write_bytes((project / "model.onnx").read_bytes())
    (project / "model.onnx").unlink()
    (project / "model.onnx").symlink_to(outside)


def folder_link_out(project: Path) -> None:
    """A folder on the way to the model leads outside."""
    (project.parent / "outside").mkdir()
    (project / "model.onnx").rename(project.parent / "outside" / "model.onnx")
    (project / "models").symlink_to(project.parent / "outside")
    manifest(source("models/model.onnx"))(project)


def external_data(project: Path) -> None:
    """The weights lie in another file."""
    weights = numpy_helper.from_array(toy_weights(), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../etc/passwd")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [weights],
    )
    (project / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())


def broken_tensor(project: Path) -> None:
    """A case's input is no TensorProto."""
    (project / "tests/toy/test_data_set_0/input_0.pb").write_bytes(b"\xff" * 40)


def pickled_case(project: Path) -> None:
    """An .npz whose array is a pickle, which runs code when it is loaded."""
    folder = project / "tests" / "toy"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    array = io.BytesIO()
    np.lib.format.write_array(array, np.array([Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "case.npz", "w") as archive:
        archive.writestr("input:x.npy", array.getvalue())


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("unpickled", "w"))


DOTTED_BOMB = ".".join(["a"] * 20_000) + " = 1\n"

WRONG = {
    "malformed TOML": Wrong(says=("model.toml:1:", "not valid TOML"), spoil=manifest("[project\nname = 1\n")),
    "not UTF-8": Wrong(says=("model.toml", "UTF-8"), spoil=manifest(b'[project]\nname = "\xff"\n')),
    "deep nesting": Wrong(says=("model.toml:1:", "deep"), spoil=manifest("a = " + "[" * 9000 + "]" * 9000 + "\n")),
    "dotted-key bomb": Wrong(says=("model.toml:1:", "dotted key"), spoil=manifest(DOTTED_BOMB)),
    "2 MiB": Wrong(says=("model.toml",), spoil=manifest("# " + "x" * (2 << 20) + "\n" + TOY)),
    "unknown key": Wrong(says=("model.toml", "did you mean"), spoil=manifest(TOY.replace("version =", "verson =", 1))),
    "unknown table": Wrong(says=("model.toml", "did you mean"), spoil=manifest(TOY.replace("targets", "target"))),
    "empty": Wrong(says=("model.toml",), spoil=manifest("")),
    "no manifest": Wrong(says=("model.toml",), spoil=lambda project: (project / "model.toml").unlink()),
    "manifest is a folder": Wrong(says=("model.toml",), spoil=lambda project: become_folder(project / "model.toml")),
    "path up and out": Wrong(says=("../x",), spoil=manifest(source("../x"))),
    "path up, down and out": Wrong(says=("tests/../../x",), spoil=manifest(source("tests/../../x"))),
    "absolute path": Wrong(says=("/etc/passwd",), spoil=manifest(source("/etc/passwd"))),
    "link out": Wrong(says=("model.onnx",), spoil=link_out),
    "folder link out": Wrong(says=("models",), spoil=folder_link_out),
    "missing model": Wrong(says=("model.onnx",), spoil=lambda project: (project / "model.onnx").unlink()),
    "model is a folder": Wrong(says=("model.onnx",), spoil=lambda project: become_folder(project / "model.onnx")),
    "empty model": Wrong(says=("model.onnx", "ONNX"), spoil=model(b"")),
    "text as model": Wrong(says=("model.onnx", "ONNX"), spoil=model(b"this is not a model\n" * 50)),
    "truncated model": Wrong(says=("model.onnx", "ONNX"), spoil=model(tanh_model(toy_weights())[:-30])),
    "external data": Wrong(says=("model.onnx", "it holds .."), spoil=external_data),
    "missing case folder": Wrong(says=("tests/other",), spoil=manifest(TOY.replace("tests/toy", "tests/other"))),
    "case folder outside": Wrong(says=("../toy",), spoil=manifest(TOY.replace("tests/toy", "../toy"))),
    "no case in the folder": Wrong(says=("tests",), spoil=manifest(TOY.replace("tests/toy", "tests"))),
    "unreadable tensor": Wrong(says=("test_data_set_0", "input_0.pb"), spoil=broken_tensor),
    "pickle in an npz": Wrong(says=("case.npz",), spoil=pickled_case),
    "unknown platform": Wrong(says=("model.toml", "linux/mips"), spoil=manifest(TOY + 'platform = "linux/mips"\n')),
    "host in a requirement": Wrong(
        says=("model.toml",), spoil=manifest(TOY + '\n[requires]\npackages = ["a @ https://x.test/a.whl"]\n')
    ),
    "model is not that file": Wrong(
        says=("sha256", "model.onnx"), spoil=manifest(TOY.replace('onnx"\n', f'onnx"\nsha256 = "{"0" * 64}"\n'))
    ),
}


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody with the toy project, in a world that could lock it."""
    offer_tiny_wheels(world)
    return world.user(toy_project(tmp_path / "project"), tmp_path / "store")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_refused(user: User, wrong: Wrong) -> None:
    """One refusal: exit code 1, `error:` with the file, `fix:`, nothing written, no server asked for wheels."""
    wrong.spoil(user.project)
    before = listing(user.project)
    refusal = user.refused("lock")
    assert refusal.err.startswith("error: "), refusal.err
    assert "\nfix: " in refusal.err, refusal.err
    for words in wrong.says:
        assert words in refusal.err, refusal.err
    assert listing(user.project) == before
    assert refusal.seconds < SECONDS


def test_the_project_is_fine_before_it_is_spoilt(user: User) -> None:
    """The table spoils a project that locks."""
    user.must("lock")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["lock", "--no-such-option"], 2),
        (["no-such-command"], 2),
        (["build", "--output", "tape:/dev/st0"], 2),
        (["verify", "--timeout", "-1"], 2),
        (["build", "--target", "gpu"], 1),
        (["lock", "-C", "no-such-folder"], 2),
        (["test", "record", "no-such-model"], 1),
    ],
)
def test_a_wrong_command_line_is_refused(user: User, line: list[str], code: int) -> None:
    """Usage errors end with 2, names that the project lacks with 1; both say what to do."""
    user.must("lock")
    before = listing(user.project)
    refusal = user.run(*line)
    assert refusal.code == code, refusal.all
    assert refusal.err.startswith("error: ")
    assert "\nfix: " in refusal.err
    assert listing(user.project) == before


@pytest.mark.parametrize("name", ["WORKERS", "RUNNER", "REQUIRE", "COLOR"])
def test_a_wrong_variable_is_refused(user: User, name: str) -> None:
    """A variable that stands for an option is checked as the option is."""
    refusal = user.with_environment(**{f"NNENV_{name}": "nonsense"}).run("verify")
    assert refusal.code == 2
    assert "'nonsense'" in refusal.err


def test_every_mistake_is_reported_at_once(user: User) -> None:
    """Two wrong keys are two errors, each with its line."""
    text = TOY.replace("version =", "verson =", 1) + 'platfrom = "linux/amd64"\n'
    (user.project / "model.toml").write_text(text)
    refusal = user.refused("lock", "--json").json()
    assert len(refusal["errors"]) >= 2
    places = {error["where"] for error in refusal["errors"]}
    assert any("model.toml:3" in place for place in places)
    assert any("model.toml:12" in place for place in places)
