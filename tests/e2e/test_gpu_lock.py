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
    printed = project.must("lock", timeout=900).out
    assert "note: gpu-cuda12: onnxruntime-gpu 1.26.0 needs nvidia-cublas-cu12 and does not ask for it: added" in printed
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("gpu-cuda12  12."))
    assert row[3] == ">=525.60.13"
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


def test_an_open_cuda_is_the_one_that_all_agree_on(project: User) -> None:
    """jax has a build for each; torch 2.6 is of CUDA 12 alone."""
    declare(project, '"jax", "torch==2.6.0"', gpu='driver = ">=580.65.06"')
    project.must("lock", timeout=900)
    found = versions(project, "gpu")
    assert found["torch"] == "2.6.0"
    assert "jax-cuda12-plugin" in found
    assert not [name for name in found if "cuda13" in name]


def test_names_that_only_placeholders_have(project: User) -> None:
    """The extra of ONNX Runtime 1.27.0 names nvidia-...-cu13, of which there are no wheels."""
    declare(project, '"onnxruntime-gpu[cuda,cudnn]==1.27.0"', gpu='cuda = "13"')
    printed = project.must("lock", timeout=900).out
    assert "onnxruntime-gpu 1.27.0 names packages that have no wheels" in printed
    found = versions(project, "gpu")
    assert found["nvidia-cuda-runtime"].startswith("13.")
    assert not [name for name in found if name.endswith("-cu13") and "cudnn" not in name]


def test_a_package_without_wheels(project: User) -> None:
    """TensorRT is source packages on the public index: refused with what to do."""
    declare(project, '"tensorrt"', gpu='cuda = "12"')
    assert any("NVIDIA's own index" in line for line in refusal(project)["fix"])


def test_a_repair_is_made(project: User) -> None:
    """`--apply-fix N` edits model.toml as the refusal said, and locks; a number that is not offered changes nothing."""
    declare(project, '"torch==2.10.0", "onnxruntime>=1.27"', gpu='cuda = ">=12"')
    manifest = project.project / "model.toml"
    before = manifest.read_bytes()
    error = refusal(project)
    repairs = error["repairs"]
    assert [repair["key"] for repair in repairs] == [["requires", "packages"]] * len(repairs)
    assert project.run("lock", "--apply-fix", "9").code == 2
    assert project.run("lock", "--apply-fix", "1", "--check").code == 2
    assert "would change" in project.must("lock", "--apply-fix", "1", "--dry-run", timeout=900).out
    assert manifest.read_bytes() == before
    assert not project.lock_path.exists()
    number = next(at for at, repair in enumerate(repairs, 1) if repair["old"] == "onnxruntime>=1.27")
    project.must("lock", "--apply-fix", str(number), timeout=900)
    assert manifest.read_text() == before.decode().replace("onnxruntime>=1.27", repairs[number - 1]["new"])
    assert versions(project, "gpu")["onnxruntime-gpu"] == "1.26.0"
    project.must("lock", "--check")
    assert "nothing to repair" in project.run("lock", "--apply-fix", "1").err


def test_a_repair_of_the_target(project: User) -> None:
    """The driver that the fleet must have."""
    declare(project, '"onnxruntime>=1.20"', gpu='cuda = "12"; driver = ">=470"')
    (number,) = [
        at for at, one in enumerate(refusal(project)["repairs"], 1) if one["key"] == ["targets", "gpu", "driver"]
    ]
    project.must("lock", "--apply-fix", str(number), timeout=900)
    assert 'driver = ">=525.60.13"' in (project.project / "model.toml").read_text()


def test_a_pinned_cufft_and_an_upgrade_of_numpy(project: User) -> None:
    """cuFFT 11.2.1.3 needs nvJitLink on arm64 alone; `-P numpy` moves numpy and nothing of CUDA."""
    pinned = '"nvidia-cufft-cu12==11.2.1.3", "numpy<2.3"'
    declare(project, pinned, amd64='cuda = "12"', arm64='cuda = "12"; platform = "linux/arm64"')
    project.must("lock", timeout=900)
    assert not [name for name in versions(project, "amd64") if "nvjitlink" in name]
    assert [name for name in versions(project, "arm64") if "nvjitlink" in name]
    before = {name: versions(project, name) for name in ("amd64", "arm64")}
    declare(project, pinned.replace("<2.3", ""), amd64='cuda = "12"', arm64='cuda = "12"; platform = "linux/arm64"')
    project.must("lock", timeout=900)
    assert {name: versions(project, name) for name in before} == before
    project.must("lock", "-P", "numpy", timeout=900)
    for name, old in before.items():
        new = versions(project, name)
        assert {one for one in new if new[one] != old.get(one)} == {"numpy"}
        assert new.keys() == old.keys()
