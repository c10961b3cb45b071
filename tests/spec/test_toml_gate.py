"""The gate in front of tomllib: what it refuses, what it must not refuse, and the lines it finds."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.spec.toml_gate import TomlLimits, gated_text, key_lines, line_of, read_toml

QUIET = settings(deadline=None, database=None)
"""No time limit for one example on a busy machine, and no files beside the tests."""

BOMBS = {
    "size": b"a = 1\n" * 200_000,
    "brackets": b"a = " + b"[" * 100_000,
    "closed-brackets": b"a = " + b"[" * 33 + b"]" * 33,
    "inline-tables": b"a = " + b"{a = " * 50_000,
    "mixed": b"a = " + b"[{a=" * 50_000,
    "inline-dots": b"a = {" + b"a.b.c.d.e.f.g.h = {" * 10,
    "dotted-key": b"a" + b".a" * 20_000 + b" = 1",
    "spaced-dotted-key": b"a" + b" . 'a'" * 20_000 + b" = 1",
    "dotted-header": b"[a" + b".a" * 20_000 + b"]",
    "dotted-inline": b"x = {a" + b".a" * 20_000 + b" = 1}",
    "spaced-dotted-inline": b"x = {a" + b' . "a"' * 20_000 + b" = 1}",
    "shared-prefixes": b"".join(b"a.b.c.d.e.f.g.h.k%d = 1\n" % i for i in range(20_000)),
    "many-tables": b"".join(b"[t%d]\n" % i for i in range(60_000)),
    "many-inline-keys": b"x = {" + b",".join(b"k%d=1" % i for i in range(60_000)) + b"}",
    "long-number": b"a = " + b"9" * 500_000,
    "long-hexadecimal": b"a = 0x" + b"f" * 500_000,
    "long-number-inside": b"a = [" + b"9" * 500_000 + b"]",
    "long-key": b"k" * 500_000 + b" = 1",
    "long-quoted-key": b'"' + b"k" * 500_000 + b'" = 1',
    "open-string": b'a = "' + b"\\\\" * 250_000,
    "open-long-string": b'a = """' + b'""\\"' * 200_000,
    "quotes": b"a = " + b"'" * 1_000_000,
    "double-quotes": b"a = [" + b'"' * 1_000_000,
    "spaces": b"a" + b" " * 1_000_000 + b"b",
    "newlines": b"a = [" + b"\n" * 1_000_000,
    "byte-order-mark": b"\xef\xbb\xbfa = 1",
    "latin-1": b"a = '\xe9'",
    "utf-16": "a = 1".encode("utf-16"),
    "surrogate": b"a = '\xed\xa0\x80'",
}


@pytest.mark.parametrize("name", BOMBS)
def test_every_bomb_is_refused_within_a_second(name: str) -> None:
    """A hostile document costs less than a second of CPU and never gives a traceback."""
    started = time.process_time()
    with pytest.raises(NnenvError) as caught:
        read_toml(BOMBS[name], "model.toml")
    assert time.process_time() - started < 1.0
    assert caught.value.code == "manifest-invalid"
    assert caught.value.where is not None
    assert caught.value.where.startswith("model.toml")
    assert caught.value.fix
    assert len(caught.value.what) < 200


REFUSED_UNREAD = ("brackets", "closed-brackets", "dotted-key", "dotted-header", "dotted-inline", "long-number")


