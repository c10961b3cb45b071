"""The `load` check: what the harness said of imports, libraries and versions, against what is locked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nnenv.verify.harness import OK, OK_AFTER_OTHERS, SKIPPED
from nnenv.verify.ladder import Verdict
from nnenv.verify.report import Check, Finding, ModelReport

DEFAULT_IMPORTS: Final = ("numpy", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRequest:
    """What the harness is asked to load."""

    imports: Sequence[str] = DEFAULT_IMPORTS
    libraries: Sequence[str] = ()
    """Absolute paths in the image; each is dlopened with all symbols bound, in a process of its own."""
    extension_modules: bool = False
    """Whether Python extension modules among them are opened too; without the interpreter's symbols some cannot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The harness' answer to a LoadRequest."""

    python: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Distribution (normalised name) -> version, as installed in the image."""
    imports: Mapping[str, str] = field(default_factory=dict)
    """Module -> `ok` or the error."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Path -> `ok`, `ok after others`, `skipped`, or the dynamic linker's error."""
    providers: Sequence[str] = ()
    """onnxruntime's compiled-in execution providers; being listed does not mean that one works."""
    error: str = ""
    """Why there is no answer; empty if there is."""


def load_check(
    request: LoadRequest, loaded: Loaded, locked_versions: Mapping[str, str], models: Sequence[ModelReport] = ()
) -> Check:
    """Passed if everything asked for loads, every model opens, and exactly the locked distributions are installed."""
    findings = [Finding(code="load-failed", what=loaded.error)] if loaded.error else []
    findings += _unloaded("import-failed", "cannot be imported", request.imports, loaded.imports)
    findings += _unloaded("library-failed", "cannot be loaded", request.libraries, loaded.libraries)
    findings += _version_findings(locked_versions, loaded.versions)
    findings += [
        Finding(code="model-failed", what=f"model {model.name} cannot be loaded", where=model.name, because=(text,))
        for model in models
        if (text := model.error)
    ]
    return Check(verdict=Verdict.FAILED if findings else Verdict.PASSED, findings=tuple(findings))


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unloaded(code: str, what: str, asked: Sequence[str], said: Mapping[str, Any]) -> list[Finding]:
    outcomes = ((name, said.get(name, "the harness did not say")) for name in asked)
    return [
        Finding(code=code, what=f"{name} {what}", where=name, because=(outcome,))
        for name, outcome in outcomes
        if outcome not in (OK, OK_AFTER_OTHERS, SKIPPED)
    ]


def _version_findings(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[Finding]:
    expected = {normalised(name): version for name, version in locked.items()}
    found = {normalised(name): version for name, version in installed.items()}
    findings = []
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = f"{name} is {found.get(name, 'absent')} in the image, {expected.get(name, 'absent')} in the lock"
            findings.append(Finding(code="version-differs", what=what, where=name))
    return findings
