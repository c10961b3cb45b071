"""One file out of an archive that somebody packed: streamed, never unpacked, and refused where it is not one file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from nnenv.errors import NnenvError
from nnenv.formats.oci_artifact import Packing
from nnenv.formats.tar_reader import TarEntry, tar_contents

_GZIP: Final = b"\x1f\x8b"
_MODEL: Final = ".onnx"
_WHITEOUT: Final = ".wh."
"""OCI image-spec 1.1, layer.md, "Whiteouts"."""


class NoMember(ValueError):
    """The archive does not hold the file that is wanted; says why."""

    def __init__(self, because: str, *, hidden: bool = False) -> None:
        super().__init__(because)
        self.hidden = hidden
        """A layer that removes the file, so that no layer below can have it."""


def packing_of(begin: bytes) -> Packing:
    """How an archive that begins with these two bytes is packed: a tar, compressed or not."""
    return "tar+gzip" if begin.startswith(_GZIP) else "tar"


def only_member(stream: BinaryIO, packing: Packing, what: str) -> str:
    """The path of the one model in the archive: its only file that ends in `.onnx`, else its only file.

    Raises NoMember if there are none or several, `archive-refused`.
    """
    files = [entry.path for entry, _ in _entries(stream, packing, what) if entry.kind == "file"]
    found = [path for path in files if path.endswith(_MODEL)] or files
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found[:10])
    raise NoMember(f"it has not one model but {len(found)}: {listed}" if found else "it holds no file")


def member_chunks(stream: BinaryIO, packing: Packing, what: str, path: str) -> Iterator[bytes]:
    """The content of the file `path`, in chunks; only when they have ended without an error it is the file.

    Raises NoMember if it is not there, is there twice, is no file or is removed by a whiteout, and `archive-refused`.
    """
    parts = path.split("/")
    above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    removing = _whiteouts(parts)
    found = hidden = False
    for entry, content in _entries(stream, packing, what):
        hidden = hidden or entry.path in removing or (entry.path in above and entry.kind != "dir")
        if entry.path == path:
            if found or entry.kind != "file":
                raise NoMember(f"{path} is in it {_kind(entry) if entry.kind != 'file' else 'twice'}", hidden=True)
            found = True
            yield from content
    if not found:
        raise NoMember(f"it removes {path}" if hidden else f"it has no {path}", hidden=hidden)


class _Gunzipped:
    """What a gzip stream holds, read forwards; `archive-refused` where it is broken."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        self._plain = gzip.GzipFile(fileobj=stream)
        self._what = what

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        try:
            return self._plain.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise NnenvError(
                "archive-refused",
                f"{self._what} is damaged",
                where=self._what,
                because=[f"its gzip stream is broken ({error})"],
                fix=["fetch it again; if it stays, ask who packed it"],
            ) from None


def _kind(entry: TarEntry) -> str:
    return "as a folder" if entry.kind == "dir" else f"as a link to {entry.target[:200]}"


def _whiteouts(parts: list[str]) -> set[str]:
    """The entries that remove a path from the layers below."""
    found = set()
    for depth in range(len(parts)):
        folder = "".join(f"{part}/" for part in parts[:depth])
        found |= {f"{folder}{_WHITEOUT}{parts[depth]}", f"{folder}{_WHITEOUT}{_WHITEOUT}.opq"}
    return found


def _entries(stream: BinaryIO, packing: Packing, what: str) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    match packing:
        case "tar":
            yield from tar_contents(stream, what)
        case "tar+gzip":
            yield from tar_contents(cast(BinaryIO, _Gunzipped(stream, what)), what)
        case _:
            raise NoMember(f"it is packed as {packing}, which is not read here")
