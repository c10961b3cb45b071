"""The command line under nonsense: every refusal is a sentence or one JSON object, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = '[project]\nname = "toy"\nversion = "1.0.0"\n\n[targets.cpu]\n'


def nnenv(project: Path, *arguments: str, shell: str = '"$@"', **variables: str) -> subprocess.CompletedProcess[str]:
    """Run nnenv in `project`, offline and with a store of its own; `shell` says what stands around the command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNENV_")}
    environment |= {"NNENV_STORE": str(project.parent / "store"), "NNENV_OFFLINE": "1", **variables}
    return subprocess.run(
        ["bash", "-c", shell, "nnenv", sys.executable, "-m", "nnenv", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model.toml and no lock."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "model.toml").write_text(MANIFEST)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("lok",),
        ("lock", "--workers", "²"),
        ("lock", "--exclude-newer", "2026-13-45T99:99:99Z"),
        ("lock", "--exclude-newer", "yesterday"),
        ("verify", "--timeout", "nan"),
        ("-C", "/dev/null", "lock"),
    ],
)
def test_wrong_usage_is_one_json_object(arguments: tuple[str, ...], project: Path) -> None:
    """Standard output holds one object with the code `usage`, whatever was wrong on the line."""
    done = nnenv(project, "--json", *arguments)
    document = json.loads(done.stdout)
    assert (done.returncode, document["errors"][0]["code"], done.stderr) == (2, "usage", "")
    assert "_positive" not in done.stdout


def test_a_switch_takes_no_nonsense(project: Path) -> None:
    """NNENV_OFFLINE=ture must not quietly mean online."""
    done = nnenv(project, "build", NNENV_OFFLINE="ture")
    assert done.returncode == 2
    assert "NNENV_OFFLINE is 'ture'" in done.stderr
    assert "there is no model.lock" in nnenv(project, "build", NNENV_OFFLINE="off").stderr


@pytest.mark.parametrize("arguments", [("lock", "--check"), ("--json", "lock", "--check")])
def test_closed_streams_are_no_bug(arguments: tuple[str, ...], project: Path) -> None:
    """A caller that closed standard output or error gets the exit code of the command all the same."""
    assert nnenv(project, *arguments, shell='"$@" >&- 2>&-').returncode == 1
    assert "Traceback" not in nnenv(project, *arguments, shell='"$@" >&-').stderr


def test_a_full_standard_output_is_said_on_the_other_stream(project: Path) -> None:
    """With --json the error itself cannot be printed where it belongs: it is told to the person instead."""
    done = nnenv(project, "--json", "build", shell='"$@" >/dev/full')
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no model.lock here")


def test_a_reader_that_leaves_is_no_error(project: Path) -> None:
    """`nnenv ... | true` ends without a word of Python's."""
    done = nnenv(project, "--json", "build", shell='"$@" | true')
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


INTERRUPTED_IN_EXEC = """
import nnenv.cli.main

def interrupted(line):
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")

nnenv.cli.main._run = interrupted
raise SystemExit(nnenv.cli.main.main())
"""


def test_an_interrupt_inside_exec_is_an_interrupt_like_any_other(tmp_path: Path) -> None:
    """Dataclasses are made by exec; CPython would end a process that it interrupted there by SIGINT, not by 1."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_EXEC)
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: interrupted; run it again\n")
