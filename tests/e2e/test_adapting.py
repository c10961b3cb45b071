"""Models adapted to targets, on the real index as it was on a fixed day: real tools, real models, real images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from nnenv.spec.lockfile import DerivationLock
from tests.e2e.world import User, users_environment

pytestmark = [pytest.mark.network, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
HEAD = """
[project]
name = "digits"
version = "1.0.0"

[models.digits]
version = "1.0.0"
source = "file:model.onnx"

[[models.digits.tests]]
data = "tests/digits"

[requires]
packages = ["numpy", "onnxruntime==1.32.0"]

[policy]
exclude-newer = "2026-11-20T00:00:00Z"
"""
STATIC = '[[models.digits.adapt]]\nstep = "quantize-static"\ncalibration = "data/calibration.npz"\n'
ACCURACY = '[[models.digits.eval]]\nmetric = "accuracy"\ndata = "data/held_out.npz"\n'


@pytest.fixture
def project(tmp_path: Path, shared_store: Path) -> User:
    """The digits with a manifest that tests extend."""
    return copied(tmp_path / "project", shared_store)


def copied(folder: Path, store: Path, **variables: str) -> User:
    """The example's files in a folder."""
    shutil.copytree(EXAMPLE, folder)
    return User(project=folder, store=store, environment=users_environment() | variables)


def declare(user: User, *parts: str, targets: str = "[targets.cpu]\n") -> None:
    """A model.toml with these parts, and targets."""
    (user.project / "model.toml").write_text("\n".join((HEAD, *parts, targets)))


def derivation(user: User) -> DerivationLock:
    """The only derivation of the lock."""
    (one,) = user.lock().derivations
    return one


def object_of(user: User, digest: str) -> Path:
    """Where the store keeps a file."""
    return user.store / "objects" / "sha256" / digest[:2] / digest


def refusal(user: User, *line: str) -> Any:
    """The one error of a command that is refused."""
    (error,) = user.refused(*line, "--json").json()["errors"]
    return error


def test_the_examples_variants_are_built_measured_and_smaller(tmp_path: Path, shared_store: Path) -> None:
    """Must show 2: accuracy, size and time of cpu, cpu-int8 and cpu-arm64; int8 is smaller and as good as 99 %."""
    user = copied(tmp_path / "project", shared_store)
    text = (user.project / "model.toml").read_text()
    day = '[policy]\nexclude-newer = "2026-11-20T00:00:00Z"\n\n[requires]'
    (user.project / "model.toml").write_text(text.replace("[requires]", day))
    printed = user.must("lock", timeout=900)
    assert "quantize-static uses 7 bits for weights (reduce-range)" in printed.out + printed.err
    page = user.project / "page.html"
    names = ("cpu", "cpu-int8", "cpu-arm64")
    line = ("verify", "--runner", "sandbox", "--eval", "--report", str(page), "--json")
    found = user.must(*line, *(word for name in names for word in ("--target", name)), timeout=900).json()
    reports = {report["target"]: report for report in found["reports"]}
    assert {report["status"] for report in reports.values()} == {"verified"}
    measures = {name: report["evaluations"][0] for name, report in reports.items()}
    assert measures["cpu"]["value"] >= 0.99
    assert measures["cpu-int8"]["value"] >= 0.99 * measures["cpu-int8"]["baseline"]
    assert measures["cpu-int8"]["baseline"] == pytest.approx(measures["cpu"]["value"])
    assert measures["cpu"]["size"] / measures["cpu-int8"]["size"] > 3
    assert all(measure["timings"]["min_milliseconds"] > 0 for measure in measures.values())
    assert len(measures["cpu"]["classes"]) == 10
    cases = [case for model in reports["cpu-int8"]["models"] for case in model["cases"]]
    assert [case["name"].endswith("before adaptation") for case in cases] == [False, True] * 3
    assert all(case["outputs"][0]["relaxed"] for case in cases[1::2])
    assert "<svg" in page.read_text()
    shown = user.must("verify", "--runner", "sandbox", "--eval", "--target", "cpu-int8", timeout=900).out
    assert "RELAXED" in shown
    assert "99.7" in shown


