"""Requirements read quickly say what `packaging` says of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from nnenv.resolve import python_requirement
from nnenv.resolve.python_requirement import PythonRequirement, read_requirement
from nnenv.resolve.python_target import PythonTarget

TARGETS = [
    PythonTarget(name="a", python="3.11.2", machine="x86_64", glibc="2.36"),
    PythonTarget(name="b", python="3.13.5", machine="aarch64", glibc="2.41"),
]
ENVIRONMENTS = [{**target.markers, "extra": extra} for target in TARGETS for extra in ("", "test", "all", "a-b")]

USUAL = [
    "numpy",
    "numpy>=1.21",
    "numpy >= 1.21, != 1.22.*, <3",
    "numpy (>=1.21,<3)",
    "numpy(~=1.21)",
    "Foo_Bar.baz==1.0+local; python_version < '3.12'",
    "uvicorn[standard, b] >=0.12 ; extra == 'test'",
    "x==1!2.0rc1.post1.dev0",
    "x;sys_platform=='win32'",
    "x; platform_system != \"Windows\" and python_version>='3.8'",
    "x; extra == 'a_B' or extra == 'test'",
    "x; (python_version < '3.12') and extra == 'test'",
    "x; (os_name == 'nt' or os_name == 'posix') and (implementation_name != 'pypy' and extra == 'all')",
    "x; python_full_version >= '3.11.3' or platform_machine == 'aarch64' and extra == ''",
    "x; python_version == '3.11' or python_version ~= '3.10'",
    "x; platform_python_implementation == 'CPython'",
]
UNUSUAL = [
    "x @ https://example.org/x-1-py3-none-any.whl",
    "x @ https://example.org/x.whl ; extra == 'test'",
    "x===1.0-weird",
    "x[]",
    "x>=1,",
    "x>=v1",
    "foo_",
    "x; '3.10' < python_version",
    "x; python_version in '3.10, 3.11'",
    "x; python_version not in '3.10'",
    "x; os.name == 'posix'",
    "x; platform_machine == '3'",
    "x; platform_machine == 'v1'",
    "x; implementation_version >= '3.11'",
    "x; platform_release >= '5'",
    "x; sys_platform > 'a'",
    "x; python_version >= '3.11rc1'",
    "x; extra != 'test'",
    "x; python_version == '3.*'",
]
WRONG = [
    "",
    " ",
    "-x",
    "x y",
    "x>=",
    "x>=1 2",
    "x<3.*",
    "x~=3",
    "x>=1+local",
    "x[a",
    "x(>=1",
    "x;",
    "x; ",
    "x; python_version",
    "x; python_version <",
    "x; python_version < '3",
    "x; python_version < 3",
    "x; python < '3'",
    "x; (python_version < '3'",
    "x; python_version < '3')",
    "x; python_version < '3' and",
    "x; and python_version < '3'",
    "x; ()",
    "x; python_version < '3' os_name == 'posix'",
    "x; python_version < '3' andos_name == 'posix'",
]


def same(text: str) -> None:
    """Fail unless both read the same, or both refuse."""
    try:
        expected = Requirement(text)
    except InvalidRequirement as error:
        with pytest.raises(InvalidRequirement) as caught:
            read_requirement(text)
        assert str(caught.value) == str(error)
        return
    found = read_requirement(text)
    assert found.name == canonicalize_name(expected.name)
    assert found.extras == tuple(sorted({canonicalize_name(extra) for extra in expected.extras}))
    assert found.specifier == expected.specifier
    assert str(found.specifier) == str(expected.specifier)
    assert found.has_address == bool(expected.url)
    assert (found.marker is None) == (expected.marker is None)
    if found.marker is not None:
        assert ("extra" in found.marker_text) == ("extra" in str(expected.marker))
        for environment in ENVIRONMENTS:
            assert outcome(found, environment) == outcome_of_packaging(expected, environment), environment


def outcome(requirement: PythonRequirement, environment: dict[str, str]) -> object:
    """Whether the marker holds, or how it fails."""
    assert requirement.marker is not None
    try:
        return requirement.marker.holds(environment)
    except (ValueError, KeyError) as error:
        return str(error)


def outcome_of_packaging(requirement: Requirement, environment: dict[str, str]) -> object:
    """The same."""
    assert requirement.marker is not None
    try:
        return requirement.marker.evaluate(dict(environment))
    except (ValueError, KeyError) as error:
        return str(error)


@pytest.mark.parametrize("text", USUAL + UNUSUAL + WRONG)
def test_known_spellings(text: str) -> None:
    """What projects write, what is rare, and what is wrong."""
    same(text)


def test_usual_requirements_are_read_quickly() -> None:
    """These forms make up nearly all of what projects write: none of them may take the long way."""
    foreign = [text for text in USUAL if python_requirement._usual(text) is None]
    assert foreign == ["x; python_full_version >= '3.11.3' or platform_machine == 'aarch64' and extra == ''"]
    assert not any(python_requirement._usual(text) for text in WRONG)


def test_every_operator_and_connection() -> None:
    """All small markers over what is true, false and an extra."""
    parts = ["python_version >= '3.12'", "os_name == 'posix'", "extra == 'test'", "sys_platform != 'linux'"]
    for first, second, third in itertools.product(parts, repeat=3):
        for one, two in itertools.product(("and", "or"), repeat=2):
            same(f"x; {first} {one} {second} {two} {third}")
            same(f"x; ({first} {one} {second}) {two} {third}")
            same(f"x; {first} {one} ({second} {two} ({third}))")
    for operator, version in itertools.product(("<", "<=", "==", "!=", ">=", ">", "~="), ("3", "3.11", "3.11.2", "4")):
        for variable in ("python_version", "python_full_version"):
            same(f"x; {variable} {operator} '{version}'")


PIECES = st.sampled_from(
    [
        *("x", "a_b", "[", "]", "(", ")", ",", ";", " ", ">=", "==", "~=", "<", "1", "2.0", ".*", "rc1", "+l"),
        *("and", "or", "in", "not", "python_version", "sys_platform", "extra", "'3.11'", '"linux"', "'test'"),
        *("'", '"', "@", "\t"),
    ]
)


@settings(max_examples=600, deadline=None)
@given(pieces=st.lists(PIECES, max_size=14))
def test_no_text_is_read_in_two_ways(pieces: list[str]) -> None:
    """Random texts of what requirements are made of, most of them wrong."""
    same("x" + "".join(pieces))


CLAUSES = st.builds(
    "{} {} {}".format,
    st.sampled_from(["python_version", "python_full_version", "os_name", "sys_platform", "platform_machine", "extra"]),
    st.sampled_from(["==", "!=", ">=", "<", "~=", "in"]),
    st.sampled_from(["'3.11'", '"3.9"', "'linux'", '"posix"', "'x86_64'", "'test'", "'A.b'", "''", "'3.11.0b1'"]),
)
MARKERS = st.recursive(
    CLAUSES,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("{} {} {}".format, inner, st.sampled_from(["and", "or"]), inner)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(marker=MARKERS)
def test_no_marker_is_judged_in_two_ways(marker: str) -> None:
    """Random markers, most of them right."""
    same(f"x>=1; {marker}")
