"""Requirements added to and removed from model.toml: what changes, and that nothing else does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.spec.manifest_edit import array_path, listed, with_requirements, with_test, with_value, without_requirements
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.toml_places import places

PATH = array_path("", "packages")
HEAD = '[project]\nname = "a"\nversion = "1"\n\n'
TAIL = "\n# What it runs on\n[targets.cpu]\n"


def name_of(requirement: str) -> str:
    """The name alone."""
    return re.split("[>=;[]", requirement)[0].strip()


def add(text: str, *wanted: str, path: tuple[str, ...] = PATH) -> str:
    """`text` with requirements more."""
    return with_requirements(text.encode(), path, wanted, name_of, name_of).data.decode()


def remove(text: str, *names: str, path: tuple[str, ...] = PATH) -> str:
    """`text` without these."""
    return without_requirements(text.encode(), path, names, name_of).data.decode()


def manifest(array: str) -> str:
    """A manifest with this text for `requires.packages`."""
    return f"{HEAD}[requires]\npackages = {array}  # behind it\n{TAIL}"


def array_of(text: str) -> str:
    """The text of `requires.packages`."""
    place = next(place for place in places(text) if place.path == PATH)
    return text[place.value : place.end]


ADDED = [
    ("[]", '["c"]'),
    ("[ ]", '["c"]'),
    ("[\n]", '[\n    "c",\n]'),
    ("[  # none yet\n]", '[  # none yet\n    "c",\n]'),
    ('["a", "b"]', '["a", "b", "c"]'),
    ('["a", "b",]', '["a", "b", "c",]'),
    ('["a", "d"]', '["a", "c", "d"]'),
    ('["d", "a"]', '["d", "a", "c"]'),
    ('["d"]', '["c", "d"]'),
    ('[ "d" ]', '[ "c", "d" ]'),
    ("['d']", "[\"c\", 'd']"),
    ('["c>=1", "d"]', '["c", "d"]'),
    ('[\n  "a",\n  "d",\n]', '[\n  "a",\n  "c",\n  "d",\n]'),
    ('[\n  "a",\n  "b"\n]', '[\n  "a",\n  "b",\n  "c"\n]'),
    ('[\n  "a",\n  "b"  # no comma\n]', '[\n  "a",\n  "b",  # no comma\n  "c"\n]'),
    ('[\n\t"a", # one\n\t# on d\n\t"d", # two\n]', '[\n\t"a", # one\n\t"c",\n\t# on d\n\t"d", # two\n]'),
    ('[\n  # all of them\n  "d",\n]', '[\n  "c",\n  # all of them\n  "d",\n]'),
    ('[\n  "a", "b",\n  "d"\n]', '[\n  "a", "b",\n  "c",\n  "d"\n]'),
    ('["a",\n "b"]', '["a",\n "b", "c"]'),
    ('["a"\n,"d"]', '["a", "c"\n,"d"]'),
    ('["a"\n,"b"\n]', '["a"\n,"b",\n    "c"\n]'),
    ('["a" ,"b" ]', '["a" ,"b", "c" ]'),
]


@pytest.mark.parametrize(("before", "after"), ADDED)
def test_a_requirement_is_added_in_the_style_of_the_array(before: str, after: str) -> None:
    """Sorted arrays stay sorted, commas, comments and indentation stay as they are, nothing beside the array moves."""
    assert add(manifest(before), "c") == manifest(after)


REMOVED = [
    ('["a", "b", "c"]', "b", '["a", "c"]'),
    ('["a", "b"]', "b", '["a"]'),
    ('["a", "b",]', "b", '["a",]'),
    ('["a", "b"]', "a", '["b"]'),
    ('[ "a" ]', "a", "[]"),
    ('["a",]', "a", "[]"),
    ('[\n  "a",  # goes too\n  # stays\n  "b",\n]', "a", '[\n  # stays\n  "b",\n]'),
    ('[\n  "a",\n  "b"\n]', "b", '[\n  "a"\n]'),
    ('[\n  "a",  # stays\n  "b"  # goes\n]', "b", '[\n  "a"  # stays\n]'),
    ('[\n  "a", "b",\n  "c",\n]', "b", '[\n  "a",\n  "c",\n]'),
    ('["a",\n "b"]', "a", '[\n "b"]'),
    ('["a", # on a\n "b"]', "b", '["a" # on a\n ]'),
    ('["a"\n,"b"]', "b", '["a"\n]'),
    ('["b; python_version<\'4\'", "a", "b"]', "b", '["a"]'),
]


@pytest.mark.parametrize(("before", "name", "after"), REMOVED)
def test_a_requirement_is_removed_with_its_line(before: str, name: str, after: str) -> None:
    """Its comma and the comment behind it go with it; comments on lines of their own stay."""
    assert remove(manifest(before), name) == manifest(after)


MADE = [
    # In a table that is there.
    ("[requires]\n" + TAIL, '[requires]\npackages = ["c"]\n' + TAIL),
    (
        '[requires]\n  python = "3.11"  # one\n\n# next\n' + TAIL,
        '[requires]\n  python = "3.11"  # one\n  packages = ["c"]\n\n# next\n' + TAIL,
    ),
    ('requires = { python = "3.11" }\n' + TAIL, 'requires = { python = "3.11", packages = ["c"] }\n' + TAIL),
    ("requires = {}\n" + TAIL, 'requires = { packages = ["c"] }\n' + TAIL),
    ('requires.python = "3.11" # x\n' + TAIL, 'requires.python = "3.11" # x\nrequires.packages = ["c"]\n' + TAIL),
    # In a table that is made.
    (TAIL, '\n[requires]\npackages = ["c"]\n\n# What it runs on\n[targets.cpu]\n'),
    ("targets.cpu = {}", 'targets.cpu = {}\n\n[requires]\npackages = ["c"]\n'),
    ("targets = {cpu = {}}\n", 'targets = {cpu = {}}\n\n[requires]\npackages = ["c"]\n'),
]


@pytest.mark.parametrize(("before", "after"), MADE)
def test_a_missing_array_is_made_where_it_belongs(before: str, after: str) -> None:
    """Under the header, into the braces or beside the dotted keys that are there; comments keep their tables."""
    project = 'project = { name = "a", version = "1" }\n'
    assert add(project + before, "c") == project + after


TARGETS = [
    ("[targets.t]\n", '[targets.t]\nrequires.packages = ["c"]\n'),
    ('[targets.t]\nos = "debian:12"', '[targets.t]\nos = "debian:12"\nrequires.packages = ["c"]\n'),
    ("[targets.t.requires]\nsystem = []\n", '[targets.t.requires]\nsystem = []\npackages = ["c"]\n'),
    ("[targets.t]\n[targets.t.requires]\n", '[targets.t]\n[targets.t.requires]\npackages = ["c"]\n'),
    ("[targets]\nt = {}\n", '[targets]\nt = { requires.packages = ["c"] }\n'),
    (
        "[targets]\nt.requires.system = []\nu = {}\n",
        '[targets]\nt.requires.system = []\nt.requires.packages = ["c"]\nu = {}\n',
    ),
    ("[targets]\nt = {requires.system = []}\n", '[targets]\nt = {requires.system = [], requires.packages = ["c"]}\n'),
    ("[targets.t]\nrequires = {}\n", '[targets.t]\nrequires = { packages = ["c"] }\n'),
    ('["targets" . "t"]\n[targets.u]\n', '["targets" . "t"]\nrequires.packages = ["c"]\n[targets.u]\n'),
]


@pytest.mark.parametrize(("before", "after"), TARGETS)
def test_additions_of_a_target_find_their_place(before: str, after: str) -> None:
    """However the target is written, its array is found or made, and the manifest stays a right one."""
    project = 'project = { name = "a", version = "1" }\n'
    found = add(project + before, "c", path=array_path("t", "packages"))
    assert found == project + after
    assert next(t for t in parse_manifest(found.encode()).targets if t.name == "t").requires.packages == ("c",)


def test_a_line_that_gets_too_wide_is_spread() -> None:
    """Beyond 120 columns every element gets a line of its own."""
    names = [f"package-{number:02}" for number in range(9)]
    array = "[" + ", ".join(f'"{name}"' for name in names) + "]"
    spread = "[\n" + "".join(f'    "{name}",\n' for name in [*names, "package-10"]) + "]"
    assert add(manifest(array), "package-10") == manifest(spread)


def test_line_ends_stay_as_they_are() -> None:
    """In a file with CRLF the new line has it too; where both are mixed, each line keeps its own."""
    dos = manifest('[\n  "a",\n]').replace("\n", "\r\n")
    assert add(dos, "c") == manifest('[\n  "a",\n  "c",\n]').replace("\n", "\r\n")
    mixed = HEAD.replace("\n", "\r\n") + '[requires]\npackages = ["a"]\n[targets.cpu]\r\n'
    assert add(mixed, "c") == mixed.replace('["a"]', '["a", "c"]')
    assert add("targets.cpu = {}\r\nrequires.packages = []", "c") == 'targets.cpu = {}\r\nrequires.packages = ["c"]'


def test_quotes_follow_what_they_hold() -> None:
    """A marker with double quotes gets single ones around it, and the other way round."""
    found = add(manifest("[]"), "a; os_name=='x'", 'b; os_name=="x"')
    assert array_of(found) == "[\"a; os_name=='x'\", 'b; os_name==\"x\"']"


def test_what_is_there_already_changes_nothing() -> None:
    """No edit, and the very bytes that came in; the same for the removal of what is not there."""
    data = manifest('["c"]').encode()
    assert with_requirements(data, PATH, ["c"], name_of, name_of).edits == ()
    assert with_requirements(data, PATH, ["c"], name_of, name_of).data is data
    assert without_requirements(data, PATH, ["d"], name_of).data is data
    assert without_requirements(b"targets.cpu = {}", PATH, ["d"], name_of).edits == ()


def test_edits_say_what_happened() -> None:
    """One each, with the array's key path and both texts."""
    edited = with_requirements(manifest('["a", "b"]').encode(), PATH, ["b>=2", "c", "a"], name_of, name_of)
    assert [(e.array, e.before, e.after) for e in edited.edits] == [
        ("requires.packages", "b", "b>=2"),
        ("requires.packages", "", "c"),
    ]


