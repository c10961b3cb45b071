"""Bytecode in advance: the program that the locked interpreter runs, and the reading of its answer.

Unchecked-hash .pyc files (PEP 552) hold no time stamp. One fresh process per wheel, sources in sorted order and a
fixed hash seed make their bytes repeatable (reference/hermetic.md, section 1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final

from nnenv.errors import NnenvError

PROGRAM: Final = """
import sys, struct, importlib.util
from importlib._bootstrap_external import _code_to_hash_pyc
out = sys.stdout.buffer
with open(0, "rb") as source_file:
    while code := source_file.read(8):
        name, data = struct.unpack(">II", code)
        path = source_file.read(name).decode()
        source = source_file.read(data)
        try:
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
            data = bytes(_code_to_hash_pyc(code, importlib.util.source_hash(source), False))
        except (SyntaxError, ValueError, RecursionError):
            data = b""
        name = path.encode()
        out.write(struct.pack(">II", len(name), len(data)) + name + data)
out.flush()
"""
"""Runs in the image; a source that does not compile (a template, another language version) gets none.

Every name and text constant here is part of recipe 1: marshal marks a string that something else refers to, and the
program's own strings do. So no new ones may appear here but those that Python's start-up holds anyway.
"""

ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}

_HEAD: Final = struct.Struct(">II")


def request(sources: Iterable[tuple[str, Iterator[bytes], int]]) -> Iterator[bytes]:
    """Standard input of the program, in chunks: (absolute path in the image, content, its size), sorted by path as
    bytes. The program answers one source before it reads the next, so a file is never held with another."""
    for path, content, size in sources:
        name = path.encode()
        yield _HEAD.pack(len(name), size) + name
        yield from content


def argv(interpreter: str) -> tuple[str, ...]:
    """The command line of the program. No `-I`: that would make the interpreter ignore the fixed hash seed too."""
    return (interpreter, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", PROGRAM)


def read_answer(stream: BinaryIO, size: int, expected: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(source path, offset, length) of each compiled file in the program's output.

    NnenvError `internal` if the answer names a file that was not asked for, twice, or ends early: the compiled code
    runs in a sandbox and is not believed.
    """
    waiting = set(expected)
    position = 0
    while position < size:
        stream.seek(position)
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise _unexpected("it ends in the middle of a record")
        name_size, data_size = _HEAD.unpack(head)
        name = stream.read(name_size).decode("utf-8", "replace")
        position += _HEAD.size + name_size
        if name not in waiting or position + data_size > size:
            raise _unexpected(f"a record for {name[:200]!r} that was not asked for or runs past the end")
        waiting.discard(name)
        if data_size:
            yield name, position, data_size
        position += data_size
    if waiting:
        raise _unexpected(f"{len(waiting)} files have no record")


def _unexpected(because: str) -> NnenvError:
    return NnenvError("internal", "the bytecode compiler gave an answer that makes no sense", because=[because])
