"""Our TOML writer: one spelling for every value, and every reader reads back what was written."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.spec import canonical_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    TEXT,
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.sampled_from(["https://x", "a://b://c", ":\\u002f/", "\x7f", "\x00", '"', "\\", "\r\n"]),
)
ROWS = st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=3)
TABLES = st.recursive(
    st.dictionaries(TEXT, SCALARS | ROWS, max_size=3),
    lambda inner: st.dictionaries(TEXT, SCALARS | ROWS | inner | st.lists(inner, min_size=1, max_size=3), max_size=3),
    max_leaves=8,
)


def written(values: dict[str, object]) -> str:
    """The lines of `values` as a document."""
    return "\n".join(canonical_toml.table((), values)) + "\n"


@given(TABLES)
def test_tables_come_back(values: dict[str, object]) -> None:
    """Whatever table is written, the standard library reads the same values and types from it."""
    read = tomllib.loads(written(values))
    assert (values, repr(sorted_deeply(values))) == (read, repr(sorted_deeply(read)))


def sorted_deeply(value: object) -> object:
    """`value` with its tables sorted by key, so that `repr` tells 1 from 1.0 from True but sees no order."""
    if isinstance(value, dict):
        return sorted((key, sorted_deeply(inner)) for key, inner in value.items())
    return [sorted_deeply(item) for item in value] if isinstance(value, list) else value


@given(TABLES)
def test_nothing_written_looks_like_an_address(values: dict[str, object]) -> None:
    """No value and no key brings `://` into the file."""
    assert "://" not in written(values)


@given(TEXT)
def test_strings_stay_on_one_line(text: str) -> None:
    """A string has no line break and no control character in the file: a diff shows it as one line."""
    spelled = canonical_toml.string(text)
    assert [spelled] == spelled.split("\n")
    assert all(character >= " " and character != "\x7f" for character in spelled)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("", '""'),
        ("plain é 漢 😀", '"plain é 漢 😀"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\b\t\n\f\r", '"\\b\\t\\n\\f\\r"'),
        ("\x00\x1f\x7f", '"\\u0000\\u001f\\u007f"'),
        ("https://h.example/x", '"https:\\u002f/h.example/x"'),
        ("a://b://", '"a:\\u002f/b:\\u002f/"'),
        (":/ /", '":/ /"'),
    ],
)
def test_a_string_has_one_spelling(text: str, spelled: str) -> None:
    """Short escapes where TOML has them, four digits else, and the first slash of `://` escaped."""
    assert spelled == canonical_toml.string(text)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-3, "-3"),
        (1.0, "1.0"),
        (1e-05, "1e-05"),
        (0.1, "0.1"),
        ("x", '"x"'),
    ],
)
def test_a_scalar_has_one_spelling(value: object, spelled: str) -> None:
    """Booleans are no integers, and floats are spelled as Python's `repr` does: the shortest that comes back."""
    assert spelled == canonical_toml.scalar(value)


@pytest.mark.parametrize("value", [None, b"x", object(), {1}, 1j])
def test_what_toml_cannot_say_is_a_type_error(value: object) -> None:
    """There is no silent `str()` of a value that the format does not have."""
    with pytest.raises(TypeError, match=type(value).__name__):
        canonical_toml.scalar(value)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [("a-B_9", "a-B_9"), ("", '""'), ("a.b", '"a.b"'), ("é", '"é"'), ("a b", '"a b"'), ("x://y", '"x:\\u002f/y"')],
)
def test_a_key_is_bare_where_toml_allows(name: str, spelled: str) -> None:
    """Letters, digits, `-` and `_` need no quotes; everything else gets them."""
    assert spelled == canonical_toml.key(name)


def test_layout() -> None:
    """Plain values first, then tables; one array item a line; a table that holds tables only has no header."""
    values = {
        "inner": {"only": {"b": 1, "a": 2}, "empty": {}},
        "rows": [["d", "numpy 2"], ["e", "onnx 1"]],
        "none": [],
        "list": [{"x": 1, "sub": {"y": 2}}, {}],
    }
    assert written(values) == (
        'rows = [\n  ["d", "numpy 2"],\n  ["e", "onnx 1"],\n]\nnone = []\n\n'
        "[inner.only]\nb = 1\na = 2\n\n[inner.empty]\n\n"
        "[[list]]\nx = 1\n\n[list.sub]\ny = 2\n\n[[list]]\n\n"
    )


def test_a_new_array_item_is_one_new_line() -> None:
    """Adding one package to an array adds one line to the file: the diff is as small as the change."""
    before = written({"packages": ["a", "c"]}).splitlines()
    after = written({"packages": ["a", "b", "c"]}).splitlines()
    assert [line for line in after if line not in before] == ['  "b",']
    assert len(after) == len(before) + 1
