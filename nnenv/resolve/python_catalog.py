"""What wheel resolution asks of the outside, and the records it gets back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nnenv.formats.core_metadata import CoreMetadata


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelRecord:
    """One wheel that a source offers."""

    project: str
    """Normalised name (PEP 503)."""
    version: str
    """As in the file name."""
    filename: str
    origin: str
    """`python`, or `python:NAME` for a name that the manifest binds to an `[[index]]`."""
    sha256: str = ""
    """Empty where the source states none: `identify` finds it."""
    size: int | None = None
    requires_python: str = ""
    yanked: bool = False
    upload_time: str = ""
    """RFC 3339 UTC, or empty."""


class Project(Protocol):
    """Everything a source offers under one name; pages are long, so nothing is read before somebody asks."""

    @property
    def name(self) -> str:
        """Normalised (PEP 503)."""
        ...

    @property
    def known(self) -> bool:
        """Whether a source has a page for the name, even one without files."""
        ...

    @property
    def versions(self) -> Sequence[str]:
        """The versions (PEP 440) of all wheels that some target might use, newest first, each in one spelling."""
        ...

    def wheels_of(self, version: str) -> Sequence[WheelRecord]:
        """The wheels of one of `versions`."""
        ...

    @property
    def misnamed(self) -> Sequence[WheelRecord]:
        """Wheels whose file names state a version that PEP 440 does not allow, for explanations."""
        ...

    @property
    def other_names(self) -> Sequence[str]:
        """Names of source distributions and of wheels that no target can use, for explanations."""
        ...


class WheelCatalog(Protocol):
    """Answers questions about wheels; each answer is the same for the whole run."""

    def project(self, name: str) -> Project:
        """What the one source bound to `name` offers; not `known`, and without files, when nobody knows the name."""
        ...

    def metadata(self, record: WheelRecord) -> CoreMetadata:
        """The metadata of exactly this wheel; NnenvError `wheel-refused` if the wheel lies or is damaged."""
        ...

    def identify(self, record: WheelRecord) -> WheelRecord:
        """The same record with sha256 and size filled in."""
        ...

    def prefetch(self, name: str, then: Callable[[Project], None]) -> None:
        """Hint that this project will be asked for soon; returns at once.

        If that is worth it, `then` is called with the answer from another thread, so that more hints can follow.
        """
        ...

    def expect(self, record: WheelRecord, then: Callable[[CoreMetadata], None]) -> None:
        """Hint that this wheel's metadata will be asked for soon; as `prefetch`."""
        ...
