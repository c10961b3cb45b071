"""Names of the project for completion: quick, and silent where something cannot be read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from nnenv.errors import NnenvError
from nnenv.workflows.session import Session

_PACKAGE: Final = re.compile(r'^kind = "(?:wheel|deb)"\nname = "([^"\n]+)"$', re.MULTILINE)
"""In model.lock, whose bytes are canonical; reading all of it as TOML would take ten times as long."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def names(session: Session, kind: str) -> list[str]:
    """Names of that kind (a key of KINDS), sorted; empty where the project's file is missing or broken."""
    try:
        return sorted({*KINDS[kind](session)})
    except (NnenvError, OSError, ValueError, AttributeError, TypeError):
        return []  # on a key press a message would only be in the way


def _manifest(session: Session) -> Mapping[str, Any]:
    return tomllib.loads(session.manifest_bytes().decode("utf-8"))


def _targets(session: Session) -> Iterator[str]:
    yield from _manifest(session).get("targets", {})


def _models(session: Session) -> Iterator[str]:
    yield from _manifest(session).get("models", {})


def _packages(session: Session) -> Iterator[str]:
    data = session.lock_bytes()
    yield from _PACKAGE.findall(data.decode("utf-8")) if data else ()


def _requirements(session: Session) -> Iterator[str]:
    manifest = _manifest(session)
    sections = [manifest.get("requires", {}), *(t.get("requires", {}) for t in manifest.get("targets", {}).values())]
    for section in sections:
        for requirement in (*section.get("packages", ()), *section.get("system", ())):
            found = _NAME.match(requirement)
            if found:
                yield found[0]


KINDS: Final[Mapping[str, Callable[[Session], Iterator[str]]]] = {
    "targets": _targets,
    "packages": _packages,
    "requirements": _requirements,
    "models": _models,
}
"""As `cli.grammar.Kind` calls them."""
