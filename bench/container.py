"""Container engines as the bench uses them: which command-line programs can do what, and leaving nothing behind.

Everything that the bench puts into an engine has a name that begins with `nnenv-bench`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import installer_environment
from bench.timing import ContestantFailed, Unavailable

PREFIX: Final = "nnenv-bench"
NO_ENGINE: Final = "unix:///nonexistent/nnenv-bench.sock"
"""A DOCKER_HOST where nobody answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Docker:
    """A running engine, and the client to ask it with."""

    command: Path
    version: str
    """The engine's."""

    @classmethod
    def find(cls) -> Docker:
        """The engine that answers; Unavailable if none does."""
        command = shutil.which("docker")
        if command is None:
            raise Unavailable("there is no docker command")
        done = _asked([command, "version", "--format", "{{.Server.Version}}"])
        if done.returncode:
            raise Unavailable("no Docker engine answers")
        return cls(command=Path(command), version=done.stdout.strip())

    def image_id(self, tag: str) -> str:
        """`sha256:...`, or "" if there is no such image."""
        done = _asked([self.command, "image", "inspect", "--format", "{{.Id}}", tag])
        return done.stdout.strip() if done.returncode == 0 else ""

    def remove(self, *images: str) -> None:
        """Remove the images by name or ID; one that is not there is no matter."""
        for image in images:
            _asked([self.command, "image", "rm", "--force", image])

    def ours(self, prefix: str = PREFIX) -> list[str]:
        """The names of all images of the bench, those of an interrupted run included."""
        done = _asked([self.command, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{prefix}*"])
        return sorted(set(done.stdout.split()))

    @contextmanager
    def clean(self, prefix: str = PREFIX) -> Iterator[None]:
        """Afterwards the images of the bench are gone, and so are the build cache records that appeared meanwhile."""
        before = self._cache_records()
        try:
            yield
        finally:
            self.remove(*self.ours(prefix))
            self._prune(before)

    def _prune(self, keep: set[str]) -> None:
        """Remove all build cache records but `keep`, by ID: a prune of everything would take what belongs to others.
        A record goes only after those above it, so this goes round until nothing more goes."""
        left = self._cache_records() - keep
        while left:
            for record in sorted(left):
                _asked([self.command, "builder", "prune", "--force", "--all", "--filter", f"id={record}"])
            still = self._cache_records() - keep
            if still == left:
                return
            left = still

    def _cache_records(self) -> set[str]:
        done = _asked([self.command, "system", "df", "--verbose", "--format", "{{json .BuildCache}}"])
        try:
            records = json.loads(done.stdout or "[]")
        except ValueError:
            return set()
        return {str(record["ID"]) for record in records or []}


def buildkit_client() -> Path:
    """A docker command that can build with BuildKit.

    Clients before 23 have it built in; later ones need the buildx plug-in. A machine can have several on its path.
    Raises Unavailable if there is none.
    """
    for command in _all_on_path("docker"):
        version = re.search(r"version (\d+)", _asked([command, "--version"]).stdout)
        if (version and int(version[1]) < 23) or _asked([command, "buildx", "version"]).returncode == 0:
            return command
    raise Unavailable("no docker command here can use BuildKit (a client before 23, or the buildx plug-in)")


def buildah_client() -> Path:
    """The buildah command; Unavailable if there is none."""
    command = shutil.which("buildah")
    if command is None:
        raise Unavailable("buildah is not installed (apt-get install buildah)")
    return Path(command)


def engine_environment(**variables: str) -> dict[str, str]:
    """The user's environment, so that the user's engine is found, and nothing that configures nnenv."""
    kept = {name: value for name, value in installer_environment().items() if not name.startswith("NNENV_")}
    return {**kept, **variables}


def insist(command: Sequence[str | Path], *, cwd: Path | None = None, limit: float = 600.0) -> str:
    """Run a step that is not measured: its stdout; ContestantFailed if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=engine_environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=limit, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise ContestantFailed("\n  ".join([f"`{' '.join(map(str, command[:8]))}` exited {done.returncode}", *said]))
    return done.stdout


def _asked(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """A question to an engine, which may fail."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words, env=engine_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def _all_on_path(name: str) -> list[Path]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [Path(folder) / name for folder in folders if folder]
    return [path for path in found if os.access(path, os.X_OK)]
