"""Faults from end to end: flipped bits, a full disk, a dead index, no engine, kill -9, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.kill9 import Tally, inspect, kill_often
from nnenv.spec.artifact import Kind
from tests.e2e.world import (
    User,
    World,
    flip_bit,
    linked_copy,
    listing,
    plain_project,
    toy_project,
)

NOWHERE = "http://127.0.0.1:9"
"""Nobody listens on the discard port."""


def image_of(user: User) -> str:
    """The manifest digest that the lock expects."""
    image = user.lock().targets[0].image
    return image.manifest if image else ""


def entry(user: User, sha256: str) -> Path:
    """Where the store keeps an object."""
    return user.store / "objects" / "sha256" / sha256[:2] / sha256


# A flipped bit


def wheel(user: User) -> Path:
    """A wheel."""
    return next(entry(user, a.sha256) for a in user.lock().artifacts if a.kind is Kind.WHEEL)


def deb(user: User) -> Path:
    """A .deb."""
    return next(entry(user, a.sha256) for a in user.lock().artifacts if a.filename.startswith("libc6_"))


def model_file(user: User) -> Path:
    """A file of the project."""
    return entry(user, user.lock().model("toy").file)


def derived_objects(user: User) -> list[Path]:
    """What nnenv made itself: data.tar of the .debs, bytecode, layers' own bytes."""
    locked = {artifact.sha256 for artifact in user.lock().artifacts}
    found = [path for path in (user.store / "objects" / "sha256").glob("??/*") if path.name not in locked]
    return sorted(found, key=lambda path: path.stat().st_size)


def unpacked_deb(user: User) -> Path:
    """The data.tar of the largest .deb."""
    return derived_objects(user)[-1]


def glue(user: User) -> Path:
    """What stands between the wheels' own streams in a spliced layer: small gzip members that hold tar headers."""
    return next(path for path in derived_objects(user) if path.read_bytes()[:2] == b"\x1f\x8b")


OBJECTS = {"wheel": wheel, "deb": deb, "model": model_file, "data.tar": unpacked_deb, "glue": glue}


def forget_what_was_made(user: User) -> None:
    """Drop the layers and unpacked .debs that are remembered: else a build has no use for the artifact itself."""
    for kind in ("layer", "deb"):
        for path in (user.store / "derived" / kind).rglob("*"):
            if path.is_file():
                path.unlink()


@pytest.fixture
def victim(tiny: User, tmp_path: Path) -> User:
    """The tiny project with a store of its own that may be broken; what it gave before lies in `undamaged.tar`."""
    (tmp_path / "undamaged.tar").symlink_to(tiny.project.parent / "cpu.tar")
    return tiny.elsewhere(tmp_path / "project", store=linked_copy(tiny.store, tmp_path / "store"))


@pytest.mark.network
@pytest.mark.parametrize("find", OBJECTS.values(), ids=OBJECTS.keys())
def test_a_flipped_bit_in_an_object_is_found_and_healed(
    victim: User, tmp_path: Path, find: Callable[[User], Path]
) -> None:
    """Online the build notices before use, replaces the entry, and gives the same image."""
    damaged, expected = find(victim), image_of(victim)
    whole = damaged.read_bytes()
    flip_bit(damaged)
    forget_what_was_made(victim)
    done = victim.must("build", "-o", f"oci:{tmp_path / 'cpu.tar'}")
    assert image_of(victim) == expected
    assert (tmp_path / "cpu.tar").read_bytes() == (victim.project / "../undamaged.tar").read_bytes()
    assert damaged.read_bytes() == whole, done.all
    assert list((victim.store / "quarantine").iterdir()), "the damaged bytes were set aside"


@pytest.mark.network
@pytest.mark.parametrize("find", [wheel, deb], ids=["wheel", "deb"])
def test_a_flipped_bit_is_named_offline(victim: User, tmp_path: Path, find: Callable[[User], Path]) -> None:
    """Without network the entry's path is named, the exit code is 1, and nothing is written."""
    damaged = find(victim)
    flip_bit(damaged)
    forget_what_was_made(victim)
    refusal = victim.refused("build", "--offline", "-o", f"oci:{tmp_path / 'cpu.tar'}", "--json").json()
    (error,) = refusal["errors"]
    assert error["code"] == "store-corrupt"
    assert error["where"] == str(damaged)
    assert any("its sha256 is" in line for line in error["because"])
    assert error["fix"]
    assert not (tmp_path / "cpu.tar").exists()


