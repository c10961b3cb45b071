"""ELF facts of wheels and .debs, read from the store once per digest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO, cast

from nnenv.adapters.store import Store
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.elf import ElfFacts

# The readers are imported where bytes are read: what the store remembers needs none of them.
if TYPE_CHECKING:
    from nnenv.formats.wheel import WheelContents
    from nnenv.formats.zip_gate import ZipMember
    from nnenv.image.os_root import UnpackedDeb
    from nnenv.image.tree import Entry

_VERSION = "1"
"""Raise when the facts gain a field."""
_IN_MEMORY = 32 << 20


def facts_key(sha256: Sha256) -> str:
    """Under which key of the kind `elf-facts` the store remembers an artifact's facts."""
    return f"{sha256}-{_VERSION}"


def wheel_facts(store: Store, wheel: Artifact) -> tuple[ElfFacts, ...]:
    """Facts of every ELF file in a wheel of the store; paths are the zip's. A `-none-any` wheel has none."""
    if wheel.filename.endswith("-none-any.whl"):
        return ()
    key = facts_key(wheel.sha256)
    cached = store.load("elf-facts", key)
    if cached is None:
        from nnenv.formats.wheel import read_wheel

        with store.open(wheel.sha256) as stream:
            contents = read_wheel(stream, wheel.filename)
            facts = [fact for member in _libraries(contents) if (fact := _member_facts(stream, member)) is not None]
        cached = _packed(facts)
        store.save("elf-facts", key, cached)
    return _unpacked(cached)


def deb_facts(store: Store, deb: UnpackedDeb, sha256: Sha256) -> tuple[ElfFacts, ...]:
    """Facts of every shared library and program in an unpacked .deb; paths are the image's."""
    key = facts_key(sha256)
    cached = store.load("elf-facts", key)
    if cached is None:
        from nnenv.image.os_root import os_entries

        with store.open(deb.data_sha256) as stream:
            facts = [fact for entry in os_entries([deb]) if (fact := _entry_facts(stream, entry)) is not None]
        cached = _packed(facts)
        store.save("elf-facts", key, cached)
    return _unpacked(cached)


def _libraries(contents: WheelContents) -> Iterable[ZipMember]:
    for member in contents.members:
        name = member.name.rsplit("/", 1)[-1]
        if ".so" in name or member.executable or "." not in name:
            yield member


def _member_facts(stream: BinaryIO, member: ZipMember) -> ElfFacts | None:
    from nnenv.formats.elf import read_elf
    from nnenv.formats.zip_gate import inflate

    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        for index, chunk in enumerate(inflate(stream, member)):
            if index == 0 and not chunk.startswith(b"\x7fELF"):
                return None
            spool.write(chunk)
        return read_elf(cast(BinaryIO, spool), member.name) if spool.tell() else None


def _entry_facts(stream: BinaryIO, entry: Entry) -> ElfFacts | None:
    from nnenv.formats.elf import read_elf
    from nnenv.image.tree import Slice

    if entry.kind != "file" or not isinstance(entry.content, Slice) or entry.content.length < 64:
        return None
    stream.seek(entry.content.offset)
    if stream.read(4) != b"\x7fELF":
        return None
    stream.seek(entry.content.offset)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        spool.write(stream.read(entry.content.length))
        return read_elf(cast(BinaryIO, spool), entry.path)


def _packed(facts: Iterable[ElfFacts]) -> bytes:
    return json.dumps([asdict(fact) for fact in facts], separators=(",", ":"), sort_keys=True).encode()


def _unpacked(data: bytes) -> tuple[ElfFacts, ...]:
    return tuple(
        ElfFacts(
            path=row["path"],
            machine=row["machine"],
            soname=row["soname"],
            needed=tuple(row["needed"]),
            runpath=tuple(row["runpath"]),
            version_needs=tuple((library, version) for library, version in row["version_needs"]),
            version_definitions=tuple(row["version_definitions"]),
        )
        for row in json.loads(data)
    )
