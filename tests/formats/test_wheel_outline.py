"""What wheels state in small members, and which libraries they name, from bytes made here."""

from __future__ import annotations

import pytest

from nnenv.formats.wheel_outline import TEXT_LIMIT, Statement, libraries_named, pack_outline, stated, unpack_outline
from nnenv.spec.gpu import WheelFile, WheelOutline


def statement(reads: str = "assignments", cuda: str = "cuda", cudnn: str = "") -> Statement:
    """One that reads these names."""
    return Statement(member="m", reads=reads, cuda=cuda, cudnn=cudnn)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"cuda = '12.4'\n", "12.4"),
        (b"from typing import Optional\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        (b"cuda = None\n", ""),
        (b"cuda = f()\n", ""),
        (b"cuda = '12.4'\ncuda = open('/etc/passwd').read()\n", ""),
        (b"if True:\n    cuda = '12.4'\n", ""),
        (b"cuda = '12.x'\n", "12"),
        (b"cuda = '12.x.1'\n", ""),
        (b"cuda = 'x'\n", ""),
        (b"cuda: str|None='13.2'  # of the toolkit\r\n", "13.2"),
        (b"cuda == '12.4'\n", ""),
        (b"cuda += '12.4'\n", ""),
        (b"cuda.version = '12.4'\n", ""),
        (b"cuda = '12.4'; import os\n", ""),
        (b"cuda = '12.\\x34'\n", ""),
        (b"cuda = f'12.4'\n", ""),
        (b"cuda = '12.' + '4'\n", ""),
        (b"type X = int\nmatch x:\n case t't': pass\ncuda = '12.4'\n", "12.4"),
        (b"cuda = " + b"-" * 4000 + b"1\n", ""),
        (b"cuda = '12.4'" + b" " * 5000 + b"\n", ""),
        (b"cuda = 12.4\n", ""),
        (b"cuda = (\n", ""),
        (b"cuda = " + b"(" * 5000, ""),
        (b"\0", ""),
        (b"", ""),
    ],
)
def test_assignments(text: bytes, found: str) -> None:
    """A literal at the top of a module, of a version's form; whatever else is unknown, and nothing is run."""
    assert stated(statement(), text) == (found, "")


def test_dictionaries() -> None:
    """TensorFlow's form: a dictionary made of pairs by a call."""
    text = b"import collections\nb = collections.OrderedDict([('cuda_version', '12.5.1'), ('cudnn_version', '9')])\n"
    assert stated(statement(cuda="b.cuda_version", cudnn="b.cudnn_version"), text) == ("12.5.1", "9")
    assert stated(statement(cuda="b.cuda_version.x", cudnn="c.d"), text) == ("", "")
    assert stated(statement(cuda="b.cuda"), b"b = {'cuda': '12.5'}\n") == ("12.5", "")
    assert stated(statement(cuda="b.cuda"), b"b = os.system([('cuda', '12.5')])\n") == ("", "")


def test_a_member_that_is_too_large() -> None:
    """No more is read than any honest wheel has."""
    line = b"cuda = '12.4'\n"
    assert stated(statement(), b"#" * (TEXT_LIMIT - len(line) - 1) + b"\n" + line) == ("12.4", "")
    assert stated(statement(), b"#" * (TEXT_LIMIT - len(line)) + b"\n" + line) == ("", "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"cuda": "12.1"}', "12.1"),
        (b'{"cuda": "12.x"}', "12"),
        (b'{"cuda": 12}', ""),
        (b"[]", ""),
        (b"{", ""),
        (b"[" * 99999, ""),
        (b'{"cuda":' * 9999, ""),
        (b"\xff\xff", ""),
    ],
)
def test_json(text: bytes, found: str) -> None:
    """An object with the key, or nothing."""
    assert stated(statement("json"), text) == (found, "")


TABLE = b"\0memcpy\0libcublas.so.12\0libc.so.6\0GLIBC_2.17\0libcudart.so.12\0libcudart.so.12\0libfoo.so\0xlib.so.1\0"


def test_libraries_are_named_in_the_string_table() -> None:
    """Sonames with a version, each once, and only those of the one table that names the C library."""
    head = b"\x7fELF" + b"\x80\0libold.so.1\0\xff" + TABLE + b"\x01\x02\0libnot.so.9\0"
    assert libraries_named(head) == ("libc.so.6", "libcublas.so.12", "libcudart.so.12")


@pytest.mark.parametrize("head", [b"", TABLE, b"\x7fELF", b"\x7fELF\0libcublas.so.12\0"])
def test_a_head_that_is_too_short(head: bytes) -> None:
    """No ELF file, or one whose table lies further behind: more must be read."""
    assert libraries_named(head) is None


def test_a_table_that_names_too_many_libraries() -> None:
    """No CUDA library names hundreds; one that does is not understood."""
    names = b"".join(b"lib%d.so.1\0" % number for number in range(300))
    assert libraries_named(b"\x7fELF\x80\0libc.so.6\0" + names) is None


def test_an_outline_comes_back() -> None:
    """From the bytes that the store keeps."""
    outline = WheelOutline(
        files=(WheelFile(path="a/b.so", size=3, crc32=0xFFFFFFFF),),
        cuda="12.8",
        cudnn="9",
        needed=(("a/b.so", ("libc.so.6",)),),
    )
    assert unpack_outline(pack_outline(outline)) == outline
