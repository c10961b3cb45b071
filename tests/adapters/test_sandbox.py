"""The sandbox, really run: every mode this machine offers, on a small root made of the machine's own programs.

As root that is `namespaces` and `restricted` in this process, and `rootless` in a child that has become uid 1000.
Without root it is `rootless`. Guards have a control: the same attempt outside succeeds.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import nnenv
from nnenv.adapters import sandbox, sandbox_init
from nnenv.adapters.host import find_emulator, host_facts, is_static_program, machine, user_namespace_obstacles
from nnenv.adapters.sandbox import SandboxRunner, available_modes, compose_root
from nnenv.errors import NnenvError
from nnenv.verify.protocols import Completed, Limits, Run, Runner

ORDINARY_USER = 1000
PROGRAMS = ("bash", "cat", "env", "head", "id", "ls", "mount", "sleep", "tail", "uname", "unshare", "wc")
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
AS_ROOT = os.geteuid() == 0

REMOTE = """
import base64, json, sys
from pathlib import Path
from nnenv.adapters.sandbox import SandboxRunner, available_modes, compose_root
from nnenv.errors import NnenvError
from nnenv.verify.protocols import Limits, Run

def run(order):
    if not order:
        return {"modes": available_modes()}
    root = Path(order["root"])
    if not root.exists():
        compose_root([Path(tree) for tree in order["trees"]], root)
    emulator = Path(order["emulator"]) if order["emulator"] else None
    try:
        runner = SandboxRunner(root, machine=order["machine"], environment=order["environment"], mode=order["mode"],
                               emulator=emulator)
        done = runner.run(Run(argv=order["argv"], environment=order["extra"], limits=Limits(**order["limits"]),
                              stdin=base64.b64decode(order["stdin"])))
    except NnenvError as error:
        return {"error": error.as_json()}
    return {"exit_code": done.exit_code, "seconds": done.seconds, "limit_hit": done.limit_hit,
            "stdout": base64.b64encode(done.stdout).decode(), "stderr": base64.b64encode(done.stderr).decode()}

for line in sys.stdin.buffer:
    print(json.dumps(run(json.loads(line))), flush=True)
"""
"""Each line of JSON asks for a run and is answered by one: how another user's process is told what to do."""


# --- a root made of this machine's programs ------------------------------------------------------------------------


def add_program(tree: Path, name: str) -> None:
    """Copy a program, and the libraries that the dynamic linker says it needs, to where they lie here."""
    found = shutil.which(name, path="/usr/bin:/bin")
    assert found, f"this machine has no {name}"
    (tree / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, tree / "usr/bin" / name)
    (tree / "usr/bin" / name).chmod(0o755)
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        copy = tree / library.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, copy)
        copy.chmod(0o755)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="nnenv-sandbox-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def tree(place: Path) -> Path:
    """An extracted layer: a few programs, a setuid `id`, a file."""
    tree = place / "tree"
    for name in PROGRAMS:
        add_program(tree, name)
    shutil.copyfile(tree / "usr/bin/id", tree / "usr/bin/setuid-id")
    (tree / "usr/bin/setuid-id").chmod(0o4755)
    (tree / "etc").mkdir()
    (tree / "etc/fact").write_text("original\n")
    for directory, _, _ in os.walk(tree):
        Path(directory).chmod(0o755)
    return tree


Child = subprocess.Popen[bytes]


