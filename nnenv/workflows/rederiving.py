"""Derived files that the store has lost: from a shared cache by digest, or made again and held to the locked digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnenv.adapt.recipe import decided
from nnenv.errors import NnenvError
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.lockfile import DerivationLock, Lockfile
from nnenv.spec.manifest import adaptation_in
from nnenv.workflows.session import Session
from nnenv.workflows.toolchains import Toolchain, opened

DERIVED = "derived:"
"""How the origins of files that adaptation made begin in a lock."""


def share_derived(session: Session, artifacts: Iterable[Artifact]) -> None:
    """Put derived files into the shared cache, if there is one: other machines make other last bits."""
    shared = session.shared_cache()
    if shared is None:
        return
    for artifact in artifacts:
        if artifact.origin.startswith(DERIVED) and not shared.contains(artifact.sha256):
            with session.store.open(artifact.sha256) as stream:
                shared.add(stream, artifact.sha256, artifact.size)


def bring_derived(session: Session, artifacts: Sequence[Artifact]) -> None:
    """Afterwards the store holds these derived files.

    Raises NnenvError `derivation-differs` where this machine makes other bytes than those that are locked.
    """
    shared = session.shared_cache()
    missing = []
    for artifact in artifacts:
        if shared is not None and shared.contains(artifact.sha256):
            with shared.open(artifact.sha256) as stream:
                session.store.add(stream, artifact.sha256, artifact.size)
        else:
            missing.append(artifact)
    if missing:
        _derive_again(session, session.lockfile(), {artifact.sha256 for artifact in missing})


def _derive_again(session: Session, lockfile: Lockfile, wanted: set[Sha256]) -> None:
    from nnenv.workflows.fetching import fetch_locked

    for derivation in lockfile.derivations:
        made = {
            derivation.file,
            *(d for case in derivation.cases for d in (*case.inputs, *case.expected, case.settings)),
        }
        labels = {one.labels for one in lockfile.evaluations if one.file == derivation.file}
        if not wanted & {*made, *labels}:
            continue
        toolchain = lockfile.toolchain(derivation.toolchain)
        model = lockfile.model(derivation.model)
        artifacts = [lockfile.by_digest[d] for d in (*toolchain.wheels, *toolchain.debs, *toolchain.tools)]
        inputs = [lockfile.by_digest[d] for d in (model.file, *(digest for _, digest in model.data))]
        fetch_locked(session, [*artifacts, *inputs], toolchain.os)
        with opened(session, toolchain, artifacts) as running:
            _steps_again(session, lockfile, derivation, running)
    lost = sorted(digest for digest in wanted if not session.store.contains(digest))
    if lost:
        names = [lockfile.by_digest[digest].name for digest in lost]
        raise NnenvError(
            "derivation-differs",
            "files that were recorded when a model was adapted are gone from the store",
            where=names[0],
            because=[f"{len(lost)} files, such as sha256 {lost[0]}; they are a processor's own answers"],
            fix=["fetch into the store that locked them, or set NNENV_SHARED_CACHE to a folder that both reach",
                 f"or adapt anew: `nnenv lock -P {lockfile.derivations[0].model}`"],
        )  # fmt: skip


def _steps_again(session: Session, lockfile: Lockfile, derivation: DerivationLock, running: Toolchain) -> None:
    """Do the derivation's steps, and the answers that were recorded of its result."""
    from nnenv.workflows.adapting import named_files, recorded

    model = lockfile.model(derivation.model)
    target, specs = adaptation_in(lockfile.manifest, derivation.model, derivation.targets[0])
    current = model.file
    for spec, locked in zip(specs, derivation.steps, strict=True):
        step = decided(spec, target, f"models.{model.name}.adapt")
        output, _ = running.made(spec.step, step.options, current, named_files(model, spec))
        if output != locked.output:
            raise NnenvError(
                "derivation-differs",
                f"model {model.name}: the step {spec.step} makes another file here than the one that is locked",
                where=f"models.{model.name}.adapt",
                because=[
                    f"locked {locked.output}",
                    f"made   {output}",
                    f"it was made by {derivation.host}; calibration and rounding differ between processors",
                ],
                fix=[
                    "fetch it from the store that locked it, or by NNENV_SHARED_CACHE, a folder that both reach",
                    f"or adapt anew on this machine: `nnenv lock -P {model.name}`",
                ],
            )
        current = output
    recorded(session, lockfile, model, derivation, running)
