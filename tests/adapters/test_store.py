"""The store: acknowledged is durable, and an entry never lies."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnenv.adapters import store as store_module
from nnenv.adapters.files import UNSAFE_VARIABLE
from nnenv.adapters.store import Store, StoreCorrupt, StoreMissing, default_root
from nnenv.errors import NnenvError
from nnenv.spec.artifact import Sha256

DATA = b"the bytes of a wheel" * 5000
DIGEST = Sha256(hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def object_path(store: Store, sha256: Sha256 = DIGEST) -> Path:
    """Where the entry lies, without verification."""
    return store.root / "objects" / "sha256" / sha256[:2] / sha256


def flip(path: Path, position: int = 7) -> None:
    """Flip one bit, as a rotting disk does."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def leftovers(store: Store) -> list[Path]:
    """Files below tmp/."""
    return [path for path in (store.root / "tmp").rglob("*") if path.is_file()]


# Objects


def test_what_is_put_comes_back(store: Store) -> None:
    """By its digest, from any store on the same root, read-only, with nothing left in tmp/."""
    assert store.put(DATA) == DIGEST
    again = Store(store.root)
    assert again.contains(DIGEST)
    with again.open(DIGEST) as stream:
        assert stream.read() == DATA
    assert again.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert leftovers(store) == []
    assert store.size() > len(DATA)


def test_a_missing_entry_is_named(store: Store) -> None:
    """StoreMissing says where the entry should be."""
    assert not store.contains(DIGEST)
    assert not store.check(DIGEST)
    with pytest.raises(StoreMissing) as caught:
        store.open(DIGEST)
    assert (caught.value.code, caught.value.where) == ("store-missing", str(object_path(store)))


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, None])
def test_other_bytes_than_the_expected_are_refused(store: Store, size: int | None) -> None:
    """Wrong size or wrong digest: nothing is published, nothing stays."""
    expected = DIGEST if size is not None else Sha256("0" * 64)
    with pytest.raises(NnenvError) as caught:
        store.add(io.BytesIO(DATA), expected, size)
    assert caught.value.code == "digest-mismatch"
    assert list(store.objects()) == []
    assert leftovers(store) == []


def test_an_endless_body_is_cut_at_the_expected_size(store: Store) -> None:
    """The writer refuses the first byte too many, not the last."""
    with store.writer(DIGEST, 10) as writer:
        writer.write(bytes(10))
        with pytest.raises(NnenvError):
            writer.write(b"x")


def test_an_abandoned_write_leaves_nothing(store: Store) -> None:
    """Leaving the `with` without a commit removes the temporary file."""
    with store.writer() as writer:
        writer.write(DATA)
    assert leftovers(store) == []
    assert list(store.objects()) == []


def test_the_umask_does_not_reach_the_store(tmp_path: Path) -> None:
    """Directories are 0700 and entries 0444 under any umask."""
    previous = os.umask(0o777)
    try:
        store = Store(tmp_path / "store")
        store.put(DATA)
    finally:
        os.umask(previous)
    assert {0o700} == {path.stat().st_mode & 0o777 for path in store.root.rglob("*") if path.is_dir()}
    assert object_path(store).stat().st_mode & 0o777 == 0o444


def test_a_flipped_bit_is_found_before_use(store: Store) -> None:
    """The entry goes to quarantine, the refusal names it, and putting it again heals."""
    store.put(DATA)
    flip(object_path(store))
    fresh = Store(store.root)
    with pytest.raises(StoreCorrupt) as caught:
        fresh.open(DIGEST)
    assert (caught.value.code, caught.value.where) == ("store-corrupt", str(object_path(store)))
    assert caught.value.fix
    assert not fresh.contains(DIGEST)
    assert len(list((store.root / "quarantine").iterdir())) == 1
    fresh.put(DATA)
    assert fresh.check(DIGEST)