def start_child(package: Path, interpreter: str, user: int | None = None) -> Child:
    """A process that obeys REMOTE; `package` is where it finds nnenv."""
    return subprocess.Popen(
        [interpreter, "-c", REMOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=package,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def ask(child: Child, order: Mapping[str, object]) -> dict[str, Any]:
    """Send one order, wait for its answer."""
    assert child.stdin and child.stdout
    child.stdin.write(json.dumps(order).encode() + b"\n")
    child.stdin.flush()
    answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


@dataclass(frozen=True, kw_only=True)
class Way:
    """One mode, and how this test run reaches it."""

    mode: str
    trees: Sequence[Path] = ()
    root: Path = Path("/")
    machine: str = machine()
    emulator: Path | None = None
    child: Child | None = None
    """Runs everything, when the mode needs another user than ours."""
    package: Path = Path(nnenv.__file__).parent.parent
    interpreter: str = sys.executable
    user: int | None = None
    """Whom `start` starts how."""

    def run(
        self, *argv: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None, **limits: float
    ) -> Completed:
        """Run in the sandbox."""
        if self.child is not None:
            return self._run_in(self.child, self.order(argv, stdin, environment or {}, limits))
        if not self.root.exists():
            compose_root(self.trees, self.root)
        runner = SandboxRunner(
            self.root, machine=self.machine, environment=ENVIRONMENT, mode=self.mode, emulator=self.emulator
        )
        return runner.run(Run(argv=argv, environment=environment or {}, stdin=stdin, limits=Limits(**limits)))

    def shell(self, script: str, stdin: bytes = b"", **limits: float) -> Completed:
        """Run a script in the sandbox's bash."""
        return self.run("bash", "-c", script, stdin=stdin, **limits)

    def start(self) -> Child:
        """A child of its own, to be killed."""
        return start_child(self.package, self.interpreter, self.user)

    def order(
        self, argv: Sequence[str], stdin: bytes, environment: Mapping[str, str], limits: Mapping[str, float]
    ) -> dict[str, object]:
        """What asks REMOTE for a run."""
        return {
            "root": str(self.root),
            "trees": [str(tree) for tree in self.trees],
            "mode": self.mode,
            "machine": self.machine,
            "emulator": str(self.emulator or ""),
            "argv": list(argv),
            "stdin": base64.b64encode(stdin).decode(),
            "environment": ENVIRONMENT,
            "extra": dict(environment),
            "limits": dict(limits),
        }

    @staticmethod
    def _run_in(child: Child, order: Mapping[str, object]) -> Completed:
        answer = ask(child, order)
        if "error" in answer:
            told = answer["error"]
            raise NnenvError(told["code"], told["message"], where=told["where"], because=told["because"])
        answer["stdout"] = base64.b64decode(answer["stdout"])
        answer["stderr"] = base64.b64decode(answer["stderr"])
        return Completed(**answer)


PACKAGE_FILES = (
    "__init__.py",
    "errors.py",
    "verify/__init__.py",
    "verify/protocols.py",
    "adapters/__init__.py",
    "adapters/host.py",
    "adapters/live.py",
    "adapters/sandbox.py",
    "adapters/sandbox_init.py",
)
"""What the sandbox consists of: it imports nothing else of nnenv, and nothing but the standard library."""


def way_of_ordinary_user(place: Path) -> Way | None:
    """A way to be `rootless` although the tests run as root, where the kernel and an interpreter allow it."""
    package = place / "package"
    for name in PACKAGE_FILES:
        copy = package / "nnenv" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(nnenv.__file__).parent / name, copy)
    for path in (package, *package.rglob("*")):
        path.chmod(0o755)
    for interpreter in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError, ValueError):
            child = start_child(package, interpreter, ORDINARY_USER)
            if "rootless" in ask(child, {})["modes"]:
                return Way(mode="rootless", child=child, package=package, interpreter=interpreter, user=ORDINARY_USER)
            child.kill()
    return None


@pytest.fixture(scope="session")
def all_ways(place: Path, tree: Path) -> Iterator[dict[str, Way]]:
    """Mode -> way, for each mode that works here; at least one."""
    ways = [Way(mode=mode) for mode in available_modes()]
    if AS_ROOT and (rootless := way_of_ordinary_user(place)):
        ways.append(rootless)
    found = {}
    for way in ways:
        home = place / way.mode
        home.mkdir()
        if way.user is not None:
            os.chown(home, way.user, way.user)
        found[way.mode] = replace(way, trees=(tree,), root=home / "root")
    assert found, "nothing isolates on this machine: run the tests as root, or allow user namespaces"
    yield found
    for way in ways:
        if way.child is not None:
            way.child.communicate()


@pytest.fixture(params=sandbox.MODES)
def way(request: pytest.FixtureRequest, all_ways: dict[str, Way]) -> Way:
    """Each mode in turn; a mode that this machine does not allow is replaced by the strongest that it does."""
    return all_ways.get(request.param) or next(iter(all_ways.values()))


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait until `condition()` is true; False when it does not become so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def unique_minute() -> str:
    """An argument for `sleep` by which its process is found; short enough to leave nothing for long if a test fails."""
    return f"60.{time.monotonic_ns()}"


