"""The bench as a command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.__main__ as command
from bench.peers import Peers, cache_folder, installer_environment
from bench.run import Run
from bench.tables import Table
from bench.timing import ContestantFailed, Unavailable

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
}
"""An index that does not answer."""


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench ARGUMENTS`, with its cache in `folder` and no index to reach."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, **OFFLINE, "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_quick_start_suite_offline(tmp_path: Path) -> None:
    """`start --quick` runs with nothing but this interpreter: a table with ratios and aims, JSON, Markdown, exit 0."""
    report = tmp_path / "report.json"
    options = ("--quick", "--rounds", "1", "--installed", "--json", str(report), "--out", str(tmp_path / "out"))
    done = bench(tmp_path / "cache", "start", *options)
    assert done.returncode == 0, done.stderr
    assert "nnenv --version" in done.stdout
    assert re.search(r"nnenv lock --check, large .*<= 7x python -c pass: (meets|missed by [\d.]+x)", done.stdout)
    found = json.loads(report.read_text())
    assert found["failures"] == []
    assert found["suites"]["start"]["tables"][0]["figures"][0]["name"] == "python -c pass"
    assert "| nnenv --version |" in (tmp_path / "out" / "start.md").read_text()


def test_what_cannot_be_had_is_said_and_fails_nothing(tmp_path: Path) -> None:
    """Without an index, and without recordings, the suite says why it has no figures, and the exit code stays 0."""
    done = bench(tmp_path, "lock", "--quick", "--installed")
    assert done.returncode == 0, done.stderr
    assert "lock: not available: no Python index answers, and nothing is recorded" in done.stdout


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_has_the_reason_in_its_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """pip's last words stand where the figures would be; nothing half-installed stays behind."""
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match=r"pip could not install it .*No matching distribution"):
        Peers(cache=tmp_path).get("toy", "no-such-distribution")
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == [tmp_path / "peers"]


def test_an_unknown_suite_is_a_usage_error(tmp_path: Path) -> None:
    """A name that is no suite is refused with those there are."""
    done = bench(tmp_path, "speed")
    assert done.returncode == 2
    assert "lock-scaling" in done.stderr


def suites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suite: object) -> None:
    """Make `suite` the only suite, and keep the cache away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "SUITES", {"one": "tests.bench.one", "two": "tests.bench.two"})
    module = type(sys)("tests.bench.one")
    module.suite = suite  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests.bench.one", module)
    after = type(sys)("tests.bench.two")
    after.suite = lambda run: [Table(title="after it", columns=("a",), rows=())]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests.bench.two", after)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [(ContestantFailed("a wrong result"), 1), (Unavailable("no engine"), 0), (ZeroDivisionError("a bug"), 1)],
)
def test_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trouble: Exception,
    code: int,
) -> None:
    """A failed contestant or a bug gives 1 and is named; what is not available gives 0; later suites still run."""

    def suite(run: Run) -> Iterator[Table]:
        yield Table(title="before it", columns=("a",), rows=())
        raise trouble

    suites(monkeypatch, tmp_path, suite)
    assert command.main(["one", "two"]) == code
    said = capsys.readouterr()
    assert "before it" in said.out
    assert "after it" in said.out
    assert str(trouble) in said.out + said.err


def test_every_suite_has_its_place_in_the_documentation() -> None:
    """docs/performance.md has the marks and the command of each suite, and of no other."""
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert sorted(re.findall(r"<!-- bench:([a-z-]+) -->", page)) == sorted(command.SUITES)
    assert [name for name in command.SUITES if f"`python -m bench {name}`" not in page] == []
    plots = set(re.findall(r"\(performance/([a-z-]+)\.svg\)", page))
    assert {path.stem for path in (ROOT / "docs" / "performance").glob("*.svg")} == plots


def test_the_cache_is_where_caches_are() -> None:
    """$XDG_CACHE_HOME/nnenv-bench, or below ~/.cache."""
    assert cache_folder({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/nnenv-bench")
    assert cache_folder({}).as_posix().endswith("/.cache/nnenv-bench")


def test_peers_are_installed_with_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would leave a peer without bytecode, or mix it with this checkout, does not reach its installation."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "here")
    assert {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"} & set(installer_environment()) == set()