@pytest.mark.parametrize("name", REFUSED_UNREAD)
def test_limits_are_checked_before_tomllib(name: str) -> None:
    """The scan alone refuses what would hurt the parser."""
    with pytest.raises(NnenvError, match=r"nested|parts|characters"):
        key_lines(BOMBS[name].decode())


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        ("a = " + "[" * 31 + "]" * 31, "a = " + "[" * 32 + "]" * 32),
        (".".join("a" * 16) + " = 1", ".".join("a" * 17) + " = 1"),
        ("[" + ".".join("a" * 16) + "]", "[" + ".".join("a" * 17) + "]"),
        ("x = {" + ".".join("a" * 16) + " = 1}", "x = {" + ".".join("a" * 17) + " = 1}"),
        ("a" * 256 + " = 1", "a" * 257 + " = 1"),
        ("a = 0." + "1" * 254, "a = 0." + "1" * 255),
        ("".join(f"k{i} = 1\n" for i in range(20_000)), "".join(f"k{i} = 1\n" for i in range(20_001))),
    ],
)
def test_limits_hold_to_the_last_one(accepted: str, refused: str) -> None:
    """The largest document within each limit is read, the next larger one is not."""
    assert read_toml(accepted.encode(), "m").values == tomllib.loads(accepted)
    with pytest.raises(NnenvError):
        key_lines(refused)


def test_size_limit_counts_bytes() -> None:
    """A document of the largest size is read; one byte more is not."""
    limits = TomlLimits(size=8)
    assert gated_text("a = 'é'".encode(), "m", limits=limits) == "a = 'é'"
    with pytest.raises(NnenvError, match="9 bytes"):
        gated_text("a = 'éa'".encode(), "m", limits=limits)


def test_a_byte_order_mark_is_named() -> None:
    """The invisible mark is named, rather than shown as a strange first key."""
    with pytest.raises(NnenvError, match="byte order mark"):
        read_toml(BOMBS["byte-order-mark"], "m")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a = 1\nb = \n", "m:2:5", "expected a value on the line of its key, and quotes that close"),
        ("a = 1\n  b 2\n", "m:2:5", "expected = after the key"),
        ("a = 1 2\n", "m:1:7", "Expected newline or end of document after a statement"),
        ("a = 1 x\n", "m:1:7", "expected the end of the line"),
        ("[a\n", "m:1:3", "a table's header is written [name] or [[name]], alone on its line"),
        ("[[a]\n", "m:1:4", "a table's header is written [name] or [[name]], alone on its line"),
        ("[a] b\n", "m:1:5", "expected the end of the line"),
        ("\n= 1\n", "m:2:1", "expected a key, a [table] or a # comment"),
        ("a = 'x\n", "m:1:5", "expected a value on the line of its key, and quotes that close"),
        ("a = [1,\n'x\n]", "m:2:1", "expected a value on the line of its key, and quotes that close"),
        ("a = 1\na = 2\n", "m:2:6", "Cannot overwrite a value"),
        ("a = yes\n", "m:1:5", "Invalid value"),
    ],
)
def test_mistakes_have_line_and_column(text: str, where: str, what: str) -> None:
    """What is not TOML is reported with its place and reason, by the gate or by tomllib."""
    with pytest.raises(NnenvError) as caught:
        read_toml(text.encode(), "m", code="lock-edited")
    assert (where, "lock-edited") == (caught.value.where, caught.value.code)
    assert caught.value.what == f"not valid TOML: {what}"


def test_a_mistake_at_the_end_has_a_place_too() -> None:
    """tomllib says `end of document` for some mistakes; the place is then the end."""
    with pytest.raises(NnenvError) as caught:
        read_toml(b"a = 1\nb = [1,", "m")
    assert caught.value.where == "m:2:8"


LINES = """\
# a comment with [brackets] and "quotes
a = 1
b.c = 'x # y'
"q.r" . 's' = "\\"]"

[t]  # [u]
long = \"\"\"
[not.a.table]
k = 1 \"\"\"\"\"
after = '''
'x'''
[t.u]
list = [ # first
  "one",

  { two = [2,
  2] }, [3],
]
inline = { x = 1, y = { z = 2 } }
when = 1979-05-27 07:32:00Z
[[tests]]
data = 1
[[tests]]
data = 2
[tests.more]
x = 1
[[tests.more.deep]]
"\\u0061\\t" = []
"""


