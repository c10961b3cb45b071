"""What a target's hardware adds to the choice of wheels, as the search asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nnenv.formats.core_metadata import CoreMetadata
from nnenv.resolve.python_catalog import Project, WheelRecord

VIRTUAL = "-"
"""First letter of the names that stand for hardware: no distribution's name has it (PEP 508)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Something that a wheel needs and its metadata does not say, or not exactly enough."""

    name: str
    """A distribution's normalised name, or one that begins with VIRTUAL."""
    extras: tuple[str, ...] = ()
    specifier: str = ""
    """PEP 440."""
    why: str
    """How the need shows, after the wheel's name: `states that it was built with CUDA 12.8`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """Why a wheel is no candidate on the target."""

    code: str
    """As errors have it: `compute-capability-uncovered`."""
    why: str
    """After the wheel's name: `has no code for compute capability 7.0`."""
    evidence: tuple[str, ...] = ()
    """What shows it: library and content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the rules say of one wheel."""

    demands: tuple[Demand, ...] = ()
    objection: Objection | None = None


class WheelRules(Protocol):
    """The rules of one target; each answer depends on the wheel and the target alone, never on a cache."""

    def renamed(self, name: str, extras: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Which distribution, with which extras, a name means on the target; usually the same."""
        ...

    def roots(self) -> Sequence[Demand]:
        """What the target itself demands."""
        ...

    def judge(self, wheel: WheelRecord, metadata: CoreMetadata, required: Sequence[tuple[str, str]]) -> Judgement:
        """`required` is (normalised name, range) of all that the wheel itself asks for on the target."""
        ...

    def virtual(self, name: str) -> Project:
        """The versions of a name that begins with VIRTUAL; their records are wheels of no file."""
        ...