def test_reading_verifies_beside_it(store: Store) -> None:
    """The bytes come at once; a flipped bit is found when the `with` ends, and the entry is in quarantine then."""
    store.put(DATA)
    with store.reading(DIGEST) as stream:
        assert stream.read() == DATA
    flip(object_path(store))
    seen = b""
    with pytest.raises(StoreCorrupt), Store(store.root).reading(DIGEST) as stream:
        seen = stream.read()
    assert len(seen) == len(DATA)
    assert not object_path(store).exists()
    with pytest.raises(StoreMissing), store.reading(DIGEST):
        pass


def test_damage_explains_what_went_wrong_while_reading(store: Store) -> None:
    """A refusal over bytes that are not the entry's is the entry's fault; over whole ones it stays what it was."""
    store.put(DATA)
    with pytest.raises(ValueError, match="odd"), store.reading(DIGEST):
        raise ValueError("odd")
    object_path(store).chmod(0o644)
    object_path(store).write_bytes(DATA[:-1])
    with pytest.raises(StoreCorrupt), Store(store.root).reading(DIGEST):
        raise ValueError("odd")


def test_a_bit_flipped_after_the_first_use_is_found_too(store: Store) -> None:
    """A verification is remembered only while the file's times, size and inode stay the same."""
    store.put(DATA)
    time.sleep(0.03)  # past the tick within which a verification is not remembered
    assert store.check(DIGEST)
    status = object_path(store).stat()
    flip(object_path(store))
    os.utime(object_path(store), ns=(status.st_atime_ns, status.st_mtime_ns))  # ctime gives it away
    assert not store.check(DIGEST)


def test_every_flipped_bit_of_a_hundred_is_found(store: Store) -> None:
    """Any position, verified by a fresh process's eyes."""
    positions = random.Random(1).sample(range(len(DATA)), 100)
    found = 0
    for position in positions:
        store.put(DATA)
        flip(object_path(store), position)
        found += not Store(store.root).check(DIGEST)
    assert found == 100


def test_without_the_guard_a_flipped_bit_is_not_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the two tests above would fail if nothing were verified."""
    store.put(DATA)
    flip(object_path(store))
    monkeypatch.setenv(UNSAFE_VARIABLE, "verify")
    assert Store(store.root).check(DIGEST)


def test_a_truncated_emptied_or_replaced_entry_is_found(store: Store, tmp_path: Path) -> None:
    """Cut, empty, a symlink to good bytes, a directory: none is an entry."""
    good = tmp_path / "good"
    good.write_bytes(DATA)
    for damage in ("cut", "empty", "symlink", "directory"):
        store.put(DATA)
        path = object_path(store)
        path.unlink()
        if damage == "symlink":
            path.symlink_to(good)
        elif damage == "directory":
            path.mkdir()
        else:
            path.write_bytes(DATA[:100] if damage == "cut" else b"")
        assert not Store(store.root).check(DIGEST), damage
    store.put(DATA)
    assert store.check(DIGEST)


def test_a_damaged_entry_is_not_trusted_when_the_same_bytes_are_put(store: Store) -> None:
    """On a collision of names the present file is hashed, and replaced when it lies."""
    store.put(DATA)
    flip(object_path(store))
    Store(store.root).put(DATA)
    assert object_path(store).read_bytes() == DATA


def test_stamps_save_hashing_only_where_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `trust_stamps` a second process does not read the bytes; by default it does."""
    store.put(DATA)
    time.sleep(0.03)
    hashed: list[int] = []
    digest = store_module._digest

    def counting(descriptor: int, advance: Callable[[int], object] | None = None) -> str:
        hashed.append(descriptor)
        return digest(descriptor, advance)

    monkeypatch.setattr(store_module, "_digest", counting)
    for _ in range(3):
        assert Store(store.root, trust_stamps=True).check(DIGEST)
    assert len(hashed) == 1
    assert Store(store.root).check(DIGEST)
    assert len(hashed) == 2
    flip(object_path(store))
    assert not Store(store.root, trust_stamps=True).check(DIGEST)