def processes_with(argument: str) -> list[int]:
    """Ids of this machine's processes that have `argument` on their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if argument.encode() in (directory / "cmdline").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return found


# --- what a program in the sandbox can and cannot do ---------------------------------------------------------------


def test_the_program_runs_and_its_streams_and_exit_code_come_back(way: Way) -> None:
    """Output, errors and exit code are the program's."""
    done = way.shell("cat; echo problem >&2; exit 7", stdin=b"fed\n")
    assert (done.exit_code, done.stdout, done.stderr, done.limit_hit) == (7, b"fed\n", b"problem\n", "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGPIPE])
def test_a_death_by_signal_is_told_as_such(way: Way, number: signal.Signals) -> None:
    """Signals with their default action end the program: it is not process 1, and ignores none."""
    assert way.shell(f"kill -{number.value} $$; exit 3").exit_code == -number


def test_the_network_is_unreachable(way: Way) -> None:
    """A server on this machine cannot be reached from the sandbox; outside, the same words reach it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]} && echo reached"
        control = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
        assert control.stdout == b"reached\n"
        done = way.shell(script)
    assert (done.exit_code, done.stdout) == (1, b"")


def test_only_the_loopback_interface_exists(way: Way) -> None:
    """A new network namespace holds "lo" and nothing else; without namespaces there is no /proc to ask."""
    done = way.run("cat", "/proc/net/dev")
    if way.mode == "restricted":
        assert done.exit_code == 1
    else:
        interfaces = [line.split(":")[0].strip() for line in done.stdout.decode().splitlines()[2:]]
        assert interfaces == ["lo"]


def test_nothing_but_tmp_and_shm_is_writable(way: Way, tree: Path) -> None:
    """New files, present files and the layer they are shared with stay as they are."""
    targets = "/new /etc/new /etc/fact /usr/bin/bash /dev/new"
    done = way.shell(
        f"for f in {targets}; do echo changed 2>/dev/null >$f && echo wrote $f; done; cat /etc/fact; exit 0"
    )
    assert done.stdout == b"original\n"
    assert (tree / "etc/fact").read_text() == "original\n"
    assert way.shell("for d in /tmp /dev/shm; do echo yes >$d/new && cat $d/new; done").stdout == b"yes\nyes\n"


def test_tmp_is_fresh_for_each_run(way: Way) -> None:
    """What one run leaves in /tmp, the next does not find."""
    assert way.shell("echo left >/tmp/left; echo left >/dev/shm/left; ls /tmp /dev/shm").stdout.count(b"left") == 2
    assert way.shell("ls -A /tmp; ls -A /dev/shm").stdout == b""


def test_tmp_is_bounded(way: Way) -> None:
    """A quarter of the memory fits in one file; with a tmpfs, in all files together."""
    fill = "head -c 12000000 /dev/zero >/tmp/a; head -c 12000000 /dev/zero >/tmp/b; head -c 20000000 /dev/zero >/tmp/c"
    sizes = way.shell(fill + "; wc -c /tmp/a /tmp/b /tmp/c", memory_bytes=64 << 20).stdout.decode()
    written = {name: int(size) for size, name in re.findall(r"(\d+) (\S+)", sizes)}
    assert written["/tmp/c"] <= 16 << 20
    if way.mode != "restricted":
        assert written["total"] <= 16 << 20


def test_devices_work(way: Way) -> None:
    """The five harmless devices and the links to the streams are there, and no other device."""
    script = (
        "head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; head -c 3 /dev/random | wc -c; echo x >/dev/null;"
        "(echo x >/dev/full) 2>/dev/null || echo full; ls /dev"
    )
    lines = way.shell(script).stdout.decode().split()
    assert lines[:4] == ["3", "3", "3", "full"]
    assert set(lines[4:]) == {"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"}
    if way.mode != "restricted":
        assert way.shell("echo x >/dev/stdout").stdout == b"x\n"


@contextlib.contextmanager
def sleeping(way: Way) -> Iterator[Path]:
    """The /proc directory, in this machine's view, of a process that sleeps in the sandbox."""
    mark = unique_minute()
    runner = threading.Thread(target=way.run, args=("sleep", mark), kwargs={"seconds": 20.0})
    runner.start()
    try:
        assert eventually(lambda: processes_with(mark))
        (process,) = processes_with(mark)
        yield Path("/proc", str(process))
        os.kill(process, signal.SIGKILL)
    finally:
        runner.join()


def test_the_process_is_powerless_seen_from_outside(way: Way) -> None:
    """The kernel's own account of a process in the sandbox: not root, no capability, no way to get any, filtered."""
    with sleeping(way) as process:
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    uid = (way.user or os.geteuid()) if way.mode == "rootless" else 65532
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split()[0] != "0"
    assert status["Groups"].strip() == "" or way.mode == "rootless"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


PRIVILEGED_CALLER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
header, sets = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
assert libc.capget(header, sets) == 0
low_effective, low_permitted, _, high_effective, high_permitted, _ = struct.unpack("=6I", sets.raw)
inheritable = struct.pack("=6I", low_effective, low_permitted, low_permitted, high_effective, high_permitted, 0)
assert libc.capset(header, inheritable) == 0
if os.geteuid() == 0:
    os.setgroups([4, 24])
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
"""Makes its capabilities inheritable and joins groups, as some container engines do, then obeys REMOTE."""


def test_groups_and_inheritable_capabilities_of_the_caller_stay_outside(all_ways: dict[str, Way]) -> None:
    """A caller with more groups and inheritable capabilities gives none of them to the program."""
    for way in [way for way in all_ways.values() if way.child is None]:
        command = [sys.executable, "-c", PRIVILEGED_CALLER, REMOTE]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=way.package, env={"PATH": os.environ["PATH"]}
        ) as child:
            if AS_ROOT:
                assert eventually(lambda: "4 24" in Path(f"/proc/{child.pid}/status").read_text())
            with sleeping(replace(way, child=child)) as process:
                status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            child.communicate()
        assert int(status["CapInh"], 16) == 0
        if AS_ROOT:
            assert status["Groups"].strip() == ""


def test_no_descriptor_leaks_in(way: Way) -> None:
    """Only the three streams are open, whatever nnenv has open and inheritable."""
    with tempfile.TemporaryFile() as open_here:
        os.set_inheritable(open_here.fileno(), True)
        with sleeping(way) as process:
            assert sorted(path.name for path in (process / "fd").iterdir()) == ["0", "1", "2"]


