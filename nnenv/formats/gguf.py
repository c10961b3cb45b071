"""What a GGUF file says of itself; its weights are not read.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from nnenv.errors import NnenvError

_MOST: Final = 1 << 20
"""Tensors, keys, and elements of an array that is walked through."""
_LONGEST: Final = 1 << 24
_FIXED: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> bytes; 8 is a string, 9 an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFacts:
    """Static facts of one file."""

    version: int
    architecture: str
    name: str
    licence: str
    tensors: int
    weight_bytes: int
    """Bytes after the header."""


class _Refused(Exception):
    pass


def read_gguf(stream: BinaryIO, what: str) -> GgufFacts:
    """The facts of the file in `stream` (seekable); NnenvError `model-invalid` if it breaks a rule of the format."""
    try:
        return _Reader(stream).facts()
    except (_Refused, struct.error, UnicodeDecodeError) as error:
        raise NnenvError(
            "model-invalid",
            f"{what} is not a GGUF file that can be trusted",
            where=what,
            because=[str(error) or "it ends too early"],
            fix=["convert the model again with the tools of llama.cpp"],
        ) from None


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def facts(self) -> GgufFacts:
        if self._take(4) != b"GGUF":
            raise _Refused("it does not begin with GGUF")
        version, tensors, keys = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in {2, 3}:
            raise _Refused(f"it is of version {version}; 2 and 3 are known")
        if max(tensors, keys) > _MOST:
            raise _Refused(f"it is said to have {tensors} tensors and {keys} keys")
        said: dict[str, str | int] = {}
        for _ in range(keys):
            key = self._text()
            if key in said:
                raise _Refused(f"the key {key[:80]!r} stands twice")
            said[key] = self._value(self._number("<I"))
        names = set()
        offsets = []
        for _ in range(tensors):
            name = self._text()
            if name in names:
                raise _Refused(f"the tensor {name[:80]!r} stands twice")
            names.add(name)
            rank = self._number("<I")
            if rank > 8:
                raise _Refused(f"the tensor {name[:80]!r} has {rank} axes")
            self._take(8 * rank)
            self._number("<I")
            offsets.append(self._number("<Q"))
        stated = said.get("general.alignment", 32)
        alignment = stated if isinstance(stated, int) else 0
        if alignment <= 0 or alignment & (alignment - 1):
            raise _Refused(f"its alignment is {stated!r}, no power of two")
        begin = -(-self._stream.tell() // alignment) * alignment
        if any(offset % alignment or begin + offset >= self._size for offset in offsets):
            raise _Refused("a tensor lies outside of the file, or not where the alignment allows")
        if len(set(offsets)) != len(offsets):
            raise _Refused("two tensors lie at one place")
        return GgufFacts(
            version=version,
            architecture=str(said.get("general.architecture", "")),
            name=str(said.get("general.name", "")),
            licence=str(said.get("general.license", "")),
            tensors=tensors,
            weight_bytes=max(0, self._size - begin) if tensors else 0,
        )

    def _value(self, kind: int, depth: int = 0) -> str | int:
        """A text or number; "" for what nobody asks for."""
        if kind == 8:
            return self._text()
        if kind in _FIXED:
            data = self._take(_FIXED[kind])
            return int.from_bytes(data, "little") if kind not in {6, 12} else ""
        if kind != 9 or depth > 2:
            raise _Refused(f"a value of type {kind}")
        inner, count = self._number("<I"), self._number("<Q")
        if inner in _FIXED:
            self._skip(_FIXED[inner] * count)
        elif count > _MOST:
            raise _Refused(f"an array of {count} elements")
        else:
            for _ in range(count):
                self._value(inner, depth + 1)
        return ""

    def _text(self) -> str:
        length = self._number("<Q")
        if length > _LONGEST:
            raise _Refused(f"a text of {length} bytes")
        return self._take(length).decode()

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise _Refused("it ends too early")
        return data

    def _skip(self, count: int) -> None:
        if self._stream.tell() + count > self._size:
            raise _Refused("it ends too early")
        self._stream.seek(count, os.SEEK_CUR)
