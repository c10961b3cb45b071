"""ELF facts of wheels and .debs: shipped with nnenv, or read from the store once per digest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from nnenv.adapters.files import refusing_writes
from nnenv.adapters.store import Store
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.elf import ElfFacts
from nnenv.spec.gpu import GpuCode

# The readers are imported where bytes are read: what the store remembers needs none of them.
if TYPE_CHECKING:
    from nnenv.formats.wheel import WheelContents
    from nnenv.formats.zip_gate import ZipMember
    from nnenv.image.os_root import UnpackedDeb
    from nnenv.image.tree import Entry

_VERSION = "2"
"""Raise when the facts gain a field."""
_IN_MEMORY: Final = 8 << 20
"""Bytes of a library that are held in memory while it is read; a larger one goes to the disk."""
_THREADS: Final = min(4, os.cpu_count() or 1)
"""Libraries that are inflated at once; zlib lets other threads run."""
_SHIPPED_HEAD: Final = f"nnenv facts {_VERSION}\n".encode()


def facts_key(sha256: Sha256) -> str:
    """Under which key of the kind `elf-facts` the store remembers an artifact's facts."""
    return f"{sha256}-{_VERSION}"


def wheel_facts(store: Store, wheel: Artifact) -> tuple[ElfFacts, ...]:
    """Facts of every ELF file in a wheel, as remembered or shipped, else from its bytes, which the store must have.

    Paths are the zip's. A `-none-any` wheel has none.
    """
    known = known_wheel_facts(store, wheel)
    if known is not None:
        return known
    facts = read_wheel_facts(store, wheel)
    store.save("elf-facts", facts_key(wheel.sha256), packed(facts))
    return facts


def known_wheel_facts(store: Store, wheel: Artifact) -> tuple[ElfFacts, ...] | None:
    """The same without the wheel's bytes; None if neither the store nor nnenv knows them."""
    if wheel.filename.endswith("-none-any.whl"):
        return ()
    remembered = store.load("elf-facts", facts_key(wheel.sha256))
    return shipped_facts(wheel.sha256) if remembered is None else unpacked(remembered)


def shipped_facts(sha256: Sha256) -> tuple[ElfFacts, ...] | None:
    """Facts of a wheel that nnenv ships in `nnenv/data/facts.gz`; None if it does not know this digest."""
    data = _shipped()
    start = data.find(b"\n" + sha256.encode() + b" ")
    if start < 0:
        return None
    row = data[start + 1 : data.index(b"\n", start + 1)]
    return unpacked(row.split(b" ", 2)[2])


def shipped_file(rows: Mapping[tuple[str, Sha256], bytes]) -> bytes:
    """The content of `nnenv/data/facts.gz`, the same bytes for the same rows: (file name, sha256) -> packed facts.

    A line a wheel, by file name: what is alike stands close together, and compresses.
    """
    import gzip

    lines = [b"%b %b %b\n" % (sha256.encode(), name.encode(), facts) for (name, sha256), facts in sorted(rows.items())]
    return gzip.compress(_SHIPPED_HEAD + b"".join(lines), mtime=0)


def shipped_rows(content: bytes) -> dict[tuple[str, Sha256], bytes]:
    """The rows of such a file; none of a file that an nnenv with other facts wrote."""
    import gzip

    data = gzip.decompress(content)
    if not data.startswith(_SHIPPED_HEAD):
        return {}
    lines = data.removeprefix(_SHIPPED_HEAD).splitlines()
    parts = [line.split(b" ", 2) for line in lines]
    return {(name.decode(), Sha256(sha256.decode())): facts for sha256, name, facts in parts}


@lru_cache(maxsize=1)
def _shipped() -> bytes:
    """The lines of all shipped facts; they are parsed one by one, when they are asked for."""
    import gzip

    from nnenv.data import content

    data = gzip.decompress(content("facts.gz"))
    return data if data.startswith(_SHIPPED_HEAD) else b""


