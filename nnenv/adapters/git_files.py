"""One file of a git repository on a server, with LFS: by the machine's git, in a repository that is thrown away.

Nothing of what was fetched is checked out or run. Credentials are those that the user's git knows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from nnenv.errors import NnenvError
from nnenv.spec.model_source import GitSource

_INHERITED: Final = (
    "PATH", "HOME", "XDG_CONFIG_HOME", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy",
    "ALL_PROXY", "all_proxy", "NETRC",
)  # fmt: skip
_FIXED: Final[Mapping[str, str]] = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "http:https",
    "GIT_TERMINAL_PROMPT": "0",
}
_OPTIONS: Final = ("--no-pager", "-c", "core.hooksPath=/dev/null", "-c", "protocol.version=2")
_POINTER: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,19})\n"
)
"""git-lfs specification, "The pointer"."""
_POINTER_LIMIT: Final = 1024
_SECONDS: Final = 3600


class GitFile:
    """The file at one commit, as long as the repository stands."""

    def __init__(self, folder: Path, source: GitSource, environment: Mapping[str, str], commit: str) -> None:
        self.commit = commit
        self._folder = folder
        self._source = source
        self._environment = environment

    @contextmanager
    def content(self) -> Iterator[BinaryIO]:
        """The bytes, from the repository or from its LFS server; NnenvError `model-unreachable`, when they are read to
        the end as well."""
        wanted = f"{self.commit}:{self._source.path}"
        size = _said(self._folder, self._environment, self._source, "cat-file", "-s", wanted).strip()
        if int(size) <= _POINTER_LIMIT:
            pointer = _said(self._folder, self._environment, self._source, "cat-file", "blob", wanted)
            if _POINTER.fullmatch(pointer):
                with self._piped(pointer, "lfs", "smudge") as stream:
                    yield stream
                return
        with self._piped(b"", "cat-file", "blob", wanted) as stream:
            yield stream

    def text(self, path: str, limit: int) -> str | None:
        """Another file of the commit, if it is UTF-8 of at most `limit` bytes; None if there is none."""
        wanted = f"{self.commit}:{path}"
        try:
            size = int(_said(self._folder, self._environment, self._source, "cat-file", "-s", wanted))
            if size > limit:
                return None
            return _said(self._folder, self._environment, self._source, "cat-file", "blob", wanted).decode("utf-8")
        except (NnenvError, UnicodeDecodeError):
            return None

    @contextmanager
    def _piped(self, given: bytes, *words: str) -> Iterator[BinaryIO]:
        process = subprocess.Popen(
            [_git(), *_OPTIONS, *words],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            try:
                process.stdin.write(given)  # a pointer, at most a kilobyte: it fits into the pipe
                process.stdin.close()
                yield cast(BinaryIO, process.stdout)
                said = process.stderr.read()
                if process.wait(_SECONDS):
                    raise _unreachable(self._source, said)
            finally:
                process.kill()


@contextmanager
def git_file(
    source: GitSource, revision: str, folder: Path, environment: Mapping[str, str], certificates: str | None
) -> Iterator[GitFile]:
    """The source's file at `revision`, fetched without history into `folder`, which is empty and stays to the caller.

    Raises NnenvError `model-unreachable`: no git, no answer, no such repository, revision or file.
    """
    own = _own(environment, certificates)
    _said(folder, own, source, "init", "--quiet", "--bare", ".")
    _said(folder, own, source, "remote", "add", "origin", source.url)
    _said(folder, own, source, "fetch", "--quiet", "--depth=1", "--no-tags", "origin", "--", revision)
    commit = _said(folder, own, source, "rev-parse", "FETCH_HEAD^{commit}").decode("ascii").strip()
    yield GitFile(folder, source, own, commit)


def commit_now(source: GitSource, folder: Path, environment: Mapping[str, str], certificates: str | None) -> str:
    """The commit that the source's branch or tag is at now; a commit itself as it is. Nothing is fetched.

    `folder` is an empty directory to run in. Raises NnenvError `model-unreachable` as `git_file`.
    """
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", source.revision):
        return source.revision
    wanted = source.revision
    asked = ("ls-remote", "--", source.url, wanted, f"{wanted}^{{}}")
    said = _said(folder, _own(environment, certificates), source, *asked).decode("utf-8", "replace")
    rows: dict[str, str] = {}
    for line in said.splitlines():
        commit, _, name = line.partition("\t")
        rows[name] = commit
    # What an annotated tag is at stands with ^{}; tags come before branches (gitrevisions(7)).
    for name in (f"refs/tags/{wanted}^{{}}", f"refs/tags/{wanted}", f"refs/heads/{wanted}", wanted):
        if name in rows:
            return rows[name]
    raise _unreachable(source, b"the repository has no such branch or tag")


def _own(environment: Mapping[str, str], certificates: str | None) -> dict[str, str]:
    """The environment that git runs in."""
    own = {name: value for name, value in environment.items() if name in _INHERITED}
    return own | {**_FIXED, **({"GIT_SSL_CAINFO": certificates} if certificates else {})}


def _git() -> str:
    found = shutil.which("git")
    if found is None:
        raise NnenvError(
            "model-unreachable", "a source of scheme git+https: or torchhub: needs git", fix=["install git"]
        )
    return found


def _said(folder: Path, environment: Mapping[str, str], source: GitSource, *words: str) -> bytes:
    done = subprocess.run(
        [_git(), *_OPTIONS, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise _unreachable(source, done.stderr)
    return done.stdout


def _unreachable(source: GitSource, said: bytes) -> NnenvError:
    lines = [line.strip()[:300] for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    needs_lfs = any("'lfs' is not a git command" in line for line in lines)
    return NnenvError(
        "model-unreachable",
        f"git gives no {source.shown}",
        where=source.shown,
        because=lines[-3:],
        fix=["install git-lfs"]
        if needs_lfs
        else ["check address, revision and path, and what your git may read there"],
    )
