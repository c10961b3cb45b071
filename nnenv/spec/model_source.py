"""Where a model file comes from, as model.toml writes it: `file:`, `https:`, `hf:`, `pypi:`, `git+https:`.

The text in model.toml may name a host; what a lock keeps of it never does (ADR 10).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

MODEL_ORIGINS: Final = ("web:", "hf:", "pypi:", "git:")
"""How the origins of model files from elsewhere begin in a lock."""
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATH: Final = r"(?!/)(?!(?:.*/)?\.{1,2}(?:/|$))[^\u0000-\u001f\u007f\\]+"
HUB: Final = rf"hf:{_PART}/{_PART}@[A-Za-z0-9][A-Za-z0-9._/-]*:{_PATH}"
"""`hf:org/name@revision:path`: a revision may be a branch or tag with slashes in it, so the path has a colon."""
WEB: Final = r"https?://[^\s/?#@]+/[^\s#]+"
"""An address without user name, password and fragment: those hide secrets, and the file is committed."""
WHEEL: Final = rf"pypi:{_PART}(?:\s*[=<>!~][^/]*)?/{_PATH}"
"""`pypi:distribution==1.2/path/in/wheel`; the version may be a range."""
GIT: Final = rf"git\+https?://[^\s/?#@]+/[^\s?#@]+@[A-Za-z0-9][A-Za-z0-9._/-]*#{_PATH}"
"""`git+https://host/repository@revision#path`."""
_GIT_PARTS: Final = re.compile(r"git\+([^@]+)@([^#]+)#(.+)")
_HUB_PARTS: Final = re.compile(r"hf:([^@]+)@([^:]+):(.+)")
_WHEEL_PARTS: Final = re.compile(r"pypi:([^/=<>!~]+)([^/]*)/(.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSource:
    """A file at an address."""

    url: str

    @property
    def filename(self) -> str:
        """The last part of the path."""
        from urllib.parse import unquote, urlsplit

        return unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2])

    @property
    def identity(self) -> str:
        """What a lock says of it: equal addresses have equal identities, and none tells the host."""
        return f"web:{hashlib.sha256(self.url.encode()).hexdigest()[:16]}/{self.filename}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _InsideSource:
    """A file inside of something that has a name: repository or wheel."""

    path: str
    """Of the file in there."""

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource(_InsideSource):
    """A file of a repository on a model hub."""

    repository: str
    """`org/name`."""
    revision: str
    """Branch, tag or commit."""

    @property
    def identity(self) -> str:
        """As written; the lock has the commit beside it."""
        return f"hf:{self.repository}@{self.revision}:{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelSource(_InsideSource):
    """A member of a wheel on the configured Python index."""

    distribution: str
    """Normalised (PEP 503)."""
    specifier: str
    """PEP 440; empty for the newest."""

    @property
    def identity(self) -> str:
        """As written; the lock has the version beside it."""
        return f"pypi:{self.distribution}{self.specifier}/{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GitSource(_InsideSource):
    """A file of a git repository on a server."""

    url: str
    """Of the repository."""
    revision: str
    """Branch, tag or commit."""

    @property
    def shown(self) -> str:
        """For messages: as written."""
        return f"git+{self.url}@{self.revision}#{self.path}"

    @property
    def identity(self) -> str:
        """What a lock says of it, as `WebSource.identity`; the lock has the commit beside it."""
        return self.at(self.revision)

    def at(self, revision: str) -> str:
        """The identity of the file at another revision of the repository."""
        return f"git:{hashlib.sha256(self.url.encode()).hexdigest()[:16]}@{revision}#{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """A file of the project."""

    path: str

    @property
    def identity(self) -> str:
        """As written."""
        return f"file:{self.path}"


ModelSource = FileSource | WebSource | HubSource | WheelSource | GitSource


def read_source(text: str) -> ModelSource:
    """What the text of a source means; it was checked when model.toml was read."""
    if match := _GIT_PARTS.fullmatch(text):
        return GitSource(url=match[1], revision=match[2], path=match[3])
    if match := _HUB_PARTS.fullmatch(text):
        return HubSource(repository=match[1], revision=match[2], path=match[3])
    if match := _WHEEL_PARTS.fullmatch(text):
        return WheelSource(distribution=match[1], specifier=match[2], path=match[3])
    if text.startswith(("https://", "http://")):
        return WebSource(url=text)
    return FileSource(path=text.removeprefix("file:"))
