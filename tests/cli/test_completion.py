"""Completion scripts: what they hold, and what each shell makes of them when a key is pressed.

The scripts of a small command line are whole files in `completion/`; `NNENV_UPDATE_SNAPSHOTS=1` writes them anew.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nnenv.cli.arguments import command_parser
from nnenv.cli.commands import COMMANDS
from nnenv.cli.commands.completion import NAMES
from nnenv.cli.commands.completion import SHELLS as OFFERED
from nnenv.cli.completion_scripts import SCRIPTS
from nnenv.cli.grammar import Form, Kind, Option, Value, forms
from nnenv.workflows.naming import KINDS
from tests.e2e.world import ROOT, bare_environment

SNAPSHOTS = Path(__file__).parent / "completion"

MANIFEST = """
[project]
name = "x"
version = "1"
[models.digits]
version = "1"
source = "file:model.onnx"
[requires]
packages = ["numpy>=1", "onnxruntime[gpu]"]
system = ["libgomp1 (>= 12)"]
[targets.cpu]
[targets.cpu-arm64]
platform = "linux/arm64"
[targets.gpu.requires]
packages = ["pillow"]
"""

LOCK = """
[[artifact]]
kind = "wheel"
name = "numpy"
version = "2"

[[artifact]]
kind = "deb"
name = "libc6"

[[artifact]]
kind = "file"
name = "src/main.py"
"""


# Scripts as text

SMALL = (
    Form(
        path=(),
        help="",
        options=(
            Option(spellings=("-C",), help="the folder", value=Value(kind=Kind.FOLDER, label="DIR"), repeatable=False),
        ),
        positional=None,
        takes_command=False,
        inner=(("make", "make a thing: 'it', [or] two"), ("run", "run a thing")),
    ),
    Form(
        path=("make",),
        help="make a thing",
        options=(
            Option(
                spellings=("-t", "--target"),
                help="this target",
                value=Value(kind=Kind.TARGETS, label="NAME"),
                repeatable=True,
            ),
            Option(
                spellings=("-o",),
                help="where to",
                value=Value(kind=Kind.WORDS, label="OUT", words=("docker", "oci:")),
                repeatable=True,
            ),
            Option(spellings=("--quick",), help="don't wait", value=None, repeatable=False),
        ),
        positional=Value(kind=Kind.PACKAGES, label="NAME"),
        takes_command=False,
        inner=(),
    ),
    Form(
        path=("run",),
        help="run a thing",
        options=(Option(spellings=("-e",), help="", value=Value(kind=Kind.NOTHING, label="KEY"), repeatable=True),),
        positional=Value(kind=Kind.NOTHING, label="COMMAND"),
        takes_command=True,
        inner=(),
    ),
)
"""A command line with one of everything."""


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_of_a_small_command_line(shell: str) -> None:
    """Whole, with quotes and brackets in the help as the shell wants them."""
    path = SNAPSHOTS / f"small.{shell}"
    script = SCRIPTS[shell](SMALL)
    if os.environ.get("NNENV_UPDATE_SNAPSHOTS", "") == "1":
        path.write_text(script)
    assert path.read_text() == script


def test_the_same_scripts_everywhere() -> None:
    """Neither variables, nor the width of the terminal, nor hash order reach a script."""
    line = [
        sys.executable,
        "-c",
        "import sys; from nnenv.cli.main import main; sys.exit(main(sys.argv[1:]))",
        "completion",
    ]
    for shell in SCRIPTS:
        found = set()
        for seed, more in (("1", {}), ("2", {"COLUMNS": "40", "NNENV_RUNNER": "sandbox", "NNENV_TARGET": "x"})):
            environment = {**bare_environment(Path("/nonexistent")), "PYTHONHASHSEED": seed, **more}
            done = subprocess.run([*line, shell], capture_output=True, env=environment, check=True)
            found.add(done.stdout)
        assert len(found) == 1
        assert found.pop().endswith(b"\n")


def test_every_command_and_option_is_known() -> None:
    """The grammar has each command of the table and each option that its help shows, but for hidden ones."""
    found = {form.path: form for form in forms()}
    assert [name for name, _ in found[()].inner] == list(COMMANDS)
    for name in COMMANDS:
        for path, form in found.items():
            if path == (name,):
                shown = set(re.findall(r"(?<=[\s,])--?[a-zA-Z][a-z-]*", command_parser(name, {}).format_help()))
                spellings = {spelling for option in form.options for spelling in option.spellings}
                assert spellings <= shown
    assert not any("--names" in option.spellings for option in found[("completion",)].options)
    assert ("test", "record") in found


def test_kinds_are_those_that_can_be_asked() -> None:
    """The scripts' kinds of names, the hidden option's choices and what reads the project agree."""
    assert {str(kind) for kind in Kind if kind.is_project} == set(NAMES) == set(KINDS)
    assert tuple(SCRIPTS) == OFFERED


# In real shells


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project, an `nnenv` on PATH, and a script for each shell."""
    folder = tmp_path_factory.mktemp("completion")
    project, programs = folder / "project", folder / "bin"
    for each in (project / "sub", programs):
        each.mkdir(parents=True)
    (project / "model.toml").write_text(MANIFEST)
    (project / "model.lock").write_text(LOCK)
    (programs / "nnenv").write_text(f'#!/bin/sh\nexec {sys.executable} -m nnenv "$@"\n')
    (programs / "nnenv").chmod(0o755)
    for shell, script in SCRIPTS.items():
        (folder / f"nnenv.{shell}").write_text(script(forms()))
    yield folder


