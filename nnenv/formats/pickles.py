"""Which names a pickle would import, read from its opcodes; nothing is ever unpickled.

A pickle is a program: loading it calls what it names (https://docs.python.org/3/library/pickle.html).
"""

from __future__ import annotations

import io
import pickletools
import struct
from typing import BinaryIO, Final

LIMIT: Final = 64 << 20
"""Bytes of a pickle that are looked at."""
_MOST_OPCODES: Final = 5_000_000


def pickle_globals(data: bytes) -> tuple[str, ...] | None:
    """`module.name` of everything that the pickle would import, sorted, each once; None if it is no pickle."""
    found: set[str] = set()
    texts: list[str] = []
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            count += 1
            if count > _MOST_OPCODES:
                return None
            if opcode.name in {"GLOBAL", "INST"}:
                found.add(".".join(str(argument).split(" ", 1)))
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(texts[-2:]) if len(texts) >= 2 else "?")
            elif isinstance(argument, str):
                texts = [*texts[-7:], argument]
    except (ValueError, IndexError, UnicodeDecodeError, EOFError, OverflowError, MemoryError, struct.error):
        return None
    return tuple(sorted(found)) if count else None


def is_raw_pickle(stream: BinaryIO) -> bool:
    """Whether a file begins as pickles of protocol 2 and later do; the stream is at its begin then."""
    stream.seek(0)
    head = stream.read(2)
    stream.seek(0)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5
