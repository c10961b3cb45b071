"""Every kind of conflict about hardware, as its user meets it: `tests/e2e/conflicts/*.toml`, on the real index.

A case file has the packages and the target, and what `nnenv lock` says: code, sentence, evidence, and how its repairs
begin. Repairs are made too, and must lock.
"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_gpu_lock import DAY, declare, refusal
from tests.e2e.world import User, make_wheel, users_environment

pytestmark = [pytest.mark.network, pytest.mark.slow]

CASES = sorted((Path(__file__).parent / "conflicts").glob("*.toml"))
DOCUMENTED = Path(__file__).parents[2] / "docs" / "hardware.md"


@pytest.fixture
def project(tmp_path: Path, shared_store: Path) -> User:
    """An empty project, and a folder of links with a wheel that lies about the glibc that it needs."""
    folder = tmp_path / "project"
    folder.mkdir()
    links = tmp_path / "links"
    links.mkdir()
    library = with_symbol_of_the_future(tmp_path)
    name, data = make_wheel(
        "from_the_future", "1", tag="cp311-cp311-manylinux_2_17_x86_64", files={"future.so": library}
    )
    (links / name).write_bytes(data)
    environment = users_environment()
    environment["NNENV_FIND_LINKS"] = f"{environment.get('NNENV_FIND_LINKS', '')} {links.as_uri()}".strip()
    return User(project=folder, store=shared_store, environment=environment)


def with_symbol_of_the_future(folder: Path) -> bytes:
    """A library by the machine's compiler, with one symbol version of glibc renamed to one that no glibc has yet."""
    source = folder / "future.c"
    source.write_text("#include <unistd.h>\nint future(void) { return getpid(); }\n")
    made = folder / "future.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    data = made.read_bytes()
    assert data.count(b"\0GLIBC_2.2.5\0") == 1
    return data.replace(b"\0GLIBC_2.2.5\0", b"\0GLIBC_2.99\0\0")


def declared(user: User, case: dict[str, Any]) -> None:
    """The case's project."""
    packages = ", ".join(f'"{text}"' for text in case["packages"])
    keys = [f"{key} = {_toml(value)}" for key, value in case["target"].items()]
    declare(user, packages, **{case["says"].split()[1].rstrip(":"): ";".join(keys)})
    if case.get("any-day"):  # a wheel from a folder is of no day
        path = user.project / "model.toml"
        path.write_text(path.read_text().replace(f'[policy]\nexclude-newer = "{DAY}"\n', ""))


def _toml(value: object) -> str:
    return "[" + ", ".join(map(_toml, value)) + "]" if isinstance(value, list) else f"'{value}'"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_conflict_is_explained(project: User, path: Path) -> None:
    """With its code, in one sentence, with evidence and repairs."""
    case = tomllib.loads(path.read_text())
    declared(project, case)
    error = refusal(project)
    assert (error["code"], error["message"]) == (case["code"], case["says"])
    for line in case["because"]:
        assert line in error["because"]
    assert len(error["fix"]) <= 3
    for said in case["fix"]:
        assert any(line.startswith(said) for line in error["fix"]), error["fix"]
    assert not project.lock_path.exists()


@pytest.mark.parametrize("name", ["cudnn-pins", "uncovered-capability"])
def test_its_repair_is_made(project: User, name: str) -> None:
    """One that moves two packages, and one that moves one."""
    case = tomllib.loads((CASES[0].parent / f"{name}.toml").read_text())
    declared(project, case)
    project.must("lock", "--apply-fix", "1", timeout=900)
    text = (project.project / "model.toml").read_text()
    assert not [old for old in case["packages"] if old in text]
    project.must("lock", "--check")


def test_conflicts_are_documented() -> None:
    """docs/hardware.md shows the sentence of each."""
    text = DOCUMENTED.read_text()
    for path in CASES:
        assert tomllib.loads(path.read_text())["says"].split(": ", 1)[1] in text, path.stem
