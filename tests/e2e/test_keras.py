"""Models of other formats than ONNX: Keras really run, weights kept, pickles refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnenv.verify.tensors import read_tensor
from tests.e2e.world import User, World, users_environment
from tests.formats.test_hostile_models import GOOD, Evil, keras, zipped

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras-mnist-like"


@pytest.mark.network
@pytest.mark.slow
def test_twins_on_two_runtimes_agree(tmp_path: Path, shared_store: Path) -> None:
    """Must show 7: a Keras file on TensorFlow and its ONNX twin: both images verified, and their answers agree."""
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project)
    with (project / "model.toml").open("a") as manifest:
        manifest.write('\n[policy]\nexclude-newer = "2026-11-20T00:00:00Z"\n')
    user = User(project=project, store=shared_store, environment=users_environment())
    user.must("lock", timeout=900)
    names = {wheel.name for wheel in user.lock().wheels_of(user.lock().targets[1])}
    assert {"keras", "tensorflow-cpu"} <= names
    assert "onnxruntime" not in names
    found = user.must("verify", "--runner", "sandbox", "--eval", "--json", timeout=1200).json()
    reports = {report["target"]: report for report in found["reports"]}
    assert {report["status"] for report in reports.values()} == {"verified"}
    values = [report["evaluations"][0]["value"] for report in reports.values()]
    assert values[0] == values[1] > 0.95
    assert "tensorflow" in reports["cpu-tensorflow"]["models"][0]["providers"][0]
    np.savez(project / "inputs.npz", image=np.load(project / "data/held_out.npz")["image"][:32])
    answers = []
    for model, target in (("digits-keras", "cpu-tensorflow"), ("digits-onnx", "cpu-onnx")):
        line = ("test", "record", model, "--target", target, "--inputs", "inputs.npz", "--into", f"tests/{target}")
        user.must(*line, "--runner", "sandbox", timeout=900)
        answers.append(read_tensor((project / f"tests/{target}/test_data_set_0/output_0.pb").read_bytes())[1])
        shutil.copy(EXAMPLE / "model.toml", project / "model.toml")
        with (project / "model.toml").open("a") as manifest:
            manifest.write('\n[policy]\nexclude-newer = "2026-11-20T00:00:00Z"\n')
    assert answers[0].shape == (32, 10)
    assert np.abs(answers[0] - answers[1]).max() <= 1e-4 * np.abs(answers[1]).max()


MANIFEST = """
[project]
name = "m"
version = "1"
[models.net]
version = "1"
source = "file:{file}"
{more}
[targets.cpu]
"""


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """An empty project in a world with runtimes in name alone: what is locked, and not what runs, is asked here."""
    for name, version in (("numpy", "2.0"), ("onnxruntime", "1.20"), ("keras", "3.8.0"), ("tensorflow", "2.19")):
        world.offer(name, version)
    world.offer("keras", "3.7.0")
    (tmp_path / "project").mkdir()
    return world.user(tmp_path / "project", tmp_path / "store")


def declare(user: User, file: str, data: bytes, more: str = "") -> None:
    """A project with that model file."""
    (user.project / file).write_bytes(data)
    (user.project / "model.toml").write_text(MANIFEST.format(file=file, more=more))


def test_a_keras_file_asks_for_the_keras_that_saved_it(user: User) -> None:
    """The floor is in the lock, holds in the solve, and a range below it is a conflict that is explained."""
    dense = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d", "units": 3}}
    declare(user, "net.keras", keras(dense))
    user.must("lock")
    (model,) = user.lock().models
    assert (model.format, model.needs) == ("keras", ("keras>=3.8",))
    wheels = {wheel.name: wheel.version for wheel in user.lock().wheels_of(user.lock().targets[0])}
    assert wheels["keras"] == "3.8.0"
    assert "onnxruntime" not in wheels
    declare(user, "net.keras", keras(dense), '[requires]\npackages = ["keras<3.8"]')
    assert "keras" in user.refused("lock").all


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('[[models.net.adapt]]\nstep = "float16"', "adaptation-failed"),
        ('[[models.net.eval]]\nmetric = "accuracy"\ndata = "d.npz"\nat-least = "99%"', "evaluation-invalid"),
    ],
)
def test_toolchains_are_for_onnx(user: User, more: str, code: str) -> None:
    """Steps and baselines of another format are refused before any tool is locked."""
    (user.project / "d.npz").write_bytes(b"")
    declare(user, "net.keras", GOOD["keras"][1], more)
    (error,) = user.refused("lock", "--json").json()["errors"]
    assert error["code"] == code
    assert "ONNX models alone" in error["message"]


def test_a_pickle_needs_a_permission_for_that_very_file(user: User) -> None:
    """Refused with what it would import; allowed by digest; another file with that permission is refused."""
    declare(user, "net.pt", zipped({"m/data.pkl": pickle.dumps(Evil())}))
    (error,) = user.refused("lock", "--json").json()["errors"]
    assert error["code"] == "model-pickle"
    assert "posix.system" in error["because"][0]
    permission = error["fix"][1].split(": ", 1)[1]
    declare(user, "net.pt", zipped({"m/data.pkl": pickle.dumps(Evil())}), permission.replace("] ", "]\n"))
    user.must("lock")
    assert user.lock().models[0].format == "pickle"
    declare(user, "net.pt", zipped({"m/data.pkl": pickle.dumps([Evil()])}), permission.replace("] ", "]\n"))
    assert user.refused("lock", "--json").json()["errors"][0]["code"] == "model-pickle"


@pytest.mark.parametrize(("kind", "file"), [("safetensors", "net.safetensors"), ("gguf", "net.gguf")])
def test_weights_are_kept_and_not_run(user: User, kind: str, file: str) -> None:
    """Locked with their format and without any runtime; a test of them is refused in words."""
    declare(user, file, GOOD[kind][1])
    user.must("lock")
    (model,) = user.lock().models
    assert model.format == kind
    assert user.lock().targets[0].wheels == ()
    (user.project / "tests").mkdir()
    declare(user, file, GOOD[kind][1], '[[models.net.tests]]\ndata = "tests"')
    (error,) = user.refused("lock", "--json").json()["errors"]
    assert (error["code"], "cannot run" in error["message"]) == ("case-invalid", True)


@pytest.mark.parametrize(
    ("file", "data", "declared", "words"),
    [
        ("net.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "", "hdf5 cannot be locked"),
        ("net.onnx", GOOD["gguf"][1], "safetensors", "is declared as safetensors"),
        ("net.keras", zipped({"a": b""}), "", "holds no config.json"),
    ],
)
def test_other_files_are_refused(user: User, file: str, data: bytes, declared: str, words: str) -> None:
    """With the file and the rule."""
    declare(user, file, data, f'format = "{declared}"' if declared else "")
    (error,) = user.refused("lock", "--json").json()["errors"]
    assert error["code"] == "model-invalid"
    assert words in error["message"] + " ".join(error["because"])
