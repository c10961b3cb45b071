"""`nnenv verify` and `test record` from end to end: what is proven, what is not, and by how much it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnenv.adapters.docker_engine import connect
from nnenv.image.plan import model_path
from tests.e2e.world import (
    PLAIN,
    ROOT,
    TOY,
    User,
    linked_copy,
    listing,
    small_library,
    tanh_model,
    toy_weights,
    write_case,
)

pytestmark = [pytest.mark.network, pytest.mark.slow]
"""The images hold the real numpy and onnxruntime, from the configured index."""

SANDBOX = ("--target", "cpu", "--runner", "sandbox")
"""Every machine that these tests run on has it."""

WITHOUT_CASES = TOY.replace('[[models.toy.tests]]\ndata = "tests/toy"\n', "")


@pytest.fixture
def user(toy: User, tmp_path: Path) -> User:
    """The toy in a project of its own, for one target, with the shared store."""
    copied = toy.elsewhere(tmp_path / "project")
    (copied.project / "model.toml").write_text(TOY)
    return copied


def report(user: User, *arguments: str, code: int = 0) -> Any:
    """Lock, verify in the sandbox, and the one report."""
    user.must("lock", "--offline")
    done = user.run("verify", *SANDBOX, "--offline", "--json", *arguments)
    assert done.code == code, done.all
    (found,) = done.json()["reports"]
    return found


def errors_of(found: Any) -> list[float]:
    """The normalised error of each case's output."""
    return [output["normalised_error"] for model in found["models"] for c in model["cases"] for output in c["outputs"]]


def test_the_sandbox_verifies_the_toy(toy: User) -> None:
    """Right cases: every check of a CPU target passes, and the text says so."""
    printed = toy.must("verify", *SANDBOX, "--offline").out
    lines = [line.split()[:2] for line in printed.splitlines()]
    for expected in (["closure", "passed"], ["load", "passed"], ["reference", "passed"], ["status", "verified"]):
        assert expected in lines, printed
    assert ["accelerator", "not-run"] in lines


@pytest.mark.docker
def test_the_docker_engine_verifies_the_toy(toy: User) -> None:
    """The same image, run by the engine."""
    found = toy.must("verify", "--target", "cpu", "--runner", "docker", "--json").json()
    assert found["ok"] is True
    assert [(item["status"], item["run"]["runner"]) for item in found["reports"]] == [("verified", "docker")]