def test_a_setuid_program_gains_nothing(way: Way, tree: Path) -> None:
    """Root's setuid bit has no effect inside; outside, it has."""
    if AS_ROOT:
        control = subprocess.run(
            [tree / "usr/bin/setuid-id", "-u"], user=ORDINARY_USER, capture_output=True, check=True
        )
        assert control.stdout == b"0\n"
    assert way.run("setuid-id", "-u").stdout == b"65532\n"
    assert way.run("id", "-g").stdout == b"65532\n"


@pytest.mark.parametrize("command", ["unshare --user true", "unshare --mount true", "mount -t tmpfs none /tmp"])
def test_no_new_namespace_and_no_mount(way: Way, command: str) -> None:
    """The ways to more rights are refused."""
    done = way.shell(f"{command}; echo $?")
    assert done.stdout.strip() not in (b"0", b"127")


def test_the_environment_is_exactly_what_was_given(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the host gets in."""
    monkeypatch.setenv("NNENV_SECRET", "leak")
    done = way.run("env", environment={"WORD": "grün"})
    assert sorted(done.stdout.decode().splitlines()) == ["PATH=/usr/bin:/bin", "WORD=grün"]


def test_only_the_sandbox_has_processes(way: Way) -> None:
    """The process list starts at 1 and is short; without namespaces there is none."""
    numbers = [int(name) for name in way.run("ls", "/proc").stdout.decode().split() if name.isdigit()]
    assert numbers == ([] if way.mode == "restricted" else [1, 2])


def test_process_one_keeps_its_secrets(way: Way) -> None:
    """The sandbox's own process cannot be read by the program, even where both are of one user."""
    done = way.shell("cat /proc/1/environ /proc/1/maps; ls /proc/1/root /proc/1/fd")
    assert done.stdout.replace(b"/proc/1/root:", b"").replace(b"/proc/1/fd:", b"").strip() == b""
    assert done.exit_code != 0


def test_host_files_are_invisible(way: Way, place: Path) -> None:
    """A file of this machine cannot be read by its path, nor by climbing."""
    secret = place / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    done = way.shell(f"cat {secret} ../../../../..{secret} /proc/1/root{secret} /proc/self/cwd/..{secret}; ls /")
    assert b"secret" not in done.stdout
    assert set(done.stdout.decode().split()) == {p.name for p in (way.root).iterdir()}


def test_the_host_name_is_not_the_hosts(way: Way) -> None:
    """Namespaces have a name of their own."""
    name = way.run("uname", "-n").stdout.decode().strip()
    assert name == (os.uname().nodename if way.mode == "restricted" else "nnenv")


# --- limits --------------------------------------------------------------------------------------------------------


def test_time_runs_out_for_grandchildren_too(way: Way) -> None:
    """At the time limit everything is gone, also what left its session; the control saw it running."""
    mark = unique_minute()
    seen: list[bool] = []
    witness = threading.Thread(target=lambda: seen.append(eventually(lambda: len(processes_with(mark)) >= 2)))
    witness.start()
    done = way.shell(f"(sleep {mark} & exec sleep {mark}) & disown -a; sleep 33", seconds=1.5)
    witness.join()
    assert (done.limit_hit, done.exit_code) == ("time", -9)
    assert seen == [True]
    assert done.seconds < 8
    assert eventually(lambda: not processes_with(mark), 0.5)


def test_nothing_outlives_the_program(way: Way) -> None:
    """A background process ends with the program that left it, and does not keep the run waiting."""
    mark = unique_minute()
    done = way.shell(f"sleep {mark} & echo started", seconds=30.0)
    assert (done.stdout, done.exit_code) == (b"started\n", 0)
    assert done.seconds < 10
    assert not processes_with(mark)


def test_killing_nnenv_kills_the_sandbox(way: Way) -> None:
    """SIGKILL for the process that runs the sandbox leaves nothing behind."""
    way.run("bash", "-c", ":")  # composes the root
    mark = unique_minute()
    order = way.order(["bash", "-c", f"sleep {mark} & sleep {mark}"], b"", {}, {})
    with way.start() as child:
        assert child.stdin
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()
        running = eventually(lambda: len(processes_with(mark)) >= 2)
        child.kill()
    assert running
    assert eventually(lambda: not processes_with(mark))


def test_too_much_output_is_cut_off(way: Way) -> None:
    """An endless writer is stopped, and the limit is what is kept."""
    done = way.run("cat", "/dev/zero", output_bytes=1 << 20)
    assert (done.limit_hit, done.exit_code, len(done.stdout)) == ("output", -9, 1 << 20)


def test_too_much_memory_ends_the_run(way: Way) -> None:
    """A program that keeps too much is stopped, by the control group or by the samples; with more it gets through."""
    script = "set -o pipefail; head -c 160M /dev/zero | tail -c 150M | wc -c"
    done = way.shell(script, memory_bytes=96 << 20, seconds=60.0)
    assert (done.limit_hit, done.exit_code == 0) == ("memory", False)
    control = way.shell(script, memory_bytes=400 << 20, seconds=60.0)
    assert (control.limit_hit, control.stdout) == ("", b"157286400\n")


def run_without_control_group(way: Way, script: str, limits: Limits) -> sandbox._Attempt:
    """A run whose memory only the samples hold, as where control groups belong to somebody else."""
    request = Run(argv=["bash", "-c", script], limits=limits)
    place = sandbox._Place(emulator=(), environment=ENVIRONMENT, workdir="/")
    attempt = sandbox._Attempt(sandbox._settings(way.mode, way.root, request, place), request, memory=None)
    attempt.run()
    return attempt


def test_samples_hold_the_memory_where_no_control_group_does(all_ways: dict[str, Way]) -> None:
    """The resident memory of all processes is added up: twice 40 MB are too much for 70, and not for 160."""
    way = next(way for way in all_ways.values() if way.child is None)
    way.shell(":")
    keep = "head -c 45M /dev/zero | tail -c 40M | sleep 1.5"
    limits = Limits(memory_bytes=70 << 20, seconds=30.0)
    attempt = run_without_control_group(way, f"{keep} & {keep}; wait", limits)
    assert attempt.limit_hit == "memory"
    assert attempt.completed(1.0, exhausted=False).exit_code == -9
    control = run_without_control_group(way, f"{keep} & {keep}; wait", replace(limits, memory_bytes=160 << 20))
    assert (control.limit_hit, control.completed(1.0, exhausted=False).exit_code) == ("", 0)


def test_processes_are_limited(way: Way) -> None:
    """A fork bomb runs into its limit; the control, within the limit, does not."""
    script = "for i in {1..30}; do sleep 0.5 & done; wait"
    assert b"fork: " in way.shell(script, processes=12, seconds=2.0).stderr
    assert way.shell(script, processes=200).stderr == b""


@pytest.fixture
def runner_here(all_ways: dict[str, Way]) -> SandboxRunner:
    """A runner of this process, in the strongest mode."""
    way = next(way for way in all_ways.values() if way.child is None)
    way.shell(":")
    return SandboxRunner(way.root, machine=machine(), environment=ENVIRONMENT, mode=way.mode)


def test_streams_are_fed_and_taken_piece_by_piece(runner_here: SandboxRunner) -> None:
    """More than fits into a pipe goes in from a generator, and what comes out is handed on at once."""
    chunk = bytes(range(256)) * 1024
    taken: list[bytes] = []
    done = runner_here.stream(Run(argv=["cat"]), (chunk for _ in range(40)), taken.append)
    assert (done.exit_code, done.stdout) == (0, b"")
    assert b"".join(taken) == chunk * 40
    assert max(map(len, taken)) <= 1 << 16


def test_too_much_output_ends_a_stream(runner_here: SandboxRunner) -> None:
    """The limit counts what was taken."""
    request = Run(argv=["bash", "-c", "head -c 8M /dev/zero; sleep 60"], limits=Limits(output_bytes=1 << 20))
    assert runner_here.stream(request, iter(()), len).limit_hit == "output"


@pytest.mark.parametrize("culprit", ["feed", "take", "watch"])
def test_whoever_raises_ends_the_run(runner_here: SandboxRunner, culprit: str) -> None:
    """The one who feeds, takes or watches: the program is gone at once, and the error is theirs."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    def feed() -> Iterator[bytes]:
        yield b"x"
        if culprit == "feed":
            raise Stop

    mark = f"60.{os.getpid()}"
    begun = time.monotonic()
    with pytest.raises(Stop):
        runner_here.stream(
            Run(argv=["bash", "-c", f"echo begun; sleep {mark}"]),
            feed(),
            stop if culprit == "take" else len,
            stop if culprit == "watch" else lambda: None,
        )
    assert time.monotonic() - begun < 30
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_large_streams_do_not_block_each_other(way: Way) -> None:
    """100 MB go in and are counted; 20 MB go in and out at the same time."""
    assert way.run("wc", "-c", stdin=bytes(100_000_000)).stdout.strip() == b"100000000"
    content = os.urandom(1 << 20) * 20
    assert way.run("cat", stdin=content).stdout == content


def test_a_program_that_does_not_read_is_no_trouble(way: Way) -> None:
    """Input nobody reads is dropped."""
    assert way.shell("exec <&-; echo done", stdin=bytes(10_000_000)).stdout == b"done\n"


def test_groups_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """A control group whose nnenv is gone goes at the next run; one of a living process stays."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    for owner in (gone.pid, os.getpid()):
        (tmp_path / f"nnenv-{owner}-1").mkdir()
    (tmp_path / "other").mkdir()
    sandbox._remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"nnenv-{os.getpid()}-1", "other"])


