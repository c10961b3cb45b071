"""A confirmed lock: believed as long as nothing that was looked at has changed, and not a moment longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.workflows.confirming import confirmed, remember, settled, stamp_of
from nnenv.workflows.inputs import read_inputs
from nnenv.workflows.session import Session

MANIFEST = """\
[project]
name = "toy"
version = "1.0.0"

[targets.cpu]

[image]
files = { "app" = "/app", "notes.txt" = "/notes.txt" }
"""
SUMMARY = {"targets": [], "notices": ["told"]}
LOCK = b"any bytes\n"


def session(project: Path) -> Session:
    """What one command makes of the project."""
    return Session(
        project=project,
        store=Store(project.parent / "store"),
        progress=SilentProgress(),
        environment={},
        home=project.parent,
        offline=True,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that was confirmed when its files were old enough."""
    folder = tmp_path / "project"
    (folder / "app" / "inner").mkdir(parents=True)
    for name in ("app/main.py", "app/inner/part.py", "notes.txt"):
        (folder / name).write_text(name)
    (folder / "model.toml").write_text(MANIFEST)
    (folder / "model.lock").write_bytes(LOCK)
    time.sleep(0.05)
    confirm(folder)
    return folder


def confirm(project: Path) -> None:
    """What `nnenv lock` does when the lock fits."""
    now = session(project)
    data = now.manifest_bytes()
    lock = now.lock_bytes()
    assert lock is not None
    remember(now, data, lock, read_inputs(now, parse_manifest(data)).seen, SUMMARY)


def test_an_unchanged_project_is_believed(project: Path) -> None:
    """The next command gets the summary without looking into any file."""
    assert confirmed(session(project)) == SUMMARY


CHANGES: dict[str, Callable[[Path], object]] = {
    "the manifest's bytes": lambda p: (p / "model.toml").write_text(MANIFEST + "# more\n"),
    "the lock's bytes": lambda p: (p / "model.lock").write_bytes(LOCK + b"more\n"),
    "no lock": lambda p: (p / "model.lock").unlink(),
    "a file's bytes": lambda p: (p / "notes.txt").write_text("NOTES.TXT"),
    "a file's bytes with its old time": lambda p: rewritten(p / "notes.txt"),
    "a file replaced by an equal one": lambda p: replaced(p / "app/inner/part.py"),
    "a file gone": lambda p: (p / "app/main.py").unlink(),
    "a new file": lambda p: (p / "app/more.py").write_text(""),
    "a new file deeper": lambda p: (p / "app/inner/more.py").write_text(""),
    "a file made executable": lambda p: (p / "app/main.py").chmod(0o755),
}


def rewritten(path: Path) -> None:
    """Other bytes of the same length under the same modification time."""
    before = path.stat()
    path.write_text(path.read_text().upper())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file of the same content."""
    text = path.read_text()
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_noticed(change: str, project: Path) -> None:
    """Whatever could make the lock stale sends the next command to look for itself."""
    CHANGES[change](project)
    assert confirmed(session(project)) is None


def test_a_project_elsewhere_is_another_one(project: Path) -> None:
    """A copy of the folder has files of its own, which nobody looked at."""
    copy = project.parent / "copy"
    project.rename(copy)
    assert confirmed(session(copy)) is None


def test_what_changed_just_now_is_not_remembered(project: Path) -> None:
    """Within a tick of the kernel's clock a second write would leave no trace."""
    (project / "notes.txt").write_text("fresh")
    now = session(project)
    data = now.manifest_bytes()
    remember(now, data, LOCK, read_inputs(now, parse_manifest(data)).seen, SUMMARY)
    stamp = stamp_of((project / "notes.txt").stat())
    assert not settled(stamp, now.started_ns)
    assert settled(stamp, now.started_ns + 10**9)
    assert confirmed(session(project)) is None


def test_a_damaged_record_is_no_answer(project: Path) -> None:
    """The record's own checksum decides, not whether it can be parsed."""
    records = [path for path in (project.parent / "store" / "derived" / "confirmed").rglob("*") if path.is_file()]
    assert len(records) == 1
    records[0].chmod(0o644)
    records[0].write_bytes(records[0].read_bytes().replace(b"told", b"lied"))
    assert confirmed(session(project)) is None
