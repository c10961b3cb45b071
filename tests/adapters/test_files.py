"""Single files: whole or not at all, inside or refused."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nnenv.adapters import files
from nnenv.adapters.files import compare_and_swap, exclusive_lock, open_inside, read_inside, write_atomically
from nnenv.errors import NnenvError


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The new bytes are there, and no temporary."""
    path = tmp_path / "model.lock"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path] == list(tmp_path.iterdir())


def test_the_mode_is_the_asked_one_under_any_umask(tmp_path: Path) -> None:
    """Umask must not reach anything written."""
    for umask in (0o000, 0o022, 0o077, 0o777):
        previous = os.umask(umask)
        try:
            write_atomically(tmp_path / f"{umask:o}", b"x", mode=0o644)
        finally:
            os.umask(previous)
    assert {0o644} == {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    """A planted symlink cannot aim our write at another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    write_atomically(link, b"ours")
    assert victim.read_bytes() == b"precious"
    assert not link.is_symlink()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from nnenv.adapters.files import write_atomically
from nnenv.errors import NnenvError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), bytes(10_000))
except NnenvError as error:
    print(error.code, error.where)
"""


def test_a_refused_write_names_the_path_and_keeps_the_old_file(tmp_path: Path) -> None:
    """With no room left, the old file stays and the temporary goes.

    RLIMIT_FSIZE first makes a write short, then refuses, as a full disk does: code that does not go on after a
    short write would publish a cut file here.
    """
    path = tmp_path / "model.lock"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"disk-full {path}\n"
    assert path.read_bytes() == b"old"
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_every_way_a_disk_refuses_has_a_fix(number: int, tmp_path: Path) -> None:
    """The refusal names the path, the cause and what to do."""
    error = files.write_refused(OSError(number, os.strerror(number)), tmp_path / "x")
    assert (error.code, error.where) == ("disk-full", str(tmp_path / "x"))
    assert error.fix


def test_what_a_killed_writer_left_is_swept_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    """Temporaries are told apart by the kernel lock that their writer holds."""
    path = tmp_path / "model.lock"
    dead = tmp_path / ".model.lock.0123456789abcdef.nnenv-tmp"
    alive = tmp_path / ".model.lock.fedcba9876543210.nnenv-tmp"
    dead.write_bytes(b"half")
    with alive.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        write_atomically(path, b"new")
        assert {path, alive} == set(tmp_path.iterdir())


def test_writers_of_one_path_do_not_sweep_each_other(tmp_path: Path) -> None:
    """A sweep that meets a file between its creation and its lock does not take it from under its writer."""
    refused = []

    def write() -> None:
        for _ in range(150):
            try:
                write_atomically(tmp_path / "version", b"x")
            except NnenvError as error:
                refused.append(error.because)

    writers = [threading.Thread(target=write) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert refused == []
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_compare_and_swap_refuses_a_file_that_changed(tmp_path: Path) -> None:
    """Old bytes in, new bytes out; other bytes are left alone and named."""
    path = tmp_path / "model.lock"
    compare_and_swap(path, b"1", None)
    compare_and_swap(path, b"2", b"1")
    for expected in (None, b"1"):
        with pytest.raises(NnenvError) as caught:
            compare_and_swap(path, b"3", expected)
        assert caught.value.code == "changed-meanwhile"
    assert path.read_bytes() == b"2"


def test_compare_and_swap_names_a_place_that_is_no_directory_or_file(tmp_path: Path) -> None:
    """A missing directory, or a directory in the file's place: a refusal with the path, not a traceback."""
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "missing" / "model.lock", tmp_path / "directory"):
        with pytest.raises(NnenvError) as caught:
            compare_and_swap(path, b"1", None)
        assert (caught.value.code, caught.value.where) == ("disk-full", str(path))


def test_compare_and_swap_of_equal_bytes_writes_nothing(tmp_path: Path) -> None:
    """A no-op lock leaves the file's times alone."""
    path = tmp_path / "model.lock"
    compare_and_swap(path, b"1", None)
    before = path.stat()
    compare_and_swap(path, b"1", b"1")
    assert path.stat() == before


def test_concurrent_swaps_never_lose_one(tmp_path: Path) -> None:
    """Eight threads count to 80 together: each increment is based on the one before."""
    path = tmp_path / "count"
    path.write_bytes(b"0")

    def count() -> None:
        done = 0
        while done < 10:
            old = path.read_bytes()
            try:
                compare_and_swap(path, str(int(old) + 1).encode(), old)
            except NnenvError:
                continue
            done += 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == b"80"


def test_a_lock_excludes_and_disappears(tmp_path: Path) -> None:
    """One holder at a time, and no file stays behind."""
    path = tmp_path / "lock"
    inside = 0
    most = 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with exclusive_lock(path):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()


def test_who_waits_for_a_lock_may_give_up(tmp_path: Path) -> None:
    """`waiting` is called while another holds the lock, and its exception ends the wait."""

    class EnoughError(Exception):
        pass

    def give_up() -> None:
        raise EnoughError

    with exclusive_lock(tmp_path / "lock"), pytest.raises(EnoughError):  # noqa: SIM117 - the inner lock must be refused
        with exclusive_lock(tmp_path / "lock", waiting=give_up):
            pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """Kernel locks end with their holder, unlike files with a process number in them."""
    script = "import sys, time; from pathlib import Path; from nnenv.adapters.files import exclusive_lock\n"
    script += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
    with exclusive_lock(lock):
        pass


def test_files_inside_are_read_through_symlinks_that_stay_inside(tmp_path: Path) -> None:
    """A project may organise its models with symlinks."""
    (tmp_path / "models" / "v1").mkdir(parents=True)
    (tmp_path / "models" / "v1" / "a.onnx").write_bytes(b"weights")
    (tmp_path / "current").symlink_to("models/v1")
    assert read_inside(tmp_path, "current/a.onnx", 100) == b"weights"
    assert read_inside(tmp_path, "models/../models/v1/a.onnx", 100) == b"weights"


ESCAPES = ["../secret", "/etc/hostname", "models/../../secret", "link", "links/secret", "a\0b"]


@pytest.mark.parametrize("relative", ESCAPES)
def test_a_path_that_leaves_the_project_is_refused(relative: str, tmp_path: Path) -> None:
    """By `..`, by an absolute path, by a symlink to a file or to a directory."""
    (tmp_path / "secret").write_bytes(b"key")
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "link").symlink_to("../secret")
    (project / "links").symlink_to(tmp_path)
    with pytest.raises(NnenvError) as caught:
        open_inside(project, relative)
    assert caught.value.code == "path-escapes"


def test_what_is_no_readable_file_is_named(tmp_path: Path) -> None:
    """Missing, a directory, a FIFO (which must not block), a symlink loop, too large."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(bytes(101))
    for relative in ("missing", "directory", "fifo", "loop", "large", "", "large/x"):
        with pytest.raises(NnenvError) as caught:
            read_inside(tmp_path, relative, 100)
        assert (caught.value.code, caught.value.where) == ("file-unreadable", relative)