# --- what cannot run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "reason"), [("absent", "No such file"), ("/etc/fact", "Permission denied")])
def test_a_program_that_cannot_start_is_an_error(way: Way, program: str, reason: str) -> None:
    """The error names the program and the kernel's reason."""
    with pytest.raises(NnenvError) as caught:
        way.run(program, "argument")
    assert caught.value.code == "command-not-started"
    assert caught.value.what == f"the image cannot run {program} argument"
    assert any(reason in line for line in caught.value.because)


def test_a_foreign_machine_needs_an_emulator(tree: Path) -> None:
    """Without emulator, the error says what to install."""
    foreign = "aarch64" if machine() == "x86_64" else "x86_64"
    with pytest.raises(NnenvError) as caught:
        SandboxRunner(tree, machine=foreign, environment={})
    assert caught.value.code == "emulator-missing"


WITHOUT_CAPABILITIES = """
import ctypes, os, sys
for number in map(int, sys.argv[3].split(",")):
    assert ctypes.CDLL(None).prctl(24, number, 0, 0, 0) == 0
os.execv(sys.argv[1], [sys.argv[1], "-c", sys.argv[2]])
"""


def after_losing(*capabilities: int) -> subprocess.CompletedProcess[str]:
    """What a Python process says of the sandbox after losing those capabilities for good."""
    asked = (
        "from pathlib import Path; from nnenv.adapters.sandbox import *; from nnenv.errors import NnenvError\n"
        "print(*available_modes())\n"
        "try: SandboxRunner(Path('/nonexistent'), environment={}, machine=__import__('os').uname().machine)\n"
        "except NnenvError as error: print(error.code, *error.because, sep='\\n')\n"
    )
    numbers = ",".join(map(str, capabilities))
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_CAPABILITIES, sys.executable, asked, numbers],
        capture_output=True,
        text=True,
        cwd=Path(nnenv.__file__).parent.parent,
        check=False,
    )