def read_wheel_facts(store: Store, wheel: Artifact) -> tuple[ElfFacts, ...]:
    """Facts of every ELF file in a wheel of the store, from its bytes; several libraries are inflated at once.

    Costs little more than inflating them. Raises `wheel-refused`, `archive-refused` and `disk-full`.
    """
    from concurrent.futures import ThreadPoolExecutor

    from nnenv.formats.wheel import read_wheel

    with store.open(wheel.sha256) as stream:
        contents = read_wheel(stream, wheel.filename)
    libraries = list(_libraries(contents))
    with store.scratch() as scratch:
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="facts")
        try:
            # The largest first, so that no thread is left alone with it in the end.
            readings = {
                member.name: pool.submit(_member_facts, store, wheel, member, scratch)
                for member in sorted(libraries, key=lambda member: -member.size)
            }
            found = [readings[member.name].result() for member in libraries]
        finally:
            pool.shutdown(cancel_futures=True)
    return tuple(fact for fact in found if fact is not None)


def deb_facts(store: Store, deb: UnpackedDeb, sha256: Sha256) -> tuple[ElfFacts, ...]:
    """Facts of every shared library and program in an unpacked .deb; paths are the image's."""
    key = facts_key(sha256)
    cached = store.load("elf-facts", key)
    if cached is None:
        from nnenv.image.os_root import os_entries

        with store.open(deb.data_sha256) as stream:
            facts = [fact for entry in os_entries([deb]) if (fact := _entry_facts(stream, entry)) is not None]
        cached = packed(facts)
        store.save("elf-facts", key, cached)
    return unpacked(cached)


def _libraries(contents: WheelContents) -> Iterable[ZipMember]:
    for member in contents.members:
        name = member.name.rsplit("/", 1)[-1]
        if ".so" in name or member.executable or "." not in name:
            yield member


def _member_facts(store: Store, wheel: Artifact, member: ZipMember, scratch: Path) -> ElfFacts | None:
    from nnenv.formats.zip_gate import inflate

    with (
        store.open(wheel.sha256) as stream,
        tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(scratch)) as spool,
    ):
        for index, chunk in enumerate(inflate(stream, member, wheel.filename)):
            if index == 0 and not chunk.startswith(b"\x7fELF"):
                return None
            with refusing_writes(scratch):
                spool.write(chunk)
        return library_facts(cast(BinaryIO, spool), member.name) if spool.tell() else None


def library_facts(stream: BinaryIO, path: str) -> ElfFacts | None:
    """Facts of one library, its GPU code included; None if `stream` holds nothing that a dynamic linker loads.

    Raises `archive-refused`. Some milliseconds for hundreds of MB: only headers are read.
    """
    from nnenv.formats.elf import read_elf
    from nnenv.formats.fatbin import read_gpu_code

    found = read_elf(stream, path)
    return None if found is None else replace(found, gpu=read_gpu_code(stream, path))


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


def packed(facts: Sequence[ElfFacts]) -> bytes:
    """Facts as one line of JSON; `gpu` only where there is code."""
    rows = [asdict(fact) for fact in facts]
    for fact, row in zip(facts, rows, strict=True):
        if not fact.gpu:
            del row["gpu"]
    return json.dumps(rows, separators=(",", ":"), sort_keys=True).encode()


def unpacked(data: bytes) -> tuple[ElfFacts, ...]:
    """The facts that `packed` made a line of."""
    return tuple(
        ElfFacts(
            path=row["path"],
            machine=row["machine"],
            soname=row["soname"],
            needed=tuple(row["needed"]),
            runpath=tuple(row["runpath"]),
            version_needs=tuple((library, version) for library, version in row["version_needs"]),
            version_definitions=tuple(row["version_definitions"]),
            gpu=_gpu_code(row.get("gpu", {})),
        )
        for row in json.loads(data)
    )


def _gpu_code(row: Mapping[str, Any]) -> GpuCode:
    ptx = tuple((architecture, version) for architecture, version in row.get("ptx", ()))
    return GpuCode(sass=tuple(row.get("sass", ())), ptx=ptx)
