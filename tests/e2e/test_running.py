"""`nnenv run` and `nnenv shell` from the command line, in a real image, by either runner."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.test_live import Terminal
from tests.e2e.test_cli_snapshots import _settled as settled
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped, without_figures
from tests.e2e.world import User, linked_copy, plain_project

pytestmark = pytest.mark.network

PRINT = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.stderr.write('err'); sys.exit(7)"


@pytest.fixture
def user(tiny: User, tmp_path: Path) -> User:
    """Somebody with the built toy project, with small wheels."""
    return tiny.elsewhere(tmp_path / "project")


RUNNERS = ("sandbox", pytest.param("docker", marks=pytest.mark.docker))


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    return str(request.param)


def run(
    user: User, runner: str, *arguments: str, given: bytes = b"", **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """`nnenv run ARGUMENTS` through pipes."""
    command = [*user.command("run", "--runner", runner), *arguments]
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(
        command, cwd=user.project, env=dict(user.environment), input=given, timeout=120, check=False, **settings
    )


def start(user: User, runner: str, *arguments: str) -> subprocess.Popen[bytes]:
    """The same, still going on."""
    return subprocess.Popen(
        [*user.command("run", "--runner", runner), *arguments],
        cwd=user.project,
        env=dict(user.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# Streams, codes, signals


def test_streams_and_exit_code(user: User, runner: str) -> None:
    """Megabytes of every byte go through unharmed, apart from the other stream, and the code comes back."""
    given = os.urandom(5_000_000)
    done = run(user, runner, "--", "python3", "-c", PRINT, given=given)
    assert (done.returncode, done.stdout == given, done.stderr) == (7, True, b"err")


def test_death_by_signal(user: User, runner: str) -> None:
    """128 + N."""
    done = run(user, runner, "python3", "-c", "import os; os.kill(os.getpid(), 15)")
    assert done.returncode == 128 + signal.SIGTERM


def test_a_command_that_is_not_there(user: User, runner: str) -> None:
    """A refusal that says what an image holds, and exit code 1."""
    done = run(user, runner, "--", "ls")
    assert done.returncode == 1
    assert b"error: the image cannot run ls" in done.stderr
    assert b"shell = true" in done.stderr


def test_signals_reach_the_command(user: User, runner: str) -> None:
    """A program that handles SIGTERM ends as it likes; one that does not dies of it."""
    handled = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(5))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    for code, wanted in ((handled, 5), ("import time; print('ready', flush=True); time.sleep(60)", 143)):
        process = start(user, runner, "--", "python3", "-c", code)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == wanted


def test_a_reader_that_leaves(user: User, runner: str) -> None:
    """`nnenv run -- yes | head -1` ends, and leaves nothing behind."""
    code = "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nwhile True: print('y')"
    process = start(user, runner, "--", "python3", "-c", code)
    assert process.stdout
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams(user: User, runner: str, closed: str) -> None:
    """A closed input is empty; closed outputs swallow; the exit code stays."""
    line = [*user.command("run", "--runner", runner), "--", "python3", "-c", PRINT]
    command = ["bash", "-c", f'"$@" {closed}', "bash", *line]
    done = subprocess.run(command, cwd=user.project, env=dict(user.environment), input=b"x", capture_output=True)
    assert done.returncode == 7
    assert (done.stdout, done.stderr) == {"<&-": (b"", b"err"), ">&-": (b"", b"err"), "2>&-": (b"x", b"")}[closed]


def test_a_full_disk(user: User, runner: str) -> None:
    """Output that is lost is an error, whatever the command's exit code."""
    with Path("/dev/full").open("wb") as full:
        done = run(user, runner, "--", "python3", "-c", "print('lost')", stdout=full)
    assert done.returncode == 1
    assert b"the disk is full" in done.stderr


def test_the_time_limit(user: User, runner: str) -> None:
    """124, as timeout(1) has it, and a word on it."""
    done = run(user, runner, "--timeout", "1", "--", "python3", "-c", "import time; time.sleep(60)")
    assert (done.returncode, done.stderr) == (124, b"note: stopped after 1 s (--timeout)\n")


@pytest.mark.docker
def test_no_container_is_left(user: User) -> None:
    """After an end, a refusal and an interruption the engine holds no container of the image."""
    run(user, "docker", "--", "python3", "-c", "")
    run(user, "docker", "--", "nothing")
    process = start(user, "docker", "--", "python3", "-c", "import time; print('ready', flush=True); time.sleep(60)")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--filter", "ancestor=toy:1.0.0-cpu"], capture_output=True, check=True
    )
    assert listed.stdout == b""


# What it sees