def environment(place: Path) -> dict[str, str]:
    """Of a user with a clean home."""
    bare = bare_environment(place)
    return {**bare, "PATH": f"{place / 'bin'}:{bare['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb"}


_PRESS = """
source ../nnenv.bash
compopt() { :; }  # only works while bash itself completes
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_nnenv
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash_offers(place: Path, line: str) -> list[str]:
    """What bash would show; words are split at `=` and `:` as bash does."""
    words = [word for word in re.split(r"\s+|(?<=[=:])|(?=[=:])", line) if word] + ([""] if line[-1] in " " else [])
    command = ["bash", "--norc", "-c", _PRESS, "bash", *words]
    done = subprocess.run(
        command, cwd=place / "project", env=environment(place), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.splitlines()))


def fish_offers(place: Path, line: str) -> list[str]:
    """What fish would show, without the descriptions."""
    script = f"source ../nnenv.fish; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=place / "project",
        env=environment(place),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    offers = [line.split("\t")[0] for line in done.stdout.splitlines()]
    return sorted(offer.removeprefix("--runner=").removeprefix("--color=") for offer in offers)


def zsh_offers(place: Path, line: str) -> list[str]:
    """What zsh makes of the line at the press of a key: the whole list, or the one word that it fills in."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(place / "project")
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment(place))
    try:
        start = "PS1=; stty cols 200; autoload -Uz compinit; compinit -u -D; source ../nnenv.zsh; "
        # Every match in one list, shown at once and framed; the line itself stays.
        start += "zstyle ':completion:*' list-prompt ''; zstyle ':completion:*' verbose no; setopt no_list_beep; "
        start += "bindkey '^T' list-choices; LISTMAX=1000; "
        # The next key is looked at when the list is complete.
        start += "finished() { print -r -- '<DO''NE>' }; zle -N finished; bindkey '^Y' finished; echo RE''ADY\n"
        os.write(terminal, start.encode())
        _until(terminal, "READY")
        os.write(terminal, line.encode() + b"\x14\x19")
        shown = _until(terminal, "<DONE>").partition("<DONE>")[0]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", shown.replace("\r", "\n"))
    listed = plain.partition(line.rstrip())[2]
    return sorted(set(re.findall(r"(?m)(?<!\S)[\w./:-]+(?!\S)", listed)) - set(line.split()))


