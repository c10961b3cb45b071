"""`nnenv outdated`: which models have something newer at their source than what is locked; nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nnenv.errors import NnenvError
from nnenv.spec.lockfile import ModelLock
from nnenv.spec.manifest import ModelSpec
from nnenv.workflows.model_files import name_now
from nnenv.workflows.session import Session


class Standing(StrEnum):
    """How a locked model stands to its source."""

    CURRENT = "current"
    OUTDATED = "outdated"
    FIXED = "fixed"
    """The source names one thing for ever, or only its bytes could tell."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStanding:
    """One model from elsewhere."""

    name: str
    version: str
    """The model's own."""
    locked: str
    """What the source's name came to when it was locked: a commit, a version, a digest; empty for an address."""
    offered: str
    """What it comes to now; empty if that is not known."""
    standing: Standing
    why: str = ""
    """Why it is not known, in one clause."""


def model_standings(session: Session) -> tuple[ModelStanding, ...]:
    """Each model of the lock that is no file of the project, by name.

    Raises NnenvError `lock-missing`, `manifest-missing` and as reading the two does; a source that does not answer is a
    standing, not an error.
    """
    lockfile, manifest = session.lockfile(), session.manifest()
    specs = {spec.name: spec for spec in manifest.models}
    found = []
    for model in lockfile.models:
        spec = specs.get(model.name)
        if spec is not None and not spec.path:
            found.append(_standing(session, model, spec))
    return tuple(found)


def _standing(session: Session, model: ModelLock, spec: ModelSpec) -> ModelStanding:
    offered, why = "", ""
    try:
        offered = name_now(session, spec, session.manifest())
    except NnenvError as error:
        standing, why = Standing.UNREACHABLE, error.because[0] if error.because else error.what
    else:
        standing = Standing.FIXED
        if offered:
            standing = Standing.CURRENT if offered == model.revision else Standing.OUTDATED
        else:
            why = "an address or a fixed name: `nnenv lock -P` asks for its bytes"
    return ModelStanding(
        name=model.name, version=model.version, locked=model.revision, offered=offered, standing=standing, why=why
    )
