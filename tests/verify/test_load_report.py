"""The load check: everything asked for loads, and exactly what is locked is installed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnenv.verify.ladder import Verdict
from nnenv.verify.load_report import Loaded, LoadRequest, load_check

from .test_statement import MODEL

REQUEST = LoadRequest(imports=("numpy",), libraries=("/opt/a.so", "/opt/b.so", "/opt/c.so"))
LOADED = Loaded(
    versions={"numpy": "2.0", "ruamel-yaml": "0.18"},
    imports={"numpy": "ok"},
    libraries={"/opt/a.so": "ok", "/opt/b.so": "skipped", "/opt/c.so": "ok after others"},
)
LOCKED = {"NumPy": "2.0", "ruamel.yaml": "0.18"}


def codes(loaded: Loaded, locked: dict[str, str] = LOCKED) -> list[tuple[str, str]]:
    """Code and place of each finding."""
    return [(finding.code, finding.where) for finding in load_check(REQUEST, loaded, locked).findings]


def test_everything_loaded_passes() -> None:
    """Names are compared as PEP 503 does; a skipped extension module is no failure."""
    check = load_check(REQUEST, LOADED, LOCKED, [MODEL])
    assert (check.verdict, check.findings) == (Verdict.PASSED, ())


def test_each_failure_is_found() -> None:
    """Imports, libraries, silence, versions both ways, an answer that is an error, and a model that does not open."""
    assert codes(replace(LOADED, imports={"numpy": "ImportError: x"})) == [("import-failed", "numpy")]
    broken = {**LOADED.libraries, "/opt/a.so": "cannot open"}
    assert codes(replace(LOADED, libraries=broken)) == [("library-failed", "/opt/a.so")]
    assert codes(replace(LOADED, imports={})) == [("import-failed", "numpy")]
    assert codes(replace(LOADED, versions={**LOADED.versions, "numpy": "1.0"})) == [("version-differs", "numpy")]
    assert codes(replace(LOADED, versions={**LOADED.versions, "extra": "1"})) == [("version-differs", "extra")]
    assert codes(LOADED, {**LOCKED, "missing": "1"}) == [("version-differs", "missing")]
    assert ("load-failed", "") in codes(Loaded(error="internal: x"))
    check = load_check(REQUEST, LOADED, LOCKED, [replace(MODEL, error="model-load: bad")])
    assert (check.verdict, check.findings[0].because) == (Verdict.FAILED, ("model-load: bad",))


MISSING = "{}: cannot open shared object file: No such file or directory"
GPU = LoadRequest(
    imports=(),
    libraries=("/opt/cuda.so", "/opt/trt.so"),
    cuda={"libcufft.so.11": "11.4.1.4"},
    provider="CUDAExecutionProvider",
    driver=frozenset({"libcuda.so.1"}),
    optional={"/opt/trt.so": frozenset({"libnvinfer.so.10"})},
)
NO_DRIVER = Loaded(
    libraries={"/opt/cuda.so": MISSING.format("libcuda.so.1"), "/opt/trt.so": MISSING.format("libnvinfer.so.10")},
    cuda={"libcufft.so.11": "11.4.1"},
    provider="Fail: Failed to load library x.so with error: " + MISSING.format("libcuda.so.1"),
)


def test_without_a_driver_everything_else_is_proven() -> None:
    """What needs the driver or an optional library is not opened, and the note says so."""
    check = load_check(GPU, NO_DRIVER, {})
    assert check.verdict is Verdict.PASSED
    assert "1 CUDA libraries" in check.note
    assert "up to the driver" in check.note
    assert "2 not opened" in check.note
    assert "works" in load_check(GPU, replace(NO_DRIVER, provider="ready"), {}).note


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"libraries": {**NO_DRIVER.libraries, "/opt/cuda.so": MISSING.format("libcufft.so.11")}}, "library-failed"),
        ({"libraries": {**NO_DRIVER.libraries, "/opt/cuda.so": MISSING.format("libnvinfer.so.10")}}, "library-failed"),
        ({"cuda": {"libcufft.so.11": "11.3.3"}}, "cuda-version-differs"),
        ({"cuda": {}}, "cuda-library-failed"),
        ({"cuda": {"libcufft.so.11": "error: cannot open"}}, "cuda-library-failed"),
        ({"provider": ""}, "provider-failed"),
        ({"provider": "Fail: something else"}, "provider-failed"),
        ({"provider": "with error: " + MISSING.format("libcudnn.so.9")}, "provider-library-missing"),
    ],
)
def test_what_is_no_matter_of_the_driver(changed: dict[str, object], code: str) -> None:
    """A missing library, another version, silence: each with a code of its own."""
    check = load_check(GPU, replace(NO_DRIVER, **changed), {})  # type: ignore[arg-type]
    assert [finding.code for finding in check.findings] == [code]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0",
        "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1",
        "CUDA failure 34: CUDA driver is a stub library",
    ],
)
def test_messages_of_the_driver(said: str) -> None:
    """Everything up to the driver was loaded when one of these is said (measured)."""
    assert load_check(GPU, replace(NO_DRIVER, provider=said), {}).verdict is Verdict.PASSED
