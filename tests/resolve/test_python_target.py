"""The Python environment of a target, against pip's own computation where the host happens to be one."""

from __future__ import annotations

import pytest
from packaging import tags
from packaging.markers import Marker

from nnenv.resolve.python_target import PythonTarget

BOOKWORM = PythonTarget(name="cpu", python="3.11.2", machine="x86_64", glibc="2.36")
ARM = PythonTarget(name="arm", python="3.13.5", machine="aarch64", glibc="2.41")


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp311-manylinux_2_36_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp311-cp311-manylinux1_x86_64",
        "cp311-cp311-linux_x86_64",
        "cp38-abi3-manylinux_2_17_x86_64",
        "cp311-none-any",
        "py3-none-manylinux2010_x86_64",
        "py311-none-any",
        "py3-none-any",
    ],
)
def test_tags_that_fit(tag: str) -> None:
    """Native, older glibc, legacy names, stable ABI, pure Python."""
    assert tag in BOOKWORM.tags


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp311-manylinux_2_37_x86_64",
        "cp311-cp311-manylinux_2_36_aarch64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp311-cp311-win_amd64",
        "cp312-cp312-manylinux_2_17_x86_64",
        "cp312-abi3-manylinux_2_17_x86_64",
        "cp310-cp310-manylinux_2_17_x86_64",
        "cp311-cp311t-manylinux_2_17_x86_64",
        "py2-none-any",
    ],
)
def test_tags_that_do_not_fit(tag: str) -> None:
    """Newer glibc, other CPU, other C library, other system, other Python or ABI."""
    assert tag not in BOOKWORM.tags


def test_aarch64_begins_at_glibc_2_17() -> None:
    """The port is younger than manylinux1 and manylinux2010 (PEP 599, PEP 600)."""
    assert "cp313-cp313-manylinux2014_aarch64" in ARM.tags
    assert not any("manylinux1_" in tag or "manylinux2010" in tag or "_2_16_" in tag for tag in ARM.tags)


def test_better_tags_have_smaller_ranks() -> None:
    """Own ABI before stable ABI before pure Python; newer glibc before older."""
    order = ["cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_17_x86_64"]
    order += ["cp311-abi3-manylinux_2_28_x86_64", "cp38-abi3-manylinux_2_28_x86_64", "py3-none-any"]
    ranks = [BOOKWORM.tags[tag] for tag in order]
    assert sorted(ranks) == ranks


@pytest.mark.parametrize("aim", [BOOKWORM, ARM])
def test_the_order_of_tags_is_that_of_packaging(aim: PythonTarget) -> None:
    """pip goes by the same order, and so does PEP 425."""
    major, minor = (int(part) for part in aim.minor.split("."))
    platforms = list(aim._platforms())
    expected = [
        *tags.cpython_tags((major, minor), [f"cp{major}{minor}"], platforms),
        *tags.compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    assert list(aim.tags) == list(dict.fromkeys(map(str, expected)))


def test_markers_are_the_targets() -> None:
    """All eleven variables of PEP 508 have the target's values, so that the host's never show through."""
    assert BOOKWORM.markers == {
        "implementation_name": "cpython",
        "implementation_version": "3.11.2",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": "3.11.2",
        "python_version": "3.11",
        "sys_platform": "linux",
    }
    assert Marker("platform_machine == 'aarch64' and python_version >= '3.13'").evaluate(dict(ARM.markers))
