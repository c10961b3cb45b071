"""Locked test cases, read from the store and bound to their models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nnenv.adapters.store import Store
from nnenv.formats.model_file import read_model
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.lockfile import CaseLock, ModelLock
from nnenv.verify.cases import CaseFiles, CaseSettings, bind, parse_case_toml
from nnenv.verify.compare import LIMITS
from nnenv.verify.evaluate import CaseUnderTest


def bound_case(store: Store, artifacts: Mapping[Sha256, Artifact], model: ModelLock, case: CaseLock) -> CaseUnderTest:
    """The case's tensors under the model's names, with its settings; a tolerance in model.toml wins over case.toml.

    `artifacts` are the lock's, by digest.
    Raises NnenvError `case-invalid`, or StoreCorrupt and StoreMissing as the store does.
    """
    with store.open(model.file) as stream:
        facts = read_model(stream, artifacts[model.file].filename, model.format)
    files = {}
    for role, digests in (("input", case.inputs), ("output", case.expected)):
        for index, digest in enumerate(digests):
            with store.open(digest) as stream:
                files[_role_name(artifacts[digest].filename, role, index)] = stream.read()
    bound = bind(
        CaseFiles(name=case.name, files=files),
        [item.name for item in facts.inputs],
        [item.name for item in facts.outputs],
    )
    return CaseUnderTest(case=bound, settings=_settings(store, case))


def _role_name(filename: str, role: str, index: int) -> str:
    """The file name that tells a tensor's part in its case: files of equal bytes are one artifact, with one name."""
    return filename if filename.endswith(".npz") else f"{role}_{index}.pb"


def _settings(store: Store, case: CaseLock) -> CaseSettings:
    """The case's settings; what a model before adaptation was to answer is no claim about the adapted file."""
    settings = CaseSettings()
    if case.settings is not None:
        with store.open(case.settings) as stream:
            settings = parse_case_toml(stream.read().decode(), f"{case.name}/case.toml")
    if case.against is not None and settings.model_sha256 == case.against:
        settings = replace(settings, model_sha256=None)
    if case.tolerance is not None:
        settings = replace(settings, tolerance=dict.fromkeys(LIMITS, case.tolerance))
    return settings