def test_verify_all_reads_everything_again(store: Store) -> None:
    """What was verified before is hashed again, and the bad one named."""
    names = {store.put(bytes([number]) * 1000) for number in range(5)}
    bad = sorted(names)[2]
    assert dict(store.verify_all()) == dict.fromkeys(names, True)
    flip(object_path(store, bad))
    assert dict(store.verify_all()) == {name: name != bad for name in names}
    assert bad not in set(store.objects())


def test_verify_all_in_threads_tells_how_far_it_is(store: Store) -> None:
    """Every byte is told once, whatever the number of threads; the order is that of the names."""
    names = [store.put(bytes([number]) * 100_000) for number in range(20)]
    flip(object_path(store, names[3]))
    told: list[int] = []
    found = list(Store(store.root).verify_all(workers=4, advance=told.append))
    assert found == [(name, name != names[3]) for name in sorted(names)]
    assert sum(told) == 20 * 100_000


def test_verify_all_ends_when_nobody_listens_any_more(store: Store) -> None:
    """An interrupt does not wait for the files that are being read."""
    for number in range(8):
        store.put(bytes([number]) * (1 << 20))
    before = set(threading.enumerate())  # other tests may have left some
    reading = Store(store.root).verify_all(workers=2)
    next(reading)
    assert set(threading.enumerate()) - before
    reading.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) - before == set()


def test_a_changed_tree_is_found_and_made_anew(store: Store) -> None:
    """verify_tree takes the marker away, so the next use extracts again."""
    place = store.tree("t", lambda place: (place / "file").write_bytes(b"right"))
    assert store.verify_tree("t")
    (place / "file").write_bytes(b"wrong")
    assert not store.verify_tree("t")
    assert (store.tree("t", lambda place: (place / "file").write_bytes(b"right")) / "file").read_bytes() == b"right"


# Projects


def test_a_root_is_remembered_once(store: Store, tmp_path: Path) -> None:
    """By the real path of the folder, and written only the first time."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "link").symlink_to(project)
    store.add_root(project / "model.lock")
    (entry,) = store.roots()
    before = entry.stat()
    store.add_root(tmp_path / "link" / "model.lock")
    assert store.roots() == {entry: project / "model.lock"}
    assert entry.stat() == before


def test_a_batch_publishes_all_at_its_end(store: Store) -> None:
    """Nothing is there before the end, and all of it afterwards; equal objects are one."""
    with store.batch() as batch:
        names = [batch.put(bytes([number % 50]) * 100) for number in range(100)]
        assert list(store.objects()) == []
    assert sorted(set(names)) == list(store.objects())
    assert all(ok for _, ok in store.verify_all())
    assert leftovers(store) == []


def test_a_batch_that_fails_keeps_nothing(store: Store) -> None:
    """An exception within the batch drops it as a whole."""

    class TroubleError(Exception):
        pass

    with pytest.raises(TroubleError), store.batch() as batch:
        batch.put(DATA)
        raise TroubleError
    assert list(store.objects()) == []
    assert leftovers(store) == []


RECORDING = """
import os, sys
from pathlib import Path
from nnenv.adapters.store import Store
store = Store(Path(sys.argv[1]))
store.put(b"warm")
calls = []
fsync = os.fsync
os.fsync = lambda descriptor: (calls.append("fsync"), fsync(descriptor))
def heard(event, arguments):
    if event == "os.rename":
        calls.append("rename")
    if event == "ctypes.dlsym" and arguments[1] == "syncfs":
        calls.append("syncfs")
