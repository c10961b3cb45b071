"""Relations between packages."""

from __future__ import annotations

import pytest

from nnenv.errors import NnenvError
from nnenv.resolve.debian import Alternative, parse_relations
from nnenv.resolve.debian_relation import relation_text


def test_field() -> None:
    """Commas separate relations, bars alternatives; spaces do not matter."""
    relations = parse_relations("libc6 (>=2.36),perl:any | perl5 ( << 5.38~ ) , debconf")
    assert relations == (
        (Alternative(name="libc6", op=">=", version="2.36", arch_qualifier=""),),
        (
            Alternative(name="perl", op="", version="", arch_qualifier="any"),
            Alternative(name="perl5", op="<<", version="5.38~", arch_qualifier=""),
        ),
        (Alternative(name="debconf", op="", version="", arch_qualifier=""),),
    )
    assert [relation_text(relation) for relation in relations] == [
        "libc6 (>= 2.36)",
        "perl:any | perl5 (<< 5.38~)",
        "debconf",
    ]


def test_empty_field() -> None:
    """A field that is absent or empty relates to nothing."""
    assert parse_relations("") == parse_relations("  ") == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("libc6 [amd64]", "architecture restrictions"),
        ("libc6 <!nocheck>", "build profiles"),
        ("libc6 (> 2)", "a relation is"),
        ("libc6 >= 2", "a relation is"),
        ("Libc6", "a relation is"),
        ("a,,b", "a relation is"),
        ("libc6 |", "a relation is"),
        ("--option", "a relation is"),
        ("libc6 (>= 1_0)", "5.6.12"),
    ],
)
def test_no_relation(text: str, rule: str) -> None:
    """What binary packages may not state is refused with the rule."""
    with pytest.raises(NnenvError) as caught:
        parse_relations(text)
    assert caught.value.code == "debian-index-invalid"
    assert rule in caught.value.because[0]
