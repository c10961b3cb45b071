"""Commands in the sandbox whose streams are the caller's, really run in each mode: pipes, signals, terminals, volumes.

Each is run by a process of its own, as a user runs nnenv, so that closed streams, signals and terminals are real ones.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnenv.adapters import live, sandbox
from nnenv.adapters.sandbox import available_modes
from nnenv.errors import NnenvError
from tests.adapters.test_sandbox import AS_ROOT, ENVIRONMENT, PROGRAMS, Way, add_program, way_of_ordinary_user

USER = """
import json, sys
from pathlib import Path, PurePosixPath
from nnenv.adapters.live import LiveRun, Volume, standard_streams
from nnenv.adapters.sandbox import SandboxRunner, compose_root
from nnenv.errors import NnenvError

order = json.loads(sys.argv[1])
root = Path(order.pop("root"))
if not root.exists():
    compose_root([Path(order["tree"])], root)
del order["tree"]
mode = order.pop("mode")
order["volumes"] = [Volume(source=Path(s), destination=PurePosixPath(d), read_only=r) for s, d, r in order["volumes"]]
try:
    ended = SandboxRunner(root, environment={}, mode=mode).live(LiveRun(**order), standard_streams())
except NnenvError as error:
    print(error.code, error.what, *error.because, sep="; ", file=sys.stderr)
    sys.exit(99)
if ended.limit_hit:
    print(ended.limit_hit, file=sys.stderr)
sys.exit(ended.code)
"""
"""Runs one command as nnenv does; 99 stands for a refusal."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One mode of the sandbox, and the user who reaches it."""

    way: Way
    tree: Path
    folder: Path

    @property
    def mode(self) -> str:
        """`namespaces`, `rootless` or `restricted`."""
        return self.way.mode

    def line(self, *argv: str, **more: Any) -> list[str]:
        """The command line of USER."""
        order = {
            "argv": argv,
            "environment": ENVIRONMENT,
            "volumes": [],
            "mode": self.mode,
            "root": str(self.folder / "root"),
            "tree": str(self.tree),
            **more,
        }
        return [self.way.interpreter, "-c", USER, json.dumps(order)]

    def settings(self) -> dict[str, Any]:
        """Whom and where to start it."""
        found: dict[str, Any] = {"cwd": self.way.package, "env": {"PYTHONDONTWRITEBYTECODE": "1"}}
        if self.way.user is not None:
            found |= {"user": self.way.user, "group": self.way.user, "extra_groups": []}
        return found

    def run(self, *argv: str, given: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run to the end through pipes."""
        line = self.line(*argv, **more)
        return subprocess.run(line, input=given, capture_output=True, check=False, timeout=60, **self.settings())

    def shell(self, script: str, given: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a script in the sandbox's bash."""
        return self.run("bash", "-c", script, given=given, **more)

    def start(self, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start it with pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.line(*argv, **more), **pipes, **self.settings())


@pytest.fixture(scope="session")
def hosts() -> Iterator[dict[str, Host]]:
    """Mode -> host, for each mode that works here."""
    place = Path(tempfile.mkdtemp(prefix="nnenv-live-"))  # pytest's own folders are closed to other users
    tree = place / "tree"
    for name in {*PROGRAMS, "stty", "dd"}:
        add_program(tree, name)
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text("nnenv:x:65532:65532:nnenv:/home/nnenv:/bin/sh\n")
    (tree / "etc/resolv.conf").write_text("of the image\n")
    (tree / "link").symlink_to("usr")
    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o755)
    ways = [Way(mode=mode) for mode in available_modes()]
    ordinary = way_of_ordinary_user(place) if AS_ROOT else None
    if ordinary is not None:
        ways.append(ordinary)
    found = {}
    for way in ways:
        folder = place / way.mode
        folder.mkdir()
        folder.chmod(0o755)
        if way.user is not None:
            os.chown(folder, way.user, way.user)
        found[way.mode] = Host(way=way, tree=tree, folder=folder)
    yield found
    if ordinary is not None and ordinary.child is not None:
        ordinary.child.communicate()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=sandbox.MODES)
