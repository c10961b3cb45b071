"""Garbage: what a process uses stays, what nobody uses goes, and a killed collection leaves a sound store."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnenv.adapters.files import UNSAFE_VARIABLE
from nnenv.adapters.garbage import file_system, opened_bin, refuse_shared_disk, temporary_leftovers
from nnenv.adapters.inventory import Entry, Part, inventory
from nnenv.adapters.leases import Lease, collecting
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.spec.digest import Sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def take_all(store: Store, before: Callable[[], object] = int) -> list[str]:
    """Names of what goes when everything is garbage; `before` is called when the collection has begun."""
    gone: list[str] = []
    with opened_bin(store) as bin:
        before()
        bin.remove(list(inventory(store)), lambda entry: gone.append(entry.name))
        bin.tidy()
    return gone


def a_file(place: Path) -> None:
    """One small tree."""
    (place / "file").write_bytes(b"content")


def python(code: str, *arguments: object, wait: bool = True) -> subprocess.Popen[str]:
    """A process that runs `code`."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if wait:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    return process


# Leases


def test_what_another_store_uses_stays(store: Store) -> None:
    """Read, looked for, written or extracted: as long as the user is there, and not longer."""
    used = [store.put(b"written"), store.put(b"read"), store.put(b"looked for")]
    tree = store.tree("t", a_file)
    store.close()
    user = Store(store.root)
    user.open(used[1]).close()
    assert user.contains(used[2])
    user.tree("t", a_file)
    written = user.put(b"written by the user")
    other = Store(store.root)
    assert take_all(other) == [used[0]]
    assert (tree / "file").read_bytes() == b"content"
    assert all(map(other.check, (used[1], used[2], written)))
    other.close()
    user.close()
    assert sorted(take_all(Store(store.root))) == sorted([used[1], used[2], written, "t"])
    assert not tree.exists()
    assert list((store.root / "trees").iterdir()) == []


def test_without_the_guard_it_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the leases are what keeps it."""
    monkeypatch.setenv(UNSAFE_VARIABLE, "lease")
    used = store.put(b"used")
    assert take_all(Store(store.root)) == [used]


def test_what_was_looked_for_and_came_later_stays(store: Store) -> None:
    """A name counts from the question on, whether the answer was yes or no."""
    store.put(b"there is a store")
    wanted = Sha256("4c0d5c40b91f83de2c02e51f2f1a0f6dbbd32f2d8d4c7e0b4c4b2ab3f1c0e5b0")
    assert not store.contains(wanted)
    with collecting(store.root) as collector:
        assert f"object {wanted}" in collector.held()


HOLDING = """
import sys
from pathlib import Path
from nnenv.adapters.store import Store
store = Store(Path(sys.argv[1]))
print(store.check(sys.argv[2]) and "ready", flush=True)
sys.stdin.read()
store.close()
"""


def test_the_dead_hold_nothing(store: Store) -> None:
    """kill -9 of a user: the kernel drops its lock, and the next collection its lease."""
    name = store.put(b"used")
    store.close()
    process = python(HOLDING, store.root, name)
    assert take_all(Store(store.root)) == []
    process.kill()
    process.wait()
    assert take_all(Store(store.root)) == [name]
    assert list((store.root / "leases").iterdir()) == []


def test_who_ends_during_a_collection_holds_until_its_end(store: Store) -> None:
    """What it used may be in a lock by now that the collection has not read."""
    name = store.put(b"used")
    store.close()
    process = python(HOLDING, store.root, name)
    assert take_all(Store(store.root), lambda: process.communicate("")) == []
    assert list((store.root / "leases").iterdir()) == []
    assert take_all(Store(store.root)) == [name]


def test_a_lease_is_gone_with_its_user(store: Store) -> None:
    """Closed, or ended without it: no file stays when no collection is under way."""
    store.put(b"used")
    assert len(list((store.root / "leases").iterdir())) == 1
    store.close()
    assert list((store.root / "leases").iterdir()) == []
    store.check(store.put(b"used again"))
    python(HOLDING.replace("store.close()", ""), store.root, store.put(b"x")).communicate("")
    assert len(list((store.root / "leases").iterdir())) == 1


def test_a_child_holds_what_its_parent_held(store: Store) -> None:
    """A fork uses what it inherited, also after its parent is done."""
    name = store.put(b"used")
    asked, told = os.pipe()
    child = os.fork()
    if child == 0:
        store.contains(Sha256("0" * 64))
        os.write(told, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(asked, 1)
    store.close()
    try:
        assert take_all(Store(store.root)) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert take_all(Store(store.root)) == [name]


def test_where_no_lease_can_be_written_the_gate_is_held(store: Store) -> None:
    """A full disk: the collection waits for whoever could not say what it uses."""
    name = store.put(b"used")
    store.close()
    (store.root / "leases").rmdir()
    (store.root / "leases").write_bytes(b"in the way")
    lease = Lease(store.root)
    lease.hold(f"object {name}")
    descriptor = os.open(store.root / "locks" / "gate", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lease.close()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_session_of_days_hinders_nobody(store: Store) -> None:
    """A collection beside a living user is done at once, and users come and go during a collection."""
    used, unused = store.put(b"used"), store.put(b"unused")
    store.close()
    process = python(HOLDING, store.root, used)

    def come_and_go() -> None:
        visitor = Store(store.root)
        assert visitor.check(used)
        visitor.close()

    assert take_all(Store(store.root), come_and_go) == [unused]
    process.communicate("")


USING = """
import hashlib, random, sys, time
from pathlib import Path
from nnenv.adapters.store import Store
root, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rng = random.Random(seed)
def fill(place):
    (place / "file").write_bytes(b"content")