@pytest.mark.network
@pytest.mark.parametrize("find", [wheel, deb, model_file], ids=["wheel", "deb", "model"])
def test_fetch_reads_what_is_there(victim: User, find: Callable[[User], Path]) -> None:
    """`fetch` says "verified": a damaged entry that nothing has used yet is replaced, and named offline."""
    damaged = find(victim)
    whole = damaged.read_bytes()
    flip_bit(damaged)
    if find is not model_file:  # the project has the model still
        refusal = victim.refused("fetch", "--offline", "--json").json()
        assert [(e["code"], e["where"]) for e in refusal["errors"]] == [("store-corrupt", str(damaged))]
    victim.must("fetch")
    assert damaged.read_bytes() == whole


@pytest.mark.network
@pytest.mark.parametrize("find", [unpacked_deb, glue, model_file], ids=["data.tar", "glue", "model"])
def test_what_nnenv_made_itself_heals_offline(victim: User, tmp_path: Path, find: Callable[[User], Path]) -> None:
    """A derived entry, or one that the project still has, is made anew without network."""
    damaged, expected = find(victim), image_of(victim)
    flip_bit(damaged)
    victim.must("build", "--offline", "-o", f"oci:{tmp_path / 'cpu.tar'}")
    assert image_of(victim) == expected


@pytest.mark.network
def test_a_flipped_bit_in_any_record_is_found(victim: User, tmp_path: Path) -> None:
    """Every memo record of every kind is damaged at once: they are made anew, and the image is the same."""
    records = [path for path in (victim.store / "derived").rglob("*") if path.is_file()]
    kinds = {path.relative_to(victim.store / "derived").parts[0] for path in records}
    assert {"layer", "deb", "bytecode", "elf-facts", "file-digest"} <= kinds
    for path in records:
        flip_bit(path)
    before = image_of(victim)
    victim.must("build", "-o", f"oci:{tmp_path / 'cpu.tar'}")
    victim.must("lock", "--check")
    assert image_of(victim) == before


@pytest.mark.network
def test_a_flipped_bit_in_an_extracted_tree_is_found(victim: User) -> None:
    """A sandbox tree with a damaged file is extracted anew before the next use."""
    trees = [path for path in (victim.store / "trees").iterdir() if path.is_dir()]
    damaged = max((p for tree in trees for p in tree.rglob("*") if p.is_file() and not p.is_symlink()), key=_size)
    whole = damaged.read_bytes()
    flip_bit(damaged)
    # The interpreter's bytecode is forgotten, so that the tree is needed.
    for kind in ("bytecode", "layer"):
        for path in (victim.store / "derived" / kind).rglob("*"):
            if path.is_file():
                path.unlink()
    expected = image_of(victim)
    victim.must("build", "--offline", "-o", f"oci:{victim.project.parent / 'cpu.tar'}")
    assert image_of(victim) == expected
    assert damaged.read_bytes() == whole


def _size(path: Path) -> int:
    return path.stat().st_size