def test_a_container_without_cap_sys_admin_gets_the_restricted_mode() -> None:
    """As in an unprivileged Docker container; without CAP_SYS_CHROOT as well there is nothing left, and it says why."""
    sys_admin, sys_chroot = 21, 18
    if not AS_ROOT:
        assert set(available_modes()) <= {"rootless"}
        return
    assert after_losing(sys_admin).stdout.splitlines()[0] == "restricted"
    nothing = after_losing(sys_admin, sys_chroot).stdout.splitlines()
    assert nothing[:2] == ["", "sandbox-unavailable"]
    assert nothing[2:5] == [
        "namespaces: create namespaces: Operation not permitted",
        "rootless: the caller is root, and would be root inside",
        "restricted: change the root directory: Operation not permitted",
    ]


def test_the_restricted_mode_does_without_devices(all_ways: dict[str, Way]) -> None:
    """Where none may be made, null is an empty file, new for each run, and no other device is there."""
    way = all_ways.get("restricted")
    if way is None:
        assert not AS_ROOT
        return
    make_nodes = 27
    command = [sys.executable, "-c", WITHOUT_CAPABILITIES, sys.executable, REMOTE, str(make_nodes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=way.package) as child:
        elsewhere = replace(way, child=child, root=way.root.with_name("no-devices"))
        for _ in range(2):
            done = elsewhere.shell("cat </dev/null; echo gone >/dev/null; ls /dev")
            assert done.stdout.split() == [b"fd", b"null", b"shm", b"stderr", b"stdin", b"stdout"]
        child.communicate()


def test_it_is_a_runner(all_ways: dict[str, Way]) -> None:
    """It satisfies the Protocol and says what reports need."""
    way = next(way for way in all_ways.values() if way.child is None)
    way.shell(":")
    runner: Runner = SandboxRunner(way.root, machine=machine(), environment={}, mode=way.mode)
    assert (runner.name, runner.emulated) == ("sandbox", False)
    assert isinstance(runner, SandboxRunner)
    assert runner.mode == way.mode
    assert runner.has_proc is (way.mode != "restricted")


# --- emulation -----------------------------------------------------------------------------------------------------


def aarch64_program_that_prints_cpuinfo() -> bytes:
    """A static ELF for AArch64 that copies the start of /proc/cpuinfo to standard output and exits with 42."""
    base, header = 0x400000, 64 + 56

    def movz(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    def adr(register: int, distance: int) -> int:
        return 0x10000000 | (distance & 3) << 29 | (distance >> 2) << 5 | register

    call, instructions = 0xD4000001, 20
    path, buffer = instructions * 4, instructions * 4 + 16
    code = [0x92800C60, adr(1, path - 4), movz(2, 0), movz(3, 0), movz(8, 56), call]  # openat(-100, path, 0, 0)
    code += [adr(1, buffer - 24), movz(2, 4096), movz(8, 63), call]  # read(that, buffer, 4096)
    code += [0xAA0003E2, movz(0, 1), adr(1, buffer - 48), movz(8, 64), call]  # write(1, buffer, as many)
    code += [movz(0, 42), movz(8, 93), call]  # exit(42)
    code += [0xD503201F] * (instructions - len(code))  # nop
    body = struct.pack(f"<{instructions}I", *code) + b"/proc/cpuinfo\0".ljust(16, b"\0")
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = identity + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + header, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    size = header + len(body)
    return elf + struct.pack("<IIQQQQQQ", 1, 7, 0, base, base, size, size + 4096, 4096) + body


def test_another_architecture_runs_emulated_with_its_own_cpuinfo(way: Way, place: Path) -> None:
    """The program of a foreign architecture runs, and /proc/cpuinfo tells of its CPU, not of the host's."""
    emulator = find_emulator("aarch64")
    layer = place / "aarch64"
    (layer / "usr/bin").mkdir(parents=True, exist_ok=True)
    (layer / "usr/bin/show").write_bytes(aarch64_program_that_prints_cpuinfo())
    (layer / "usr/bin/show").chmod(0o755)
    if emulator is None:
        with pytest.raises(NnenvError, match="aarch64"):
            SandboxRunner(layer, machine="aarch64" if machine() != "aarch64" else "x86_64", environment={})
        return
    root = way.root.with_name("aarch64")
    done = replace(way, trees=(layer,), root=root, machine="aarch64", emulator=emulator).run("show")
    assert done.exit_code == 42
    assert b"CPU part\t: 0xd08" in done.stdout
    assert done.stdout.count(b"processor") == os.cpu_count()


# --- composing -----------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Make a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_later_layers_win_and_directories_merge(tmp_path: Path) -> None:
    """Files are shared by hard link, the lower layer keeps its own, links are made again, umask has no say."""
    lower, upper, root = tmp_path / "lower", tmp_path / "upper", tmp_path / "root"
    write(lower / "a/same", "lower")
    write(lower / "a/only-lower", "lower")
    (lower / "link").symlink_to("a")
    write(upper / "a/same", "upper")
    write(upper / "a/b/only-upper", "upper")
    (upper / "link").symlink_to("/nowhere")
    before = os.umask(0o077)
    try:
        compose_root([lower, upper], root)
    finally:
        os.umask(before)
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {
        "a", "a/b", "a/b/only-upper", "a/only-lower", "a/same", "link",
    }  # fmt: skip
    assert (root / "a/same").read_text() == "upper"
    assert (lower / "a/same").read_text() == "lower"
    assert (root / "a/same").samefile(upper / "a/same")
    assert (root / "link").readlink() == Path("/nowhere")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "a", root / "a/b")] == [0o755] * 3


