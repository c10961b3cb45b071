"""What of CUDA's wheels is left out."""

from __future__ import annotations

import pytest

from nnenv.image.trim import CudaLibrary, Trim, unused_libraries

BY_NAME = {
    "libnvrtc.so.*": ("libnvrtc-builtins.so.*",),
    "libnvrtc.alt.so.*": ("libnvrtc-builtins.alt.so.*",),
    "libcublas.so.*": (),
}


def library(soname: str, *needed: str) -> CudaLibrary:
    """At a path made of its soname."""
    return CudaLibrary(path=f"lib/{soname}", soname=soname, needed=needed)


LIBRARIES = (
    library("libcublas.so.12", "libcublasLt.so.12", "libc.so.6"),
    library("libcublasLt.so.12"),
    library("libnvblas.so.12", "libcublas.so.12"),
    library("libnvrtc.so.12"),
    library("libnvrtc-builtins.so.12.9"),
    library("libnvrtc.alt.so.12"),
    library("libnvrtc-builtins.alt.so.12.9"),
)


@pytest.mark.parametrize(
    ("wanted", "unused"),
    [
        (
            {"libcublas.so.12"},
            {"nvblas.so.12", "nvrtc.so.12", "nvrtc-builtins.so.12.9", "nvrtc.alt.so.12", "nvrtc-builtins.alt.so.12.9"},
        ),
        (
            {"libnvrtc.so.12"},
            {"cublas.so.12", "cublasLt.so.12", "nvblas.so.12", "nvrtc.alt.so.12", "nvrtc-builtins.alt.so.12.9"},
        ),
        ({one.soname for one in LIBRARIES}, set()),
        (set(), {one.soname.removeprefix("lib") for one in LIBRARIES}),
    ],
)
def test_what_nothing_needs(wanted: set[str], unused: set[str]) -> None:
    """DT_NEEDED is followed, and so is what a library loads by name."""
    assert unused_libraries(LIBRARIES, wanted, BY_NAME) == {f"lib/lib{name}" for name in unused}


def test_libraries_that_need_each_other() -> None:
    """A circle ends."""
    circle = (library("liba.so.1", "libb.so.1"), library("libb.so.1", "liba.so.1"))
    assert unused_libraries(circle, {"liba.so.1"}, {}) == frozenset()
    assert len(unused_libraries(circle, set(), {})) == 2


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("nvidia/cuda_runtime/include/cuda.h", True),
        ("nvidia/cuda_runtime/include/x.hpp", True),
        ("nvidia/cu13/include/cccl/y.cuh", True),
        ("nvidia/cuda_runtime/lib/libcudart_static.a", True),
        ("nvidia/cuda_runtime/lib/libcudart.so.12", False),
        ("nvidia/cuda_runtime/include/__init__.py", False),
        ("nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc", False),
    ],
)
def test_headers_and_static_libraries(path: str, left_out: bool) -> None:
    """What only compilers and linkers read."""
    assert Trim(headers=True).leaves_out(path) is left_out
    assert not Trim().leaves_out(path)
    assert Trim(unused=frozenset({path})).leaves_out(path)