def _until(terminal: int, wanted: str, seconds: float = 20.0) -> str:
    """What is shown until `wanted` is; it fails with what was."""
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], shown
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


OFFERS: Mapping[str, Callable[[Path, str], list[str]]] = {
    name: offers
    for name, offers in (("bash", bash_offers), ("fish", fish_offers), ("zsh", zsh_offers))
    if shutil.which(name) or os.environ.get("CI", "")
}
"""The shells that are installed; in CI all of them have to be."""

CASES = (
    ("nnenv ver", ["verify"]),
    ("nnenv s", ["shell", "store"]),
    ("nnenv test ", ["record"]),
    ("nnenv store g", ["gc"]),
    ("nnenv test record ", ["digits"]),
    ("nnenv verify --r", ["--report", "--require", "--runner"]),
    ("nnenv verify --runner ", ["auto", "docker", "sandbox"]),
    ("nnenv verify --runner=s", ["sandbox"]),
    ("nnenv verify -t c", ["cpu", "cpu-arm64"]),
    ("nnenv run --target g", ["gpu"]),
    ("nnenv -C sub verify -t ", []),
    ("nnenv -C ../project verify -t cpu-", ["cpu-arm64"]),
    ("nnenv -q --color a", ["always", "auto"]),
    ("nnenv why ", ["libc6", "numpy"]),
    ("nnenv lock -P n", ["numpy"]),
    ("nnenv remove ", ["libgomp1", "numpy", "onnxruntime", "pillow"]),
    ("nnenv completion z", ["zsh"]),
    ("nnenv build -o d", ["dir:", "docker"]),
    ("nnenv run -t cpu -- model.", ["model.lock", "model.toml"]),
    ("nnenv run python3 mod", ["model.lock", "model.toml"]),
    ("nnenv run python3 --net", []),
    ("nnenv run --net", ["--network"]),
)


@pytest.mark.parametrize("shell", OFFERS)
@pytest.mark.parametrize(("line", "wanted"), CASES, ids=[line for line, _ in CASES])
def test_what_a_key_press_offers(place: Path, shell: str, line: str, wanted: list[str]) -> None:
    """Commands, inner commands, options, choices, names of the project, and files behind another program's name."""
    assert OFFERS[shell](place, line) == wanted


def test_no_name_is_no_trouble(tmp_path: Path) -> None:
    """Without a project, with broken files and with strange ones, the hidden option prints nothing and succeeds."""
    for manifest in (None, "not toml", 'targets = 1\nmodels = "x"\nrequires = []', '[targets]\ncpu = "x"'):
        if manifest is not None:
            (tmp_path / "model.toml").write_text(manifest)
        for kind in NAMES:
            done = subprocess.run(
                [sys.executable, "-m", "nnenv", "completion", "--names", kind],
                cwd=tmp_path,
                env={**bare_environment(tmp_path), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                check=True,
            )
            assert done.stderr == b""


def test_names_are_quick() -> None:
    """A key press imports no foreign distribution, and not the reader of locks."""
    code = (
        "import sys; sys.argv = ['nnenv', 'completion', '--names', 'packages']; from nnenv.cli.main import main; "
        "main(); print([m for m in ('numpy', 'docker', 'urllib3', 'rich', 'packaging', 'tomlkit',"
        " 'nnenv.spec.lock_toml', 'nnenv.cli.grammar') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", [name for name in ("bash", "fish", "zsh") if name in OFFERS])
def test_shells_can_read_their_scripts(place: Path, shell: str) -> None:
    """Without a complaint about syntax."""
    subprocess.run([shell, "-n", place / f"nnenv.{shell}"], check=True)


def test_shellcheck_has_nothing_to_say(place: Path) -> None:
    """Of the script for bash, where shellcheck is installed."""
    if shutil.which("shellcheck") or os.environ.get("CI", ""):
        subprocess.run(["shellcheck", place / "nnenv.bash"], check=True)