def test_two_stores_one_digest_and_other_tools_another(tmp_path: Path, shared_store: Path, project: User) -> None:
    """Must show 3: the same derivation on two fresh stores; another tool makes another file, and diff says so."""
    locks = []
    for name in ("one", "other"):
        user = copied(tmp_path / name, tmp_path / f"{name}-store")
        declare(user, STATIC)
        user.must("lock", timeout=900)
        locks.append((user.project / "model.lock").read_bytes())
    assert locks[0] == locks[1]
    old = tmp_path / "old.lock"
    old.write_bytes(locks[0])
    declare(project, STATIC + 'tools = ["onnxruntime==1.23.2"]\n')
    project.must("lock", timeout=900)
    before = User(project=tmp_path / "one", store=shared_store, environment=project.environment)
    assert derivation(project).file != derivation(before).file
    said = project.run("diff", str(old), "model.lock").out
    assert f"adapted digits  quantize-static sha256:{derivation(before).file}" in " ".join(said.split()).replace(
        "adapted digits ", "adapted digits  "
    )
    assert "onnxruntime 1.23.2" in said
    assert "outputs of digits  tests/digits/test_data_set_0 " in re.sub(r" {2,}", "  ", said)


def test_saturating_integers_are_refused_or_repaired(project: User) -> None:
    """Must show 4: U8 x S8 for processors without VNNI."""
    declare(project, STATIC + "reduce-range = false\n")
    error = refusal(project, "lock")
    assert error["code"] == "quantisation-saturates"
    assert error["where"].startswith("model.toml:")
    assert "16 bits, which overflow" in error["because"][0]
    assert not (project.project / "model.lock").exists()
    declare(project, STATIC + "reduce-range = false\n", targets='[targets.cpu]\ncpu-features = ["avx512_vnni"]\n')
    project.must("lock", timeout=900)
    with_vnni = derivation(project).file
    declare(project, STATIC)
    found = project.must("lock", timeout=900)
    assert "reduce-range" in found.out + found.err
    assert derivation(project).file != with_vnni


def test_a_lost_file_is_made_again_and_held_to_its_digest(project: User) -> None:
    """A build whose store lost the adapted file, its cases and their labels has them again, bit for bit."""
    declare(project, STATIC, ACCURACY + 'at-least = "99%"\n', '[[models.digits.eval]]\nmetric = "agreement"\n'
            'data = "data/held_out.npz"\nminimum = 0.9\n')  # fmt: skip
    project.must("lock", timeout=900)
    lock = project.lock()
    made = [artifact for artifact in lock.artifacts if artifact.origin.startswith("derived:")]
    assert {artifact.kind.value for artifact in made} == {"model", "case"}
    labels = {one.labels for one in lock.evaluations}
    for artifact in made:
        if artifact.sha256 not in labels:
            object_of(project, artifact.sha256).unlink()
    project.must("build", "--output", f"dir:{project.project}/image", timeout=900)
    assert all(object_of(project, artifact.sha256).is_file() for artifact in made)
    found = project.must("verify", "--runner", "sandbox", "--eval", "--json", timeout=900).json()
    assert [one["metric"] for one in found["reports"][0]["evaluations"]] == ["accuracy", "agreement"]


def test_a_shared_cache_serves_what_another_machine_made(tmp_path: Path, shared_store: Path) -> None:
    """NNENV_SHARED_CACHE: locked by one store, built by another without any toolchain at work."""
    shared = str(tmp_path / "shared")
    user = copied(tmp_path / "project", shared_store, NNENV_SHARED_CACHE=shared)
    declare(user, '[[models.digits.adapt]]\nstep = "float16"\n')
    user.must("lock", timeout=900)
    file = derivation(user).file
    object_of(user, file).unlink()
    built = user.must("build", "--output", f"dir:{user.project}/image", timeout=900)
    assert "prepare adapt-cpu" not in built.err
    assert object_of(user, file).is_file()


def test_a_model_that_loses_quality_fails(project: User) -> None:
    """With nearly all weights gone the lock can be made and the image runs, and the measure fails."""
    declare(project, '[[models.digits.adapt]]\nstep = "prune"\namount = 0.97\n', ACCURACY + 'at-least = "99%"\n')
    found = project.must("lock", timeout=900)
    assert "is pruned: a different model" in found.out + found.err
    failed = project.run("verify", "--runner", "sandbox", "--eval", timeout=900)
    assert failed.code == 1
    assert "which is not 99% of 0.9944" in failed.out
    assert "no case of the model before can speak" in found.out + found.err
    assert project.run("verify", "--runner", "sandbox", "--require", "smoke", timeout=900).code == 0


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('step = "convert-opset"\nopset = 18', ""),
        ('step = "simplify"', ""),
        ('step = "fix-shapes"\nshapes = { image = "1x1x8x8" }', ""),
        ('step = "fix-shapes"\nshapes = { picture = "1x1x8x8" }', "the model has no input picture"),
        ('step = "quantize-dynamic"', ""),
        ('step = "float16"\nmax-drift = 1e-9', "more than 1.0e-09"),
        ('step = "quantize-static"\ncalibration = "tests/digits/case.toml"', "adaptation-failed"),
    ],
)
def test_each_step(project: User, step: str, words: str) -> None:
    """Each step makes a model whose image is verified, or says why it cannot."""
    declare(project, f"[[models.digits.adapt]]\n{step}\n")
    if "1x1x8x8" in step and not words:
        # The cases have batches of other sizes.
        text = (project.project / "model.toml").read_text()
        cases = 'data = "tests/digits/test_data_set_0"'
        (project.project / "model.toml").write_text(text.replace('data = "tests/digits"', cases))
    if not words:
        project.must("lock", timeout=900)
        assert derivation(project).steps[0].drift < 0.1
        project.must("verify", "--runner", "sandbox", timeout=900)
        return
    error = refusal(project, "lock")
    assert words in json.dumps(error)
    assert not (project.project / "model.lock").exists()


