"""Whole outputs of the command line, compared with files in `snapshots/`.

`NNENV_UPDATE_SNAPSHOTS=1 pytest tests/e2e/test_cli_snapshots.py` writes them anew; look at the difference before
committing it. What differs from machine to machine or from month to month stands as a placeholder: <digest>, <size>,
<version>, <number>, <isolation>, <folder>, <port>, <time>.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nnenv import __version__
from nnenv.cli.arguments import parse
from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.world import PLAIN, User, World, linked_copy, plain_project, toy_project

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = "NNENV_UPDATE_SNAPSHOTS"

COMMANDS = (
    "",
    "init",
    "add",
    "remove",
    "lock",
    "fetch",
    "build",
    "verify",
    "run",
    "shell",
    "test",
    "test record",
    "why",
    "tree",
    "diff",
    "compat",
    "store",
    "store size",
    "store verify",
    "store gc",
    "doctor",
    "completion",
)

_PROGRESS = re.compile(r"^.*: (?:[0-9.]+ (?:B|KiB|MiB|GiB|TiB) in )?[0-9.]+ s\n", re.MULTILINE)
"""Lines on steps of more than a second, which come or not with the machine's load."""


# Comparing


def compare(name: str, found: str) -> None:
    """`found` must be what `snapshots/NAME.txt` holds; with the switch it becomes that."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get(UPDATE, "") == "1":
        path.write_text(found)
    assert path.is_file(), f"no snapshot {path.name}: set {UPDATE}=1 to write it"
    assert path.read_text() == found


def piped(user: User, *arguments: str, **variables: str) -> str:
    """Command line, exit code, stdout and stderr, as a pipe sees them."""
    done = user.with_environment(**{"COLUMNS": "100", **variables}).run(*arguments)
    head = f"$ nnenv {shlex.join(arguments)}\n--- exit code {done.code}\n"
    return _settled(f"{head}--- stdout\n{done.out}--- stderr\n{done.err}", user)


def on_a_terminal(user: User, *arguments: str) -> str:
    """Command line, exit code and what a terminal shows, with `ESC` for the escape character."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        user.command(*arguments),
        cwd=user.project,
        env={**user.environment, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # EIO: the other end is closed (pty(7))
        pass
    os.close(ours)
    code = process.wait()
    text = shown.decode().replace("\r\n", "\n").replace("\x1b", "ESC")
    return _settled(f"$ nnenv {shlex.join(arguments)}\n--- exit code {code}\n--- terminal\n{text}", user)


def _settled(text: str, user: User) -> str:
    text = _PROGRESS.sub("", text)
    text = re.sub(r"\bin (?:\d+ min )?\d+(?:\.\d+)? s$", "in <time>", text, flags=re.MULTILINE)
    text = text.replace(str(user.project.parent), "<folder>")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:<port>", text)
    return text.replace(f"nnenv {__version__}", "nnenv <version>")


def without_figures(text: str) -> str:
    """For outputs on the real archive and on real runs: no digests, sizes, counts; columns two spaces apart."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "<digest>", text)
    text = re.sub(r"\bsha256:[0-9a-f]{12}\b", "sha256:<digest>", text)
    text = re.sub(r"\b\d+(?:\.\d+)? (?:B|kB|MB|GB)(?=[\s,])", "<size>", text)
    text = re.sub(r"\b\d+ (ELF )?files", r"<number> \1files", text)
    text = re.sub(r"sandbox \((?:namespaces|rootless|restricted)\)", "sandbox (<isolation>)", text)
    text = re.sub(r"\|e\| \d\.\de[+-]\d\d", "|e| <number>", text)
    return re.sub(r"(?<=\S) {2,}", "  ", text)


def without_sizes(text: str) -> str:
    """For outputs on the archive of paper: a compiler and a compressor of this machine had a hand in the wheels."""
    text = re.sub(r" +\d+\.\d kB$", "    <size>", text, flags=re.MULTILINE)
    return re.sub(r'"(bytes|fetched_bytes)": \d+', r'"\1": <number>', text)


def help_text(text: str) -> str:
    """Help in one spelling: Python 3.13 writes `-t, --target NAME` where 3.11 writes `-t NAME, --target NAME`."""
    text = re.sub(r"(?<=\s)(-[a-zA-Z]) ([A-Z]+), (--[a-z-]+) \2\b", r"\1, \3 \2", text)
    return re.sub(r"(?<=\S) {2,}", "  ", re.sub(r"(  -\S.*[A-Za-z]|    [a-z]+)\n {10,}", r"\1  ", text))


# Help


@pytest.fixture(scope="session")
def anyone(tmp_path_factory: pytest.TempPathFactory, paper_world: World) -> User:
    """Somebody in a folder without a project."""
    folder = tmp_path_factory.mktemp("anyone")
    (folder / "project").mkdir()
    return paper_world.user(folder / "project", folder / "store")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(anyone: User, command: str) -> None:
    """`--help` of every command, whole; lines are not wrapped, since Python's versions wrap them differently."""
    name = "help" + ("-" + command.replace(" ", "-") if command else "")
    compare(name, help_text(piped(anyone, *command.split(), "--help", COLUMNS="1000")))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "test"])
