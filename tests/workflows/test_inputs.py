"""What the project folder contributes to a lock: models, cases and application files, by digest."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnenv.adapters.http import Http
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.spec.artifact import Kind
from nnenv.workflows.inputs import Inputs, check_cases, keep_inputs, read_inputs
from nnenv.workflows.session import Session

MANIFEST = """
[project]
name = "demo"
version = "1"
[models.adder]
version = "2"
source = "file:models/adder.onnx"
[[models.adder.tests]]
data = "tests/adder"
[targets.cpu]
"""


def tensor(name: str, *values: float) -> bytes:
    """A TensorProto file."""
    made: bytes = numpy_helper.from_array(np.array(values, np.float32), name).SerializeToString()
    return made


def adder() -> bytes:
    """z = x + y."""
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"}
    node = helper.make_node("Add", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "g", [infos["x"], infos["y"]], [infos["z"]])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A model with one case of two inputs and one output."""
    folder = tmp_path / "project"
    (folder / "models").mkdir(parents=True)
    (folder / "model.toml").write_text(MANIFEST)
    (folder / "models/adder.onnx").write_bytes(adder())
    write_case(folder / "tests/adder/test_data_set_0", x=(1, 2), y=(3, 4))
    return folder


def write_case(folder: Path, *, x: tuple[float, float], y: tuple[float, float]) -> None:
    """A right case of the adder."""
    folder.mkdir(parents=True)
    (folder / "input_0.pb").write_bytes(tensor("x", *x))
    (folder / "input_1.pb").write_bytes(tensor("y", *y))
    (folder / "output_0.pb").write_bytes(tensor("z", x[0] + y[0], x[1] + y[1]))


def session(project: Path, **changes: object) -> Session:
    """A session that has no network."""
    return Session(
        project=project,
        store=Store(project.parent / "store"),
        http=Http(offline=True, environ={}),
        progress=SilentProgress(),
        environment={},
        home=project.parent,
        **changes,  # type: ignore[arg-type]
    )


def inputs_of(project: Path, manifest: str = MANIFEST) -> Inputs:
    """What `read_inputs` finds under a manifest."""
    (project / "model.toml").write_text(manifest)
    now = session(project)
    return read_inputs(now, now.manifest())


def sha(data: bytes) -> str:
    """The digest."""
    return hashlib.sha256(data).hexdigest()


def test_a_model_and_its_case(project: Path) -> None:
    """Digests, sizes, opsets, and addresses inside the project; the store is not touched before `keep_inputs`."""
    inputs = inputs_of(project)
    (model,) = inputs.models
    assert (model.name, model.version, model.format, model.opsets) == ("adder", "2", "onnx", ("ai.onnx:17",))
    assert model.file == sha(adder())
    (case,) = model.cases
    assert case.name == "tests/adder/test_data_set_0"
    assert case.inputs == (sha(tensor("x", 1, 2)), sha(tensor("y", 3, 4)))
    assert case.expected == (sha(tensor("z", 4, 6)),)
    artifact = inputs.artifacts[model.file]
    assert (artifact.kind, artifact.origin, artifact.size) == (Kind.MODEL, "file:models/adder.onnx", len(adder()))
    now = session(project)
    assert not now.store.contains(model.file)
    keep_inputs(now, inputs)
    check_cases(now, inputs)
    assert all(now.store.contains(digest) for digest in inputs.artifacts)


def test_data_sets_come_in_the_order_of_their_numbers(project: Path) -> None:
    """10 after 9, other names last; the same on every file system."""
    for name in ("10", "9", "extra"):
        write_case(project / f"tests/adder/test_data_set_{name}", x=(1, len(name)), y=(0, 1))
    (model,) = inputs_of(project).models
    assert [case.name.rpartition("_")[2] for case in model.cases] == ["0", "9", "10", "extra"]


def test_inputs_come_in_the_order_of_their_numbers(project: Path) -> None:
    """input_10 after input_9."""
    folder = project / "tests/adder/test_data_set_0"
    for number in range(2, 11):
        (folder / f"input_{number}.pb").write_bytes(tensor("n", number))
    (case,) = inputs_of(project).models[0].cases
    assert case.inputs[2:] == tuple(sha(tensor("n", number)) for number in range(2, 11))


def test_equal_files_of_different_cases_keep_their_roles(project: Path) -> None:
    """The second case's y is the first one's x, byte for byte: one artifact, and both cases still bind rightly."""
    for name, x, y in (("0", (1, 2), (3, 4)), ("1", (5, 6), (1, 2))):
        folder = project / f"tests/adder/test_data_set_{name}"
        if not folder.exists():
            write_case(folder, x=x, y=y)
        for number, values in enumerate((x, y)):
            (folder / f"input_{number}.pb").write_bytes(tensor("", *values))
    now = session(project)
    inputs = inputs_of(project)
    assert inputs.models[0].cases[1].inputs[1] == inputs.models[0].cases[0].inputs[0]
    keep_inputs(now, inputs)
    check_cases(now, inputs)


