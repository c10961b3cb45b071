"""The contestants as installed programs: each in an environment of its own in the bench's cache.

They come from the Python index that pip is configured for, are installed once, and stay until `--fresh-peers`.
nnenv is installed the same way, as a wheel built from the checkout, so that what is timed is what a user has.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.timing import Unavailable

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
SHIPPED = ("nnenv", "schemas", "templates", "pyproject.toml", "README.md")
"""What a wheel of nnenv is made of."""
KEPT = 4
"""Environments of nnenv that stay in the cache: one for each of the last states of the checkout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """An installed contestant."""

    name: str
    version: str
    folder: Path
    """Its virtual environment."""

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.folder / "bin" / "python"

    def command(self, name: str) -> Path:
        """A console script of its environment."""
        return self.folder / "bin" / name


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the bench keeps peers and recordings."""
    base = environment.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "nnenv-bench"


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Installs contestants and remembers where they are."""

    cache: Path
    fresh: bool = False
    """Install again what is there."""
    installed: bool = False
    """Take the nnenv of the interpreter that runs the bench, instead of a wheel of the checkout: works offline."""
    _ours: list[Peer] = field(default_factory=list)
    """nnenv, once it was asked for: the checkout may change while the bench runs."""

    def get(self, name: str, *requirements: str) -> Peer:
        """The peer `name`, made of `requirements` (default: the distribution of that name).

        Unavailable, with pip's reason, if it cannot be installed.
        """
        wanted = requirements or (name,)
        key = _digest([platform.python_version(), *wanted])[:12]
        with _alone(self.cache / "peers" / f"{name}-{key}") as folder:
            if self.fresh and not _made_since_start(folder):
                shutil.rmtree(folder, ignore_errors=True)
            if not (folder / "ready.json").exists():
                _install(folder, wanted)
            return _peer(name, folder)

    def nnenv(self) -> Peer:
        """nnenv as a user has it, the same one throughout; Unavailable if its wheel cannot be built or installed."""
        if not self._ours:
            self._ours.append(self._nnenv())
        return self._ours[0]

    def _nnenv(self) -> Peer:
        if self.installed:
            folder = Path(sys.executable).parent.parent
            return Peer(name="nnenv", version=_version(Path(sys.executable), "nnenv"), folder=folder)
        key = _digest([platform.python_version(), *_tree(ROOT)])[:12]
        with _alone(self.cache / "nnenv" / key) as folder:
            if not (folder / "ready.json").exists():
                _prune(folder.parent, folder)
                _install(folder, [str(_wheel(folder))])
            return _peer("nnenv", folder)


def installer_environment() -> dict[str, str]:
    """The user's environment, with pip's configuration as it is, but for what would change how Python starts."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV")
    return {name: value for name, value in os.environ.items() if name not in left_out}


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """`folder`, while no other bench works on it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _install(folder: Path, requirements: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _pip_or_unavailable([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _pip_or_unavailable([*pip, "--upgrade", *requirements])
    except Unavailable:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    listing = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        env=installer_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    versions = {row["name"].lower(): row["version"] for row in json.loads(listing.stdout)}
    (folder / "ready.json").write_text(json.dumps({"versions": versions, "process": os.getpid()}))


def _wheel(folder: Path) -> Path:
    """The wheel of the checkout, built beside `folder`."""
    target = folder.with_name(folder.name + ".wheel")
    shutil.rmtree(target, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _pip_or_unavailable([*pip, "--wheel-dir", str(target), str(ROOT)])
    (wheel,) = target.glob("nnenv-*.whl")
    return wheel


def _pip_or_unavailable(command: Sequence[str]) -> None:
    done = subprocess.run(command, env=installer_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"pip could not install it ({(said or ['no reason given'])[-1].strip()[:160]})")


def _prune(folder: Path, keep: Path) -> None:
    """Leave only the youngest environments of nnenv."""
    made = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path != keep), key=lambda p: p.stat().st_mtime
    )
    for path in made[: -2 * KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _peer(name: str, folder: Path) -> Peer:
    versions = json.loads((folder / "ready.json").read_text())["versions"]
    return Peer(name=name, version=versions.get(name.lower(), "?"), folder=folder)


def _made_since_start(folder: Path) -> bool:
    """Whether this very bench installed it: `--fresh-peers` installs each once."""
    try:
        return bool(json.loads((folder / "ready.json").read_text())["process"] == os.getpid())
    except (OSError, KeyError, ValueError):
        return False


def _version(python: Path, name: str) -> str:
    program = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"


def _tree(root: Path) -> Iterator[str]:
    """A line for each file that goes into the wheel."""
    for part in SHIPPED:
        top = root / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix != ".pyc":
                yield f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
