"""Where a model file comes from, as model.toml writes it: in the project, at an address, or inside of something named.

The text in model.toml may name a host; what a lock keeps of it never does (ADR 10).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

MODEL_ORIGINS: Final = ("web:", "hf:", "pypi:", "git:", "oci:", "torchhub:", "kaggle:", "onnxzoo:")
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
_REGISTRY: Final = (
    r"(?:localhost|\[[0-9A-Fa-f:]+\]|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]{1,5})?"
)
"""What a reference begins with to be a host: a dot, a port, or `localhost` (distribution/reference)."""
_REPOSITORY: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*"
"""OCI distribution-spec 1.1, "Pulling manifests"; so is the tag."""
_REFERENCE: Final = r"(?:@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
OCI: Final = rf"oci:{_REGISTRY}/{_REPOSITORY}{_REFERENCE}(?:#{_PATH})?"
"""`oci:registry/repository:tag#path` or `oci:registry/repository@sha256:digest#path`; the path may be left out."""
TORCHHUB: Final = rf"torchhub:{_PART}/{_PART}@[A-Za-z0-9][A-Za-z0-9._/-]*:[A-Za-z_][A-Za-z0-9_]*"
"""`torchhub:owner/repository@revision:entrypoint`."""
KAGGLE: Final = rf"(?:kaggle|tfhub):{_PART}/{_PART}/{_PART}/{_PART}/[1-9][0-9]{{0,8}}(?::{_PATH})?"
"""`kaggle:owner/model/framework/variation/version:path`; the path may be left out, and `tfhub:` means the same."""
ZOO: Final = rf"onnxzoo:(?:{WEB}|file:{_PATH})"
"""`onnxzoo:` and the address, or the `file:` of the project, of an archive in the layout of the ONNX model zoo."""
_OCI_PARTS: Final = re.compile(r"oci:([^/]+)/([^@:#]+)(?:@|:)((?:sha256:)?[^:#]+)(?:#(.+))?")
_TORCHHUB_PARTS: Final = re.compile(r"torchhub:([^@]+)@([^:]+):(.+)")
_KAGGLE_PARTS: Final = re.compile(r"(?:kaggle|tfhub):([^:]+)/([0-9]+)(?::(.+))?")
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
        return f"web:{_digits(self.url)}/{self.filename}"


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
        return f"git:{_digits(self.url)}@{revision}#{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OciSource(_InsideSource):
    """A file of an artifact or image in a registry."""

    registry: str
    """Host, and port if it has one."""
    repository: str
    reference: str
    """Tag, or `sha256:` and the digest of a manifest."""

    @property
    def shown(self) -> str:
        """For messages: as written."""
        mark = "@" if self.reference.startswith("sha256:") else ":"
        return f"oci:{self.registry}/{self.repository}{mark}{self.reference}{self._behind}"

    @property
    def identity(self) -> str:
        """What a lock says of it, as `WebSource.identity`; the lock has the manifest's digest beside it."""
        return self.at(self.reference)

    def at(self, reference: str) -> str:
        """The identity of the file at another tag or digest of the repository."""
        place = f"{self.registry}/{self.repository}"
        return f"oci:{_digits(place)}@{reference}{self._behind}"

    @property
    def _behind(self) -> str:
        return f"#{self.path}" if self.path else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchHubSource:
    """The weights that an entry point in a repository's hubconf.py loads."""

    repository: str
    """`owner/name` on the code host."""
    revision: str
    """Branch, tag or commit."""
    entrypoint: str

    @property
    def identity(self) -> str:
        """As written; the lock has the commit beside it."""
        return self.at(self.revision)

    def at(self, revision: str) -> str:
        """The identity at another revision."""
        return f"torchhub:{self.repository}@{revision}:{self.entrypoint}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KaggleSource(_InsideSource):
    """A file of one version of a model on Kaggle; an empty path stands for its one model file."""

    model: str
    """`owner/model/framework/variation`."""
    version: str
    """A number."""

    @property
    def identity(self) -> str:
        """As written, with `kaggle:` before it; the lock has the archive's digest beside it."""
        return f"kaggle:{self.model}/{self.version}{self._behind}"

    def packed(self, archive: str) -> str:
        """The origin of the file in the archive of this sha256."""
        return f"kaggle:{self.model}/{self.version}@{archive}{self._behind}"

    @property
    def _behind(self) -> str:
        return f":{self.path}" if self.path else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooSource:
    """The one model in an archive that is laid out as those of the ONNX model zoo."""

    archive: WebSource | FileSource

    @property
    def filename(self) -> str:
        """Of the archive."""
        return self.archive.filename

    @property
    def identity(self) -> str:
        """That of the archive."""
        return f"onnxzoo:{self.archive.identity}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """A file of the project."""

    path: str

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def identity(self) -> str:
        """As written."""
        return f"file:{self.path}"


ModelSource = (
    FileSource | WebSource | HubSource | WheelSource | GitSource | OciSource | TorchHubSource | KaggleSource | ZooSource
)


def read_source(text: str) -> ModelSource:
    """What the text of a source means; it was checked when model.toml was read."""
    if match := _GIT_PARTS.fullmatch(text):
        return GitSource(url=match[1], revision=match[2], path=match[3])
    if match := _HUB_PARTS.fullmatch(text):
        return HubSource(repository=match[1], revision=match[2], path=match[3])
    if match := _WHEEL_PARTS.fullmatch(text):
        return WheelSource(distribution=match[1], specifier=match[2], path=match[3])
    if match := _OCI_PARTS.fullmatch(text):
        return OciSource(registry=match[1], repository=match[2], reference=match[3], path=match[4] or "")
    if match := _TORCHHUB_PARTS.fullmatch(text):
        return TorchHubSource(repository=match[1], revision=match[2], entrypoint=match[3])
    if match := _KAGGLE_PARTS.fullmatch(text):
        return KaggleSource(model=match[1], version=match[2], path=match[3] or "")
    if text.startswith("onnxzoo:"):
        archive = read_source(text.removeprefix("onnxzoo:"))
        assert isinstance(archive, WebSource | FileSource)
        return ZooSource(archive=archive)
    if text.startswith(("https://", "http://")):
        return WebSource(url=text)
    return FileSource(path=text.removeprefix("file:"))


def _digits(address: str) -> str:
    """What stands for an address in a lock: 16 hexadecimal digits of its sha256."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]
