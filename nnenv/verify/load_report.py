"""The `load` check: what the harness said of imports, libraries and versions, against what is locked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nnenv.verify.harness import OK, OK_AFTER_OTHERS, SKIPPED
from nnenv.verify.ladder import Verdict
from nnenv.verify.providers import READY
from nnenv.verify.report import Check, Finding, ModelReport

DEFAULT_IMPORTS: Final = ("numpy", "onnxruntime", "tensorflow", "keras")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRequest:
    """What the harness is asked to load."""

    imports: Sequence[str] = ("numpy", "onnxruntime")
    libraries: Sequence[str] = ()
    """Absolute paths in the image; each is dlopened with all symbols bound, in a process of its own."""
    cuda: Mapping[str, str] = field(default_factory=dict)
    """Soname -> version of the locked wheel that holds it, for libraries of CUDA that say their own version."""
    provider: str = ""
    """Execution provider of onnxruntime that is to open a model; without a GPU it gets as far as the driver."""
    driver: frozenset[str] = frozenset()
    """Sonames that the host's driver brings: where there is none, a library that needs one cannot be opened."""
    optional: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Path of a library -> sonames that it needs for a feature that may be missing."""
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
    cuda: Mapping[str, str] = field(default_factory=dict)
    """Soname -> what the library says of its version, or `error: ` and why it says nothing."""
    provider: str = ""
    """How far the provider got: `providers.READY`, or what it said."""
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
    excused = frozenset(path for path in request.libraries if _is_excused(path, request, loaded))
    libraries = [path for path in request.libraries if path not in excused]
    findings += _unloaded("library-failed", "cannot be loaded", libraries, loaded.libraries)
    findings += _cuda_findings(request.cuda, loaded.cuda)
    findings += _provider_findings(request, loaded)
    findings += _version_findings(locked_versions, loaded.versions)
    findings += [
        Finding(code="model-failed", what=f"model {model.name} cannot be loaded", where=model.name, because=(text,))
        for model in models
        if (text := model.error)
    ]
    return Check(
        verdict=Verdict.FAILED if findings else Verdict.PASSED,
        findings=tuple(findings),
        note="" if findings else _load_note(request, loaded, len(excused)),
    )


def _load_note(request: LoadRequest, loaded: Loaded, excused: int) -> str:
    """What was left out of a load that passed, and how far the accelerator's libraries got."""
    notes = []
    if request.cuda:
        notes.append(f"{len(request.cuda)} CUDA libraries say their locked versions")
    if request.provider:
        notes.append(f"{request.provider} " + ("works" if loaded.provider == READY else "loads up to the driver"))
    if excused:
        notes.append(f"{excused} not opened, for want of a driver or an optional library")
    return "; ".join(notes)


_AT_THE_DRIVER: Final = re.compile(
    r"CUDA failure (?:34|35|100|999)\b|driver version is insufficient|no CUDA-capable device|driver is a stub"
)
"""Messages of CUDA's runtime that say that everything up to the driver was loaded (measured, inference_test.md 5.2)."""


def _provider_findings(request: LoadRequest, loaded: Loaded) -> list[Finding]:
    """A provider that fails before the driver does."""
    if not request.provider or loaded.provider == READY:
        return []
    missing = [name for name in _CANNOT_OPEN.findall(loaded.provider) if name not in request.driver]
    at_driver = _AT_THE_DRIVER.search(loaded.provider) or any(name in loaded.provider for name in request.driver)
    if not missing and at_driver:
        return []
    said = tuple((loaded.provider or "the harness did not say").splitlines()[:6])
    where = request.provider
    if missing:
        what = f"{where} cannot be loaded: {missing[0]} is missing"
        return [Finding(code="provider-library-missing", what=what, where=where, because=said)]
    return [Finding(code="provider-failed", what=f"{where} cannot be loaded", where=where, because=said)]


_CANNOT_OPEN: Final = re.compile(r"(lib[^/:\s]+): cannot open shared object file")
"""What ld.so says of a library that it does not find (measured: glibc 2.36 and 2.41)."""


def _is_excused(path: str, request: LoadRequest, loaded: Loaded) -> bool:
    """Whether a library could not be opened for want of the driver, or of something that it can do without."""
    match = _CANNOT_OPEN.match(loaded.libraries.get(path, ""))
    return match is not None and (match[1] in request.driver or match[1] in request.optional.get(path, ()))


def _cuda_findings(locked: Mapping[str, str], said: Mapping[str, str]) -> list[Finding]:
    """Where a library of CUDA does not answer, or is not of the wheel's version as far as it says it."""
    findings = []
    for soname, version in locked.items():
        found = said.get(soname, "error: the harness did not say")
        if found.startswith("error: "):
            what = f"{soname} does not say its version"
            reason = (found.removeprefix("error: "),)
            findings.append(Finding(code="cuda-library-failed", what=what, where=soname, because=reason))
        elif version.split(".")[: len(found.split("."))] != found.split("."):
            what = f"{soname} is of version {found}, and the locked wheel of {version}"
            findings.append(Finding(code="cuda-version-differs", what=what, where=soname))
    return findings


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