def test_key_lines_of_every_construct() -> None:
    """Headers, dotted and quoted keys, arrays of tables, long strings and arrays: each key has its own line."""
    tomllib.loads(LINES)
    assert key_lines(LINES) == {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 3,
        ("q.r",): 4,
        ("q.r", "s"): 4,
        ("t",): 6,
        ("t", "long"): 7,
        ("t", "after"): 10,
        ("t", "u"): 12,
        ("t", "u", "list"): 13,
        ("t", "u", "list", "0"): 14,
        ("t", "u", "list", "1"): 16,
        ("t", "u", "list", "2"): 17,
        ("t", "u", "inline"): 19,
        ("t", "u", "when"): 20,
        ("tests",): 21,
        ("tests", "0"): 21,
        ("tests", "0", "data"): 22,
        ("tests", "1"): 23,
        ("tests", "1", "data"): 24,
        ("tests", "1", "more"): 25,
        ("tests", "1", "more", "x"): 26,
        ("tests", "1", "more", "deep"): 27,
        ("tests", "1", "more", "deep", "0"): 27,
        ("tests", "1", "more", "deep", "0", "a\t"): 28,
    }


def test_line_of_falls_back_to_what_holds_the_key() -> None:
    """A key of an inline table has the line of the table, and an unknown one line 1."""
    lines = {("a",): 3, ("a", "b"): 4}
    assert [line_of(lines, path) for path in (("a", "b", "c"), ("a", "x"), ("x",), ())] == [4, 3, 1, 1]


def test_windows_line_ends_count_once() -> None:
    """CRLF moves on by one line, as LF does."""
    assert read_toml(b"a = 1\r\nb = 2\r\n", "m").lines == {("a",): 1, ("b",): 2}


MARKS = [".", "=", " ", "\n", "[", "[[", "]", "]]", "{", "}", ",", '"""', "'''", '"', "'", "\\", "é", "#c\n"]
WORDS = ["a", "b", '"q"', "'l'", '"\\u0061"', "1", "1.5", "true", "1979-05-27 07:32:00", "1979-05-27"]
LONG_STRINGS = ['m = """x"\n"""""\n', "n = '''\n[o]'''\n"]
STATEMENTS = ["a = 1\n", "[t]\n", "[[u]]\n", "x = [1,\n2]\n", "'a'.b = 2\n", "[a.b]\n", "y = {a.b = 1, c = [1]}\n"]
TOKENS = st.sampled_from(MARKS + WORDS + LONG_STRINGS + STATEMENTS)


@QUIET
@given(st.lists(TOKENS, max_size=16).map("".join))
def test_gate_agrees_with_tomllib(text: str) -> None:
    """What tomllib reads passes the gate, and every key of it then has a line; the rest is refused."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(NnenvError):
            read_toml(text.encode(), "m")
        return
    document = read_toml(text.encode(), "m")
    assert document.values == values
    # Keys of inline tables have no line of their own.
    assert "{" in text or set(paths(values)) <= document.lines.keys()


@QUIET
@given(st.binary(max_size=64))
def test_any_bytes_give_a_document_or_an_error(data: bytes) -> None:
    """No bytes give a traceback."""
    try:
        read_toml(data, "m")
    except NnenvError as error:
        assert error.code == "manifest-invalid"


def test_scan_of_300_lines_is_quick() -> None:
    """The scan costs a few milliseconds for a large manifest (measured: 1 ms; the bound allows for a busy machine)."""
    text = "".join(f'[t{i}]\na = "x" # c\nb.c = ["numpy>=1", "x"]\n' for i in range(100))
    best = min(timed(text) for _ in range(10))
    assert best < 0.008


def timed(text: str) -> float:
    started = time.perf_counter()
    key_lines(text)
    return time.perf_counter() - started


def paths(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Key paths of tables, and of arrays of tables."""
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
        inner = {str(index): element for index, element in enumerate(value)}.items()
    else:
        return
    for key, element in inner:
        yield (*path, key)
        yield from paths(element, (*path, key))
