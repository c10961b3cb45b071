"""Requirements of wheels (PEP 508), read quickly where they are written in the usual way.

A lock reads thousands of them. Whatever is not plainly usual is left to `packaging`, which is also the judge of what is
wrong; `tests/resolve/test_python_requirement.py` holds both readings against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from nnenv.formats.core_metadata import normal_name

if TYPE_CHECKING:
    from packaging.markers import Marker


class PythonMarker(Protocol):
    """The condition of a requirement (PEP 508 "Environment markers")."""

    def holds(self, environment: Mapping[str, str]) -> bool:
        """Whether it is met; `environment` has a value for every variable. ValueError if it cannot be compared."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonRequirement:
    """One requirement, read."""

    name: str
    """Normalised (PEP 503)."""
    extras: tuple[str, ...]
    """Normalised (PEP 685), sorted, each once."""
    specifier: SpecifierSet
    has_address: bool
    """Whether it asks for a file at an address instead of a version."""
    marker: PythonMarker | None
    marker_text: str
    """Empty without a marker."""


@cache
def read_requirement(text: str) -> PythonRequirement:
    """The requirement in `text`; `packaging.requirements.InvalidRequirement` if PEP 508 does not allow it."""
    return _usual(text) or _foreign(text)


@cache
def specifier_set(text: str) -> SpecifierSet:
    """The range in `text`, one for all who ask; `packaging.specifiers.InvalidSpecifier` if PEP 440 does not allow it.

    As in `packaging`, a comma at the end does not matter.
    """
    return SpecifierSet(text)


# What is written in the usual way

_IDENTIFIER: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE: Final = r"(?:~=|==|!=|<=|>=|<|>)[ ]*[0-9][A-Za-z0-9.*+!_-]*"
_REQUIREMENT: Final = re.compile(
    rf"({_IDENTIFIER})[ ]*"
    rf"(?:\[[ ]*({_IDENTIFIER}(?:[ ]*,[ ]*{_IDENTIFIER})*)[ ]*\])?[ ]*"
    rf"(?:\([ ]*({_CLAUSE}(?:[ ]*,[ ]*{_CLAUSE})*)[ ]*\)|({_CLAUSE}(?:[ ]*,[ ]*{_CLAUSE})*))?[ ]*"
    r"(?:;(.*))?"
)
"""Name, extras, range in or without parentheses, marker."""


def _usual(text: str) -> PythonRequirement | None:
    """The requirement, or None if it is not plainly in the usual form."""
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        return None
    name, extras, enclosed, bare, condition = match.groups()
    marker = _usual_marker(condition) if condition is not None else None
    if condition is not None and marker is None:
        return None
    try:
        specifier = specifier_set(enclosed or bare or "")
    except InvalidSpecifier:
        return None
    return PythonRequirement(
        name=normal_name(name),
        extras=tuple(sorted({normal_name(extra.strip()) for extra in extras.split(",")})) if extras else (),
        specifier=specifier,
        has_address=False,
        marker=marker,
        marker_text=condition or "",
    )


_VERSIONS: Final = frozenset({"python_version", "python_full_version"})
_WORDS: Final = frozenset(
    {
        "implementation_name",
        "os_name",
        "platform_machine",
        "platform_python_implementation",
        "platform_system",
        "sys_platform",
    }
)
_TOKEN: Final = re.compile(
    r"""[ \t]*(?:
        (?P<parenthesis>[()])
      | (?P<connection>and|or)\b
      | (?P<variable>[a-z_]+)[ \t]*(?P<operator>==|!=|<=|>=|<|>|~=)[ \t]*(?P<quote>["'])(?P<value>[^"']*)(?P=quote)
    )[ \t]*""",
    re.VERBOSE,
)
_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
# Nothing that a version could be: before 26, `packaging` compared versions as such whatever the variable.
_WORD: Final = re.compile(r"(?!v[0-9])[A-Za-z][A-Za-z0-9_]*")
_EXTRA: Final = re.compile(_IDENTIFIER)


@dataclass(frozen=True, slots=True)
class _Comparison:
    variable: str
    operator: str
    value: str

    def holds(self, environment: Mapping[str, str]) -> bool:
        found = environment[self.variable]
        if self.variable in _VERSIONS:
            return _admits(self.operator + self.value, found)
        return (found == self.value) == (self.operator == "==")


@dataclass(frozen=True, slots=True)
class _AnyOf:
    """Groups of conditions; one group must hold whole (`and` binds closer than `or`)."""

    groups: tuple[tuple[PythonMarker, ...], ...]

    def holds(self, environment: Mapping[str, str]) -> bool:
        return any(all(part.holds(environment) for part in group) for group in self.groups)


@cache
def _admits(clause: str, version: str) -> bool:
    return specifier_set(clause).contains(version, prereleases=True)


@cache
def _usual_marker(text: str) -> PythonMarker | None:
    tokens = _tokens(text)
    if tokens is None:
        return None
    waiting = iter(tokens)
    marker, end = _any_of(waiting)
    return marker if end == "" else None


def _tokens(text: str) -> list[str | _Comparison] | None:
    """Parentheses, `and`, `or` and comparisons; None if there is anything else."""
    tokens: list[str | _Comparison] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        found = match["parenthesis"] or match["connection"] or _comparison(match)
        if found is None:
            return None
        tokens.append(found)
    return tokens


def _comparison(match: re.Match[str]) -> _Comparison | None:
    variable, operator, value = match["variable"], match["operator"], match["value"]
    if variable in _VERSIONS and _VERSION.fullmatch(value) and (operator != "~=" or "." in value):
        return _Comparison(variable, operator, value)
    if operator not in ("==", "!="):
        return None
    if variable in _WORDS and _WORD.fullmatch(value):
        return _Comparison(variable, operator, value)
    if variable == "extra" and _EXTRA.fullmatch(value):
        return _Comparison(variable, operator, normal_name(value))
    return None


def _any_of(tokens: Iterator[str | _Comparison]) -> tuple[PythonMarker | None, str]:
    """What stands up to the end ("") or to a closing parenthesis, and which it was; None if it makes no sense."""
    groups: list[list[PythonMarker]] = [[]]
    while True:
        token = next(tokens, "")
        part: PythonMarker | None = token if isinstance(token, _Comparison) else None
        if token == "(":
            part, end = _any_of(tokens)
            if end != ")":
                return None, end
        if part is None:
            return None, str(token)
        groups[-1].append(part)
        connection = next(tokens, "")
        if connection == "or":
            groups.append([])
        elif connection != "and":
            return _AnyOf(tuple(map(tuple, groups))), str(connection)


# What is left to `packaging`


@dataclass(frozen=True, slots=True)
class _ForeignMarker:
    marker: Marker

    def holds(self, environment: Mapping[str, str]) -> bool:
        return self.marker.evaluate({**environment})


def _foreign(text: str) -> PythonRequirement:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    return PythonRequirement(
        name=normal_name(requirement.name),
        extras=tuple(sorted({normal_name(extra) for extra in requirement.extras})),
        specifier=requirement.specifier,
        has_address=bool(requirement.url),
        marker=_ForeignMarker(requirement.marker) if requirement.marker else None,
        marker_text=str(requirement.marker or ""),
    )
