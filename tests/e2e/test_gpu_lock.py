"""`nnenv lock` for accelerators, on the real index as it was on a fixed day: what its issue must show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnenv.spec.lockfile import TargetLock
from tests.e2e.world import User, users_environment

pytestmark = [pytest.mark.network, pytest.mark.slow]

DAY = "2026-11-20T00:00:00Z"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, shared_store: Path) -> Path:
    """That of the other real projects: what one has fetched the others need not."""
    return shared_store


@pytest.fixture
def project(tmp_path: Path, store: Path) -> User:
    """An empty project."""
    folder = tmp_path / "project"
    folder.mkdir()
    return User(project=folder, store=store, environment=users_environment())


def declare(user: User, packages: str, **targets: str) -> None:
    """A model.toml with these packages and targets (`_` for `-`, `;` between keys)."""
    text = f'[project]\nname = "g"\nversion = "1"\n[requires]\npackages = [{packages}]\n'
    text += f'[policy]\nexclude-newer = "{DAY}"\n'
    for name, keys in targets.items():
        text += f"[targets.{name.replace('_', '-')}]\n" + "".join(f"{key.strip()}\n" for key in keys.split(";"))
    (user.project / "model.toml").write_text(text)


def versions(user: User, name: str) -> dict[str, str]:
    """Distribution -> version of one target."""
    lock = user.lock()
    target = lock.target(name)
    assert isinstance(target, TargetLock)
    return {wheel.name: wheel.version for wheel in lock.wheels_of(target)}


def refusal(user: User) -> Any:
    """The one error of a lock that is refused."""
    (error,) = user.refused("lock", "--json").json()["errors"]
    return error


def test_one_name_three_targets_one_lock(project: User) -> None:
    """CPU, CUDA 12 and CUDA 13 of `onnxruntime>=1.20`."""
    declare(project, '"onnxruntime>=1.20"', cpu="", gpu_cuda12='cuda = "12"', gpu_cuda13='cuda = "13"')
    project.must("lock", timeout=900)
    cpu, twelve, thirteen = (versions(project, name) for name in ("cpu", "gpu-cuda12", "gpu-cuda13"))
    assert not [name for name in cpu if name.startswith(("nvidia-", "cuda-"))]
    assert twelve["onnxruntime-gpu"] == "1.26.0"
    assert {"nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cufft-cu12", "nvidia-curand-cu12"} < set(twelve)
    assert "nvidia-cuda-runtime-cu12" in twelve
    assert not [name for name in twelve if name.startswith("nvidia-") and not name.endswith("-cu12")]
    assert thirteen["onnxruntime-gpu"] == "1.31.1"
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"} < set(thirteen)
    gpu = {target.name: target.gpu for target in project.lock().targets}
    assert gpu["cpu"] is None
    assert (gpu["gpu-cuda12"].driver, gpu["gpu-cuda13"].driver) == ("525.60.13", "580.65.06")  # type: ignore[union-attr]
    assert "libcuda.so.1" in gpu["gpu-cuda13"].driver_sonames  # type: ignore[union-attr]
    before = project.lock_path.read_bytes()
    project.must("lock", "--check")
    project.must("lock", "-U", timeout=900)
    assert project.lock_path.read_bytes() == before


def test_a_driver_that_is_too_old(project: User) -> None:
    """The floor, and what would help."""
    declare(project, '"onnxruntime>=1.20"', gpu='cuda = "12"; driver = ">=470"')
    error = refusal(project)
    assert error["code"] == "driver-too-old"
    assert "525.60.13" in error["message"]
    assert error["fix"]


def test_two_majors(project: User) -> None:
    """torch of CUDA 12 beside an onnxruntime of CUDA 13: both named, with a repair that was solved."""
    declare(project, '"torch==2.10.0", "onnxruntime>=1.27"', gpu='cuda = ">=12"')
    error = refusal(project)
    assert error["code"] == "cuda-major-conflict"
    told = "\n".join(error["because"])
    assert "torch 2.10.0  CUDA 12.8  pins nvidia-cublas-cu12 12.8.4.1" in told
    assert "onnxruntime-gpu 1.31.1  CUDA 13" in told
    assert any("onnxruntime==1.26.0" in line and "CUDA 12.8" in line for line in error["fix"])
    assert "model.toml:5" in "\n".join(error["fix"])


def test_pins_of_cudnn_that_exclude_each_other(project: User) -> None:
    """torch 2.6 and tensorflow 2.18."""
    declare(project, '"torch==2.6.0", "tensorflow==2.18.*"', gpu='cuda = "12"')
    error = refusal(project)
    assert "different versions of nvidia-cudnn-cu12" in error["message"]
    assert "tensorflow 2.18.1 pins 9.3.0.75, torch 2.6.0 pins 9.1.0.70" in error["because"][0]