def test_every_example_can_be_typed(anyone: User, command: str) -> None:
    """Each help has an example, and every line of it parses as a command of this parser."""
    text = anyone.must(*command.split(), "--help").out
    assert "example:" in text
    lines = re.findall(r"^  nnenv .*$", text.partition("example:")[2], re.MULTILINE)
    assert lines
    for line in lines:
        for one in line.partition("#")[0].split("&&"):
            words = shlex.split(one)
            assert words[0] == "nnenv"
            assert parse(words[1:], {}).command


def test_version(anyone: User) -> None:
    """`--version` is one line on stdout."""
    compare("version", piped(anyone, "--version"))


def test_options_may_stand_before_the_command() -> None:
    """`nnenv -C DIR lock` and `nnenv lock -C DIR` mean the same; the variable stands behind both."""
    for line in (["-C", "there", "lock"], ["lock", "-C", "there"]):
        assert parse(line, {"NNENV_PROJECT": "elsewhere"}).directory == "there"
    assert parse(["lock"], {"NNENV_PROJECT": "elsewhere"}).directory == "elsewhere"


# Summaries


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody with a model, in the archive that exists on paper."""
    offer_tiny_wheels(world)
    return world.user(toy_project(tmp_path / "project"), tmp_path / "store")


def test_lock_summaries(user: User, world: World) -> None:
    """A first lock, a confirmed one, an upgrade tried and done, and what a terminal shows."""
    outputs = [piped(user, "lock"), piped(user, "lock"), on_a_terminal(user, "lock")]
    world.offer("numpy", "2.1.0")
    outputs += [piped(user, "lock", "--dry-run", "-U"), piped(user, "lock", "-P", "numpy"), piped(user, "lock", "-q")]
    compare("lock", without_sizes("\n".join(outputs)))


def test_lock_json(user: User) -> None:
    """`--json` is one object on stdout and nothing on stderr."""
    compare("lock-json", without_sizes(piped(user, "lock", "--json")))


@pytest.mark.network
def test_build_summary(tiny: User, tmp_path: Path) -> None:
    """A build of a built lock into two places."""
    user = tiny.elsewhere(tmp_path / "project")
    outputs = [
        piped(user, "build", "-o", "oci:../cpu.tar", "-o", "dir:../layout"),
        on_a_terminal(user, "build", "-o", "oci:../cpu.tar"),
        piped(user, "fetch"),
        on_a_terminal(user, "fetch"),
    ]
    compare("build", without_figures("\n".join(outputs)))


@pytest.mark.network
@pytest.mark.slow
def test_verify_report(toy: User, tmp_path: Path) -> None:
    """A verified target, piped and in colours, and one whose case expects something else."""
    user = toy.elsewhere(tmp_path / "project", store=linked_copy(toy.store, tmp_path / "store"))
    line = ("verify", "--target", "cpu", "--runner", "sandbox", "--offline")
    outputs = [piped(user, *line), on_a_terminal(user, *line)]
    folder = user.project / "tests" / "toy"
    (folder / "test_data_set_0" / "output_0.pb").write_bytes((folder / "test_data_set_1" / "output_0.pb").read_bytes())
    user.must("lock", "--offline")
    outputs.append(piped(user, *line))
    compare("verify", without_figures("\n".join(outputs)))


# Errors


def test_errors(user: User, world: World, tmp_path: Path) -> None:
    """The main refusals, whole: what, where, because, fix."""
    empty = world.user(plain_project(tmp_path / "empty", PLAIN), tmp_path / "store")
    nothing = world.user(tmp_path / "nothing", tmp_path / "store")
    nothing.project.mkdir()
    outputs = [
        piped(nothing, "lock"),
        piped(nothing, "build"),
        piped(empty, "lock"),
        piped(empty, "lock", "--offline"),
        piped(empty, "lock", "--check"),
        piped(empty, "build", "-o", "tape:/dev/st0"),
        piped(empty, "lock", "--json", "--check"),
        on_a_terminal(empty, "lock", "--check"),
    ]
    (empty.project / "model.toml").write_text(PLAIN.replace("packages", "package") + "platfrom = 1\n")
    outputs.append(piped(empty, "lock"))
    user.must("lock")
    (user.project / "model.lock").write_bytes(user.lock_path.read_bytes()[:200])
    outputs.append(piped(user, "build"))
    compare("errors", "\n".join(outputs))