LOOK = """
import json, os, socket
def reached():
    try:
        socket.create_connection(("127.0.0.1", 1), 2)
    except OSError as error:
        return error.errno
def writable(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "folder": os.getcwd(),
    "home": os.environ["HOME"],
    "variables": [os.environ.get(name) for name in ("A", "B", "PATH", "SECRET")],
    "writable": [path for path in ("/x", "/opt/x", "/tmp/x", "/home/nnenv/x") if writable(path)],
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")],
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
}))
"""


def test_what_a_command_sees(user: User, runner: str) -> None:
    """The same by either runner: the image's user, folder, home and variables; /tmp alone is writable; no network."""
    secret = user.with_environment(SECRET="x", B="taken")
    done = run(secret, runner, "-e", "A=1=2", "-e", "B", "--", "python3", "-c", LOOK)
    assert json.loads(done.stdout) == {
        "ids": [65532, 65532],
        "folder": "/",
        "home": "/home/nnenv",
        "variables": ["1=2", "taken", "/opt/nnenv/bin:/usr/bin:/bin", None],
        "writable": ["/tmp/x"],
        "interfaces": ["lo"],
        "capabilities": ["0000000000000000"],
        "privileges": ["1"],
    }


def test_volumes_user_and_folder(user: User, runner: str) -> None:
    """A folder of the host can be read, and written unless it is `:ro`."""
    data = user.project / "data"
    data.mkdir()
    (data / "in").write_text("given")
    for path in (user.project.parent, user.project, data):
        path.chmod(0o777)
    code = "import os; print(open('in').read(), os.getuid(), os.getgid()); open('out', 'w').write('made')"
    for mode, wanted in (("", 0), (":ro", 1)):
        line = ("--volume", f"data:/mnt/data{mode}", "-w", "/mnt/data", "-u", "1234:77", "--", "python3", "-c", code)
        done = run(user, runner, *line)
        assert (done.returncode, done.stdout) == (wanted, b"given 1234 77\n")
    assert (data / "out").read_text() == "made"


def test_without_a_command_the_image_runs_its_own(user: User, runner: str) -> None:
    """The toy's is the harness, which the wheels of this world cannot pass: it says so in its own words."""
    done = run(user, runner)
    assert b"onnxruntime" in done.stdout + done.stderr


def test_what_is_not_built_is_built(tiny: User, tmp_path: Path) -> None:
    """From the lock alone, in an empty store; a stale lock is refused as `nnenv build` refuses it."""
    user = tiny.elsewhere(tmp_path / "project", store=tmp_path / "store")
    assert run(user, "sandbox", "-q", "--", "python3", "-c", "print(1)").stdout == b"1\n"
    manifest = user.project / "model.toml"
    manifest.write_text(manifest.read_text() + '\n[targets.more]\nos = "debian:12"\n')
    refused = run(user, "sandbox", "--", "python3", "-c", "print(1)")
    assert (refused.returncode, b"run `nnenv lock`" in refused.stderr) == (1, True)
    assert run(user, "sandbox", "--frozen", "--", "python3", "-c", "print(1)").stdout == b"1\n"


def test_a_damaged_layer_is_healed_before_the_command_runs(tiny: User, tmp_path: Path) -> None:
    """The command runs once, in a whole image."""
    user = tiny.elsewhere(tmp_path / "project", store=linked_copy(tiny.store, tmp_path / "store"))
    shutil.rmtree(user.store / "trees")
    assert run(user, "sandbox", "-q", "--", "python3", "-c", "print(1)").stdout == b"1\n"


# Conversations


def talk(user: User, runner: str, *arguments: str) -> Terminal:
    """`nnenv shell ARGUMENTS` at a terminal."""
    environment = {**user.environment, "TERM": "xterm"}
    return Terminal([*user.command("shell", "--runner", runner), *arguments], cwd=user.project, env=environment)


def test_a_shell_of_an_image_without_one(user: User, runner: str) -> None:
    """The image's Python at a terminal of the right size, Ctrl-C and all, and a word on why it is no shell."""
    person = talk(user, runner)
    person.see("shell = true")
    person.see(">>> ")
    person.type("import os, time; os.get_terminal_size(), os.environ['TERM']\r")
    person.see("os.terminal_size(columns=132, lines=40)")
    person.see("'xterm'")
    person.see(">>> ")
    person.type("print('sl' + 'eeping'); time.sleep(60)\r")
    person.see("sleeping")
    time.sleep(0.3)
    person.type("\x03")
    person.see("KeyboardInterrupt")
    person.see(">>> ")
    person.type("raise SystemExit(3)\r")
    assert person.end() == 3


