"""`nnenv lock` from end to end: the same bytes whatever the machine, old pins kept, no needless network."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnenv.spec.lock_toml import write_lock
from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.world import (
    PLAIN,
    TWO_TARGETS,
    Habits,
    User,
    World,
    listing,
    plain_project,
    small_library,
    toy_project,
)

REVERSED_TARGETS = TWO_TARGETS.replace("[targets.cpu]\n", "").replace(
    'platform = "linux/arm64"\n', 'platform = "linux/arm64"\n\n[targets.cpu]\n'
)

HABITS = {
    "metadata files offered": Habits(),
    "metadata files there, not offered": Habits(advertises_metadata=False),
    "no metadata files, ranges": Habits(advertises_metadata=False, serves_metadata=False),
    "no metadata files, no ranges": Habits(advertises_metadata=False, serves_metadata=False, ranges=False),
    "no ETag": Habits(etags=False),
    "HTML without sizes": Habits(json=False, advertises_metadata=False),
    "HTML, no ranges, no ETag": Habits(json=False, advertises_metadata=False, ranges=False, etags=False),
}


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody with a project that wants `a`, which wants `b`; `c` is wanted by nobody yet."""
    for name, requires in (("a", ["b"]), ("b", []), ("c", [])):
        world.offer(name, "1.0", requires=requires)
    return world.user(plain_project(tmp_path / "project"), tmp_path / "store")


def versions(user: User) -> dict[str, str]:
    """Name -> version of the wheels of the first target."""
    lockfile = user.lock()
    return {wheel.name: wheel.version for wheel in lockfile.wheels_of(lockfile.targets[0])}


def without_network() -> list[str]:
    """A command that takes the network away; none where this user may not."""
    return ["unshare", "--net"] if os.geteuid() == 0 else []


# Determinism