def test_a_layer_cannot_write_through_another_layers_link(tmp_path: Path) -> None:
    """A path below a symbolic link of a lower layer is refused, and where the link points stays untouched."""
    victim, lower, upper = tmp_path / "victim", tmp_path / "lower", tmp_path / "upper"
    victim.mkdir()
    lower.mkdir()
    (lower / "etc").symlink_to(victim)
    write(upper / "etc/evil", "evil")
    with pytest.raises(NnenvError) as caught:
        compose_root([lower, upper], tmp_path / "root")
    assert (caught.value.code, caught.value.where) == ("layer-collision", "/etc")
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize("lower_is_directory", [True, False])
def test_a_file_and_a_directory_at_one_path_are_refused(tmp_path: Path, lower_is_directory: bool) -> None:
    """Neither replaces the other."""
    kinds = (tmp_path / "one", tmp_path / "two")
    write(kinds[0] / "x/file", "")
    write(kinds[1] / "x", "")
    with pytest.raises(NnenvError) as caught:
        compose_root(kinds if lower_is_directory else kinds[::-1], tmp_path / "root")
    assert caught.value.code == "layer-collision"


def test_a_tree_with_a_pipe_is_refused(tmp_path: Path) -> None:
    """Anything but files, directories and links means that the tree is not what was extracted."""
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    with pytest.raises(NnenvError) as caught:
        compose_root([tmp_path / "tree"], tmp_path / "root")
    assert caught.value.code == "store-corrupt"
    with pytest.raises(NnenvError) as caught:
        compose_root([tmp_path / "absent"], tmp_path / "root")
    assert caught.value.code == "store-corrupt"


def test_another_file_system_gets_copies(tmp_path: Path) -> None:
    """Where no link can be made the bytes, the x bit and the time are copied; later layers win there too."""
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        other = tmp_path
    for name, text in (("lower", "1"), ("upper", "2")):
        write(tmp_path / name / "program", text)
        (tmp_path / name / "program").chmod(0o700)
    os.utime(tmp_path / "upper/program", (7, 7))
    with tempfile.TemporaryDirectory(dir=other) as directory:
        root = Path(directory, "root")
        compose_root([tmp_path / "lower", tmp_path / "upper"], root)
        found = (root / "program").stat()
        assert (root / "program").read_text() == "2"
        assert found.st_mode & 0o100
        assert found.st_mtime == 7