sys.addaudithook(heard)
"""


def synced(program: str, root: Path, unsafe: str = "") -> list[str]:
    """The syncs and renames that `program` makes on a new store, in order."""
    script = f"{RECORDING}{program}\nprint(*calls)"
    environ = {**os.environ, UNSAFE_VARIABLE: unsafe}
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True, env=environ
    )
    return done.stdout.split()


def test_the_bytes_are_synced_before_the_rename_and_the_name_after_it(tmp_path: Path) -> None:
    """fsync, (a new directory's fsync), rename, fsync of the directories; a batch pays one syncfs for its bytes.

    Negative control: the switch removes every one of them, so this test would notice.
    """
    directories = ["fsync", "fsync"]  # of the new objects/sha256/ab and of its parent
    assert synced("store.put(b'x')", tmp_path / "1") == ["fsync", "fsync", "rename", *directories]
    batch = synced("with store.batch() as b:\n    b.put(b'x'); b.put(b'y')", tmp_path / "2")
    assert batch == ["syncfs", "fsync", "rename", "fsync", "rename", *directories, "fsync"]
    assert synced("store.put(b'x')", tmp_path / "3", unsafe="fsync") == ["rename"]


# Memo records


def test_records_come_back_and_differ_by_kind_and_key(store: Store) -> None:
    """Any text is a key, and none of it shows in a file name."""
    key = "https://user:secret@host.invalid/simple/?a=b"
    store.save("page", key, b"1")
    store.save("page", key + "c", b"2", durable=True)
    store.save("facts", key, b"")
    again = Store(store.root)
    assert [again.load("page", key), again.load("page", key + "c"), again.load("facts", key)] == [b"1", b"2", b""]
    assert again.load("page", "other") is None
    assert not any("secret" in str(path) for path in store.root.rglob("*"))


def test_a_flipped_bit_in_a_record_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the checksum or in the data: the record is dropped; without the guard it would be believed."""
    size = 0
    for position in (0, 40, -1):
        store.save("facts", "k", b"data")
        (record,) = [path for path in (store.root / "derived").rglob("*") if path.is_file()]
        size = record.stat().st_size
        flip(record, position % size)
        assert store.load("facts", "k") is None
        assert not record.exists()
    store.save("facts", "k", b"data")
    flip(record, size - 1)
    monkeypatch.setenv(UNSAFE_VARIABLE, "verify")
    assert store.load("facts", "k") == b"dat`"


def test_a_record_in_the_place_of_another_is_not_believed(store: Store) -> None:
    """The checksum covers kind and key, so a renamed record does not answer for another key."""
    store.save("facts", "a", b"facts of a")
    (record,) = [path for path in (store.root / "derived").rglob("*") if path.is_file()]
    store.save("facts", "b", b"facts of b")
    (other,) = [path for path in (store.root / "derived").rglob("*") if path.is_file() and path != record]
    record.replace(other)
    assert store.load("facts", "b") is None


# Trees


def test_a_tree_is_built_once(store: Store) -> None:
    """The second call finds it, and so does another process's store."""
    built: list[Path] = []

    def build(place: Path) -> None:
        built.append(place)
        (place / "bin").mkdir()
        (place / "bin" / "python").write_bytes(b"elf")

    first = store.tree("root-1", build)
    assert Store(store.root).tree("root-1", build) == first
    assert len(built) == 1
    assert (first / "bin" / "python").read_bytes() == b"elf"


def test_a_changed_tree_is_built_again(store: Store) -> None:
    """A write through a hard link, even one that restores the times, a new file, a removed one, another mode, a lost
    marker: a new process sees each."""

    def build(place: Path) -> None:
        (place / "a").write_bytes(b"1")
        (place / "b").write_bytes(b"2")
        (place / "c").symlink_to("a")

    place = store.tree("t", build)

    def rot() -> None:
        times = (place / "a").stat().st_mtime_ns
        (place / "a").write_bytes(b"8")
        os.utime(place / "a", ns=(times, times))

    damages: list[Callable[[], object]] = [
        rot,
        lambda: (place / "a").write_bytes(b"9"),
        lambda: (place / "new.pyc").write_bytes(b""),
        (place / "b").unlink,
        lambda: (place / "b").chmod(0o777),
        place.with_name("t.ok").unlink,
    ]
    for damage in damages:
        damage()
        assert Store(store.root).tree("t", build) == place
        assert (place / "a").read_bytes() == b"1"
        assert {"a", "b", "c"} == {path.name for path in place.iterdir()}
        assert (place / "b").stat().st_mode & 0o777 != 0o777
    os.link(place / "a", store.root / "linked")  # what a sandbox does is no damage
    Store(store.root).tree("t", lambda _: pytest.fail("built again"))


def test_a_failed_build_leaves_no_tree(store: Store) -> None:
    """A marker inside the tree would be no marker: it lies outside, and is written last."""

    def fail(place: Path) -> None:
        (place / "t.ok").write_bytes(b"complete")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.tree("t", fail)
    assert list((store.root / "trees").iterdir()) == []
    assert leftovers(store) == []


def test_concurrent_builders_build_once(store: Store) -> None:
    """The others wait and use the result."""
    built: list[Path] = []

    def build(place: Path) -> None:
        time.sleep(0.05)
        built.append(place)

    threads = [threading.Thread(target=store.tree, args=("t", build)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_tree_key_cannot_leave_its_directory(store: Store) -> None:
    """Keys are names: no dots (a marker ends in .ok), no slashes."""
    for key in ("../x", "a/b", "t.ok", "", "A"):
        with pytest.raises(ValueError, match="tree key"):
            store.tree(key, lambda _: None)


# Processes


def three_files(place: Path) -> None:
    """A small tree."""
    for number in range(3):
        (place / str(number)).write_bytes(bytes(number))


def put_for_ever(root: str, seed: int) -> None:
    """Put objects, records and trees until killed."""
    store = Store(Path(root))
    numbers = random.Random(seed)
    while True:
        data = numbers.randbytes(numbers.randrange(200_000))
        store.put(data)
        with store.batch() as batch:
            for part in range(3):
                batch.put(data[: part * 10])
        store.save("facts", str(numbers.randrange(10)), data[:100])
        store.tree(f"t{numbers.randrange(3)}", three_files)


def kill_and_check(root: Path, kills: int, seed: int = 0) -> int:
    """Kill a writing process at random moments; the number of damaged entries comes back. Afterwards the
    rubbish is gone and a plain put works. `kills=500` is the number of the issue."""
    numbers = random.Random(seed)
    context = multiprocessing.get_context("fork")
    damaged = 0
    for kill in range(kills):
        process = context.Process(target=put_for_ever, args=(str(root), seed + kill))
        process.start()
        time.sleep(numbers.uniform(0.0, 0.06))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    store = Store(root)
    damaged += sum(not ok for _, ok in store.verify_all())
    store.put(DATA)
    assert store.check(DIGEST)
    assert not [path for path in leftovers(store) if path.parent.name != "partial"]
    for number in range(3):
        place = store.tree(f"t{number}", three_files)
        assert len(list(place.iterdir())) == 3
    return damaged


def test_kill_at_forty_moments_damages_nothing(tmp_path: Path) -> None:
    """kill -9 anywhere: no entry lies, and the next run cleans up and works."""
    assert kill_and_check(tmp_path / "store", 40) == 0


def test_what_a_live_process_writes_is_not_swept(store: Store) -> None:
    """Another store's open writer survives a sweep; a dead process's does not."""
    with store.writer() as writer:
        writer.write(DATA)
        other = Store(store.root)
        other.put(b"other")
        assert other.sweep() == 0
        assert writer.commit() == (DIGEST, len(DATA))
    dead = store.root / "tmp" / "1-dead"
    dead.mkdir()
    (dead / "half").write_bytes(b"half")
    assert other.sweep() == 1
    assert not dead.exists()


def test_a_cut_download_goes_on_where_it_stopped(store: Store) -> None:
    """The partial file stays without a commit, survives a sweep, and is hashed again, not believed."""
    with store.partial(DIGEST, len(DATA)) as partial:
        partial.write(DATA[:1000])
    store.sweep()
    with Store(store.root).partial(DIGEST, len(DATA)) as partial:
        assert partial.written == 1000
        assert not partial.matches()
        partial.write(DATA[1000:])
        assert partial.matches()
        partial.commit()
    assert store.check(DIGEST)
    with store.partial(DIGEST, len(DATA)) as partial:
        partial.write(b"x")
    assert store.sweep(everything=True) == 1
    assert leftovers(store) == []


def test_a_forked_child_does_not_remove_its_parents_work(store: Store) -> None:
    """The end of a child's store leaves the parent's temporary files alone."""
    with store.writer() as writer:
        writer.write(DATA)
        child = os.fork()
        if child == 0:
            store.put(b"child")
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        writer.commit()
    assert store.check(DIGEST)


# Places


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A tmpfs of 256 KiB; only root may mount one."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = Store(Path(sys.argv[1]))
try:
    store.put(bytes(150_000))
except NnenvError as error:
    print(error.code, bool(error.where), len(list(store.objects())))
"""


def test_a_file_size_limit_refuses_cleanly(tmp_path: Path) -> None:
    """EFBIG stands in for a full disk where nobody may mount one: an error with the path, and no entry."""
    root = tmp_path / "store"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout == "disk-full True 0\n"
    assert leftovers(Store(root)) == []


@pytest.mark.mounting
def test_a_full_disk_refuses_cleanly_and_its_room_comes_back(tmp_path: Path) -> None:
    """Objects of every size around the limit: right or refused, never cut; afterwards a small one fits."""
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk / "store")
        refused = 0
        for size in range(10_000, 300_000, 10_000):
            try:
                store.put(bytes([size % 251]) * size)
            except NnenvError as error:
                assert error.code == "disk-full"
                assert error.where
                refused += 1
        assert refused > 10
        assert all(ok for _, ok in store.verify_all())
        assert leftovers(store) == []
        with pytest.raises(NnenvError), store.batch() as batch:
            for number in range(100):
                batch.put(bytes([number]) * 10_000)
        assert leftovers(store) == []
        assert store.check(store.put(b"small"))
        store.close()


@pytest.mark.mounting
def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    """A warm store on a read-only mount serves objects, records and trees, and refuses writes clearly."""
    place = tmp_path / "store"
    store = Store(place)
    store.put(DATA)
    store.save("facts", "k", b"v")
    store.tree("t", lambda path: None)
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        reading = Store(place)
        assert reading.check(DIGEST)
        assert reading.load("facts", "k") == b"v"
        assert reading.tree("t", lambda path: pytest.fail("built")) == place / "trees" / "t"
        reading.save("facts", "k2", b"v")
        with pytest.raises(NnenvError) as caught:
            reading.put(b"new")
        assert caught.value.code == "disk-full"
        assert "read-only" in caught.value.what
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_store_of_a_newer_layout_is_refused(store: Store) -> None:
    """Two versions of nnenv on one store: the older one says so instead of guessing."""
    store.put(DATA)
    (store.root / "version").write_bytes(b"nnenv store 2\n")
    with pytest.raises(NnenvError) as caught:
        Store(store.root)
    assert caught.value.code == "store-unusable"


def test_the_stores_place_comes_from_the_environment() -> None:
    """NNENV_STORE, then an absolute XDG_CACHE_HOME, then HOME; nothing of it is an error."""
    assert default_root({"NNENV_STORE": "/s", "XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/s")
    assert default_root({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/nnenv")
    assert default_root({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/nnenv")
    with pytest.raises(NnenvError) as caught:
        default_root({})
    assert caught.value.code == "store-unusable"