def host(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Host:
    """Each mode in turn; one that this machine does not allow is replaced by the strongest that it does."""
    return hosts.get(request.param) or next(iter(hosts.values()))


@pytest.fixture
def strongest(hosts: dict[str, Host]) -> Host:
    """One mode, for what does not depend on it."""
    return next(iter(hosts.values()))


# Streams and codes


def test_streams_and_exit_code_are_the_commands(host: Host) -> None:
    """Input reaches the command, both outputs and the exit code come back, byte for byte."""
    every_byte = bytes(range(256)) * 4096
    done = host.shell("cat; echo problem >&2; exit 7", given=every_byte)
    assert (done.returncode, done.stdout, done.stderr) == (7, every_byte, b"problem\n")


def test_output_comes_while_the_command_runs(host: Host) -> None:
    """A line is seen before the command has ended, and an answer to it reaches the command."""
    process = host.start("bash", "-c", "echo name?; read name; echo hello $name")
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"name?\n"
    process.stdin.write(b"you\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"hello you\n"
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_death_by_signal_is_told_as_shells_do(host: Host, number: signal.Signals) -> None:
    """128 + N."""
    assert host.shell(f"kill -{number.value} $$").returncode == 128 + number


def test_a_reader_that_leaves_ends_the_command(host: Host) -> None:
    """As in `nnenv run -- yes | head -1`: the command gets SIGPIPE, and nothing waits for ever."""
    process = host.start("bash", "-c", "trap - PIPE; while :; do echo y; done")
    assert process.stdout and process.stderr
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


def test_output_that_cannot_be_written_is_refused(strongest: Host) -> None:
    """A full disk behind standard output is an error with a code, not silence."""
    with Path("/dev/full").open("wb") as full:
        line = strongest.line("bash", "-c", "echo lost")
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, check=False, **strongest.settings()
        )
    assert (done.returncode, done.stderr[:10]) == (99, b"disk-full;")


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_stream_may_be_closed(strongest: Host, descriptor: int) -> None:
    """`<&-`, `>&-` and `2>&-`: a closed input is empty, and closed outputs swallow."""
    line = strongest.line("bash", "-c", "cat; echo out; echo err >&2; exit 3")
    command = ["bash", "-c", f'exec {descriptor}>&-; exec "$@"', "bash", *line]
    if descriptor:  # main() of nnenv sees to these
        command[2] = f'exec {descriptor}>/dev/null; exec "$@"'
    done = subprocess.run(command, input=b"in\n", capture_output=True, check=False, **strongest.settings())
    assert done.returncode == 3
    assert done.stdout == {0: b"out\n", 1: b"", 2: b"in\nout\n"}[descriptor]


def test_somebody_elses_nonblocking_streams_lose_nothing() -> None:
    """A pipe that another program made non-blocking takes everything, though it is full for a while."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    sent = os.urandom(1 << 20)
    writer = threading.Thread(target=live.write_patiently, args=(into, sent))
    writer.start()
    time.sleep(0.1)
    with os.fdopen(out, "rb") as stream:
        found = stream.read(len(sent))
    writer.join()
    os.close(into)
    assert found == sent


def test_the_command_never_gets_a_descriptor_of_ours(host: Host, tmp_path: Path) -> None:
    """Standard input that is a file arrives as a pipe: from a folder of the host one could leave the root directory."""
    (tmp_path / "input").write_bytes(b"bytes of a file")
    line = host.line(
        "bash", "-c", "[[ -p /dev/fd/0 || -p /proc/self/fd/0 ]]; echo $?; [[ -f /dev/stdin ]]; echo $?; cat"
    )
    with (tmp_path / "input").open("rb") as file:
        done = subprocess.run(line, stdin=file, capture_output=True, check=False, **host.settings())
    assert done.stdout.endswith(b"1\nbytes of a file")
    if host.mode != "restricted":  # there is no /proc to ask
        assert done.stdout.startswith(b"0\n")


def test_a_command_that_is_not_there_is_refused(host: Host) -> None:
    """The refusal names it."""
    done = host.run("nothing-like-it")
    assert done.returncode == 99
    assert done.stderr.startswith(b"command-not-started; the image cannot run nothing-like-it")


def test_the_environment_is_what_was_asked_for_and_home(host: Host) -> None:
    """Nothing of the caller's environment gets in; HOME is what the image's accounts say, or "/"."""
    wanted = {"PATH": "/usr/bin:/bin", "A": "b"}
    assert host.run("env", environment=wanted).stdout == b"HOME=/home/nnenv\nPATH=/usr/bin:/bin\nA=b\n"
    assert host.run("env", environment={"PATH": "/usr/bin"}, uid=1234).stdout == b"HOME=/\nPATH=/usr/bin\n"


def test_user_and_folder_are_what_was_asked_for(host: Host) -> None:
    """Numbers of user and group, and the working directory."""
    done = host.shell("id -u; id -g; pwd", uid=1234, gid=77, workdir="/etc")
    assert done.stdout == b"1234\n77\n/etc\n"


# Signals and limits


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_ignored() -> Iterator[None]:
    """Under nohup, SIGHUP is ignored here and in all that is started from here, and no shell can trap it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until the command said so, and a little more: bash loses signals just before it waits."""
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(host: Host, number: signal.Signals) -> None:
    """A command that handles a signal decides itself how it ends."""
    process = host.start("bash", "-c", f"trap 'echo caught; exit 5' {number.value}; echo ready; sleep 30 & wait")
    ready(process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (5, b"caught\n")


def test_a_signal_that_nobody_handles_ends_the_command(host: Host) -> None:
    """As it does outside: the command is not process 1, whom the kernel spares."""
    process = host.start("bash", "-c", "echo ready; sleep 30; exit 0")
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_the_third_request_to_end_kills(host: Host) -> None:
    """A command that ignores Ctrl-C can be got rid of at the keyboard."""
    process = host.start("bash", "-c", "trap 'echo no' TERM; echo ready; for i in {1..300}; do sleep 0.1; done")
    ready(process)
    assert process.stdout
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"no\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGKILL


def test_ignored_signals_stay_ignored(strongest: Host) -> None:
    """Under nohup the end of a session does not end the command."""
    line = strongest.line("bash", "-c", "echo ready; sleep 1; echo done")
    command = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash", *line]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **strongest.settings())
    ready(process)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"done\n")


def test_the_time_limit_ends_the_command_and_all_it_started(host: Host) -> None:
    """`limit_hit` says so, and grandchildren that hold the streams are gone too."""
    done = host.shell("sleep 60.5 & sleep 60.5 & wait", seconds=1.0)
    assert (done.returncode, done.stderr) == (128 + signal.SIGKILL, b"time\n")


def test_the_memory_limit_ends_the_command(host: Host) -> None:
    """Far more than allowed; a string of that size is resident."""
    script = "a=$(head -c 50000000 /dev/zero | tr '\\0' x); echo ${#a}"
    done = host.shell(script.replace("| tr '\\0' x", "| cat -v"), memory_bytes=64 << 20)
    assert done.stdout == b""
    assert done.returncode != 0


def test_signal_handlers_are_put_back() -> None:
    """After a run Ctrl-C means again what it meant before."""
    before = [signal.getsignal(number) for number in live.FORWARDED]
    with live.caught_signals(signal.SIGWINCH) as arrived:
        os.kill(os.getpid(), signal.SIGUSR1)
        select.select([arrived], [], [], 5)
        assert os.read(arrived, 10) == bytes([signal.SIGUSR1])
    assert [signal.getsignal(number) for number in live.FORWARDED] == before


# What the command sees of the host


@pytest.fixture
def shared(host: Host) -> Path:
    """A folder with a file, which the host's user and the command's may write to."""
    folder = host.folder / f"shared-{time.monotonic_ns()}"
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_text("text\n")
    for path in (folder, folder / "below", folder / "file"):
        path.chmod(0o777)
    return folder


def mounts(host: Host) -> bool:
    """Whether this mode can mount; the other refuses volumes."""
    return host.mode != "restricted"


def test_a_volume_is_seen_and_written(host: Host, shared: Path) -> None:
    """Folder and file, at a new place, below /tmp, and over a folder of the image."""
    for destination in ("/data/deep", "/tmp/data", "/etc"):
        done = host.shell(
            f"cat {destination}/file; echo new >{destination}/new", volumes=[(str(shared), destination, False)]
        )
        if not mounts(host):
            assert done.stderr.startswith(b"sandbox-unavailable;")
            return
        assert (done.returncode, done.stdout, done.stderr) == (0, b"text\n", b"")
        assert (shared / "new").read_text() == "new\n"
        (shared / "new").unlink()
    done = host.shell("cat /data/one", volumes=[(str(shared / "file"), "/data/one", False)])
    assert done.stdout == b"text\n"


def test_a_read_only_volume_cannot_be_written(host: Host, shared: Path) -> None:
    """Control: the same words write where it is not read-only."""
    for read_only in (True, False):
        done = host.shell("echo changed >/data/file", volumes=[(str(shared), "/data", read_only)])
        if mounts(host):
            assert (done.returncode == 0) is not read_only
            assert (shared / "file").read_text() == ("text\n" if read_only else "changed\n")


def test_programs_of_a_volume_give_no_privileges(host: Host, shared: Path) -> None:
    """A set-uid program in a volume runs as whoever starts it."""
    shutil.copyfile(host.tree / "usr/bin/id", shared / "id")
    (shared / "id").chmod(0o4755)
    done = host.run("/data/id", "-u", volumes=[(str(shared), "/data", True)])
    assert done.stdout == (b"65532\n" if mounts(host) else b"")


@pytest.mark.parametrize("destination", ["/", "/proc", "/dev/x", "/tmp", "/link/x", "/etc/passwd"])
def test_a_volume_cannot_go_everywhere(strongest: Host, tmp_path: Path, destination: str) -> None:
    """Not over the sandbox's own places, through a link of the image, or a folder over a file."""
    if mounts(strongest):
        done = strongest.shell(":", volumes=[(str(tmp_path), destination, False)])
        assert (done.returncode, done.stderr[:13]) == (99, b"path-refused;")
    assert not (strongest.tree / "usr/x").exists()


def test_the_network_is_there_only_when_asked_for(host: Host) -> None:
    """A server of this machine is reached with `network`, and with the host's resolver; not without."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"cat /etc/resolv.conf; exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]} && echo reached"
        without, with_network = host.shell(script), host.shell(script, network=True)
    assert (without.returncode, without.stdout) == (1, b"of the image\n")
    assert with_network.stdout == Path("/etc/resolv.conf").read_bytes() + b"reached\n"
    assert (host.tree / "etc/resolv.conf").read_text() == "of the image\n"
    (host.folder / "root/etc/resolv.conf").unlink()
    (host.folder / "root/etc/resolv.conf").write_text("of the image\n")


def test_the_root_is_read_only_and_tmp_is_fresh(host: Host) -> None:
    """What one run leaves in /tmp the next does not find."""
    assert host.shell("echo x >/new; echo x >/tmp/new; ls /tmp").stdout == b"new\n"
    assert host.shell("ls / /tmp").stdout.count(b"new") == 0


# Terminals


class Terminal:
    """A person at a terminal, in a session of its own."""

    def __init__(self, line: Sequence[str], size: tuple[int, int] = (40, 132), **settings: Any) -> None:
        self.ours, self.theirs = os.openpty()
        termios.tcsetwinsize(self.ours, size)
        self.before = termios.tcgetattr(self.theirs)
        self.shown = b""
        self._seen = 0
        ends = {"stdin": self.theirs, "stdout": self.theirs, "stderr": self.theirs}
        # The terminal becomes that of the new session, so that changes of its size are signalled.
        control = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", control, *line], start_new_session=True, **ends, **settings
        )

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.ours, text.encode())

    def see(self, wanted: str, seconds: float = 20) -> None:
        """Wait until it is shown after what was last waited for; it fails with all that was."""
        end = time.monotonic() + seconds
        while (at := self.shown.find(wanted.encode(), self._seen)) < 0:
            assert self._more(end - time.monotonic()), self.shown.decode()
        self._seen = at + len(wanted)

    def _more(self, seconds: float) -> bool:
        if not select.select([self.ours], [], [], max(0.0, seconds))[0]:
            return False
        self.shown += os.read(self.ours, 65536)
        return True

    def end(self) -> int:
        """Wait for the end; the exit code."""
        while self.process.poll() is None:
            self._more(0.1)
        while self._more(0.1):
            pass
        assert termios.tcgetattr(self.theirs) == self.before, "the terminal's settings did not come back"
        os.close(self.ours)
        os.close(self.theirs)
        return self.process.returncode


def terminal(host: Host, *argv: str, **more: Any) -> Terminal:
    """Somebody who talks to a command in the sandbox."""
    user = host.way.user
    settings = {key: value for key, value in host.settings().items() if key in ("cwd", "env")}
    if user is None:
        return Terminal(host.line(*argv, terminal=True, **more), **settings)
    switch = (
        f"import os, sys; os.setgroups([]); os.setgid({user}); os.setuid({user}); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return Terminal([sys.executable, "-c", switch, *host.line(*argv, terminal=True, **more)], **settings)


def test_a_conversation(host: Host) -> None:
    """The command has a terminal of the right size, is its session's leader, and its exit code comes back."""
    talk = terminal(host, "bash", "--norc", "-i", environment={**ENVIRONMENT, "PS1": "> "})
    talk.see("> ")
    talk.type("stty size; [[ -t 0 && -t 1 && -t 2 ]] && echo three\r")
    talk.see("40 132\r\nthree\r\n> ")
    talk.type("exit 4\r")
    assert talk.end() == 4
    assert b"job control" not in talk.shown


def test_a_changed_window_is_passed_on(host: Host) -> None:
    """The new size reaches the command, with SIGWINCH."""
    talk = terminal(
        host, "bash", "--norc", "-c", "trap 'stty size' WINCH; echo go; until read -t 0.1 x; do :; done; exit 3"
    )
    talk.see("go")
    termios.tcsetwinsize(talk.ours, (50, 100))
    talk.see("50 100")
    talk.type("\r")
    assert talk.end() == 3


def test_ctrl_c_reaches_only_the_foreground(host: Host) -> None:
    """As at any terminal: the shell survives what ends its command, and so does nnenv."""
    talk = terminal(host, "bash", "--norc", "-i", environment={**ENVIRONMENT, "PS1": "> "})
    talk.see("> ")
    talk.type("echo be''gun; sleep 30 | cat\r")
    talk.see("begun")
    time.sleep(0.3)
    talk.type("\x03")
    talk.see("^C")
    talk.type("exit 6\r")
    assert talk.end() == 6


def test_a_terminal_that_goes_ends_the_conversation(host: Host) -> None:
    """SIGTERM to nnenv reaches an interactive shell as a hang-up, which it does not ignore."""
    talk = terminal(host, "bash", "--norc", "-i", environment={**ENVIRONMENT, "PS1": "> "})
    talk.see("> ")
    time.sleep(0.3)  # bash shows the prompt before it minds signals
    talk.process.send_signal(signal.SIGTERM)
    assert talk.end() == 128 + signal.SIGHUP


def test_output_before_the_end_is_shown_whole(host: Host) -> None:
    """What is in the terminal when the command ends is not lost."""
    talk = terminal(host, "bash", "--norc", "-c", "for i in {1..2000}; do echo line $i; done")
    assert talk.end() == 0
    assert talk.shown.count(b"line ") == 2000


def test_a_conversation_without_a_terminal_is_refused(tmp_path: Path) -> None:
    """Pipes have no size and no Ctrl-C."""
    with (tmp_path / "file").open("w+b") as file:
        streams = live.Streams(stdin=file.fileno(), stdout=file.fileno(), stderr=file.fileno())
        with pytest.raises(NnenvError) as refused:
            live.insist_on_terminal(streams)
    assert refused.value.code == "usage"


def test_a_terminal_in_the_background_is_not_read() -> None:
    """Reading would stop the whole job; so would a shell's user be surprised by `nnenv run ... &`."""
    ours, theirs = os.openpty()
    reader = """
import fcntl, os, subprocess, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
read = "from nnenv.adapters import live; import time; live.Inflow(0, print, print); time.sleep(1); print('not stopped')"
child = subprocess.Popen([sys.executable, "-c", read], process_group=0)
print(os.waitpid(child.pid, os.WUNTRACED)[1])
"""
    line = [sys.executable, "-c", reader]
    process = subprocess.Popen(line, stdin=theirs, stdout=subprocess.PIPE, start_new_session=True)
    out, _ = process.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert out == b"not stopped\n0\n"


# Waiting


def test_silence_ends_with_the_time_limit() -> None:
    """`attend` returns what came, and which limit was hit."""
    out, into = os.pipe()
    with live.caught_signals() as arrived:
        os.write(into, b"some")
        assert live.attend(out, arrived, lambda number: None, seconds=0.2) == (b"some", "time")
        assert live.attend(out, arrived, lambda number: None, exhausted=lambda: True) == (b"", "memory")
        os.close(into)
        assert live.attend(out, arrived, lambda number: None) == (b"", "")
    os.close(out)


def test_codes_of_shells() -> None:
    """A death by signal is 128 + N; others stay."""
    assert [live.shell_code(code) for code in (0, 7, 255, -9, -15)] == [0, 7, 255, 137, 143]


def test_kept_streams_keep_the_beginning(tmp_path: Path) -> None:
    """Both outputs, cut at the limit."""
    with live.kept_streams(0, 4) as (streams, kept):
        os.write(streams.stdout, b"outside")
        os.write(streams.stderr, b"err")
        assert kept() == (b"outs", b"err")