# Any manifest

NAMES = st.sampled_from(["a", "b", "c>=1", "d; os_name=='x'", "e[f]", 'g; os_name=="x"'])
BLANKS = st.sampled_from(["", " ", "\t", "\n", '  # one, [two] "\n', "\n  ", "\n\n# ']\n"])
LINE_ENDS = st.sampled_from(["\n", "\r\n"])


@st.composite
def arrays(draw: st.DrawFn) -> str:
    """An array of strings as oddly as TOML allows."""
    items = draw(st.lists(NAMES, unique_by=name_of, max_size=5))
    text = "["
    for index, item in enumerate(items):
        mark = "'" if '"' in item else draw(st.sampled_from(['"', "'", '"""', "'''"])) if "'" not in item else '"'
        is_last = index == len(items) - 1
        comma = "," if not is_last or draw(st.booleans()) else ""
        text += f"{draw(BLANKS)}{mark}{item}{mark}{draw(BLANKS)}{comma}"
    return f"{text}{draw(BLANKS)}]"


FORMS: list[Callable[[str], str]] = [
    lambda array: f'x = "["\n[requires]\npackages={array}# ]\nz = 1\n',
    lambda array: f"requires . 'z' = 1979-05-27 07:32:00\nrequires.packages = {array}\n[a]\n",
    lambda array: f'requires = {{y = [{{a = "}}"}}], "packages" = {array}, z = {{}}}}\n[[b]]\n[[b]]',
    lambda array: f'a = """\n[requires]\npackages = []\n"""\n[ "requires" ] # x\n\'packages\' = {array}',
]


