"""Which GPUs a library's code covers: the rules one by one, and what was recorded of 93 released libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.resolve import compat
from nnenv.resolve.gpu_coverage import Code, Coverage, cover, cover_all
from nnenv.spec.gpu import GpuCode

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "gpu_code.json").read_text())["rows"]
"""Code of released libraries, and what was found to cover which capability."""

DESKTOP = ["6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1"]
"""The columns of the reference's table."""


def code_of(row: dict[str, Any]) -> GpuCode:
    """The code of a recorded library."""
    return GpuCode(sass=tuple(row["sass"]), ptx=tuple((arch, isa) for arch, isas in row["ptx"].items() for isa in isas))


def recorded(package: str, library: str) -> GpuCode:
    """The code of one recorded library."""
    (row,) = (row for row in RECORDED if row["package"] == package and row["library"] == library)
    return code_of(row)


def letter(coverage: Coverage) -> str:
    """A coverage as the recorded table has it."""
    letters = {Code.EXACT: "S", Code.FAMILY: "s", Code.SASS: "s", Code.NONE: "-"}
    return letters.get(coverage.code) or f"P{compat.cuda_of_ptx(coverage.ptx)}"


def table_row(code: GpuCode) -> str:
    """One row of the reference's table."""
    return " ".join(letter(cover(code, capability)) for capability in DESKTOP)


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: f"{row['package']} {row['library']}")
def test_recorded_libraries(row: dict[str, Any]) -> None:
    """Each capability of each recorded library; of two PTX versions that could serve the newer is the one to have."""
    found = {capability: letter(cover(code_of(row), capability)) for capability in row["coverage"]}
    expected = {
        capability: f"P{letter.rpartition('/')[2]}" if "/" in letter else letter
        for capability, letter in row["coverage"].items()
    }
    assert expected == found


@pytest.mark.parametrize(
    ("package", "library", "expected"),
    [
        ("onnxruntime-gpu==1.18.1", "libonnxruntime_providers_cuda.so", "S S S S s s P11.8 P11.8 P11.8 P11.8 P11.8"),
        ("onnxruntime-gpu==1.19.2", "libonnxruntime_providers_cuda.so", "S S S S s s P12.2 P12.2 P12.2 P12.2 P12.2"),
        ("onnxruntime-gpu==1.20.2", "libonnxruntime_providers_cuda.so", "S S S S s s P12.2 P12.2 P12.2 P12.2 P12.2"),
        ("onnxruntime-gpu==1.22.0", "libonnxruntime_providers_cuda.so", "S S S S S s S P12.2 P12.2 P12.2 P12.2"),
        ("onnxruntime-gpu==1.23.0", "libonnxruntime_providers_cuda.so", "S S S S S s S - - - -"),
        ("onnxruntime-gpu==1.23.2", "libonnxruntime_providers_cuda.so", "S S S S S s S P12.2 P12.2 P12.2 P12.2"),
        ("onnxruntime-gpu==1.24.4", "libonnxruntime_providers_cuda.so", "S S S S S s S P12.8 P12.8 P12.8 P12.8"),
        ("onnxruntime-gpu==1.26.0", "libonnxruntime_providers_cuda.so", "S S S S S s S P12.8 P12.8 P12.8 P12.8"),
        ("onnxruntime-gpu==1.27.0", "libonnxruntime_providers_cuda.so", "- - S S S S S S - S P13.0"),
        ("onnxruntime-gpu==1.28.0", "libonnxruntime_providers_cuda.so", "- - S S S S S S - S P13.0"),
        ("onnxruntime-gpu==1.29.0", "libonnxruntime_providers_cuda.so", "- - S S S S S - - S -"),
        ("onnxruntime-gpu==1.31.1", "libonnxruntime_providers_cuda.so", "- - S S S S S - - S -"),
        ("onnxruntime-gpu==1.31.1 aarch64", "libonnxruntime_providers_cuda.so", "- - - - - S S - - S S"),
        ("torch==2.7.1", "libtorch_cuda.so", "S S S S S S S - - - -"),
        ("torch==2.10.0", "libtorch_cuda.so", "- S S S S S S S s S s"),
        ("torch==2.15.0", "libtorch_cuda.so", "- - S S S S S S S S S"),
        ("nvidia-cudnn-cu12==9.10.2.21", "libcudnn_ops.so.9", "S S s S s s S S s S s"),
        ("nvidia-cudnn-cu12==9.11.0.98", "libcudnn_ops.so.9", "- - S S s s S S s S s"),
        ("nvidia-cudnn-cu12==9.28.0.42", "libcudnn_ops.so.9", "- - S S s s S S s S s"),
        ("nvidia-cublas-cu12==12.6.4.1", "libcublasLt.so.12", "S S S S S S S P12.4 P12.4 P12.4 P12.4"),
        ("nvidia-cublas-cu12==12.9.1.4", "libcublasLt.so.12", "S S S S S S S S S S S"),
        ("nvidia-cublas==13.1.0.3", "libcublasLt.so.13", "- - S S S S S S S S S"),
        ("nvidia-cublas==13.10.0.20", "libcublasLt.so.13", "- - S S S S S S S S S"),
    ],
)
def test_the_table_of_the_reference(package: str, library: str, expected: str) -> None:
    """Every row of the table in the reference on GPU compatibility, section 3."""
    assert expected == table_row(recorded(package, library))