print("ready", flush=True)
end = time.monotonic() + seconds
rounds = 0
while time.monotonic() < end:
    store = Store(root)
    for _ in range(5):
        content = b"%d" % rng.randrange(12)
        name = hashlib.sha256(content).hexdigest()
        if not store.contains(name):
            store.put(content)
        tree = store.tree(f"t{rng.randrange(4)}", fill)
        time.sleep(rng.random() / 100)
        assert store.open(name).read() == content
        assert (tree / "file").read_bytes() == b"content"
        rounds += 1
    store.close()
print(rounds)
"""


def users_beside_collections(root: Path, seconds: float) -> tuple[int, int, int]:
    """(rounds of users, failed users, entries removed) of three processes while collections run one after another."""
    Store(root).put(b"there is a store")
    users = [python(USING, root, seed, seconds) for seed in range(3)]
    removed = 0
    while any(user.poll() is None for user in users):
        removed += len(take_all(Store(root)))
    ends = [user.communicate()[0] for user in users]
    rounds = sum(int(end) for end, user in zip(ends, users, strict=True) if user.returncode == 0)
    return rounds, sum(user.returncode != 0 for user in users), removed


def test_collections_beside_users(tmp_path: Path) -> None:
    """Real processes that write, look and read, and collections without a pause: nobody misses anything."""
    rounds, failed, removed = users_beside_collections(tmp_path / "store", 1.5)
    assert failed == 0
    assert rounds > 30
    assert removed > 30


def test_collections_beside_users_without_the_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without leases the same users miss what they use."""
    monkeypatch.setenv(UNSAFE_VARIABLE, "lease")
    assert users_beside_collections(tmp_path / "store", 1.5)[1] > 0


# What goes


def test_work_of_the_living_stays_and_of_the_dead_goes(store: Store) -> None:
    """Downloads, temporary folders, kernel locks, half-written trees; quarantine always."""
    expected = Sha256("a" * 64)
    with store.partial(expected, 10) as living, store.scratch() as scratch:
        living.write(b"half")
        (store.root / "tmp" / "partial" / ("b" * 64)).write_bytes(b"half")
        (store.root / "tmp" / "1-dead").mkdir()
        (store.root / "locks" / "fetch-dead").touch()
        (store.root / "trees" / ".t.ok.0.nnenv-tmp").touch()
        (store.root / "quarantine").mkdir()
        (store.root / "quarantine" / "c.0").write_bytes(b"bad")
        with store.lock("held"):
            work = [entry for entry in inventory(store) if entry.part is Part.WORK]
            assert [entry.path for entry in work] == [scratch.parent]
            gone = take_all(Store(store.root))
            assert (store.root / "locks" / "held").exists()
        assert sorted(gone) == [".t.ok.0.nnenv-tmp", "1-dead", "b" * 64, "c.0"]
        assert scratch.is_dir()
    assert {path.name for path in (store.root / "locks").iterdir()} <= {"collector", "gate"}