def outside(text: str) -> tuple[str, str]:
    """What stands before and behind the array; lines counted as in the file."""
    flat = text.replace("\r\n", "\n")
    place = next(place for place in places(flat) if place.path == PATH)
    lines = text.count("\r\n") > 0
    before, behind = flat[: place.value], flat[place.end :]
    return (before.replace("\n", "\r\n"), behind.replace("\n", "\r\n")) if lines else (before, behind)


@settings(max_examples=400, deadline=None)
@given(array=arrays(), form=st.sampled_from(FORMS), ends=LINE_ENDS, wanted=NAMES, named=NAMES)
def test_nothing_but_the_array_changes(
    array: str, form: Callable[[str], str], ends: str, wanted: str, named: str
) -> None:
    """However an array is written: before and behind it every byte stays, and it means what was asked for."""
    text = form(array).replace("\n", ends)
    before = listed(text.encode(), PATH)
    for after, expected in (
        (add(text, wanted), {*(item for item in before if name_of(item) != name_of(wanted)), wanted}),
        (remove(text, name_of(named)), {item for item in before if name_of(item) != name_of(named)}),
    ):
        start, end = outside(text)
        assert after.startswith(start)
        assert after.endswith(end)
        assert set(listed(after.encode(), PATH)) == expected
        assert _rest(after) == _rest(text)


@settings(max_examples=400, deadline=None)
@given(array=arrays(), form=st.sampled_from(FORMS), wanted=NAMES)
def test_adding_keeps_every_comment(array: str, form: Callable[[str], str], wanted: str) -> None:
    """Each comment of the text is still there, in its order and word by word."""
    text = form(array)
    if name_of(wanted) in map(name_of, listed(text.encode(), PATH)):
        return
    after = add(text, wanted)
    assert re.findall("#.*", after) == re.findall("#.*", text)


