"""The operating system of a target: its packages, unpacked once, and what the layers take from them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.deb import decompress_data, read_deb
from nnenv.formats.ld_cache import CacheEntry, write_ld_cache
from nnenv.formats.tar_reader import read_tar
from nnenv.image.layers import entries_tar
from nnenv.image.os_root import MERGED, UnpackedDeb, os_entries, unpacked_deb, unpacked_from_json, unpacked_to_json
from nnenv.image.os_state import User, script_effects, state_entries
from nnenv.image.tree import Content, Entry, Slice, compose, linked_file
from nnenv.spec.artifact import Artifact
from nnenv.spec.digest import Sha256
from nnenv.verify.closure import TRIPLETS, ImageElf
from nnenv.workflows.facts import deb_facts

_UNPACKED_LIMIT: Final = 16 << 30
_NEEDED: Final = ("usr/bin/", "usr/lib/", "usr/lib64/")
"""Where an interpreter has all that it needs to compile."""
_PACKAGES: Final = ("collections", "encodings", "importlib", "lib-dynload", "re")
_UNUSED: Final = re.compile(rf"/gconv/|/perl|/python3\.[0-9]+/(?!(?:{'|'.join(_PACKAGES)})/)[^/]+/")
"""What it does not need all the same: character sets other than UTF-8, other languages, most packages."""


class OsPackages:
    """Some .debs of the store as the system that they make together."""

    def __init__(self, store: Store, debs: Sequence[Artifact]) -> None:
        self.debs = tuple(debs)
        self._store = store
        self._unpacked: dict[Sha256, UnpackedDeb] = {}
        self._entries: tuple[Entry, ...] | None = None

    def unpacked(self, artifact: Artifact) -> UnpackedDeb:
        """A .deb of the store through the strict gate, its data.tar decompressed into the store; remembered."""
        if artifact.sha256 not in self._unpacked:
            store = self._store
            cached = store.load("deb", artifact.sha256)
            deb = unpacked_from_json(cached) if cached else None
            if deb is None or not store.contains(deb.data_sha256):
                deb = _unpack(store, artifact)
                store.save("deb", artifact.sha256, unpacked_to_json(deb))
            self._unpacked[artifact.sha256] = deb
        return self._unpacked[artifact.sha256]

    def entries(self) -> tuple[Entry, ...]:
        """The composed tree of the packages."""
        if self._entries is None:
            self._entries = compose(os_entries([self.unpacked(deb) for deb in self.debs]))
        return self._entries

    def state(self, os: str, user: User) -> tuple[Entry, ...]:
        """What an installed system (`debian:12`) has beyond its packages' files, composed."""
        debs = [self.unpacked(deb) for deb in self.debs]
        effects = script_effects(debs)
        return compose(state_entries(debs, self.entries(), effects, os=os, user=user, read=self._read))

    def elves(self) -> list[ImageElf]:
        """Every ELF file of the packages, at its place."""
        return [
            ImageElf(path=fact.path, owner=f"{deb.name} {deb.version}", facts=fact)
            for deb in self.debs
            for fact in deb_facts(self._store, self.unpacked(deb), deb.sha256)
        ]

    def ld_cache(self, machine: str, more: Mapping[str, str]) -> bytes:
        """The cache that ldconfig would write for the libraries, and before them for `more` (path -> soname), as it
        does for directories of ld.so.conf; other libraries of wheels are found by RUNPATH."""
        directories = [f"usr/lib/{TRIPLETS[machine]}", "usr/lib"]
        paths = {entry.path for entry in self.entries()}
        elves = sorted(self.elves(), key=lambda elf: elf.path)
        entries = [CacheEntry(soname=soname, path=f"/{path}", machine=machine) for path, soname in more.items()]
        for directory in directories:
            for elf in elves:
                name = elf.facts.soname
                if posixpath.dirname(elf.path) == directory and name and f"{directory}/{name}" in paths:
                    entries.append(CacheEntry(soname=name, path=f"/{directory}/{name}", machine=machine))
        return write_ld_cache(entries)

    def modules(self, python: str) -> tuple[Entry, ...]:
        """The files of the library of `python` (full version); some are links to a file elsewhere (sitecustomize)."""
        version = ".".join(python.split(".")[:2])
        entries = {entry.path: entry for entry in self.entries()}
        paths = (path for path in entries if path.startswith(f"usr/lib/python{version}/"))
        return tuple(replace(found, path=path) for path in paths if (found := linked_file(path, entries)))

    def make_interpreter(self, root: Path) -> None:
        """Make the directory `root` with what the interpreter needs to start and to compile (programs, libraries and
        modules, under their old names and the merged ones), and with what the sandbox would make in it."""
        from nnenv.adapters.layer_trees import extract_tar

        needed = [e for e in self.entries() if e.path.startswith(_NEEDED) and not _UNUSED.search(e.path)]
        links = {entry.path.split("/")[1] for entry in needed} & MERGED
        needed += [Entry(path=name, kind="symlink", mode=0o777, target=f"usr/{name}") for name in links]
        needed += [Entry(path=name, kind="dir", mode=0o755) for name in ("dev", "tmp")]
        needed.append(Entry(path="proc/cpuinfo", kind="file", mode=0o644, content=b""))
        extract_tar(entries_tar(compose(needed), self._store), root)

    def _read(self, content: Content) -> bytes:
        if isinstance(content, bytes):
            return content
        assert isinstance(content, Slice)
        with self._store.open(content.sha256) as stream:
            stream.seek(content.offset)
            return stream.read(content.length)


def _unpack(store: Store, artifact: Artifact) -> UnpackedDeb:
    with store.open(artifact.sha256) as stream:
        parts = read_deb(stream, artifact.filename)
        with store.writer() as writer:
            for chunk in decompress_data(stream, parts, limit=_UNPACKED_LIMIT):
                writer.write(chunk)
            data, _ = writer.commit()
    with store.open(data) as stream:
        entries = read_tar(stream, artifact.filename)
    deb = unpacked_deb(parts.control, parts.scripts, data, entries)
    if (deb.name, deb.version) != (artifact.name, artifact.version):
        raise NnenvError(
            "metadata-mismatch",
            f"{artifact.filename} holds {deb.name} {deb.version}, locked is {artifact.name} {artifact.version}",
            where=artifact.filename,
            fix=["run `nnenv lock -P " + artifact.name + "`"],
        )
    return deb