@pytest.mark.parametrize(
    ("architecture", "capability", "expected"),
    [
        ("80", "8.0", Code.EXACT),
        ("80", "8.6", Code.SASS),
        ("86", "8.0", Code.NONE),
        ("80", "9.0", Code.NONE),
        ("90a", "9.0", Code.EXACT),
        ("100a", "10.3", Code.NONE),
        ("100f", "10.0", Code.EXACT),
        ("100f", "10.3", Code.FAMILY),
        ("103f", "10.0", Code.NONE),
        ("100f", "11.0", Code.NONE),
        ("87", "8.7", Code.EXACT),
        ("80", "8.7", Code.NONE),
        ("87", "8.9", Code.NONE),
        ("110f", "11.0", Code.EXACT),
        ("100", "10.1", Code.NONE),
        ("7", "7.0", Code.NONE),
    ],
)
def test_machine_code(architecture: str, capability: str, expected: Code) -> None:
    """Same major and at least the minor; `a` exactly; `f` in the family; Tegra chips exactly, on both sides."""
    assert expected is cover(GpuCode(sass=(architecture,)), capability).code


@pytest.mark.parametrize(
    ("architecture", "capability", "serves"),
    [
        ("52", "12.1", True),
        ("90", "9.0", True),
        ("90", "8.9", False),
        ("90a", "9.0", True),
        ("90a", "10.0", False),
        ("120f", "12.1", True),
        ("120f", "12.0", True),
        ("100f", "12.0", False),
        ("100", "11.0", True),
        ("72", "8.7", True),
        ("?", "9.0", False),
    ],
)
def test_ptx(architecture: str, capability: str, serves: bool) -> None:
    """PTX runs on everything newer, Tegra chips too; `a` on one capability; `f` in its family."""
    expected = Coverage(code=Code.PTX, architecture=architecture, ptx="9.0") if serves else Coverage(code=Code.NONE)
    assert expected == cover(GpuCode(ptx=((architecture, "9.0"),)), capability)


def test_machine_code_before_ptx() -> None:
    """PTX does not matter where machine code runs, so it asks for no newer driver."""
    code = GpuCode(sass=("80", "90a"), ptx=(("80", "9.5"),))
    assert Coverage(code=Code.SASS, architecture="80") == cover(code, "8.9")


def test_best_machine_code() -> None:
    """Of several machine codes that run the closest is named."""
    assert Coverage(code=Code.SASS, architecture="86") == cover(GpuCode(sass=("80", "86")), "8.9")


def test_newest_ptx_counts() -> None:
    """9.10 is newer than 9.9: versions of PTX compare by numbers."""
    code = GpuCode(ptx=(("75", "9.9"), ("75", "9.10"), ("90", "9.2")))
    assert Coverage(code=Code.PTX, architecture="75", ptx="9.10") == cover(code, "10.0")


def test_no_capability() -> None:
    """A capability in another spelling is refused, with the right one."""
    for text in ("sm_80", "80", "8", "8.0a", "08.0", ""):
        with pytest.raises(NnenvError) as caught:
            cover(GpuCode(), text)
        assert caught.value.code == "usage"
        assert "8.6" in caught.value.fix[0]


def test_the_weakest_library_decides() -> None:
    """cuDNN 9.28 has engines for 7.0, but ops without: together none, and ops is named."""
    package = "nvidia-cudnn-cu12==9.28.0.42"
    names = [row["library"] for row in RECORDED if row["package"] == package]
    codes = {name: recorded(package, name) for name in names if compat.always_loaded(package.partition("==")[0], name)}
    assert sorted(codes) == ["libcudnn_adv.so.9", "libcudnn_cnn.so.9", "libcudnn_ops.so.9"]
    found = cover_all(codes, "7.0")
    assert (found.code, found.library) == (Code.NONE, "libcudnn_adv.so.9")
    assert Code.EXACT is cover_all(codes, "7.5").code


def test_newer_ptx_is_weaker() -> None:
    """Of two libraries with PTX alone the one decides that needs the newer driver."""
    codes = {"old.so": GpuCode(ptx=(("80", "8.2"),)), "new.so": GpuCode(ptx=(("80", "8.7"),))}
    found = cover_all(codes, "12.0")
    assert (found.code, found.library, found.architecture, found.ptx) == (Code.PTX, "new.so", "80", "8.7")


def test_equal_libraries_by_name() -> None:
    """Which of two equal libraries is named does not depend on their order."""
    one, two = GpuCode(sass=("80",)), GpuCode(sass=("80",))
    assert cover_all({"b": one, "a": two}, "8.6") == cover_all({"a": two, "b": one}, "8.6")
    assert cover_all({"b": one, "a": two}, "8.6").library == "a"


ARCHITECTURES = st.sampled_from(["50", "75", "80", "87", "90", "90a", "100f", "110", "120", "121a"])
CODES = st.builds(
    GpuCode,
    sass=st.lists(ARCHITECTURES, max_size=4).map(tuple),
    ptx=st.lists(st.tuples(ARCHITECTURES, st.sampled_from(["7.8", "8.8", "9.10"])), max_size=3).map(tuple),
)
CAPABILITIES = st.sampled_from([*DESKTOP, "8.7", "11.0"])


@given(st.dictionaries(st.sampled_from("abcd"), CODES, min_size=1), CAPABILITIES)
def test_together_no_better_than_each(codes: dict[str, GpuCode], capability: str) -> None:
    """An intersection is never stronger than one of its parts, and is the coverage of the library that it names."""
    together = cover_all(codes, capability)
    assert together.code is min(cover(code, capability).code for code in codes.values())
    alone = cover(codes[together.library], capability)
    assert (together.code, together.architecture, together.ptx) == (alone.code, alone.architecture, alone.ptx)


@given(CODES, ARCHITECTURES, CAPABILITIES)
def test_more_code_covers_no_less(code: GpuCode, more: str, capability: str) -> None:
    """Adding machine code never makes a coverage weaker."""
    assert cover(GpuCode(sass=(*code.sass, more), ptx=code.ptx), capability).code >= cover(code, capability).code
