"""Files of earlier revisions, by git's plumbing: nothing that a repository configures is run, nothing is fetched."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nnenv.errors import NnenvError

_INHERITED: Final = ("PATH", "HOME", "XDG_CONFIG_HOME")
"""Where git is, and where the user says which repositories are safe (git-config(1), safe.directory). What a hook or
the user set for other purposes (GIT_DIR, GIT_INDEX_FILE, GIT_EXTERNAL_DIFF, ...) stays outside."""
_FIXED: Final[Mapping[str, str]] = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Messages in English, no network even in a partial clone, no lock, no pager, no question."""
_OPTIONS: Final = ("--no-pager", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
_SECONDS: Final = 60


def commit_of(folder: Path, revision: str, environment: Mapping[str, str]) -> str:
    """The full name of the commit that `revision` means in the repository around `folder`.

    Raises NnenvError `git-unavailable` (no git, no repository), `revision-unknown`.
    """
    _refuse_option(revision)
    _prefix(folder, environment)
    wanted = f"{revision}^{{commit}}"
    done = _git(folder, environment, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
    if done.returncode:
        raise _unknown(revision, done.stderr)
    return done.stdout.decode("ascii").strip()


def merge_base(folder: Path, first: str, second: str, environment: Mapping[str, str]) -> str:
    """The commit from which two commits, by their full names, went apart; NnenvError `revision-unknown` without one."""
    done = _git(folder, environment, "merge-base", first, second)
    if done.returncode:
        raise NnenvError(
            "revision-unknown",
            f"{first[:12]} and {second[:12]} have no common ancestor",
            because=_lines(done.stderr),
            fix=["compare the two with `A..B` instead of `A...B`", "in a shallow clone: `git fetch --unshallow`"],
        )
    return done.stdout.decode("ascii").split()[0]


def file_at(
    folder: Path, commit: str, name: str, environment: Mapping[str, str], *, limit: int, revision: str
) -> bytes:
    """The bytes of the file `name` in `folder` as `commit`, by its full name, holds it; text is not converted.

    `revision` is what the user calls the commit.

    Raises NnenvError `revision-unknown` if the commit has no such file, `file-unreadable` above `limit` bytes.
    """
    path = f"{_prefix(folder, environment)}{name}"
    size = _git(folder, environment, "cat-file", "-s", f"{commit}:{path}")
    if size.returncode:
        raise NnenvError(
            "revision-unknown",
            f"there is no {path} at {revision}",
            where=f"{revision}:{path}",
            because=[line.replace(commit, revision) for line in _lines(size.stderr)],
            fix=["name a revision that has one, or compare two files"],
        )
    if int(size.stdout) > limit:
        raise NnenvError(
            "file-unreadable",
            f"{path} at {revision} is larger than the {limit} bytes that such a file may have",
            where=f"{revision}:{path}",
            fix=["check that this is the revision that you mean"],
        )
    done = _git(folder, environment, "cat-file", "blob", f"{commit}:{path}")
    if done.returncode:
        raise _unavailable("git could not read the file", folder, done.stderr)
    return done.stdout


def _prefix(folder: Path, environment: Mapping[str, str]) -> str:
    """The path of `folder` from the top of its repository, with a slash at its end; "" at the top."""
    done = _git(folder, environment, "rev-parse", "--show-prefix")
    if done.returncode:
        raise _unavailable("the project is in no git repository that can be read", folder, done.stderr)
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def _git(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    kept = {name: environment[name] for name in _INHERITED if name in environment}
    try:
        return subprocess.run(
            ["git", *_OPTIONS, *arguments],
            cwd=folder,
            env={**kept, **_FIXED},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (FileNotFoundError, PermissionError):
        raise NnenvError(
            "git-unavailable",
            "revisions cannot be read: there is no git that can be run",
            fix=["install git, or compare two files: `nnenv diff OLD.lock NEW.lock`"],
        ) from None
    except subprocess.TimeoutExpired:
        raise _unavailable(f"git did not end within {_SECONDS} seconds", folder, b"") from None


def _refuse_option(revision: str) -> None:
    """git would take it for an option; no revision can have such a name (git-check-ref-format(1))."""
    if revision.startswith("-") or not revision or "\0" in revision:
        raise NnenvError(
            "revision-unknown",
            f"{revision[:80]!r} is no name of a revision",
            because=["the name of a revision is not empty and does not begin with a hyphen"],
            fix=["name a branch, a tag or a commit"],
        )


def _unknown(revision: str, said: bytes) -> NnenvError:
    return NnenvError(
        "revision-unknown",
        f"{revision[:80]!r} is neither a file nor a revision that this repository knows",
        because=_lines(said),
        fix=["name a lock file, or a branch, tag or commit", "in a shallow clone: fetch the revision first"],
    )


def _unavailable(what: str, folder: Path, said: bytes) -> NnenvError:
    return NnenvError(
        "git-unavailable",
        what,
        where=str(folder),
        because=_lines(said),
        fix=["change to a project in a git repository, or compare two files: `nnenv diff OLD.lock NEW.lock`"],
    )


def _lines(said: bytes) -> list[str]:
    """What git said, without its prefix and at most a few lines."""
    text = said.decode("utf-8", "replace")
    return [line.removeprefix("fatal: ") for line in text.splitlines() if line.strip()][:4]