def test_hard_links_count_once(store: Store) -> None:
    """Bytes are what the files say, and a second name of one adds nothing; a hole takes no room on the disk."""

    def linked(place: Path) -> None:
        (place / "a").write_bytes(bytes(5000))
        (place / "b").hardlink_to(place / "a")
        with (place / "sparse").open("wb") as stream:
            stream.truncate(1 << 20)

    store.tree("t", linked)
    (tree,) = [entry for entry in inventory(store) if entry.part is Part.TREE]
    assert tree.bytes == 5000 + (1 << 20)
    assert 5000 <= tree.disk_bytes < 1 << 19


COLLECTING = """
import sys
from pathlib import Path
from nnenv.adapters.garbage import opened_bin
from nnenv.adapters.inventory import inventory
from nnenv.adapters.store import Store
store = Store(Path(sys.argv[1]))
entries = list(inventory(store))
print("ready", flush=True)
with opened_bin(store) as bin:
    bin.remove(entries, lambda entry: None)
"""


def test_a_killed_collection_leaves_a_sound_store(tmp_path: Path) -> None:
    """kill -9 at twelve moments: what is left is whole, what was on its way out is swept, and all works."""
    killed = 0
    for number in range(12):
        store = Store(tmp_path / "store")
        names = [store.put(b"%d" % count) for count in range(60)]
        for count in range(6):
            store.tree(f"t{count}", a_file)
        store.close()
        process = python(COLLECTING, store.root)
        time.sleep(number * 0.002)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        after = Store(store.root)
        assert all(whole for _, whole in after.verify_all())
        assert [after.put(b"%d" % count) for count in range(60)] == names
        assert all((after.tree(f"t{count}", a_file) / "file").read_bytes() == b"content" for count in range(6))
        assert list((store.root / "tmp").glob("gone-*")) == []
        after.close()
    assert killed


def test_two_collections_take_turns(store: Store) -> None:
    """The second waits for the first, and both end."""
    names = [store.put(b"%d" % count) for count in range(300)]
    store.close()
    gone: list[str] = []
    threads = [threading.Thread(target=lambda: gone.extend(take_all(Store(store.root)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(gone) == sorted(names)


# Refusals and leftovers

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:50 / /home rw,relatime shared:1 - nfs4 server:/home rw
41 40 0:51 / /home/me/a\\040disk rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/home", "nfs4"), ("/home/me/store", "nfs4"), ("/home/me/a disk/s", "xfs"), ("/homes", "ext4")],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    """The innermost mount counts, whole names only, spaces escaped as in proc(5)."""
    assert file_system(path, MOUNTS) == kind


def test_a_disk_that_machines_share_is_refused(tmp_path: Path) -> None:
    """Kernel locks of other machines do not show, so nothing may be removed; local disks are fine."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"40 27 0:50 / {tmp_path} rw - nfs4 server:/home rw\n")
    with pytest.raises(NnenvError) as caught:
        refuse_shared_disk(tmp_path / "store", mounts)
    assert (caught.value.code, caught.value.where) == ("store-unusable", str(tmp_path / "store"))
    assert "nfs4" in caught.value.what
    mounts.write_text(MOUNTS)
    refuse_shared_disk(tmp_path / "store", mounts)


@pytest.mark.mounting
def test_a_read_only_store_is_refused(store: Store) -> None:
    """The refusal names the store and the cause."""
    store.put(b"x")
    place = str(store.root)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        with pytest.raises(NnenvError) as caught, opened_bin(Store(store.root)):
            pass
        assert caught.value.code == "disk-full"
        assert "read-only" in caught.value.what
        assert str(caught.value.where).startswith(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_folders_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, and old enough; not what others called nearly so, no link."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("nnenv-probe-abc_1", "nnenv-gpgv-x", "nnenv-other-x", "probe"):
        (tmp_path / name).mkdir()
    (tmp_path / "nnenv-probe-link").symlink_to(tmp_path / "probe")
    later = time.time_ns() + 10**9
    assert [path.name for path in temporary_leftovers(later)] == ["nnenv-gpgv-x", "nnenv-probe-abc_1"]
    assert list(temporary_leftovers(0)) == []


def test_an_entry_that_vanishes_is_passed_over(store: Store) -> None:
    """Somebody else removed it first."""
    name = store.put(b"x")
    (entry,) = [entry for entry in inventory(store) if entry.part is Part.OBJECT]
    store.close()
    entry.path.unlink()
    removed: list[Entry] = []
    with opened_bin(Store(store.root)) as bin:
        bin.remove([entry], removed.append)
    assert (entry.name, removed) == (name, [])
