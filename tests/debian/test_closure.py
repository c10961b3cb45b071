"""The dependency closure, case by case."""

from __future__ import annotations

import itertools
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nnenv.errors import NnenvError
from nnenv.resolve.debian import Closure, close
from nnenv.resolve.debian_facts import debian_facts
from tests.debian.catalog import TextCatalog

CASES: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("closures.toml").read_text(encoding="utf-8"))[
    "case"
]


def closure_of(case: dict[str, Any], roots: list[str]) -> Closure:
    upgrade = case.get("upgrade", False)
    return close(
        roots,
        TextCatalog(case["archive"]),
        locked=case.get("locked", {}),
        upgrade=upgrade if isinstance(upgrade, bool) else frozenset(upgrade),
        omit=debian_facts().omit,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["says"])
def test_case(case: dict[str, Any]) -> None:
    """Every case of closures.toml comes out as it says, in every order of the roots."""
    for roots in itertools.permutations(case["roots"]):
        if "error" in case:
            with pytest.raises(NnenvError) as caught:
                closure_of(case, list(roots))
            assert caught.value.code == "debian-unsatisfiable"
            assert case["error"] in " / ".join([caught.value.what, *caught.value.because])
            assert caught.value.fix
        else:
            closure = closure_of(case, list(roots))
            assert [f"{record.name} {record.version}" for record in closure.packages] == case["packages"]
            if "omitted" in case:
                assert [f"{o.package}: {o.dependency}" for o in closure.omitted] == case["omitted"]


def test_edges_name_asker_relation_and_answer() -> None:
    """Edges tell for each package why it is there; a root has no asker."""
    case = {"archive": "Package: aa\nDepends: vv | bb (>= 1)\n\nPackage: pp\nProvides: vv\n"}
    assert closure_of(case, ["aa"]).edges == (("", "aa", "aa"), ("aa", "vv | bb (>= 1)", "pp"))


def test_root_with_comma_is_refused() -> None:
    """One root is one package: a list in one string is a mistake of the manifest."""
    with pytest.raises(NnenvError, match="not one Debian package"):
        closure_of({"archive": "Package: aa\n"}, ["aa, bb"])


@pytest.mark.parametrize("seed", range(40))
def test_random_archives_are_closed_and_independent_of_order(seed: int) -> None:
    """In random archives the answer meets every dependency, has no conflict, and ignores the order of roots."""
    chance = random.Random(seed)
    names = [f"p{number}" for number in range(12)]
    paragraphs = []
    for name, version in itertools.product(names, (1, 2, 3)):
        wanted = [
            f"{chance.choice(names)}{chance.choice(['', ' (>= 2)', ' (<< 3)', ' (= 2)'])} | {chance.choice(names)}"
            for _ in range(chance.randrange(3))
        ]
        enemy = f"Conflicts: {chance.choice(names)} (= 3)\n" if chance.random() < 0.15 else ""
        paragraphs.append(f"Package: {name}\nVersion: {version}\nDepends: {', '.join(wanted)}\n{enemy}")
    archive = "\n".join(paragraphs)
    roots = chance.sample(names, 4)
    locked = {name: str(chance.choice((1, 2, 3))) for name in chance.sample(names, 5)}
    case = {"archive": archive, "locked": locked}
    outcomes = {_outcome(case, list(order)) for order in itertools.permutations(roots)}
    assert len(outcomes) == 1
    (outcome,) = outcomes
    if isinstance(outcome, Closure):
        _assert_closed(outcome, roots)


def _outcome(case: dict[str, Any], roots: list[str]) -> Closure | str:
    try:
        return closure_of(case, roots)
    except NnenvError as error:
        return error.what


def _assert_closed(closure: Closure, roots: list[str]) -> None:
    """An independent check: names and versions by plain integers."""
    chosen = {record.name: int(record.version) for record in closure.packages}
    assert set(roots) <= set(chosen)
    for record in closure.packages:
        for relation in filter(None, record.depends.split(", ")):
            assert any(_holds(text.strip(), chosen) for text in relation.split("|")), (record, chosen)
        if record.conflicts:
            name = record.conflicts.split()[0]
            assert name == record.name or chosen.get(name) != 3, (record, chosen)


def _holds(text: str, chosen: dict[str, int]) -> bool:
    name, _, bound = text.partition(" ")
    checks = {"": lambda v: True, "(>= 2)": lambda v: v >= 2, "(<< 3)": lambda v: v < 3, "(= 2)": lambda v: v == 2}
    return name in chosen and checks[bound](chosen[name])