def test_another_size_of_the_window(user: User, runner: str) -> None:
    """It reaches the program."""
    code = (
        "import os, signal\nshow = lambda *a: print(tuple(os.get_terminal_size()), flush=True)\n"
        "signal.signal(signal.SIGWINCH, show)\n"
        "print('ready', flush=True); input()"
    )
    person = talk(user, runner, "--", "python3", "-c", code)
    person.see("ready")
    termios.tcsetwinsize(person.ours, (50, 100))
    person.see("(100, 50)")
    person.type("\r")
    assert person.end() == 0


@pytest.mark.slow
def test_a_shell_of_an_image_with_one(tmp_path: Path, toy: User, runner: str) -> None:
    """`shell = true` brings bash and the tools; jobs work, and Ctrl-C ends only what is in the foreground."""
    manifest = '[project]\nname = "shelled"\nversion = "1"\n[targets.cpu]\n[image]\nshell = true\n'
    project = plain_project(tmp_path / "project", manifest)
    user = User(project=project, store=toy.store, environment=toy.environment)
    user.must("lock")
    person = talk(user, runner)
    person.see("$ ", seconds=120)
    person.type("echo $0; sleep 60 | cat\r")
    person.see("bash")
    time.sleep(0.5)
    person.type("\x03")
    person.see("$ ")
    person.type("sleep 60 & jobs; exit 4\r")
    person.see("Running")
    assert person.end() == 4


def test_a_conversation_needs_a_terminal(user: User) -> None:
    """Through a pipe it is refused, with what to type instead."""
    refused = user.run("shell")
    assert (refused.code, "nnenv run -- COMMAND" in refused.err) == (2, True)


# Whole outputs


def test_output(user: User) -> None:
    """What nnenv itself says: refusals and notes, piped and on a terminal; the command's output is left alone."""
    line = ("run", "--runner", "sandbox")
    show = ("python3", "-c", "print('\\033[1mthe command\\033[0m')")
    (user.project / "data").mkdir()
    outputs = [
        typed(user, *line, then=("--", *show)),
        on_a_terminal(user, *line, "-t", "nothing"),
        typed(user, *line, "--json", "--target", "cpu", then=("--", *show)),
        typed(user, *line, "--timeout", "0.5", then=("--", "python3", "-c", "import time; time.sleep(60)")),
        typed(user, *line, then=("--", "ls")),
        typed(user, *line, "--volume", "absent:/data", then=("--", *show)),
        typed(user, *line, "--volume", "data:data", then=("--", *show)),
        typed(user, *line, "-u", "0", then=("--", *show)),
        typed(user, *line, "-e", "A B", then=("--", *show)),
        typed(user, *line, "-t", "nothing", then=("--", *show)),
        piped(user, "shell"),
        piped(user, "shell", "--json"),
    ]
    compare("run", without_figures("\n".join(outputs)).replace("\x1b", "ESC"))


def typed(user: User, *arguments: str, then: tuple[str, ...]) -> str:
    """As `piped`, with the options that tests need before the command that is run."""
    done = subprocess.run(
        [*user.command(*arguments), *then],
        cwd=user.project,
        env={**user.environment, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    head = f"$ nnenv {shlex.join([*arguments, *then])}\n--- exit code {done.returncode}\n"
    return settled(f"{head}--- stdout\n{done.stdout}--- stderr\n{done.stderr}", user)


def test_every_example(user: User, tmp_path: Path) -> None:
    """The lines of `--help` of both commands, typed in a shell; `nnenv shell` at a terminal."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "nnenv"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m nnenv "$@"\n')
    wrapper.chmod(0o755)
    (user.project / "script.py").write_text("print('from the script')\n")
    path = f"{tmp_path / 'bin'}:{user.environment['PATH']}"
    user = user.with_environment(PATH=path, NNENV_STORE=str(user.store), NNENV_RUNNER="sandbox")
    lines = re.findall(r"(?m)^  (nnenv .*)$", user.must("run", "--help").out)
    assert len(lines) == 3
    for line, wanted in zip(lines, (b"2.0.0\n", b"'model.toml'", b"from the script\n"), strict=True):
        done = subprocess.run(
            ["bash", "-c", line], cwd=user.project, env=dict(user.environment), capture_output=True, check=True
        )
        assert wanted in done.stdout
    lines = re.findall(r"(?m)^  (nnenv .*)$", user.must("shell", "--help").out)
    assert len(lines) == 3
    for line in lines:
        person = Terminal(["bash", "-c", line], cwd=user.project, env={**user.environment, "TERM": "xterm"})
        person.see(">>> ")
        person.type("exit()\r")
        assert person.end() == 0
