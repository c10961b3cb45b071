"""Which libraries wheels need from outside, and who brings them."""

from __future__ import annotations

import pytest

from nnenv.errors import NnenvError
from nnenv.resolve.sonames import SonameDemand, demanded_sonames, providers_of
from nnenv.spec.elf import ElfFacts


def elf(path: str, *needed: str, soname: str = "", machine: str = "x86_64") -> ElfFacts:
    """Facts of one library."""
    return ElfFacts(
        path=path,
        machine=machine,
        soname=soname,
        needed=needed,
        runpath=(),
        version_needs=(),
        version_definitions=(),
    )


FACTS = {
    "numpy": [
        elf("numpy/core.so", "libopenblas-abc.so", "libc.so.6"),
        elf("numpy.libs/libopenblas-abc.so", "libgfortran.so.5", soname="libopenblas.so.0"),
    ],
    "torch": [
        elf("torch/lib/libtorch.so", "libgomp.so.1", "libopenblas.so.0", "libc.so.6"),
        elf("torch/lib/libarm.so", "libarmonly.so.1", machine="aarch64"),
    ],
}


def test_what_no_wheel_carries_is_demanded() -> None:
    """A library counts as carried by its file name and by its soname, whichever wheel has it; the rest is sorted."""
    assert demanded_sonames(FACTS, "x86_64") == (
        SonameDemand(soname="libc.so.6", wheels=("numpy", "torch")),
        SonameDemand(soname="libgfortran.so.5", wheels=("numpy",)),
        SonameDemand(soname="libgomp.so.1", wheels=("torch",)),
    )


def test_libraries_for_another_machine_neither_demand_nor_provide() -> None:
    """Some wheels bring libraries for several machines."""
    assert demanded_sonames(FACTS, "aarch64") == (SonameDemand(soname="libarmonly.so.1", wheels=("torch",)),)
    foreign = {"aa": [elf("a.so", "libx.so.1")], "bb": [elf("libx.so.1", machine="aarch64")]}
    assert [demand.soname for demand in demanded_sonames(foreign, "x86_64")] == ["libx.so.1"]


def test_each_demand_gets_its_package() -> None:
    """(soname, package) in the order of the demands."""
    demands = demanded_sonames(FACTS, "x86_64")
    packages = {"libc.so.6": "libc6", "libgfortran.so.5": "libgfortran5", "libgomp.so.1": "libgomp1"}
    assert providers_of(demands, packages.get, target="cpu") == tuple(packages.items())


def test_every_missing_library_is_named_with_its_wheels() -> None:
    """One refusal tells all of them."""
    with pytest.raises(NnenvError) as caught:
        providers_of(demanded_sonames(FACTS, "x86_64"), {"libc.so.6": "libc6"}.get, target="cpu")
    assert caught.value.code == "soname-missing"
    assert caught.value.where == "targets.cpu"
    assert caught.value.because == ("libgfortran.so.5 is needed by numpy", "libgomp.so.1 is needed by torch")
    assert caught.value.fix
