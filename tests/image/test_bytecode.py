"""The bytecode program, run by the interpreter at hand, and the reading of answers that cannot be believed."""

from __future__ import annotations

import importlib.util
import io
import marshal
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nnenv.errors import NnenvError
from nnenv.image.bytecode import ENVIRONMENT, argv, read_answer, request


def compiled(paths: list[str], environment: dict[str, str] | None = None, folder: Path | None = None) -> bytes:
    """What the program answers when it is given these files, in the order in which nnenv gives them."""
    contents = [(path, Path(path).read_bytes()) for path in sorted(paths, key=str.encode)]
    done = subprocess.run(
        argv(sys.executable),
        input=b"".join(request((path, iter((content,)), len(content)) for path, content in contents)),
        env={**(environment or {}), **ENVIRONMENT},
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def parts(answer: bytes, expected: list[str]) -> dict[str, bytes]:
    """The compiled files by name."""
    found = read_answer(io.BytesIO(answer), len(answer), expected)
    return {name: answer[offset : offset + length] for name, offset, length in found}


def test_files_are_compiled_to_unchecked_hash_bytecode(tmp_path: Path) -> None:
    """PEP 552: magic number, flag 1 (hash, unchecked), source hash, and code that runs and names its source."""
    source = tmp_path / "ä b.py"
    source.write_bytes(b"answer = 6 * 7\n")
    data = parts(compiled([str(source)]), [str(source)])[str(source)]
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert struct.unpack("<I", data[4:8]) == (1,)
    assert data[8:16] == importlib.util.source_hash(b"answer = 6 * 7\n")
    code = marshal.loads(data[16:])
    assert code.co_filename == str(source)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["answer"] == 42


def test_the_bytes_do_not_depend_on_the_surroundings(tmp_path: Path) -> None:
    """Order of the request, hash seed, time zone, language, working directory: the same answer.

    Sets of strings in the source are what a hash seed would show in.
    """
    paths = []
    for number in range(5):
        path = tmp_path / f"m{number}.py"
        names = ", ".join(repr(f"name{n}") for n in range(40))
        path.write_text(f"def f(x):\n    return x in {{{names}}}\n")
        paths.append(str(path))
    first = compiled(paths)
    surroundings = {"PYTHONHASHSEED": "random", "TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "PYTHONOPTIMIZE": ""}
    for _ in range(3):
        assert compiled(paths[::-1], surroundings, folder=tmp_path) == first


def test_a_large_request_is_answered_while_it_is_read(tmp_path: Path) -> None:
    """The program keeps one source at a time: more sources than a pipe holds, and more answers, need no more memory
    than the largest file."""
    path = tmp_path / "m.py"
    path.write_text("".join(f"def f{number}(x):\n    return x + {number}\n" for number in range(2000)))
    answer = compiled([str(path)] * 40)
    size = len(answer) // 40
    assert answer == answer[:size] * 40


def test_what_does_not_compile_gets_none(tmp_path: Path) -> None:
    """Templates, other language versions and broken encodings are no errors: they have no bytecode."""
    texts = {"bad.py": b"def (:\n", "nul.py": b"x = 1\0\n", "latin.py": b"x = '\xff'\n", "good.py": b"x = 1\n"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    paths = [str(tmp_path / name) for name in texts]
    assert list(parts(compiled(paths), paths)) == [str(tmp_path / "good.py")]


def record(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """One record of an answer."""
    return struct.pack(">II", len(name), len(data) if size is None else size) + name + data


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        record(b"/a.py", b"x"),
        record(b"/a.py", b"x") + record(b"/a.py", b"y"),
        record(b"/a.py", b"x") + record(b"/etc/passwd", b"y"),
        record(b"/a.py", b"x") + record(b"/b.py", b"y", size=1 << 30),
        record(b"/a.py", b"x") + record(b"/b.py", b"yy", size=1),
        record(b"/a.py", b"x") + b"\0\0\0",
        record(b"/a.py", b"x") + struct.pack(">II", 0xFFFFFFFF, 0),
        os.urandom(64),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(answer: bytes) -> None:
    """Missing, doubled, foreign, overlong and cut records: what ran in the sandbox is not believed."""
    with pytest.raises(NnenvError) as caught:
        list(read_answer(io.BytesIO(answer), len(answer), ["/a.py", "/b.py"]))
    assert caught.value.code == "internal"
    assert caught.value.because


def test_an_honest_answer() -> None:
    """Offsets and lengths of what was compiled; an empty record is a file without bytecode."""
    answer = record(b"/a.py", b"code") + record(b"/b.py", b"")
    assert list(read_answer(io.BytesIO(answer), len(answer), ["/b.py", "/a.py"])) == [("/a.py", 13, 4)]
