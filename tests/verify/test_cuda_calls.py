"""How CUDA's libraries are asked for their versions: small libraries with the same functions, compiled here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nnenv.verify.cuda_calls import CALLS, versions
from nnenv.verify.harness import in_child

FUNCTIONS = {
    "libcudart": "int cudaRuntimeGetVersion(int *v) { *v = 12090; return 0; }",
    "libcublas": "int cublasGetProperty(int p, int *v) { int all[] = {13, 10, 0}; *v = all[p]; return 0; }",
    "libcublasLt": "unsigned long cublasLtGetVersion(void) { return 131000; }",
    "libcudnn": "unsigned long cudnnGetVersion(void) { return 92801; } int cudnnOpsVersionCheck(void) { return 0; }",
    "libcufft": "int cufftGetVersion(int *v) { *v = 11401; return 0; }",
    "libcurand": "int curandGetVersion(int *v) { *v = 10310; return 0; }",
    "libnvrtc": "int nvrtcVersion(int *a, int *b) { *a = 12; *b = 9; return 0; }",
    "libnvJitLink": "int nvJitLinkVersion(unsigned *a, unsigned *b) { *a = 13; *b = 5; return 0; }",
}
EXPECTED = {
    "libcudart": "12.9", "libcublas": "13.10.0", "libcublasLt": "13.10.0", "libcudnn": "9.28.1",
    "libcufft": "11.4.1", "libcurand": "10.3.10", "libnvrtc": "12.9", "libnvJitLink": "13.5",
}  # fmt: skip
"""As the real libraries of CUDA 12.9.2 and 13.5.0 said it."""


def compiled(folder: Path, name: str, source: str) -> str:
    """The path of a library with this source; a name with a slash is opened as a path."""
    path = folder / f"{name}.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=source.encode(), check=True)
    return str(path)


def said(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a library with this source."""
    path = compiled(folder, name, source)
    monkeypatch.setitem(CALLS, path.partition(".so")[0], CALLS[name])
    (answer,) = versions([path], in_child).values()
    return answer


@pytest.mark.parametrize("name", sorted(CALLS))
def test_each_library_says_its_version(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of the real ones."""
    assert said(tmp_path, name, FUNCTIONS[name], monkeypatch) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("libcudart", "int cudaRuntimeGetVersion(int *v) { return 3; }", "reports error 3"),
        ("libcudart", "int other(void) { return 3; }", "cudaRuntimeGetVersion"),
        (
            "libcudnn",
            "unsigned long cudnnGetVersion(void) { return 92801; } int cudnnCnnVersionCheck(void) { return 3009; }",
            "cudnnCnnVersionCheck reports 3009",
        ),
        ("libcudart", "int cudaRuntimeGetVersion(int *v) { return *(volatile int *)0; }", "signal 11"),
    ],
)
def test_what_is_wrong_with_a_library(
    name: str, source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error, a missing function, a missing part of cuDNN, a crash."""
    assert reason in said(tmp_path, name, source, monkeypatch)


def test_a_library_that_is_not_there() -> None:
    """The linker's message."""
    assert "cannot open shared object file" in versions(["libcudart.so.99"], in_child)["libcudart.so.99"]