# A full disk


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size at `place`."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.network
def test_a_full_disk_is_an_error_and_a_rerun_with_room_succeeds(tiny: User, tmp_path: Path) -> None:
    """8 MB for a store that needs 70: `disk-full` with the path; after the disk has grown the same command works."""
    if os.geteuid() != 0:
        # Who may not mount gets a limit on file sizes instead, which the kernel reports in the same way.
        user = tiny.elsewhere(tmp_path / "project", store=tmp_path / "store")
        refusal = user.refused("build", "-o", "dir:../out", before=["sh", "-c", 'ulimit -f 2000; exec "$@"', "sh"])
        assert "error: cannot write" in refusal.err
        user.must("build", "-o", "dir:../out")
        return
    with small_disk(tmp_path / "disk", "8m") as disk:
        user = tiny.elsewhere(tmp_path / "project", store=disk / "store")
        before = listing(user.project)
        refusal = user.refused("build", "-o", f"dir:{tmp_path / 'out'}", "--json").json()
        (error,) = refusal["errors"]
        assert error["code"] == "disk-full"
        assert "the disk is full" in error["message"]
        assert error["where"].startswith(str(disk))
        assert listing(user.project) == before
        assert not (tmp_path / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        user.must("build", "-o", f"dir:{tmp_path / 'out'}")
        assert image_of(user) == image_of(tiny)


# Nobody answers


def test_a_dead_index_is_an_error(world: World, tmp_path: Path) -> None:
    """A refused connection names the host and what to check; no lock appears."""
    world.offer("a", "1.0")
    user = world.user(plain_project(tmp_path / "project"), tmp_path / "store")
    refusal = user.refused("lock", NNENV_INDEX_URL=f"{NOWHERE}/simple")
    assert refusal.err.startswith("error: ")
    assert "127.0.0.1:9" in refusal.err
    assert "\nfix: check the network and the configured index" in refusal.err
    assert not user.lock_path.exists()
    user.must("lock")


def test_a_dead_archive_is_an_error(world: World, tmp_path: Path) -> None:
    """The same for the Debian mirror."""
    world.offer("a", "1.0")
    user = world.user(plain_project(tmp_path / "project"), tmp_path / "store")
    refusal = user.refused("lock", NNENV_DEBIAN_MIRROR=f"{NOWHERE}/debian")
    assert "127.0.0.1:9" in refusal.err
    assert "\nfix: " in refusal.err
    assert not user.lock_path.exists()


@pytest.mark.network
def test_a_dead_index_while_fetching_is_an_error(tiny: User, tmp_path: Path) -> None:
    """With an empty store the build needs the index: it says so, keeps what it got, and succeeds later."""
    user = tiny.elsewhere(tmp_path / "project", store=tmp_path / "store")
    refusal = user.refused("fetch", NNENV_INDEX_URL=f"{NOWHERE}/simple")
    assert "127.0.0.1:9" in refusal.err
    user.must("fetch")


@pytest.mark.network
def test_without_an_engine_docker_output_is_an_error(tiny: User, tmp_path: Path) -> None:
    """`--output docker` and `--runner docker` without an engine: `engine-unavailable`, and what to do instead."""
    user = tiny.elsewhere(tmp_path / "project").with_environment(DOCKER_HOST=f"unix://{tmp_path}/nowhere.sock")
    for line in (["build", "--output", "docker"], ["verify", "--runner", "docker"]):
        (error,) = user.refused(*line, "--json").json()["errors"]
        assert error["code"] == "engine-unavailable"
        assert any("--output oci:FILE" in fix for fix in error["fix"])
    printed = user.must("build").out
    assert "no Docker engine answers" in printed


# Killed and interrupted


def test_what_a_kill_could_tear_would_be_seen(world: World, tmp_path: Path) -> None:
    """The inspection after each kill finds a damaged object, a torn lock, a stray file and an unfinished lock."""
    world.offer("a", "1.0")
    user = world.user(plain_project(tmp_path / "project"), tmp_path / "store")
    user.must("lock")
    whole = Tally()
    inspect(user, whole)
    assert (whole.objects, whole.corrupt, whole.torn, whole.strays, whole.temporaries) == (1, [], [], [], 0)

    flip_bit(next((user.store / "objects" / "sha256").glob("??/*")))
    user.lock_path.write_bytes(user.lock_path.read_bytes()[:-100])
    (user.project / "half-written").write_text("x")
    (user.project / ".model.lock.0123456789abcdef.nnenv-tmp").write_text("x")
    torn = Tally()
    inspect(user, torn)
    assert [len(found) for found in (torn.corrupt, torn.torn, torn.strays)] == [1, 1, 1]
    assert torn.temporaries == 1


@pytest.mark.network
@pytest.mark.slow
def test_kill_nine_leaves_nothing_torn(tiny_world: World, tmp_path: Path) -> None:
    """20 kills at random moments of lock, fetch and build; `bench/kill9.py --kills 500` is the long version."""
    tally = kill_often(tiny_world.user(toy_project(tmp_path / "victim" / "project"), tmp_path / "victim" / "store"), 20)
    assert tally.kills.total() == 20
    assert tally.clean, tally.text()


@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.6, 1.2, 2.5])
def test_an_interrupted_build_stops_at_once(tiny: User, tmp_path: Path, number: int, delay: float) -> None:
    """Ctrl-C and SIGTERM: exit code 1 within two seconds, one line, and nothing half-written."""
    user = tiny.elsewhere(tmp_path / "project", store=tmp_path / "store")
    before = listing(user.project)
    process = subprocess.Popen(
        user.command("build", "-o", f"dir:{tmp_path / 'out'}"),
        cwd=user.project,
        env=dict(user.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(delay)
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1, errors
    assert time.monotonic() - sent < 2.0
    assert errors.endswith("error: interrupted; run it again\n")
    assert "Traceback" not in errors
    assert listing(user.project) == before
    assert not (tmp_path / "out").exists()
