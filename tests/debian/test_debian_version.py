"""The order of Debian versions (policy 5.6.12)."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.debian_version import compare, satisfies, sort_key, upstream

ASCENDING = (
    "0~~",
    "0~",
    "0",
    "1",
    "1a",
    "1+",
    "1.0~beta1~svn1245",
    "1.0~beta1",
    "1.0",
    "1.0-1~deb12u1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1+deb12u1",
    "1.0-1.1",
    "1.0a",
    "1.0+dfsg-1",
    "1.0.1",
    "1.2",
    "1.10",
    "2",
    "1:0.1",
    "1:1.2.13.dfsg-1",
    "2:0",
)
"""Each older than the next."""

EQUAL = (("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.01", "1.1"), ("1.0", "1."), ("1.0-00", "1.0"))

PART = st.text(alphabet="0123456789aZ.+~", max_size=6)
VERSION = st.builds(
    lambda epoch, part, revision: f"{epoch}1{part}{revision}",
    st.sampled_from(("", "0:", "1:")),
    PART,
    st.sampled_from(("", "-0", "-1", "-1~b", "-1+b1", "-~")),
)


def test_table_is_in_order() -> None:
    """Every pair of the table compares as it stands."""
    for (a, older), (b, newer) in itertools.combinations(enumerate(ASCENDING), 2):
        assert compare(older, newer) == -1, (a, b, older, newer)
        assert compare(newer, older) == 1


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_though_spelt_differently(a: str, b: str) -> None:
    """No epoch is epoch 0, no revision is revision 0, and digits compare by value."""
    assert compare(a, b) == 0
    assert sort_key(a) == sort_key(b)


@given(VERSION, VERSION)
def test_antisymmetric(a: str, b: str) -> None:
    """Swapping the two turns the sign, and a version equals itself."""
    assert compare(a, b) == -compare(b, a)
    assert compare(a, a) == 0


@given(VERSION)
def test_tilde_is_older_than_nothing(version: str) -> None:
    """A suffix that starts with a tilde makes a version older; one with a plus makes it newer."""
    assert compare(version + "~x", version) == -1
    assert compare(version + "+x", version) == 1


def test_same_verdicts_as_dpkg() -> None:
    """On a machine with dpkg, random pairs compare as `dpkg --compare-versions` says; elsewhere the table stands."""
    chance = random.Random(5)
    words = [*ASCENDING, *(v for pair in EQUAL for v in pair)]
    words += [
        "1" + "".join(chance.choices("019a~+.Z", k=5)) + chance.choice(("", "-1", "-1~", "-a")) for _ in range(40)
    ]
    pairs = [chance.sample(words, 2) for _ in range(150)] if shutil.which("dpkg") else []
    for a, b in pairs:
        relation = {-1: "lt", 0: "eq", 1: "gt"}[compare(a, b)]
        assert subprocess.run(["dpkg", "--compare-versions", a, relation, b], check=False).returncode == 0, (a, b)


def test_upstream_part() -> None:
    """The upstream part is between the first colon and the last hyphen."""
    assert upstream("1:2.36-rc1-9+deb12u14") == "2.36-rc1"
    assert upstream("3.11") == "3.11"


@pytest.mark.parametrize(
    ("operator", "met"), [("<<", False), ("<=", True), ("=", True), (">=", True), (">>", False), ("", True)]
)
def test_operators_at_equality(operator: str, met: bool) -> None:
    """`<<` and `>>` are strict, the others are not."""
    assert satisfies("1.0", operator, "1.0-0") is met


@pytest.mark.parametrize("version", ["", "a b", "1:", "x:1", "1_2", "1" * 300, "1.0-"])
def test_no_version(version: str) -> None:
    """What is not a version is refused with the rule."""
    with pytest.raises(NnenvError) as caught:
        sort_key(version)
    assert caught.value.code == "debian-index-invalid"
    assert "5.6.12" in caught.value.because[0]