@pytest.mark.docker
def test_the_image_tests_itself(toy: User) -> None:
    """`docker run --rm --network none --read-only IMAGE` prints a passing JSON report, and ends with 0."""
    toy.must("build", "--target", "cpu", "-o", "docker")
    output = connect().client.containers.run(
        "toy:1.0.0-cpu", remove=True, network_mode="none", read_only=True, cap_drop=["ALL"]
    )
    told = json.loads(output)
    assert told["passed"] is True, told
    assert "test_data_set_1" in json.dumps(told)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """What a host mounts into a container so that nnenv runs in it: nnenv and its pure-Python dependencies."""
    folder = tmp_path / "nnenv-here"
    shutil.copytree(ROOT / "nnenv", folder / "nnenv", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("packaging", "resolvelib"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # It needs a library that is nowhere: what is mounted is none of the image's, and not judged.
    (folder / "libforeign.so").write_bytes(small_library().replace(b"\0libc.so.6\0", b"\0libq.so.6\0"))
    return folder


def inside(image: str, mounted: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`nnenv verify --here --json` in a container as README and docs have it."""
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "-v", f"{mounted}:/here:ro", *options]
    command += ["-e", "PYTHONPATH=/here", image, "/opt/nnenv/bin/python3", "-m", "nnenv", "verify", "--here", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.docker
def test_inside_of_the_image(toy: User, mounted: Path, tmp_path: Path) -> None:
    """`--here` comes to the same verdicts as from outside; a library that is gone and a wrong model are found."""
    outside = toy.must("verify", "--target", "cpu", "--runner", "docker", "--json").json()["reports"][0]
    done = inside("toy:1.0.0-cpu", mounted)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    assert (report["status"], report["run"]["runner"], report["statement"]) == ("verified", "here", None)
    for name in ("closure", "load", "reference"):
        assert report["checks"][name]["verdict"] == "passed"
        assert report["checks"][name]["note"] == outside["checks"][name]["note"]
    for key in ("lock_sha256", "harness_sha256", "policy"):
        assert report[key] == outside[key]
    (empty := tmp_path / "empty").write_bytes(b"")
    folder = "/opt/nnenv/lib/python3.11/site-packages/onnxruntime/capi"
    library = f"{folder}/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so"
    without = inside("toy:1.0.0-cpu", mounted, "-v", f"{empty}:{library}")
    assert without.returncode == 1
    checks = json.loads(without.stdout)["reports"][0]["checks"]
    assert "import-failed" in {finding["code"] for finding in checks["load"]["findings"]}
    lock = toy.lock()
    (model,) = lock.models
    path = model_path(model.name, lock.by_digest[model.file])
    wrong = inside("toy:1.0.0-cpu", mounted, "-v", f"{empty}:/{path}")
    assert wrong.returncode == 1
    findings = json.loads(wrong.stdout)["reports"][0]["checks"]["load"]["findings"]
    assert [finding["code"] for finding in findings] == ["model-failed"]


def test_outside_of_an_image_there_is_no_here(user: User) -> None:
    """An error with advice, and a target cannot be named."""
    assert "inside of an image that nnenv built" in user.refused("verify", "--here").err
    assert user.run("verify", "--here", "--target", "cpu").code == 2
    assert "takes no --eval" in user.run("verify", "--here", "--eval").err
    assert user.run("verify", "--report", "page.html").code == 2


def test_one_flipped_sign_fails_and_says_by_how_much(user: User) -> None:
    """One weight with the wrong sign, the recorded cases kept: exit code 1, with the normalised error."""
    weights = toy_weights()
    weights[1, 2] = -weights[1, 2]
    (user.project / "model.onnx").write_bytes(tanh_model(weights))
    user.must("lock", "--offline")
    refusal = user.refused("verify", *SANDBOX, "--offline")
    (line,) = [line for line in refusal.out.splitlines() if "test_data_set_0" in line and "max|a-e|" in line]
    assert "failed" in line
    assert float(line.partition("max|a-e|/max|e| ")[2].partition(",")[0]) > 1e-2
    assert "limit 1e-04" in line
    found = report(user, code=1)
    assert found["status"] == "loadable"
    assert found["checks"]["reference"]["verdict"] == "failed"
    assert max(errors_of(found)) > 1e-2


def test_a_vacuous_model_is_no_more_than_smoke(user: User) -> None:
    """A model that answers a constant passes its cases, which prove nothing: `smoke`, and exit code 1."""
    (user.project / "model.onnx").write_bytes(tanh_model(np.zeros((4, 3), dtype=np.float32)))
    for number in range(2):
        folder = user.project / f"tests/toy/test_data_set_{number}"
        (folder / "output_0.pb").write_bytes(
            numpy_helper.from_array(np.zeros((2, 3), dtype=np.float32), "y").SerializeToString()
        )
    found = report(user, code=1)
    assert found["status"] == "smoke"
    assert all(case["vacuous"] and case["passed"] for case in found["models"][0]["cases"])
    printed = user.must("verify", *SANDBOX, "--offline", "--require", "smoke").out
    assert "VACUOUS" in printed


def test_without_cases_the_image_is_loadable(user: User) -> None:
    """Nothing was compared, so nothing more than loading is claimed."""
    shutil.rmtree(user.project / "tests")
    (user.project / "model.toml").write_text(WITHOUT_CASES)
    found = report(user, code=1)
    assert (found["status"], found["checks"]["reference"]["verdict"]) == ("loadable", "not-run")
    user.must("verify", *SANDBOX, "--offline", "--require", "loadable")
    quiet = user.refused("verify", *SANDBOX, "--offline", "--quiet")
    assert (quiet.out, quiet.err) == ("", "error: cpu is loadable, not verified\n")


def test_an_image_without_a_runtime_for_models_loads(user: User) -> None:
    """Nothing is imported that no wheel of the target brings."""
    (user.project / "model.toml").write_text(PLAIN.replace('"a"', '"packaging"'))
    found = report(user, code=1)
    assert (found["status"], found["checks"]["load"]["verdict"]) == ("loadable", "passed")


@pytest.mark.parametrize(
    ("options", "kind", "status", "code"),
    [([], "selftest", "smoke", 1), (["--cross-check"], "golden", "verified", 0)],
    ids=["selftest", "golden"],
)
def test_recorded_cases_are_worth_what_vouches_for_them(
    user: User, options: list[str], kind: str, status: str, code: int
) -> None:
    """What a model said of itself gives `smoke`; with a second implementation's agreement, `verified`."""
    shutil.rmtree(user.project / "tests")
    (user.project / "model.toml").write_text(WITHOUT_CASES + "# kept\n")
    user.must("lock", "--offline")
    told = user.must("test", "record", "toy", *SANDBOX, "--offline", "--json", *options).json()
    assert told["kind"] == kind
    assert sorted(listing(user.project / "tests" / "toy")) == [
        "case.toml",
        *(f"test_data_set_{n}/{role}_0.pb" for n in range(2) for role in ("input", "output")),
    ]
    manifest = (user.project / "model.toml").read_text()
    assert 'data = "tests/toy"' in manifest
    assert "# kept" in manifest
    assert report(user, code=code)["status"] == status


def test_two_implementations_that_disagree_record_nothing(user: User) -> None:
    """A model whose answer depends on who computes it: `--cross-check` refuses, and leaves no case."""
    # In float32 (x + 2^24) - 2^24 loses x, in float64 it is x.
    large = numpy_helper.from_array(np.full((1,), 2.0**24, dtype=np.float32), "large")
    nodes = [
        helper.make_node("Add", ["x", "large"], ["sum"]),
        helper.make_node("Sub", ["sum", "large"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "toy", ends[:1], ends[1:], [large])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (user.project / "model.onnx").write_bytes(made.SerializeToString())
    shutil.rmtree(user.project / "tests")
    (user.project / "model.toml").write_text(WITHOUT_CASES)
    user.must("lock", "--offline")
    before = listing(user.project)
    refusal = user.refused("test", "record", "toy", *SANDBOX, "--offline", "--cross-check")
    assert "two implementations disagree" in refusal.err
    assert listing(user.project) == before


def wrong_input_shape(case: Path) -> None:
    write_case(case, {"x": np.zeros((2, 5), dtype=np.float32)}, {"y": np.zeros((2, 3), dtype=np.float32)})


def wrong_output_shape(case: Path) -> None:
    write_case(case, {"x": np.ones((2, 4), dtype=np.float32)}, {"y": np.zeros((3, 2), dtype=np.float32)})


def wrong_type(case: Path) -> None:
    write_case(case, {"x": np.ones((2, 4), dtype=np.float32)}, {"y": np.zeros((2, 3), dtype=np.int64)})


@pytest.mark.parametrize("damage", [wrong_input_shape, wrong_output_shape, wrong_type])
def test_cases_of_the_wrong_shape_or_type_never_pass(user: User, damage: Callable[[Path], None]) -> None:
    """They are refused when locking, or fail when verifying; never passed, never a traceback."""
    damage(user.project / "tests/toy/test_data_set_0")
    locked = user.run("lock", "--offline")
    if locked.code == 0:
        found = report(user, code=1)
        assert found["status"] == "loadable"
        assert found["models"][0]["cases"][0]["passed"] is False
        assert found["models"][0]["cases"][1]["passed"] is True
    else:
        assert "test_data_set_0" in locked.err


def test_arm64_is_verified_under_emulation(toy: User) -> None:
    """With qemu-user the arm64 image passes its cases here; without, the refusal names what to install."""
    done = toy.run("verify", "--target", "cpu-arm64", "--offline", "--json")
    if shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or os.uname().machine == "aarch64":
        assert done.code == 0, done.all
        (found,) = done.json()["reports"]
        assert found["status"] == "verified"
        assert found["run"]["emulated"] == (os.uname().machine != "aarch64")
    else:
        assert done.code == 1
        assert done.json()["errors"][0]["code"] == "emulator-missing"


def for_anybody() -> tuple[str, dict[str, str]]:
    """An interpreter that every user of this machine may start, with the libraries of this one.

    Where this one lies below a private folder (pyenv in root's home), the system's of the same version serves.
    """
    here = Path(sys.executable).resolve()
    if all(parent.stat().st_mode & 0o001 for parent in here.parents):
        return sys.executable, {}
    import numpy

    libraries = Path(numpy.__file__).parents[1]
    return f"/usr/bin/python3.{sys.version_info[1]}", {"PYTHONPATH": f"{ROOT}:{libraries}"}


def test_a_user_without_rights_verifies_in_the_sandbox(user: User) -> None:
    """As uid 1000 (or whoever runs the tests, if not root), with a store of its own and no engine: verified."""
    # Not below pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="nnenv-rootless-") as name:
        home = Path(name)
        store = linked_copy(user.store, home / "store")
        before: list[str] = []
        python, variables = sys.executable, dict[str, str]()
        copied = user.elsewhere(home / "project", store=store)
        copied.must("lock", "--offline")
        if os.geteuid() == 0:
            # The trees too would stay root's, for links share the owner: objects are copied, trees are made anew.
            shutil.rmtree(store)
            for part in ("objects", "derived"):
                shutil.copytree(user.store / part, store / part)
            shutil.copyfile(user.store / "version", store / "version")
            subprocess.run(["chown", "-R", "1000:1000", name], check=True)
            before = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
            python, variables = for_anybody()
        own = replace(copied, python=python).with_environment(
            HOME=name, DOCKER_HOST="unix:///nowhere", XDG_CACHE_HOME=name, **variables
        )
        done = own.run("verify", *SANDBOX, "--offline", "--json", before=before)
        assert done.code == 0, done.all
        (found,) = done.json()["reports"]
        assert found["status"] == "verified"


def test_the_statement_binds_what_was_verified(toy: User, tmp_path: Path) -> None:
    """An in-toto statement with image, lock and case digests; two runs on one host write the same bytes."""
    user = toy.elsewhere(tmp_path / "project")
    user.must("verify", *SANDBOX, "--offline")
    path = user.project / ".nnenv" / "reports" / "cpu.intoto.json"
    first = path.read_bytes()
    user.must("verify", *SANDBOX, "--offline", TZ="Asia/Kolkata", PYTHONHASHSEED="3")
    assert path.read_bytes() == first

    said = json.loads(first)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    image = toy.lock().target("cpu")
    assert image is not None
    assert image.image is not None
    digests = {subject["digest"]["sha256"] for subject in said["subject"]}
    assert image.image.manifest in digests
    text = first.decode()
    model = toy.lock().model("toy")
    assert model.file in text
    assert image.image.config in text
    assert said["predicateType"].startswith("https://")
    assert str(tmp_path) not in text
