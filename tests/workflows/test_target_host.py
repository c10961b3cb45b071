"""`nnenv doctor --target`: a host held against a lock, with a driver compiled here in NVIDIA's place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nnenv.adapters.examination import Gpu, GpuHost, gpu_host
from nnenv.spec.lockfile import GpuLock, TargetLock
from nnenv.workflows.doctoring import State
from nnenv.workflows.target_host import target_lines

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned f) { return INIT; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return 0; }
int cuDeviceGetName(char *b, int n, int d) { strcpy(b, d ? "Old GPU" : "New GPU"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? (d ? 7 : 8) : (d ? 0 : 6); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = 16ull << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { return d; }
int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
int cuCtxSetCurrent(void *c) { return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 10ull << 30; *t = 16ull << 30; return 0; }
"""


def host(folder: Path, init: int = 0, version: str = "550.54.15") -> GpuHost:
    """A machine with a driver that says this."""
    library = folder / "libcuda.so.1"
    source = DRIVER.replace("INIT", str(init)).encode()
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=source, check=True)
    (folder / "driver" / "nvidia").mkdir(parents=True)
    text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Wed Feb 14 2024\nGCC version: 12\n"
    (folder / "driver" / "nvidia" / "version").write_text(text)
    return gpu_host({**os.environ, "LD_LIBRARY_PATH": str(folder)}, proc=folder)


def target(**gpu: Any) -> TargetLock:
    """A target for CUDA 12 and a GPU of 8.6."""
    told = {"driver": "525.60.13", "driver_reason": "CUDA 12 runs from this driver on", **gpu}
    lock = GpuLock(cuda="12.9.2", cudnn="9.28", capabilities=(("8.6", "sass"),), **told)
    return TargetLock(
        name="gpu", platform="linux/amd64", os="debian:12", python="3.11.2", moment="", glibc="2.36", wheels=(),
        debs=(), gpu=lock,
    )  # fmt: skip


def test_what_a_driver_says(tmp_path: Path) -> None:
    """Two GPUs, the second without a context."""
    found = host(tmp_path)
    assert found == GpuHost(
        driver="550.54.15",
        gpus=(
            Gpu(name="New GPU", capability="8.6", total_bytes=16 << 30, free_bytes=10 << 30),
            Gpu(name="Old GPU", capability="7.0", total_bytes=16 << 30, free_bytes=0),
        ),
        problem="",
    )


def test_a_host_that_can(tmp_path: Path) -> None:
    """One GPU that the image has code for is enough."""
    lines = target_lines(target(), host(tmp_path), "x86_64", ("nvidia", "runc"))
    assert [line.state for line in lines] == [State.OK, State.OK, State.WARNING, State.OK]
    assert not any(line.fatal for line in lines)
    assert "10.7 GB of 17.2 GB free" in lines[1].text


@pytest.mark.parametrize(
    ("lock", "init", "version", "runtimes", "says"),
    [
        ({"driver": "580.65.06"}, 0, "550.54.15", ("nvidia",), "580.65.06 or newer is needed"),
        ({}, 100, "550.54.15", ("nvidia",), "cuInit reports error 100"),
        ({}, 0, "550.54.15", ("runc",), "no NVIDIA runtime"),
    ],
)
def test_a_host_that_cannot(
    lock: dict[str, str], init: int, version: str, runtimes: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """Too old a driver, no device, no runtime."""
    lines = target_lines(target(**lock), host(tmp_path, init, version), "x86_64", runtimes)
    assert [line for line in lines if line.fatal and says in line.text]


def test_a_host_without_a_driver(tmp_path: Path) -> None:
    """As this one may be: nothing is asked, and it is said what is missing."""
    found = gpu_host({"LD_LIBRARY_PATH": str(tmp_path)}, proc=tmp_path)
    lines = target_lines(target(), GpuHost(driver="", gpus=(), problem=found.problem or "none"), "x86_64", None)
    assert [line.state for line in lines] == [State.MISSING, State.MISSING, State.WARNING]


def test_another_cpu() -> None:
    """An arm64 image on amd64."""
    (line,) = target_lines(target(), GpuHost(driver="", gpus=(), problem=""), "aarch64", None)
    assert line.fatal