def _rest(text: str) -> Any:
    """Everything but the array, as values."""
    found = tomllib.loads(text)
    del found["requires"]["packages"]
    return found


# Tests of models

TESTS_ADDED = [
    (
        '[models.m]\nversion = "1"\nsource = "file:m"\n# on m\n\n# next\n[targets.cpu]\n',
        '[models.m]\nversion = "1"\nsource = "file:m"\n# on m\n\n[[models.m.tests]]\ndata = "t"\n'
        "\n# next\n[targets.cpu]\n",
    ),
    (
        '[targets.cpu]\n[models."m"]\nversion = "1"\nsource = "file:m"\n[[models.m.tests]]\ndata = "a" # one',
        '[targets.cpu]\n[models."m"]\nversion = "1"\nsource = "file:m"\n[[models.m.tests]]\ndata = "a" # one\n'
        '\n[[models.m.tests]]\ndata = "t"\n',
    ),
]


@pytest.mark.parametrize(("before", "after"), TESTS_ADDED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_test_is_named_below_its_model(before: str, after: str, end: str) -> None:
    """With the comments that belong to the model above it, and those of the next table below."""
    assert with_test(before.replace("\n", end).encode(), "m", "t") == after.replace("\n", end).encode()


@pytest.mark.parametrize(
    "text",
    [
        'models.m = { version = "1", source = "file:m" }',
        '[models.m]\nversion = "1"\nsource = "file:m"\ntests = [{ data = "a" }]',
        '[models]\nm.version = "1"\nm.source = "file:m"',
    ],
)
def test_models_without_headers_are_left_to_others(text: str) -> None:
    """There is no place below a header where a test could stand."""
    assert with_test(text.encode(), "m", "t") is None


def test_places_of_every_kind_of_value() -> None:
    """Each header and key once, with what it holds: no value is taken for a key, and no string for a bracket."""
    text = (
        'a = 1979-05-27 07:32:00\n"b" . c = [1, [2, "]"], { x = 1 }] # d = 1\n'
        "[ t . \"u v\" ]\ne = { f.g = '}', h = {} }\n"
        '[[l]]\ni = """\nj = "1"\n"""\n'
    )
    found = [(".".join(place.path), text[place.value : place.end]) for place in places(text)]
    assert found == [
        ("a", "1979-05-27 07:32:00"),
        ("b.c", '[1, [2, "]"], { x = 1 }]'),
        ("t.u v", ""),
        ("t.u v.e", "{ f.g = '}', h = {} }"),
        ("t.u v.e.f.g", "'}'"),
        ("t.u v.e.h", "{}"),
        ("l", ""),
        ("l.i", '"""\nj = "1"\n"""'),
    ]


TARGETS = b"""# a fleet
[targets.gpu]
cuda = "12" # any minor
driver = ">=470"  # old
compute-capability = [
  "7.0", # V100
]

[targets.small]
cudnn = "9"
[targets]
inline = { cuda = "13" }
"""


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        (("targets", "gpu", "driver"), '">=525"', b'driver = ">=470"  # old', b'driver = ">=525"  # old'),
        (("targets", "gpu", "cuda"), '"13"', b'cuda = "12" # any minor', b'cuda = "13" # any minor'),
        (
            ("targets", "gpu", "compute-capability"),
            '["8.0"]',
            b'compute-capability = [\n  "7.0", # V100\n]',
            b'compute-capability = ["8.0"]',
        ),
        (("targets", "small", "cudnn"), "", b'cudnn = "9"\n', b""),
    ],
)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_value_is_replaced(path: tuple[str, ...], value: str, before: bytes, after: bytes, ends: bytes) -> None:
    """Comments, order and line ends stay."""
    text = TARGETS.replace(b"[targets]\n", b"").replace(b'inline = { cuda = "13" }\n', b"")
    edited = with_value(text.replace(b"\n", ends), path, value)
    assert edited.data == text.replace(before, after).replace(b"\n", ends)
    (edit,) = edited.edits
    assert edit.array == ".".join(path)
    assert edit.after == value


def test_a_key_that_is_not_there() -> None:
    """KeyError, and a member of an inline table cannot be removed."""
    inline = b'[targets]\ngpu = { cuda = "12", cudnn = "9" }\n'
    with pytest.raises(KeyError):
        with_value(inline, ("targets", "gpu", "driver"), '">=525"')
    with pytest.raises(KeyError):
        with_value(inline, ("targets", "gpu", "cudnn"), "")
    assert with_value(inline, ("targets", "gpu", "cuda"), '"13"').data == inline.replace(b'"12"', b'"13"')
