"""Files of earlier revisions: the right bytes, nothing run, and refusals that say what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nnenv.adapters import git
from nnenv.errors import NnenvError

IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.invalid", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.invalid", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, in which nothing is configured."""
    (tmp_path / "home").mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), **IDENTITY}


@pytest.fixture
def project(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A project in a subfolder of a repository, with two commits."""
    top = tmp_path / "re po"
    folder = top / "sub" / "prö ject"
    folder.mkdir(parents=True)
    run(top, environment, "init", "--quiet", "--initial-branch=main")
    for text in ("one", "two"):
        (folder / "model.lock").write_text(text)
        run(top, environment, "add", "-A")
        run(top, environment, "commit", "--quiet", "--message", text)
    return folder


def run(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """A git command of the test's own."""
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def read(project: Path, revision: str, environment: Mapping[str, str], limit: int = 1000) -> bytes:
    """The lock at a revision."""
    commit = git.commit_of(project, revision, environment)
    return git.file_at(project, commit, "model.lock", environment, limit=limit, revision=revision)


def refusal(project: Path, revision: str, environment: Mapping[str, str], limit: int = 1000) -> NnenvError:
    """Why the lock at a revision cannot be read."""
    with pytest.raises(NnenvError) as caught:
        read(project, revision, environment, limit)
    return caught.value


def test_revisions_of_a_project_in_a_subfolder(project: Path, environment: dict[str, str]) -> None:
    """By ancestor, branch, tag, and short name, whatever the working tree holds."""
    (project / "model.lock").write_text("not committed")
    run(project, environment, "tag", "--annotate", "--message", "x", "v1", "HEAD~1")
    short = run(project, environment, "rev-parse", "--short", "HEAD")
    assert git.commit_of(project, "v1", environment) == run(project, environment, "rev-parse", "HEAD~1")
    revisions = ("HEAD~1", "v1", "HEAD", "main", "refs/heads/main", short, "HEAD@{0}")
    assert [read(project, revision, environment) for revision in revisions] == [b"one"] * 2 + [b"two"] * 5


def test_where_two_branches_went_apart(project: Path, environment: dict[str, str]) -> None:
    """The merge base; without one, a refusal."""
    first = run(project, environment, "rev-parse", "HEAD~1")
    run(project, environment, "checkout", "--quiet", "-b", "feature", "HEAD~1")
    run(project, environment, "commit", "--quiet", "--allow-empty", "--message", "x")
    ends = [git.commit_of(project, name, environment) for name in ("main", "feature")]
    assert git.merge_base(project, ends[0], ends[1], environment) == first
    run(project, environment, "checkout", "--quiet", "--orphan", "alone")
    run(project, environment, "commit", "--quiet", "--message", "x")
    with pytest.raises(NnenvError) as caught:
        git.merge_base(project, ends[0], git.commit_of(project, "alone", environment), environment)
    assert caught.value.code == "revision-unknown"


@pytest.mark.parametrize("revision", ["nothing", "HEAD~9", "HEAD:sub", "main..HEAD", "a b", "\n", "$(id)"])
def test_unknown_revisions(project: Path, environment: dict[str, str], revision: str) -> None:
    """A refusal that names what was asked for."""
    assert refusal(project, revision, environment).code == "revision-unknown"


@pytest.mark.parametrize("revision", ["-", "--all", "--output=/tmp/x", "-h", "", "x\0y"])
def test_a_revision_is_no_option(project: Path, environment: dict[str, str], revision: str) -> None:
    """git never sees what could be an option."""
    error = refusal(project, revision, environment)
    assert (error.code, "no name of a revision" in error.what) == ("revision-unknown", True)


def test_no_lock_at_a_revision(project: Path, environment: dict[str, str]) -> None:
    """The refusal names the path in the repository."""
    run(project, environment, "rm", "--quiet", "model.lock")
    run(project, environment, "commit", "--quiet", "--message", "gone")
    error = refusal(project, "HEAD", environment)
    assert error.code == "revision-unknown"
    assert error.what == "there is no sub/prö ject/model.lock at HEAD"


def test_a_file_that_is_too_large(project: Path, environment: dict[str, str]) -> None:
    """It is not read."""
    assert refusal(project, "HEAD", environment, limit=2).code == "file-unreadable"


def test_outside_of_a_repository(tmp_path: Path, environment: dict[str, str]) -> None:
    """The refusal says what git said."""
    (tmp_path / "alone").mkdir()
    error = refusal(tmp_path / "alone", "HEAD", {**environment, "GIT_DIR": "ignored"})
    assert error.code == "git-unavailable"
    assert "not a git repository" in error.because[0]


def test_without_git(project: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """The refusal says how to do without."""
    error = refusal(project, "HEAD", {**environment, "PATH": str(tmp_path)})
    assert error.code == "git-unavailable"
    assert "install git" in error.fix[0]


def test_an_empty_repository(tmp_path: Path, environment: dict[str, str]) -> None:
    """HEAD is no commit yet."""
    run(tmp_path, environment, "init", "--quiet")
    assert refusal(tmp_path, "HEAD", environment).code == "revision-unknown"


def test_nothing_that_a_repository_configures_is_run(
    project: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aliases, pagers, hooks, monitors, filters, textconv and external diffs stay alone, and variables stay outside.

    The control shows that the same traps do snap for others.
    """
    trap = tmp_path / "trap"
    trap.write_text(f'#!/bin/sh\ntouch "{tmp_path}/snapped"\nexec cat\n')
    trap.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "reference-transaction", "post-checkout"):
        (hooks / name).write_bytes(trap.read_bytes())
        (hooks / name).chmod(0o755)
    for key in ("core.pager", "core.fsmonitor", "diff.trap.textconv", "diff.external", "filter.trap.smudge"):
        run(project, environment, "config", key, str(trap))
    run(project, environment, "config", "core.hooksPath", str(hooks))
    for name in ("rev-parse", "cat-file", "merge-base"):
        run(project, environment, "config", f"alias.{name}", f"!{trap}")
    (project / ".gitattributes").write_text("* diff=trap filter=trap\n")
    hostile = {"GIT_DIR": str(tmp_path), "GIT_EXTERNAL_DIFF": str(trap), "GIT_PAGER": str(trap), "GIT_TRACE": "1"}
    assert read(project, "HEAD", {**environment, **hostile}) == b"two"
    assert not (tmp_path / "snapped").exists()
    run(project, environment, "status")
    assert (tmp_path / "snapped").exists()


def test_a_missing_object_of_a_partial_clone_is_not_fetched(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Offline means offline: git would ask the other side for the file."""
    run(project, environment, "config", "uploadpack.allowFilter", "true")
    top = project.parents[1]
    clone = tmp_path / "clone"
    arguments = ("clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{top}", str(clone))
    run(tmp_path, environment, *arguments)
    inside = clone / project.relative_to(top)
    inside.mkdir(parents=True)
    commit = git.commit_of(inside, "HEAD", environment)
    with pytest.raises(NnenvError):
        git.file_at(inside, commit, "model.lock", environment, limit=1000, revision="HEAD")
    assert run(inside, environment, "cat-file", "blob", f"{commit}:./model.lock") == "two"