def test_machine_settings_do_not_reach_the_lock(world: World, tmp_path: Path) -> None:
    """Cold or warm store, time zone, locale, umask, hash seed, folder, workers, order of targets: the same bytes."""
    offer_tiny_wheels(world)
    world.offer("numpy", "2.0.0", tag="cp311-cp311-manylinux_2_28_aarch64")
    world.offer("onnxruntime", "1.20.0", requires=["numpy"], tag="cp311-cp311-manylinux_2_28_aarch64")
    here = world.user(toy_project(tmp_path / "here", TWO_TARGETS), tmp_path / "store-here")
    there = world.user(toy_project(tmp_path / "far" / "away" / "there", REVERSED_TARGETS), tmp_path / "store-there")
    far = {"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "C", "PYTHONHASHSEED": "1"}

    here.must("lock", TZ="UTC", PYTHONHASHSEED="0")
    cold = here.lock_path.read_bytes()
    there.must("lock", "--workers", "1", before=["sh", "-c", 'umask 077; exec "$@"', "sh"], **far)
    there_cold = there.lock_path.read_bytes()
    there.lock_path.unlink()
    there.must("lock", "--workers", "16", PYTHONHASHSEED="2")

    assert cold == there_cold
    assert cold == there.lock_path.read_bytes()
    assert there.lock_path.stat().st_mode & 0o777 == 0o644


@pytest.mark.network
@pytest.mark.slow
def test_cold_and_warm_locks_from_the_configured_sources_are_equal(toy: User, tmp_path: Path) -> None:
    """The real index and archive: a second lock elsewhere, with a filled store, has the bytes of the first."""
    project = toy_project(tmp_path / "again", REVERSED_TARGETS)
    again = User(project=project, store=toy.store, environment=toy.environment)
    again.must("lock", "--workers", "2", TZ="Asia/Kolkata", LANG="de_DE.UTF-8", PYTHONHASHSEED="7")
    bare = replace(toy.lock(), targets=tuple(replace(target, image=None) for target in toy.lock().targets))
    assert write_lock(bare) == again.lock_path.read_bytes()


@pytest.mark.network
def test_a_real_lock_names_no_host(toy: User) -> None:
    """`grep -c '://' model.lock` prints 0, and neither host nor port of a source stands in it."""
    text = toy.lock_path.read_text()
    assert "://" not in text
    assert not any(word in text.lower() for word in ("http", "127.0.0.1", "localhost"))


def test_a_lock_names_no_host(user: User, world: World) -> None:
    """The address of the index is nowhere in the lock."""
    user.must("lock")
    text = user.lock_path.read_text()
    assert "://" not in text
    assert world.url.removeprefix("http://") not in text


@pytest.mark.parametrize("habits", HABITS.values(), ids=HABITS.keys())
def test_an_index_of_any_habit_gives_the_same_choice(world: World, tmp_path: Path, habits: Habits) -> None:
    """PEP 658 offered, hidden or missing, ETags and ranges or not, JSON or HTML: the same wheels, size and sha256."""
    library = {"a/__init__.py": b"", "a/small.so": small_library()}
    tag = "py3-none-manylinux_2_17_x86_64"
    world.offer("a", "1.0", requires=["b>=1; python_version >= '3'"], tag=tag, files=library)
    world.offer("b", "1.0")
    usual = world.user(plain_project(tmp_path / "usual"), tmp_path / "store-usual")
    usual.must("lock")
    world.habits = habits
    other = world.user(plain_project(tmp_path / "other"), tmp_path / "store-other")
    other.must("lock")

    lockfile, expected = other.lock(), usual.lock()
    assert lockfile.wheels_of(lockfile.targets[0]) == expected.wheels_of(expected.targets[0])
    metadata_files = [path for path in world.requests if path.endswith(".metadata")]
    assert metadata_files, "the usual index was asked for its metadata files"


# What is chosen


def test_yanked_new_and_foreign_python_wheels_are_passed_over(world: World, tmp_path: Path) -> None:
    """Yanked files, files for another Python and files younger than exclude-newer are not chosen."""
    world.offer("a", "1.0")
    world.offer("a", "2.0", upload_time="2026-06-01T00:00:00Z")
    world.offer("a", "3.0", yanked=True)
    world.offer("a", "4.0", requires_python=">=3.12")
    manifest = PLAIN + '\n[policy]\nexclude-newer = "2026-01-01T00:00:00Z"\n'
    user = world.user(plain_project(tmp_path / "project", manifest), tmp_path / "store")
    user.must("lock")
    assert versions(user) == {"a": "1.0"}
    user.must("lock", "-U", "--exclude-newer", "2026-12-01T00:00:00Z")
    assert versions(user) == {"a": "2.0"}


def test_old_pins_stay_when_something_else_is_added(user: User, world: World) -> None:
    """A newer `a` and `b` are not taken because the manifest now wants `c` too."""
    user.must("lock")
    for name in ("a", "b", "c"):
        world.offer(name, "2.0", requires=["b"] if name == "a" else [])
    (user.project / "model.toml").write_text(PLAIN.replace('["a"]', '["a", "c"]'))
    user.must("lock")
    assert versions(user) == {"a": "1.0", "b": "1.0", "c": "2.0"}


def test_upgrading_one_package_moves_only_it(user: User, world: World) -> None:
    """`-P a` takes the new `a` and leaves `b`, which the new `a` still accepts."""
    user.must("lock")
    world.offer("a", "2.0", requires=["b"])
    world.offer("b", "2.0")
    printed = user.must("lock", "-P", "a").out
    assert versions(user) == {"a": "2.0", "b": "1.0"}
    assert "cpu: a 1.0 -> 2.0" in printed
    assert "cpu: b" not in printed


def test_upgrading_one_package_moves_what_it_needs(user: User, world: World) -> None:
    """`-P a` moves `b` too when the new `a` demands a newer one."""
    user.must("lock")
    world.offer("a", "2.0", requires=["b>=2"])
    world.offer("b", "2.0")
    user.must("lock", "-P", "a")
    assert versions(user) == {"a": "2.0", "b": "2.0"}


def test_upgrading_forgets_every_pin(user: User, world: World) -> None:
    """`-U` takes the newest of everything; a plain `lock` before it changes nothing."""
    user.must("lock")
    world.offer("a", "2.0", requires=["b"])
    world.offer("b", "2.0")
    user.must("lock")
    assert versions(user) == {"a": "1.0", "b": "1.0"}
    user.must("lock", "-U")
    assert versions(user) == {"a": "2.0", "b": "2.0"}


# Without network


def test_confirming_a_lock_needs_no_network(user: User, world: World) -> None:
    """A no-op `lock` and `lock --check` ask no server, and write nothing."""
    user.must("lock")
    before, asked = listing(user.project), world.requests.total()
    printed = user.must("lock", before=without_network())
    assert "model.lock is up to date" in printed.out
    user.must("lock", "--check", before=without_network())
    assert (listing(user.project), world.requests.total()) == (before, asked)


def test_confirming_a_lock_twice_parses_nothing(user: User) -> None:
    """Once a lock was found to fit, the next command compares stamps: no TOML, no dataclass, no network module."""
    user.must("lock")
    time.sleep(0.05)  # what changed within a tick of the kernel's clock is not remembered
    first = user.must("lock")
    command = [user.python, "-X", "importtime", *user.command("lock")[1:]]
    done = subprocess.run(command, cwd=user.project, env=user.environment, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.stdout.rpartition(" in ")[0] == first.out.rpartition(" in ")[0]  # then follows how long it took
    assert "nnenv.workflows.confirming" in modules
    assert modules & {"tomllib", "dataclasses", "nnenv.spec.lockfile", "nnenv.workflows.locking", "urllib3"} == set()


def test_locking_offline_works_from_the_cache(user: User, world: World) -> None:
    """`--offline` resolves a changed manifest from what earlier runs saw, with the bytes of an online run."""
    user.must("lock")
    first = user.lock_path.read_bytes()
    user.lock_path.unlink()
    asked = world.requests.total()
    user.must("lock", "--offline", before=without_network())
    assert user.lock_path.read_bytes() == first
    assert world.requests.total() == asked


def test_locking_offline_with_an_empty_store_says_what_is_missing(user: User) -> None:
    """With nothing cached `--offline` refuses, and leaves no lock."""
    refusal = user.refused("lock", "--offline")
    assert "is not in the store, and --offline forbids fetching it" in refusal.err
    assert "fix: run the command once without --offline" in refusal.err
    assert not user.lock_path.exists()


# Stale, damaged and foreign locks


def test_check_says_why_a_lock_is_stale(user: User) -> None:
    """`--check` ends with 1, names what changed, and changes nothing."""
    user.must("lock")
    before = user.lock_path.read_bytes()
    (user.project / "model.toml").write_text(PLAIN.replace('["a"]', '["a", "c"]'))
    refusal = user.refused("lock", "--check")
    assert refusal.err == (
        "error: model.lock does not match model.toml\n  at model.lock\n  [requires] of model.toml has changed\n"
        "fix: run `nnenv lock`\n"
    )
    assert user.lock_path.read_bytes() == before


def test_check_without_a_lock_fails(user: User) -> None:
    """A project that was never locked is not up to date."""
    assert "there is no model.lock" in user.refused("lock", "--check").err


def test_a_changed_model_file_makes_the_lock_stale(world: World, tmp_path: Path) -> None:
    """The lock echoes the model by digest: another file under the same name is noticed without network."""
    offer_tiny_wheels(world)
    user = world.user(toy_project(tmp_path / "project"), tmp_path / "store")
    user.must("lock")
    with (user.project / "model.onnx").open("ab") as stream:
        stream.write(b"\x32\x03\x41\x42\x43")  # ModelProto.doc_string = "ABC"
    refusal = user.refused("lock", "--check", before=without_network())
    assert "model or test files have changed: toy" in refusal.err


def edited(data: bytes) -> bytes:
    return data.replace(b'name = "a"', b'name = "evil"', 1)


def merge_conflict(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + b"\n<<<<<<< HEAD\nx\n=======\ny\n>>>>>>> other\n" + data[half:]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [edited, merge_conflict, truncated])
def test_a_damaged_lock_is_refused_and_healed(user: User, damage: object) -> None:
    """`build`, `fetch` and `--check` refuse a lock that nnenv did not write; `lock` writes the right one again."""
    assert callable(damage)
    user.must("lock")
    right = user.lock_path.read_bytes()
    user.lock_path.write_bytes(damage(right))
    for command in (["build"], ["fetch"], ["verify"], ["lock", "--check"]):
        refusal = user.refused(*command)
        assert "error: model.lock is not what nnenv wrote" in refusal.err
        assert "run `nnenv lock` to write it anew" in refusal.err
    user.must("lock")
    assert user.lock_path.read_bytes() == right


def test_a_lock_of_a_newer_format_is_refused(user: User) -> None:
    """Neither `lock` nor `build` touches a lock of a future nnenv."""
    user.must("lock")
    newer = user.lock_path.read_bytes().replace(b"lock-version = 1", b"lock-version = 99", 1)
    user.lock_path.write_bytes(newer)
    for command in ("lock", "build"):
        refusal = user.refused(command)
        assert "model.lock has format 99" in refusal.err
        assert "fix: install a newer nnenv" in refusal.err
    assert user.lock_path.read_bytes() == newer


def test_a_dry_run_writes_no_file_of_the_project(user: User, world: World) -> None:
    """`--dry-run` says what would change; neither a first nor an existing lock is written."""
    before = listing(user.project)
    assert "model.lock would change" in user.must("lock", "--dry-run").out
    assert listing(user.project) == before
    user.must("lock")
    world.offer("a", "2.0", requires=["b"])
    before = listing(user.project)
    printed = user.must("lock", "--dry-run", "-U").out
    assert "cpu: a 1.0 -> 2.0" in printed
    assert listing(user.project) == before


def test_an_archive_that_goes_back_in_time_is_refused(world: World, tmp_path: Path) -> None:
    """A mirror that serves an older Release than the locked one is not believed."""
    from tests.e2e.world import records_only

    world.offer("a", "1.0")
    for area in ("debian", "debian-security"):
        (world.folder / area).unlink()
    packages = {name: records_only(name) for name in ("amd64", "arm64")}
    world.sign_archive(packages, date="Sun, 04 Jan 2026 10:00:00 UTC")
    user = world.user(plain_project(tmp_path / "project"), tmp_path / "store")
    user.must("lock")
    locked = user.lock_path.read_bytes()
    world.sign_archive(packages, date="Fri, 02 Jan 2026 10:00:00 UTC")
    refusal = user.refused("lock", "-U")
    assert "is older than the locked one" in refusal.err
    assert user.lock_path.read_bytes() == locked


def test_a_manifest_that_is_fine_again_needs_no_new_lock(user: User) -> None:
    """Comments and spacing of model.toml are not its meaning."""
    user.must("lock")
    (user.project / "model.toml").write_text("# a comment\n" + PLAIN.replace("\n\n", "\n\n\n"))
    user.must("lock", "--check", before=without_network())
