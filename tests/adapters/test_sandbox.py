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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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

order = json.loads(sys.stdin.buffer.readline())
if "root" not in order:
    print(json.dumps({"modes": available_modes()}))
    sys.exit()
root = Path(order["root"])
if not root.exists():
    compose_root([Path(tree) for tree in order["trees"]], root)
try:
    runner = SandboxRunner(root, machine=order["machine"], environment=order["environment"], mode=order["mode"],
                           emulator=Path(order["emulator"]) if order["emulator"] else None)
    done = runner.run(Run(argv=order["argv"], environment=order["extra"], limits=Limits(**order["limits"]),
                          stdin=base64.b64decode(order["stdin"])))
except NnenvError as error:
    print(json.dumps({"error": error.as_json()}))
else:
    print(json.dumps({"exit_code": done.exit_code, "stdout": base64.b64encode(done.stdout).decode(),
                      "stderr": base64.b64encode(done.stderr).decode(), "seconds": done.seconds,
                      "limit_hit": done.limit_hit}))
"""
"""One run, asked for as a line of JSON and answered as one: how another user's process is told what to do."""


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


@dataclass(frozen=True)
class Way:
    """One mode, and how this test run reaches it."""

    mode: str
    trees: Sequence[Path] = ()
    root: Path = Path("/")
    interpreter: str = ""
    """Not empty: run in a child of that Python that has become ORDINARY_USER."""
    package: Path = Path()
    """Where that child finds nnenv."""

    def run(self, *argv: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None, **limits: float
            ) -> Completed:  # fmt: skip
        """Run in the sandbox."""
        return self.run_for(machine(), None, *argv, stdin=stdin, environment=environment, **limits)

    def shell(self, script: str, **limits: float) -> Completed:
        """Run a script in the sandbox's bash."""
        return self.run("bash", "-c", script, **limits)

    def run_for(self, target: str, emulator: Path | None, *argv: str, stdin: bytes = b"",
                environment: Mapping[str, str] | None = None, **limits: float) -> Completed:  # fmt: skip
        """Run a program of the machine `target`."""
        if self.interpreter:
            return self._remote(target, emulator, argv, stdin, environment or {}, limits)
        if not self.root.exists():
            compose_root(self.trees, self.root)
        runner = SandboxRunner(self.root, machine=target, environment=ENVIRONMENT, mode=self.mode, emulator=emulator)
        return runner.run(Run(argv=argv, environment=environment or {}, stdin=stdin, limits=Limits(**limits)))  # type: ignore[arg-type]

    def order(self, target: str, emulator: Path | None, argv: Sequence[str], stdin: bytes = b"",
              environment: Mapping[str, str] | None = None, limits: Mapping[str, float] | None = None) -> bytes:  # fmt: skip
        """The line of JSON that asks REMOTE for a run."""
        asked = {
            "root": str(self.root), "trees": [str(tree) for tree in self.trees], "mode": self.mode, "machine": target,
            "emulator": str(emulator or ""), "argv": list(argv), "stdin": base64.b64encode(stdin).decode(),
            "environment": ENVIRONMENT, "extra": dict(environment or {}), "limits": dict(limits or {}),
        }  # fmt: skip
        return json.dumps(asked).encode() + b"\n"

    def start(self) -> subprocess.Popen[bytes]:
        """The child that runs REMOTE, waiting for its order."""
        identity = {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": []} if self.interpreter else {}
        return subprocess.Popen(
            [self.interpreter or sys.executable, "-c", REMOTE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.package,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}, **identity,
        )  # fmt: skip

    def _remote(self, target: str, emulator: Path | None, argv: Sequence[str], stdin: bytes,
                environment: Mapping[str, str], limits: Mapping[str, float]) -> Completed:  # fmt: skip
        with self.start() as child:
            out, err = child.communicate(self.order(target, emulator, argv, stdin, environment, limits))
        assert child.returncode == 0, err.decode()
        answer = json.loads(out)
        if "error" in answer:
            told = answer["error"]
            raise NnenvError(told["code"], told["message"], where=told["where"], because=told["because"])
        answer["stdout"] = base64.b64decode(answer["stdout"])
        answer["stderr"] = base64.b64decode(answer["stderr"])
        return Completed(**answer)


def ordinary_user_python(place: Path) -> Way | None:
    """A way to be `rootless` although the tests run as root, where the kernel and an interpreter allow it."""
    package = place / "package"
    for name in ("__init__.py", "errors.py", "verify/__init__.py", "verify/protocols.py", "adapters/__init__.py",
                 "adapters/host.py", "adapters/sandbox.py", "adapters/sandbox_init.py"):  # fmt: skip
        copy = package / "nnenv" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(nnenv.__file__).with_name("__init__.py").parent / name, copy)
    for path in (package, *package.rglob("*")):
        path.chmod(0o755)
    for interpreter in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        way = Way(mode="rootless", interpreter=interpreter, package=package)
        with contextlib.suppress(OSError, ValueError), way.start() as child:
            out, _ = child.communicate(b"{}\n")
            if "rootless" in json.loads(out)["modes"]:
                return way
    return None


@pytest.fixture(scope="session")
def all_ways(place: Path, tree: Path) -> dict[str, Way]:
    """Mode -> way, for each mode that works here; at least one."""
    package = Path(nnenv.__file__).parent.parent
    ways = [Way(mode=mode, package=package) for mode in available_modes()]
    if AS_ROOT and (rootless := ordinary_user_python(place)):
        ways.append(rootless)
    found = {}
    for way in ways:
        home = place / way.mode
        home.mkdir()
        if way.interpreter:
            os.chown(home, ORDINARY_USER, ORDINARY_USER)
        found[way.mode] = replace(way, trees=(tree,), root=home / "root")
    assert found, "nothing isolates on this machine: run the tests as root, or allow user namespaces"
    return found


@pytest.fixture(params=["strongest", *sandbox.MODES])
def way(request: pytest.FixtureRequest, all_ways: dict[str, Way]) -> Way:
    """Each mode in turn; a mode that this machine does not allow is replaced by the strongest that it does."""
    return all_ways.get(request.param) or next(iter(all_ways.values()))


def eventually(condition: object, seconds: float = 10.0) -> bool:
    """Wait until `condition()` is true; False when it does not become so."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def processes_with(argument: str) -> list[int]:
    """Ids of this machine's processes that have `argument` on their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if argument.encode() in (directory / "cmdline").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return found


# --- what a program in the sandbox can and cannot do ---------------------------------------------------------------
