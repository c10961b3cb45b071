"""Collections of garbage beside real builds: nothing that a command needs goes, and garbage does."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.kill9 import kill_collections
from nnenv.adapters.files import UNSAFE_VARIABLE
from nnenv.adapters.store import Store
from tests.e2e.world import User, tanh_model, toy_weights

COMMANDS = (
    ("lock",),
    ("build", "-o", "dir:../layout"),
    ("build", "-o", "dir:../layout"),
    ("verify", "--runner", "sandbox", "--require", "closed"),
)
"""What one project goes through; afterwards it is removed, and all that it brought is garbage."""


@dataclass(kw_only=True)
class Seen:
    """What happened while builds and collections ran."""

    done: Counter[str] = field(default_factory=Counter)
    """Commands that ended well, by name."""
    failed: list[str] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    collected: int = 0
    """Entries that went."""
    collections: int = 0
    slowest: dict[str, float] = field(default_factory=dict)
    """Seconds, by command."""


def builds_beside_collections(user: User, folder: Path, seconds: float, projects: int) -> Seen:
    """Projects are made, locked, built, verified and removed for so long, beside one collection after the other."""
    seen = Seen()
    end = time.monotonic() + seconds
    workers = [
        threading.Thread(target=_live, args=(user, folder / str(number), end, seen)) for number in range(projects)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        done = user.run("store", "gc", "--older-than", "0s", "--json", "-q")
        if done.code:
            seen.failed.append(f"gc: {done.all}")
            break
        seen.collections += 1
        seen.collected += done.json()["entries"]
        seen.slowest["gc"] = max(seen.slowest.get("gc", 0.0), done.seconds)
    for worker in workers:
        worker.join()
    return seen


def _live(user: User, folder: Path, end: float, seen: Seen) -> None:
    """Go through the life of a project, again and again."""
    while time.monotonic() < end:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mine = user.elsewhere(folder / "project")
        mine.lock_path.unlink(missing_ok=True)
        for command in COMMANDS:
            done = mine.run(*command)
            if done.code:
                seen.failed.append(f"{' '.join(command)}: {done.all}")
                break
            seen.done[command[0]] += 1
            seen.slowest[command[0]] = max(seen.slowest.get(command[0], 0.0), done.seconds)
            image = mine.lock().targets[0].image
            if image is not None:
                seen.images.add(image.manifest)
        mine.lock_path.unlink(missing_ok=True)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("projects", [1, 3])
def test_builds_beside_collections(tiny: User, tmp_path: Path, projects: int) -> None:
    """No command fails, is held up, or gives another image; what no project needs really goes."""
    alone = User(project=tiny.project, store=tmp_path / "store", environment=tiny.environment)
    before = alone.elsewhere(tmp_path / "before")
    before.lock_path.unlink()
    undisturbed = {command[0]: before.must(*command).seconds for command in COMMANDS}
    before.lock_path.unlink()
    seen = builds_beside_collections(alone, tmp_path, 25, projects)
    assert seen.failed == []
    assert seen.images == {tiny.lock().targets[0].image.manifest}  # type: ignore[union-attr]
    assert min(seen.done[command[0]] for command in COMMANDS) >= projects
    assert seen.collections > 5
    assert seen.collected > 50
    crowd = 2 * (projects + 1)
    for name, seconds in undisturbed.items():
        assert seen.slowest[name] < crowd * (seconds + 5), name
    alone.must("store", "gc", "--older-than", "0s")
    sizes = {kind["kind"]: kind["entries"] for kind in alone.must("store", "size", "--json").json()["kinds"]}
    assert sizes["of no known project"] + sizes["extracted layers"] == 0
    assert all(whole for _, whole in Store(alone.store).verify_all())


@pytest.mark.network
@pytest.mark.slow
def test_builds_beside_collections_without_the_guard(tiny: User, tmp_path: Path) -> None:
    """Negative control: without leases the same commands miss what they use."""
    alone = User(project=tiny.project, store=tmp_path / "store", environment=tiny.environment)
    careless = alone.with_environment(**{UNSAFE_VARIABLE: "lease"})
    seen = Seen()
    for attempt in range(4):
        seen = _careless(careless, tmp_path / str(attempt))
        if seen.failed:
            break
    assert seen.failed


def _careless(user: User, folder: Path) -> Seen:
    """As above for one project; a command may fail in any way here."""
    seen = Seen()
    end = time.monotonic() + 12
    project = user.elsewhere(folder / "project")

    def collect() -> None:
        while time.monotonic() < end and not seen.failed:
            subprocess.run(
                user.command("store", "gc", "--older-than", "0s", "-q"),
                env=dict(user.environment),
                cwd=folder,
                check=False,
            )

    collector = threading.Thread(target=collect)
    collector.start()
    while time.monotonic() < end and not seen.failed:
        project.lock_path.unlink(missing_ok=True)
        for command in COMMANDS[:2]:
            done = subprocess.run(
                project.command(*command),
                env=dict(project.environment),
                cwd=project.project,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                seen.failed.append(done.stderr)
                break
    collector.join()
    return seen


@pytest.mark.network
def test_a_built_project_needs_no_building_after_a_collection(tiny: User, tmp_path: Path) -> None:
    """What stays is what a build asks for: nothing is made again, and no network is needed."""
    user = User(project=tiny.project, store=tmp_path / "store", environment=tiny.environment)
    mine = user.elsewhere(tmp_path / "project")
    mine.must("build", "-o", "dir:../layout")
    mine.must("verify", "--runner", "sandbox", "--require", "closed")
    before = _objects(mine)
    # Unknown objects, and the layers of another lock of the same project.
    store = Store(mine.store)
    store.put(b"of no project")
    store.close()
    assert mine.must("store", "gc", "--older-than", "0s", "--json").json()["entries"] == 1
    assert _objects(mine) == before
    done = mine.must("build", "-o", "dir:../layout", "--offline")
    assert "as locked" in done.out
    assert _objects(mine) == before


@pytest.mark.network
def test_a_lock_that_moved_frees_what_it_left(tiny: User, tmp_path: Path) -> None:
    """Layers of the model that was before go, those of the system stay."""
    user = User(project=tiny.project, store=tmp_path / "store", environment=tiny.environment)
    mine = user.elsewhere(tmp_path / "project")
    mine.must("build", "-o", "dir:../layout")
    old = mine.lock().models[0].file
    (mine.project / "model.toml").write_text(
        re.sub(r"\[\[models.toy.tests\]\]\ndata = .*\n", "", (mine.project / "model.toml").read_text())
    )
    (mine.project / "model.onnx").write_bytes(tanh_model(toy_weights() + 1))
    mine.must("lock")
    removed = mine.must("store", "gc", "--older-than", "0s", "--json").json()
    assert 1 <= removed["entries"] <= 12
    store = Store(mine.store)
    assert not store.contains(old)
    store.close()
    mine.must("build", "-o", "dir:../layout", "--offline")


def _objects(user: User) -> set[str]:
    return {path.name for path in (user.store / "objects" / "sha256").glob("??/*")}


@pytest.mark.network
@pytest.mark.slow
def test_kill_9_of_collections(tiny: User, tmp_path: Path) -> None:
    """A few of the kills that `bench/kill9.py --gc` does by the hundred."""
    mine = User(project=tiny.project, store=tmp_path / "store", environment=tiny.environment).elsewhere(
        tmp_path / "project"
    )
    mine.lock_path.unlink()
    tally = kill_collections(mine, 5)
    assert tally.clean, tally.text()
    assert tally.kills["gc"] == 5
