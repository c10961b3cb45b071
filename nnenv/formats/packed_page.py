"""Index pages packed for quick questions: arranged by version, and decoded only where somebody looks.

A page lists every file of every release, a thousand of them for one that is wanted. Packed, it is lines of JSON:

    {"address": …, "versions": [newest, …]}
    [entries of the newest version]
    …
    [entries of wheels whose version PEP 440 does not allow]
    [names of all other files]

The entries are those of the page (PEP 691). The other files are sdists, and wheels for systems that no target has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nnenv.formats.simple_index import WRONG_JSON, IndexFile, json_file, listed_files, may_name, no_page, read_page

if TYPE_CHECKING:
    from packaging.version import Version

FORMAT: Final = 2
"""Number of the form of packed pages, for whoever keeps them."""
_DECODER: Final = json.JSONDecoder()


class PackedPage:
    """The files of one page, by version. Raises NnenvError `index-unreachable` on looking at a damaged entry."""

    def __init__(self, data: bytes) -> None:
        """`data` is what `pack` or `pack_files` made, in the same FORMAT."""
        self._lines = data.split(b"\n")
        header = json.loads(self._lines[0])
        self.address: str = header["address"]
        """Where the page came from, without credentials."""
        self.versions: tuple[str, ...] = tuple(header["versions"])
        """All versions with a wheel that some target might use, in normal spelling, newest first."""
        self._numbers: Mapping[str, int] = {version: number for number, version in enumerate(self.versions, 1)}
        self._decoded: dict[int, tuple[IndexFile, ...]] = {}

    def files(self, version: str) -> tuple[IndexFile, ...]:
        """The wheels of one of `versions`."""
        number = self._numbers[version]
        if number not in self._decoded:
            self._decoded[number] = self._entries(number, _version(version))
        return self._decoded[number]

    def file(self, filename: str) -> IndexFile | None:
        """The entry of one wheel that a target might use."""
        version = _stated_version(filename)
        if version is None:
            found = self.misnamed
        else:
            normal = str(version)
            spelled = normal if normal in self._numbers else self._spelling(version)
            found = self.files(spelled) if spelled else ()
        return next((file for file in found if file.filename == filename), None)

    def _spelling(self, version: Version) -> str:
        """How `versions` spells a version of which the page has two spellings (1.0 and 1.0.0); empty without it."""
        return next((text for text in self.versions if _version(text) == version), "")

    @cached_property
    def misnamed(self) -> tuple[IndexFile, ...]:
        """Wheels whose file names state a version that PEP 440 does not allow."""
        return self._entries(len(self.versions) + 1, None)

    @cached_property
    def other_names(self) -> tuple[str, ...]:
        """Names of source distributions, and of wheels that no target can use."""
        return tuple(dict.fromkeys(json.loads(self._lines[-1])))

    def _entries(self, line: int, version: Version | None) -> tuple[IndexFile, ...]:
        files: dict[str, IndexFile] = {}
        try:
            for item in json.loads(self._lines[line]):
                file = json_file(item, self.address)
                if _stated_version(file.filename) != version:
                    raise ValueError(f"an entry names two files, {file.filename!r} is one")
                if may_name(self.address, file.url):
                    files.setdefault(file.filename, file)
        except WRONG_JSON as error:
            raise no_page(self.address, error) from None
        return tuple(files.values())


def pack(body: bytes, content_type: str, address: str) -> bytes:
    """The page of `address`, packed; NnenvError `index-unreachable` if it is not what its type says.

    Of JSON pages whose entries are all alike, those that nobody may want are recognised by name and never decoded.
    """
    if "json" in content_type:
        cut = _cut(body)
        if cut is not None:
            return _packed(address, cut)
    return pack_files(read_page(body, content_type, address), address)


def pack_files(files: Iterable[IndexFile], address: str, others: Iterable[str] = ()) -> bytes:
    """Files as a packed page; of `others` only the names are kept."""
    names = []
    entries = []
    for file in files:
        names.append(file.filename)
        entries.append(json.dumps(_entry(file)))
    return _packed(address, _Cut(names=[*names, *others], pieces=entries, opening="", closing=""))


def _entry(file: IndexFile) -> dict[str, Any]:
    """The entry of a JSON page that says the same."""
    return {
        "filename": file.filename,
        "url": file.url,
        "hashes": {"sha256": file.sha256},
        "size": file.size,
        "requires-python": file.requires_python,
        "yanked": file.yanked,
        "upload-time": file.upload_time,
        "core-metadata": {"sha256": file.metadata_sha256} if file.metadata_sha256 else file.metadata,
    }


# Cutting a JSON page at its entries

_FILES: Final = re.compile(r'"files"\s*:\s*\[\s*(?=\{)')
_FILENAME: Final = re.compile(r'"filename"\s*:\s*"([^"\\]*)"')


class _Cut(NamedTuple):
    """Entries of a page as texts."""

    names: Sequence[str]
    """File names: those of the pieces, then others of which nothing else is kept."""
    pieces: Sequence[str]
    """The entries without what each of them begins and ends with."""
    opening: str
    closing: str

    def array(self, numbers: Iterable[int]) -> str:
        """Some of the entries, as one line of JSON."""
        entries = f"{self.closing},{self.opening}".join(self.pieces[number] for number in numbers)
        return f"[{self.opening}{entries}{self.closing}]"


def _cut(body: bytes) -> _Cut | None:
    """The entries of a page, undecoded; None if it is too unusual to be sure where they begin and end.

    They are cut where one ends and another begins with the same key: `}, {"key"`. In JSON these characters cannot
    stand inside of a string, since there quotes are escaped. Each piece must then hold `"filename"` once.
    """
    try:
        text = body.decode().replace("\n", " ")  # a packed entry is one line; JSON's strings hold no line feeds
        start = _FILES.search(text)
        if start is None or '"file:' in text:  # a web page that names local files: let each be looked at
            return None
        first, end = _DECODER.raw_decode(text, start.end())
        key = json.dumps(next(iter(first), ""))
        opening = text[start.end() : text.index(key, start.end())] + key
        between = text[end - 1 : text.index("{", end)] + opening
        last = text.rindex(between) + len(between) - len(opening)
        end = _DECODER.raw_decode(text, last)[1]
        # What is left without the entries must be a page without files.
        if listed_files(json.loads(text[: start.end()] + text[end:])) != []:
            return None
    except WRONG_JSON:
        return None
    pieces = text[start.end() + len(opening) : end - 1].split(between)
    names = _filenames(text[start.end() : end])
    if len(names) != len(pieces):
        return None
    return _Cut(names=names, pieces=pieces, opening=opening, closing="}")


def _filenames(entries: str) -> list[str]:
    """The values of all keys `"filename"`, wherever they are; [] if one is no string, or an escaped one."""
    names = _FILENAME.findall(entries)
    return names if len(names) == entries.count('"filename"') else []


# Arranging


def _packed(address: str, cut: _Cut) -> bytes:
    stated: dict[str, list[int]] = {}
    others = list(cut.names[len(cut.pieces) :])
    for number, name in enumerate(cut.names[: len(cut.pieces)]):
        parts = name.split("-", 2)
        if len(parts) == 3 and _might_match(parts[2]):
            stated.setdefault(parts[1], []).append(number)
        else:
            others.append(name)
    versions: dict[Version, list[int]] = {}
    misnamed: list[int] = []
    for text, numbers in stated.items():
        version = _version(text)
        # Two spellings of one version (1.0 and 1.0.0) are one.
        (misnamed if version is None else versions.setdefault(version, [])).extend(numbers)
    newest_first = sorted(versions, reverse=True)
    header = {"address": address, "versions": [str(version) for version in newest_first]}
    lines = [json.dumps(header), *(cut.array(versions[version]) for version in newest_first)]
    lines += [cut.array(misnamed) if misnamed else "[]", json.dumps(others)]
    return "\n".join(lines).encode()


@cache
def _version(text: str) -> Version | None:
    """None if PEP 440 does not allow it."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return None


def _stated_version(filename: str) -> Version | None:
    """The version in a wheel's name; None without, or if PEP 440 does not allow it."""
    parts = filename.split("-", 2)
    return _version(parts[1]) if len(parts) == 3 else None


def might_run(filename: str) -> bool:
    """False for what is surely no wheel for CPython 3 on Linux with glibc, on a CPU that nnenv has targets for."""
    parts = filename.split("-", 2)
    return len(parts) == 3 and _might_match(parts[2])


_SYSTEMS: Final = re.compile(r"any|(?:many)?linux.*_(?:x86_64|aarch64)")
_PYTHONS: Final = re.compile(r"(?:cp|py)3[0-9]*")


@cache
def _might_match(tags: str) -> bool:
    """The same of what stands behind name and version: perhaps a build tag, then compressed sets of tags (PEP 425)."""
    parts = tags.removesuffix(".whl").lower().split("-")
    if not tags.endswith(".whl") or len(parts) not in (3, 4):
        return False
    pythons, platforms = parts[-3].split("."), parts[-1].split(".")
    return any(map(_PYTHONS.fullmatch, pythons)) and any(map(_SYSTEMS.fullmatch, platforms))