@pytest.mark.parametrize("name", ["proc", "tmp", "dev"])
def test_a_mount_point_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    """An image that has a link for /tmp cannot make us mount or write elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / name).symlink_to(victim)
    compose_root([tmp_path / "tree"], tmp_path / "root")
    with pytest.raises(NnenvError) as caught:
        SandboxRunner(tmp_path / "root", machine=machine(), environment={})
    assert caught.value.code == "layer-collision"
    assert list(victim.iterdir()) == []


def test_a_link_at_dev_shm_is_not_followed(way: Way, place: Path, tree: Path) -> None:
    """An image's link for /dev/shm is replaced, and where it points keeps its mode."""
    victim, layer = place / "victim", place / "shm-layer"
    if not layer.exists():
        victim.mkdir(mode=0o755)
        (layer / "dev").mkdir(parents=True)
        (layer / "dev/shm").symlink_to(victim)
    done = replace(way, trees=(tree, layer), root=way.root.with_name("shm")).shell(
        "echo yes >/dev/shm/x; cat /dev/shm/x"
    )
    assert done.stdout == b"yes\n"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755
    assert list(victim.iterdir()) == []


# --- the system-call filter, for both machines, in a simulator -----------------------------------------------------


def verdict(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel would return for one system call: a small interpreter of classic BPF."""
    memory = struct.pack("<IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        if code == 0x06:
            return constant
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", memory, constant)
            continue
        tests = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
        position += if_true if tests[code] else if_false


ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
@pytest.mark.parametrize("families", [sandbox_init.AF_WITHOUT_NAMESPACE, sandbox_init.AF_VISIBLE_IN_NAMESPACE])
def test_the_filter_decides_as_its_tables_say(name: str, families: tuple[int, ...]) -> None:
    """Sockets by family, forbidden calls, namespace flags, foreign ABIs; everything else passes."""
    program = sandbox_init.system_call_filter(name, families)
    column = list(sandbox_init.AUDIT_ARCHITECTURE).index(name)
    own = sandbox_init.AUDIT_ARCHITECTURE[name]
    af_unix, af_inet, af_packet, af_vsock = 1, 2, 17, 40
    for family in (af_unix, af_inet, af_packet, af_vsock):
        expected = ALLOW if family in families else ERRNO | errno.EAFNOSUPPORT
        assert verdict(program, own, sandbox_init.SOCKET[column], family) == expected
    forbidden = {numbers[column] for numbers in sandbox_init.FORBIDDEN_CALLS.values()}
    special = {sandbox_init.SOCKET[column], sandbox_init.CLONE[column], sandbox_init.CLONE3[column]}
    assert len(forbidden) == len(sandbox_init.FORBIDDEN_CALLS)
    for number in range(470):
        if number not in special:
            expected = ERRNO | errno.EPERM if number in forbidden else ALLOW
            assert verdict(program, own, number) == expected, number
    thread, new_user_namespace, sigchld = 0x3D0F00, 0x10000000, 17
    assert verdict(program, own, sandbox_init.CLONE[column], thread) == ALLOW
    assert verdict(program, own, sandbox_init.CLONE[column], sigchld) == ALLOW
    assert verdict(program, own, sandbox_init.CLONE[column], new_user_namespace | sigchld) == ERRNO | errno.EPERM
    assert verdict(program, own, sandbox_init.CLONE3[column]) == ERRNO | errno.ENOSYS
    i386 = 0x40000003
    assert verdict(program, i386, 1) == KILL
    if name == "x86_64":
        assert verdict(program, own, 0x40000000 | 41, af_inet) == ERRNO | errno.ENOSYS


# --- facts about the host ------------------------------------------------------------------------------------------


def test_host_facts_of_both_machines(tmp_path: Path) -> None:
    """Names and flags come from the first processor; an unreadable file gives empty facts, not an error."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 fma lm\n\nprocessor\t: 1\nmodel name\t: B\n"
    )
    facts = host_facts(cpuinfo)
    assert (facts.cpu_model, facts.isa) == ("A CPU", ("avx2", "fma"))
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    facts = host_facts(cpuinfo)
    assert (facts.cpu_model, facts.isa) == ("Arm Neoverse-N1", ("asimd", "sve"))
    facts = host_facts(tmp_path / "absent")
    assert (facts.cpu_model, facts.isa) == ("", ())
    assert facts.processors >= 1
    assert facts.kernel.startswith("Linux ")


def test_only_a_static_emulator_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dynamic program of that name would find no library inside the image."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_emulator("aarch64") is None
    dynamic = shutil.which("sleep", path="/usr/bin:/bin")
    assert dynamic
    shutil.copyfile(dynamic, tmp_path / "qemu-aarch64-static")
    (tmp_path / "qemu-aarch64-static").chmod(0o755)
    assert find_emulator("aarch64") is None
    (tmp_path / "qemu-aarch64").write_bytes(aarch64_program_that_prints_cpuinfo())
    (tmp_path / "qemu-aarch64").chmod(0o755)
    assert find_emulator("aarch64") == tmp_path / "qemu-aarch64"
    assert not is_static_program(tmp_path / "absent")


def test_kernel_settings_against_user_namespaces_are_named(tmp_path: Path) -> None:
    """Each closed setting gives a line; what a kernel does not have is no obstacle."""
    assert user_namespace_obstacles(tmp_path) == ()
    write(tmp_path / "user/max_user_namespaces", "0\n")
    write(tmp_path / "kernel/unprivileged_userns_clone", "1\n")
    assert user_namespace_obstacles(tmp_path) == ("user.max_user_namespaces is 0",)
