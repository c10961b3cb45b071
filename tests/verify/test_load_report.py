"""The load check: everything asked for loads, and exactly what is locked is installed."""

from __future__ import annotations

from dataclasses import replace

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
