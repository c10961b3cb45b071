"""Which two locks `nnenv diff` compares."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.spec.lock_toml import write_lock
from nnenv.workflows.comparing import compare_locks
from nnenv.workflows.session import Session
from tests.adapters.test_git import IDENTITY, run
from tests.resolve.locks import deb, lock, wheel


def lock_of(version: str) -> bytes:
    """The bytes of a lock of one wheel."""
    return write_lock(lock([wheel("a", version), deb("libc6")], packages=["a"]))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A project in a subfolder: 1.0 and 2.0 on main, 3.0 on feature from 1.0 on, 4.0 in the working tree."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **IDENTITY}
    project = tmp_path / "repository" / "sub"
    project.mkdir(parents=True)
    run(project.parent, environment, "init", "--quiet", "--initial-branch=main")
    for branch, version in (("main", "1.0"), ("main", "2.0"), ("feature", "3.0")):
        if branch == "feature":
            run(project, environment, "checkout", "--quiet", "-b", "feature", "HEAD~1")
        (project / "model.lock").write_bytes(lock_of(version))
        run(project, environment, "add", "-A")
        run(project, environment, "commit", "--quiet", "--message", version)
    run(project, environment, "checkout", "--quiet", "main")
    (project / "model.lock").write_bytes(lock_of("4.0"))
    for name in ("old.lock", "a..b.lock"):
        (project / name).write_bytes(lock_of("0.5"))
    monkeypatch.chdir(project)
    return Session(
        project=project,
        store=Store(tmp_path / "store"),
        progress=SilentProgress(),
        environment=environment,
        home=tmp_path,
    )


def compared(session: Session, *sides: str) -> tuple[str, str]:
    """The version of `a` on each side."""
    found = compare_locks(session, sides)
    versions = [side.lockfile.artifacts[-1].version for side in (found.old, found.new)]
    assert found.difference.same == (versions[0] == versions[1])
    return versions[0], versions[1]


@pytest.mark.parametrize(
    ("sides", "versions"),
    [
        ([], ("2.0", "4.0")),
        (["feature"], ("3.0", "4.0")),
        (["HEAD~1", "HEAD"], ("1.0", "2.0")),
        (["feature..main"], ("3.0", "2.0")),
        (["feature.."], ("3.0", "2.0")),
        (["..feature"], ("2.0", "3.0")),
        (["main...feature"], ("1.0", "3.0")),
        (["...feature"], ("1.0", "3.0")),
        (["old.lock"], ("0.5", "4.0")),
        (["old.lock", "feature"], ("0.5", "3.0")),
        (["a..b.lock"], ("0.5", "4.0")),
        (["feature", "."], ("3.0", "4.0")),
        (["../sub/old.lock", "../sub"], ("0.5", "4.0")),
        (["HEAD", "HEAD"], ("2.0", "2.0")),
    ],
)
def test_sides(session: Session, sides: list[str], versions: tuple[str, str]) -> None:
    """Revisions, ranges as git has them, files and folders, and what stands for a side that is not named."""
    assert compared(session, *sides) == versions


def test_names_of_sides(session: Session) -> None:
    """A revision is named with its commit, unless the name is the commit."""
    head = run(session.project, session.environment, "rev-parse", "HEAD")
    found = compare_locks(session, [head[:10], "HEAD"])
    assert (found.old.name, found.new.name) == (head[:10], f"HEAD ({head[:12]})")
    assert compare_locks(session, ["old.lock"]).new.name == "working tree"


def test_a_folder_without_a_lock_may_have_the_name_of_a_branch(session: Session) -> None:
    """It is the branch that is meant."""
    Path("feature").mkdir()
    assert compared(session, "feature") == ("3.0", "4.0")


@pytest.mark.parametrize(
    ("sides", "code", "said"),
    [
        (["a", "b", "c"], "usage", "not more"),
        (["-x"], "revision-unknown", "'-x' is no name"),
        (["../nothing.lock"], "revision-unknown", "../nothing.lock"),
        (["nothing..main"], "revision-unknown", "'nothing'"),
        (["nothing...main"], "revision-unknown", "'nothing'"),
        ([__file__], "lock-edited", "test_comparing.py"),
    ],
)
def test_refused_sides(session: Session, sides: list[str], code: str, said: str) -> None:
    """The refusal names what was asked for."""
    with pytest.raises(NnenvError) as caught:
        compare_locks(session, sides)
    assert caught.value.code == code
    assert said in caught.value.what


def test_a_lock_that_is_no_lock_any_more(session: Session) -> None:
    """In the working tree, and at a revision, which is named."""
    Path("model.lock").write_text("<<<<<<< HEAD\n")
    with pytest.raises(NnenvError) as caught:
        compare_locks(session, [])
    assert (caught.value.code, caught.value.where) == ("lock-edited", "model.lock:1")
    run(session.project, session.environment, "commit", "--all", "--quiet", "--message", "x")
    with pytest.raises(NnenvError) as caught:
        compare_locks(session, ["HEAD", "old.lock"])
    assert (caught.value.code, caught.value.where) == ("lock-edited", "HEAD:model.lock:1")


def test_the_working_tree_is_not_touched(session: Session) -> None:
    """Comparing writes nothing, into the project or into the repository."""

    def state() -> dict[str, bytes]:
        top = session.project.parent
        return {str(path): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}

    subprocess.run(
        ["git", "status"], cwd=session.project, env=dict(session.environment), capture_output=True, check=True
    )
    before = state()
    compare_locks(session, [])
    compare_locks(session, ["main...feature"])
    assert state() == before
