"""The facts suite's table, and which wheels the shipped facts are made of."""

from __future__ import annotations

import pytest

from bench.facts import Library, table
from bench.ship_facts import MACHINES, fits
from bench.timing import Cost, Sample, Series


def _library(seconds: float, peak: int) -> Library:
    sample = Sample(cost=Cost(wall=seconds, cpu=seconds, peak=peak), note="90a, PTX 90")
    return Library(
        name="liba.so", size=400_000_000, series=Series(name="liba.so", samples=(sample,)), code="90a, PTX 90"
    )


def test_a_library_is_held_against_both_aims() -> None:
    """Its seconds and its process's memory; what was read stands below."""
    found = table([_library(0.012, 24_000_000), _library(1.0, 200_000_000)])
    assert found.rows[0] == ("liba.so", "400", "12.0", "12.0", "24.0", "<= 0.5 s: meets; <= 100 MB: meets")
    assert found.rows[1][-1] == "<= 0.5 s: missed by 2.0x; <= 100 MB: missed by 2.0x"
    assert "liba.so: 90a, PTX 90." in found.notes


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", True),
        ("a-1-3-cp313-cp313-manylinux_2_28_aarch64.whl", True),
        ("a-1-py3-none-manylinux2014_x86_64.whl", True),
        ("a-1-cp39-abi3-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", False),
        ("a-1-py3-none-any.whl", False),
        ("a-1-py3-none-win_amd64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_28_ppc64le.whl", False),
    ],
)
def test_wheels_that_targets_use_are_shipped(filename: str, expected: bool) -> None:
    """For glibc, our machines and our interpreters, or any Python 3; a wheel for any machine has no facts."""
    assert fits(filename, MACHINES) is expected