def test_a_model_that_is_an_application_file_too_stays_a_model(project: Path) -> None:
    """`files` may hold the whole project: the image still places the model by its name."""
    inputs = inputs_of(project, MANIFEST + '[image.files]\n"models" = "/app/models"\n')
    artifact = inputs.artifacts[inputs.models[0].file]
    assert (artifact.kind, artifact.name) == (Kind.MODEL, "adder")
    assert [file.path for file in inputs.files] == ["app/models/adder.onnx"]


def test_application_files(project: Path) -> None:
    """Folders with all below them, without caches, sorted; the x bit is kept, nothing else of the mode."""
    (project / "src/deep/__pycache__").mkdir(parents=True)
    (project / "src/deep/__pycache__/b.pyc").write_bytes(b"x")
    (project / "src/deep/b.py").write_text("b")
    (project / "src/a.sh").write_text("a")
    (project / "src/a.sh").chmod(0o700)
    (project / "LICENSE").write_text("free")
    found = inputs_of(project, MANIFEST + '[image.files]\n"src" = "/app"\n"LICENSE" = "/doc/LICENSE"\n').files
    assert [(file.path, file.executable) for file in found] == [
        ("app/a.sh", True),
        ("app/deep/b.py", False),
        ("doc/LICENSE", False),
    ]


@pytest.mark.parametrize("target", ["a.py", "deep", "/etc"])
def test_links_among_application_files_are_refused(target: str, project: Path) -> None:
    """A link to a file, to a folder, out of the project: none is silently followed or left out."""
    (project / "src/deep").mkdir(parents=True)
    (project / "src/a.py").write_text("a")
    (project / "src/link").symlink_to(target)
    with pytest.raises(NnenvError) as caught:
        inputs_of(project, MANIFEST + '[image.files]\n"src" = "/app"\n')
    assert caught.value.code == "path-escapes"
    assert "src/link" in caught.value.what


def test_two_files_for_one_place_are_refused(project: Path) -> None:
    """Both are named."""
    for name in ("one", "two"):
        (project / name).mkdir()
        (project / name / "x.py").write_text(name)
    with pytest.raises(NnenvError) as caught:
        inputs_of(project, MANIFEST + '[image.files]\n"one" = "/app"\n"two" = "/app"\n')
    assert caught.value.code == "manifest-invalid"
    assert sorted(caught.value.because) == ["one/x.py", "two/x.py"]


def test_a_declared_digest_is_compared(project: Path) -> None:
    """sha256 in model.toml."""
    good, bad = (MANIFEST.replace('version = "2"', f'version = "2"\nsha256 = "{d}"') for d in (sha(adder()), "ab" * 32))
    assert inputs_of(project, good).models
    with pytest.raises(NnenvError) as caught:
        inputs_of(project, bad)
    assert caught.value.code == "digest-mismatch"
    assert caught.value.where == "models.adder.sha256"


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "folder", "no case"])
def test_what_cannot_be_locked_is_refused(damage: str, project: Path) -> None:
    """Model or cases that are not there, or are something else: a refusal that names them, and a way out."""
    model, case = project / "models/adder.onnx", project / "tests/adder/test_data_set_0"
    if damage == "no case":
        for file in case.iterdir():
            file.unlink()
    else:
        model.unlink()
        if damage == "folder":
            model.mkdir()
        elif damage != "missing":
            model.write_text("" if damage == "empty" else "hello")
    with pytest.raises(NnenvError) as caught:
        inputs_of(project)
    assert caught.value.code in {"file-unreadable", "model-invalid", "case-invalid"}
    assert caught.value.where
    assert caught.value.fix


def test_a_case_folder_outside_of_the_project_is_refused(project: Path) -> None:
    """Through a link."""
    write_case(project.parent / "outside", x=(1, 2), y=(3, 4))
    (project / "tests/linked").symlink_to(project.parent / "outside")
    with pytest.raises(NnenvError) as caught:
        inputs_of(project, MANIFEST.replace("tests/adder", "tests/linked"))
    assert caught.value.code == "path-escapes"


def test_a_changed_file_is_seen_though_size_and_mtime_are_the_old_ones(project: Path) -> None:
    """The memory of digests goes by a stamp that no one can set back."""
    later = datetime.now(UTC) + timedelta(minutes=1)
    now = session(project, now=later)
    assert read_inputs(now, now.manifest()).models[0].cases[0].inputs[0] == sha(tensor("x", 1, 2))
    path = project / "tests/adder/test_data_set_0/input_0.pb"
    status = path.stat()
    path.write_bytes(tensor("x", 9, 9))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_inputs(now, now.manifest()).models[0].cases[0].inputs[0] == sha(tensor("x", 9, 9))


def test_a_file_of_this_very_moment_is_not_remembered(project: Path) -> None:
    """Two writes within one tick of the clock have one stamp: only files that have settled are remembered."""
    kept = project.parent / "store" / "derived" / "file-digest"
    now = session(project, now=datetime.now(UTC) - timedelta(minutes=1))
    read_inputs(now, now.manifest())
    assert not kept.exists()
    now = session(project, now=datetime.now(UTC) + timedelta(minutes=1))
    read_inputs(now, now.manifest())
    assert kept.exists()