SCRIPT = """
import json, sys, onnx
from onnx import numpy_helper
scale = json.load(open("scale.json"))["scale"]
model = onnx.load(sys.argv[1])
for tensor in model.graph.initializer:
    if tensor.name.endswith(("weight", "bias")) and tensor.name.startswith("classifier"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, tensor.name))
onnx.save(model, sys.argv[2])
"""


def test_a_script_of_the_users(project: User) -> None:
    """`run`: the script reads its declared files alone, without network; what it prints on failure is told."""
    (project.project / "step.py").write_text(SCRIPT)
    (project.project / "scale.json").write_text('{"scale": 1.0}')
    step = '[[models.digits.adapt]]\nstep = "run"\nscript = "step.py"\n'
    declare(project, step + 'inputs = ["scale.json"]\n')
    project.must("lock", timeout=900)
    first = derivation(project)
    assert first.steps[0].drift == 0.0
    (project.project / "scale.json").write_text('{"scale": 1.5}')
    assert refusal(project, "build")["code"] == "lock-stale"
    declare(project, step)
    assert "scale.json" in json.dumps(refusal(project, "lock"))
    (project.project / "step.py").write_text("import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\n")
    error = refusal(project, "lock")
    assert error["code"] == "adaptation-failed"
    assert "etwork is unreachable" in json.dumps(error)


def test_a_model_that_answers_nan_is_refused(project: User) -> None:
    """A step whose model is dead does not become part of a lock."""
    text = SCRIPT.replace("* scale", "* float('nan')").replace('json.load(open("scale.json"))["scale"]', "1")
    (project.project / "step.py").write_text(
        text.replace('tensor.name.endswith(("weight", "bias")) and tensor.name.startswith("classifier")', "True")
    )
    declare(project, '[[models.digits.adapt]]\nstep = "run"\nscript = "step.py"\n')
    assert "NaN" in json.dumps(refusal(project, "lock"))


def test_a_new_version_that_loses_quality_fails_before_it_ships(project: User) -> None:
    """`at-least` of an unadapted model is held against the file that was locked before."""
    declare(project, ACCURACY + 'at-least = "99%"\n')
    project.must("lock", timeout=900)
    (first,) = project.lock().evaluations
    assert first.baseline is None
    worse = pruned((project.project / "model.onnx").read_bytes())
    (project.project / "model.onnx").write_bytes(worse)
    text = (project.project / "model.toml").read_text()
    (project.project / "model.toml").write_text(text.replace('[[models.digits.tests]]\ndata = "tests/digits"\n', ""))
    project.must("lock", timeout=900)
    (second,) = project.lock().evaluations
    assert second.baseline == first.value
    failed = project.run("verify", "--runner", "sandbox", "--require", "loadable", "--eval", timeout=900)
    assert failed.code == 1
    assert "which is not 99% of 0.9944" in failed.out


def pruned(model: bytes) -> bytes:
    """The model with nearly all weights zero."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    whole = onnx.load_model_from_string(model)
    for tensor in whole.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim >= 2:
            kept = np.where(np.abs(array) > np.quantile(np.abs(array), 0.97), array, 0).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    return bytes(whole.SerializeToString())


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ('metric = "accuracy"\ndata = "data/calibration.npz"', "labels"),
        ('metric = "rmse"\ndata = "data/held_out.npz"', "does not fit the metric rmse"),
        ('metric = "accuracy"\ndata = "data/held_out.npz"\noutput = "x"', "an output x that the model has not"),
        ('metric = "accuracy"\ndata = "model.onnx"', "no readable .npz file"),
    ],
)
def test_data_that_does_not_fit_is_refused(project: User, measure: str, words: str) -> None:
    """By lock, where it measures, and by verify."""
    declare(project, f'[[models.digits.eval]]\n{measure}\nat-least = "99%"\n')
    error = refusal(project, "lock")
    assert error["code"] == "evaluation-invalid"
    assert words in json.dumps(error)
