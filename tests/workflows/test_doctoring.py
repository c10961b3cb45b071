"""`nnenv doctor`: each line as a function of what was found, and the examination as a whole against small servers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nnenv.adapters.docker_engine import EngineFacts
from nnenv.adapters.examination import GpuFacts, Memory, Place, gpu_facts, memory, place, program_version
from nnenv.adapters.host import HostFacts
from nnenv.adapters.patience import answers_within
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.workflows import doctoring
from nnenv.workflows.doctoring import (
    Line,
    State,
    clock_line,
    emulator_line,
    engine_line,
    examine,
    git_line,
    gpu_line,
    machine_line,
    no_engine_line,
    python_line,
    sandbox_line,
    signature_line,
    sources_line,
    store_line,
    usable,
    without_secrets,
)
from nnenv.workflows.session import Session
from tests.e2e.world import bare_environment

GB = 10**9
PLACE = Place(
    path=Path("/s"),
    exists=True,
    nearest=Path("/s"),
    file_system="ext4",
    free_bytes=50 * GB,
    total_bytes=100 * GB,
    obstacle="",
    has_locks=True,
)
ENGINE = EngineFacts(
    version="27.1",
    api="1.46",
    storage="overlay2",
    cgroup="2",
    machine="x86_64",
    rootless=False,
    has_init=True,
    runtimes=("runc",),
)
HOST = HostFacts(machine="x86_64", cpu_model="", isa=(), processors=4, kernel="Linux 6.1")


# One line each


def test_what_stops_nnenv_altogether() -> None:
    """Too old a Python and a store that cannot be written, and nothing else."""
    old = python_line((3, 10), "3.10.1")
    unwritable = store_line(replace(PLACE, obstacle="Permission denied"))
    assert (old.state, old.fatal) == (State.MISSING, True)
    assert (unwritable.state, unwritable.fatal) == (State.MISSING, True)
    assert "Permission denied" in unwritable.text
    good = python_line((3, 11), "3.11.0")
    bad_luck = no_engine_line(NnenvError("engine-unavailable", "no"), "", "absent")
    assert usable([good, bad_luck, sandbox_line({"namespaces": "no", "rootless": "no", "restricted": "no"}, ())])
    assert not usable([good, old])
    assert not usable([good, unwritable])


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (replace(PLACE, free_bytes=GB), "little room"),
        (replace(PLACE, file_system="tmpfs"), "restarts"),
        (replace(PLACE, file_system="nfs4"), "network file system"),
        (replace(PLACE, has_locks=False), "locks no files"),
    ],
)
def test_stores_that_may_disappoint(found: Place, word: str) -> None:
    """Each is a warning with a fix; nnenv still works."""
    line = store_line(found)
    assert (line.state, line.fatal) == (State.WARNING, False)
    assert word in line.text
    assert line.fix
    assert store_line(PLACE).state is State.OK


def test_a_store_that_is_not_made_yet() -> None:
    """The line says that the first write makes it."""
    assert "made by the first write" in store_line(replace(PLACE, exists=False)).text


def test_little_memory_is_a_warning() -> None:
    """And a machine that does not say is none."""
    assert machine_line(HOST, Memory(total=8 * GB, available=GB)).state is State.WARNING
    assert machine_line(HOST, Memory(total=8 * GB, available=6 * GB)).state is State.OK
    assert machine_line(HOST, Memory(total=0, available=0)).state is State.OK


@pytest.mark.parametrize(
    ("obstacle", "fix"), [("absent", "start Docker"), ("forbidden", "group docker"), ("", "see why: because")]
)
def test_no_engine(obstacle: str, fix: str) -> None:
    """A warning, since nnenv works without one; the fix depends on what is in the way."""
    line = no_engine_line(NnenvError("engine-unavailable", "what", because=["because"]), "", obstacle)
    assert line.state is State.WARNING
    assert fix in line.fix[0]


def test_engines() -> None:
    """A good one says what it is used for; an old one, one without init and one of another processor are warned of."""
    assert engine_line(ENGINE, "x86_64").state is State.OK
    assert "rootless" in engine_line(replace(ENGINE, rootless=True), "x86_64").text
    for facts in (replace(ENGINE, api="1.40"), replace(ENGINE, has_init=False), replace(ENGINE, machine="aarch64")):
        line = engine_line(facts, "x86_64")
        assert (line.state, len(line.fix)) == (State.WARNING, 1)


def test_sandboxes() -> None:
    """The strongest mode counts; the weakest is a warning, none is missing, with what the kernel forbids."""
    assert "mode rootless" in sandbox_line({"namespaces": "no", "rootless": "", "restricted": "no"}, ()).text
    weak = sandbox_line({"namespaces": "forbidden", "rootless": "no", "restricted": ""}, ())
    assert (weak.state, "forbidden" in weak.text) == (State.WARNING, True)
    none = sandbox_line({"namespaces": "a", "rootless": "b", "restricted": "c"}, ["user.max_user_namespaces is 0"])
    assert none.state is State.MISSING
    assert "namespaces: a; rootless: b; restricted: c; user.max_user_namespaces is 0" in none.text


def test_emulators() -> None:
    """One that is missing matters only where model.toml has a target for it."""
    assert emulator_line({"aarch64": ""}, set(), []).state is State.OK
    assert emulator_line({"aarch64": ""}, set(), ["aarch64"]).state is State.WARNING
    there = emulator_line({"aarch64": "/usr/bin/qemu"}, {"aarch64"}, ["aarch64"])
    assert (there.state, there.text) == (State.OK, "aarch64: /usr/bin/qemu (engines too)")


def test_a_graphics_driver_is_only_reported() -> None:
    """No GPU is no fault, and a driver without the container tools is none either."""
    assert gpu_line(GpuFacts(driver="", library="", tools=())).state is State.OK
    line = gpu_line(GpuFacts(driver="NVIDIA 550", library="/x/libcuda.so.1", tools=("nvidia-ctk",)))
    assert line.text == "driver: NVIDIA 550; libcuda.so.1: /x/libcuda.so.1; for containers: nvidia-ctk"


def test_programs(tmp_path: Path) -> None:
    """git may be missing; without gpgv or its keys nothing of Debian can be locked."""
    (tmp_path / "keys.gpg").touch()
    assert git_line("git version 2.39.5") == Line(name="git", state=State.OK, text="2.39.5")
    assert git_line("").state is State.WARNING
    assert signature_line("gpgv (GnuPG) 2.2.40", tmp_path / "keys.gpg").text == f"2.2.40, keys in {tmp_path}/keys.gpg"
    assert signature_line("", tmp_path / "keys.gpg").state is State.MISSING
    assert signature_line("gpgv (GnuPG) 2.2.40", tmp_path / "absent").state is State.MISSING


def test_sources() -> None:
    """All, some or none of them answer."""
    failure = NnenvError("index-unreachable", "b is gone", fix=["look"])
    assert sources_line("x", ["a"], []).state is State.OK
    assert sources_line("x", ["a"], [failure, failure]) == Line(
        name="x", state=State.WARNING, text="a; b is gone; b is gone", fix=("look",)
    )
    assert sources_line("x", [], [failure]).state is State.MISSING


@pytest.mark.parametrize(
    ("skews", "state", "word"),
    [
        ([], State.SKIPPED, "no server"),
        ([3, -2], State.OK, "agrees"),
        ([4000], State.WARNING, "4000 s ahead of"),
        ([-4000, -4001, 9], State.WARNING, "4000 s behind"),
        ([0, 1, 9_000_000], State.OK, "agrees"),
    ],
)
def test_the_clock(skews: list[int], state: State, word: str) -> None:
    """Compared with the median of what servers say, so that one wrong server proves nothing."""
    line = clock_line([timedelta(seconds=seconds) for seconds in skews])
    assert line.state is state
    assert word in line.text


def test_no_password_is_shown() -> None:
    """Whatever text a fault comes with."""
    text = "https://user:secret@host/simple and tcp://token@[::1]:1 fail, mail me@here"
    assert without_secrets(text) == "https://***@host/simple and tcp://***@[::1]:1 fail, mail me@here"


# Facts


def test_facts_of_a_place(tmp_path: Path) -> None:
    """Free space, file system and locks of a folder or of the nearest one above; nothing is left there."""
    found = place(tmp_path / "not" / "yet")
    assert (found.exists, found.nearest, found.obstacle, found.has_locks) == (False, tmp_path, "", True)
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.file_system
    assert list(tmp_path.iterdir()) == []
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / {tmp_path} rw,x shared:1 - nfs4 host:/x rw\n")
    assert place(tmp_path, mounts).file_system == "nfs4"


def test_facts_of_the_machine(tmp_path: Path) -> None:
    """Memory and driver as the kernel prints them; what cannot be read is empty."""
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   500 kB\n")
    assert memory(tmp_path / "meminfo") == Memory(total=1_024_000, available=512_000)
    assert memory(tmp_path / "absent") == Memory(total=0, available=0)
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54\nGCC\n")
    (tmp_path / "libcuda.so.1").touch()
    found = gpu_facts(tmp_path, (str(tmp_path),))
    assert (found.driver, found.library) == (
        "NVIDIA UNIX x86_64 Kernel Module  550.54",
        f"{tmp_path}/libcuda.so.1",
    )
    assert gpu_facts(tmp_path / "absent", ()).driver == ""
    assert program_version("no-such-program") == ""


# Waiting


def test_silence_and_failure_are_answers_too() -> None:
    """What hangs is left behind, and what raises is told; the order is the questions'."""
    forever = threading.Event()
    begun = time.monotonic()
    answers = answers_within(0.3, {"slow": forever.wait, "right": lambda: 1, "wrong": lambda: 1 // 0})
    forever.set()
    assert list(answers) == ["slow", "right", "wrong"]
    assert (answers["slow"], answers["right"]) == (None, 1)
    assert isinstance(answers["wrong"], ZeroDivisionError)
    assert time.monotonic() - begun < 5


# The whole


def session(folder: Path, environment: dict[str, str]) -> Session:
    """Somebody in an empty project."""
    return Session(
        project=folder,
        store=Store(folder / "store"),
        progress=SilentProgress(),
        environment=environment,
        home=folder,
        now=datetime.now(UTC),
    )


def by_name(lines: tuple[Line, ...]) -> dict[str, Line]:
    """The lines by what they are on."""
    return {line.name: line for line in lines}


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of one that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_network_holds_nothing_up(tmp_path: Path) -> None:
    """Servers that never answer cost the time allowed and no more, and no password is shown."""
    with silent_server() as address:
        environment = {
            **bare_environment(tmp_path),
            "NNENV_INDEX_URL": f"{address}/simple",
            "NNENV_DEBIAN_MIRROR": f"{address}/debian",
            "NO_PROXY": "127.0.0.1",
        }
        begun = time.monotonic()
        lines = by_name(examine(session(tmp_path, environment), offline=False))
    assert time.monotonic() - begun < 4 * doctoring.ANSWER_SECONDS
    assert lines["python index"].state in (State.WARNING, State.MISSING)
    assert lines["debian mirror"].state in (State.WARNING, State.MISSING)
    assert lines["clock"].state is State.SKIPPED
    assert "secret" not in repr(lines)


def test_an_unreadable_project_does_not_end_the_examination(tmp_path: Path) -> None:
    """A broken model.toml is one line among others."""
    (tmp_path / "model.toml").write_text("not toml")
    lines = by_name(examine(session(tmp_path, bare_environment(tmp_path)), offline=True))
    assert lines["project"].state is State.WARNING
    assert lines["nnenv"].state is State.OK


def test_nothing_is_written(tmp_path: Path) -> None:
    """Not even the store."""
    examine(session(tmp_path, bare_environment(tmp_path)), offline=True)
    assert list(tmp_path.iterdir()) == []
