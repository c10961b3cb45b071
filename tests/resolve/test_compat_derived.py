"""The derivable tables: what follows from an index, and that the shipped file is in the form it would be written in."""

from __future__ import annotations

import tomllib

import pytest

from nnenv import data
from nnenv.resolve import compat
from nnenv.resolve.compat_derived import (
    Sonames,
    component_rows,
    holding_range,
    library_distributions,
    library_sonames,
    soname_rows,
    sonames_by_version,
    with_rows,
)

TOOLKIT_12 = [
    "nvidia-cublas-cu12==12.6.4.1.*; (sys_platform == 'linux' or sys_platform == 'win32') and extra == 'cublas'",
    "nvidia-cuda-runtime-cu12==12.6.77.*; (sys_platform == 'linux' or sys_platform == 'win32') and extra == 'cudart'",
    "nvidia-cublas-cu12==12.6.4.1.*; (sys_platform == 'linux' or sys_platform == 'win32') and extra == 'all'",
    "nvidia-cuda-runtime-cu12==12.6.77.*; (sys_platform == 'linux' or sys_platform == 'win32') and extra == 'all'",
]
TOOLKIT_13 = [
    "nvidia-cublas==13.10.0.20.*; sys_platform == 'linux' and extra == 'cublas'",
    "nvidia-cuda-nvrtc==13.5.37.*; sys_platform == 'linux' and extra == 'cublas'",
    "nvidia-cuda-nvrtc==13.5.37.*; sys_platform == 'linux' and extra == 'nvrtc'",
    "nvidia-cusolver==12.4.1.2.*; sys_platform == 'linux' and extra == 'cusolver'",
    "nvidia-cublas==13.10.0.20.*; sys_platform == 'linux' and extra == 'cusolver'",
    "nvidia-cuda-nvrtc==13.5.37.*; sys_platform == 'linux' and extra == 'cusolver'",
    "nvidia-cuda-runtime==13.5.37.*; sys_platform == 'linux' and extra == 'cudart'",
]
"""An extra may name what its component needs too, as those of 12.9 and 13 do."""


def test_components() -> None:
    """Each extra's own distribution, by elimination; the base of its name; the CUDA majors that have it."""
    assert component_rows({12: TOOLKIT_12, 13: TOOLKIT_13}) == (
        {"component": "cublas", "distribution": "nvidia-cublas", "cuda": [12, 13]},
        {"component": "cudart", "distribution": "nvidia-cuda-runtime", "cuda": [12, 13]},
        {"component": "cusolver", "distribution": "nvidia-cusolver", "cuda": [13]},
        {"component": "nvrtc", "distribution": "nvidia-cuda-nvrtc", "cuda": [13]},
    )


def test_distributions_to_look_into() -> None:
    """Components under the name that they have for each major, and cuDNN, NCCL and the like."""
    rows = component_rows({12: TOOLKIT_12, 13: TOOLKIT_13})
    found = library_distributions(rows, (12, 13))
    assert {(12, "nvidia-cublas-cu12"), (13, "nvidia-cublas"), (13, "nvidia-cudnn-cu13")} <= set(found)
    assert (12, "nvidia-cusolver-cu12") not in found
    assert sorted(found) == list(found)


def test_sonames_of_a_file_list() -> None:
    """Libraries with a number; no links for compilers, no static ones, and not what is loaded by path."""
    paths = [
        "nvidia/cublas/lib/libcublas.so.12", "nvidia/cublas/lib/libcublasLt.so", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.8", "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
        "nvidia/cuda_runtime/lib/libcudart_static.a", "nvidia/cu13/lib/libnvvm.so.4", "nvidia/cublas/include/cublas.h",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.11.2",
    ]  # fmt: skip
    assert library_sonames(paths) == {"libcublas.so.12", "libnvrtc.so.12", "libnvrtc.so.11.2"}


def test_change_between_releases_is_found() -> None:
    """Every change is found where the ends differ, and few releases are looked at."""
    versions = [f"12.{minor}" for minor in range(64)]
    asked: list[str] = []

    def sonames_of(version: str) -> Sonames:
        asked.append(version)
        return frozenset({"old.so.1"} if int(version[3:]) < 41 else {"new.so.1"})

    found = sonames_by_version(versions, sonames_of)
    assert list(map(found.__getitem__, versions)) == [frozenset({"old.so.1"})] * 41 + [frozenset({"new.so.1"})] * 23
    assert len(asked) == len(set(asked)) <= 9
    assert sonames_by_version([], sonames_of) == {}
    assert sonames_by_version(["12.0"], sonames_of) == {"12.0": frozenset({"old.so.1"})}


@pytest.mark.parametrize(
    ("holding", "others", "expected"),
    [
        (["12.0.1", "12.9.3"], [], "==12.*"),
        (["8.5", "8.9"], ["9.0", "9.28"], "==8.*"),
        (["12.0", "12.8.90"], ["12.9.19", "12.9.79"], "==12.*,<12.9.19"),
        (["12.9.19", "12.10.1"], ["12.0", "12.8.90"], "==12.*,>=12.9.19"),
        (["9.21", "9.28"], ["8.9", "9.0"], "==9.*,>=9.21"),
        (["1.0", "2.0"], ["3.0"], "<3.0"),
        (["1.0", "2.0"], [], ""),
    ],
)
def test_ranges_of_releases(holding: list[str], others: list[str], expected: str) -> None:
    """The first number if all have one, since the next may hold another library; then where it begins and ends."""
    releases = {version: frozenset({"x.so.1"}) for version in holding} | {version: frozenset() for version in others}
    assert expected == holding_range("x.so.1", releases)


def test_rows_of_sonames() -> None:
    """One row a library and distribution, by CUDA major and soname."""
    held = {
        (13, "nvidia-cublas"): {"13.0": frozenset({"libcublas.so.13"})},
        (12, "nvidia-nvtx-cu12"): {"12.8": frozenset({"libb.so.1"}), "12.9": frozenset({"liba.so.1"})},
        (12, "nvidia-cuda-cccl-cu12"): {},
    }
    assert soname_rows(held) == (
        {"cuda": 12, "soname": "liba.so.1", "distribution": "nvidia-nvtx-cu12", "versions": "==12.*,>=12.9"},
        {"cuda": 12, "soname": "libb.so.1", "distribution": "nvidia-nvtx-cu12", "versions": "==12.*,<12.9"},
        {"cuda": 13, "soname": "libcublas.so.13", "distribution": "nvidia-cublas", "versions": "==13.*"},
    )


@pytest.mark.parametrize("name", [table.name for table in compat.tables() if table.derivable])
def test_the_shipped_file_is_as_it_would_be_written(name: str) -> None:
    """Putting the rows of a derivable table back changes no byte, so that `refresh` shows nothing but changes."""
    assert data.text("compat") == with_rows(data.text("compat"), name, compat.rows(name))


def test_only_one_table_is_replaced() -> None:
    """Rows come and go; everything else stays."""
    text = data.text("compat")
    row = {"component": "new", "distribution": "nvidia-new", "cuda": [14]}
    changed = with_rows(text, "toolkit-components", [row])
    read, shipped = tomllib.loads(changed), tomllib.loads(text)
    assert [row] == read["toolkit-components"].pop("rows")
    del shipped["toolkit-components"]["rows"]
    assert shipped == read
    assert len(changed.splitlines()) == len(text.splitlines()) - len(compat.rows("toolkit-components")) + 1
