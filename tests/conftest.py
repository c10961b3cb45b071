"""What the machine must offer for some tests: told once, and never passed over in silence.

A test marked `docker`, `network`, `mounting` or `registry` is deselected where the machine lacks that, and the summary
says so.
With CI=true nothing is deselected: such a test fails, because a machine that has to prove everything must be able to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import urllib.request
from functools import cache
from pathlib import Path

import pytest

from nnenv.adapters.docker_engine import connect
from nnenv.adapters.pip_config import index_configuration
from nnenv.errors import NnenvError

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

TOOLS = (
    *("dpkg", "fish", "gpgv", "qemu-aarch64-static", "readelf"),
    *("shellcheck", "skopeo", "strace", "umoci", "zsh"),
)
"""Programs that some tests compare nnenv with; `.ci/run` installs all of them."""

LEFT_OUT = pytest.StashKey[dict[str, str]]()
"""What was left out in this run -> why."""


@cache
def lacking(marker: str) -> str:
    """Why tests with this marker cannot run here; "" if they can, or if the marker asks for nothing."""
    match marker:
        case "docker":
            return _lacking_engine()
        case "network":
            return _lacking_index()
        case "mounting":
            return _lacking_mounts()
        case "browser":
            return "" if shutil.which("chromium") else "there is no chromium"
        case "registry":
            return "" if shutil.which("docker-registry") else "docker-registry is not installed"
        case _:
            return ""


def _lacking_engine() -> str:
    try:
        connect()
    except NnenvError as error:
        return error.what
    return ""


def _lacking_index() -> str:
    configuration = index_configuration(os.environ, home=Path("~").expanduser())
    for index in configuration.indexes:
        try:
            with urllib.request.urlopen(f"{index}/numpy/", timeout=20):
                return ""
        except (OSError, ValueError):
            continue
    return "no configured Python index answers"


def _lacking_mounts() -> str:
    trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if os.geteuid() == 0 and trial.returncode == 0 else "this user may not mount"


def reasons(item: pytest.Item) -> dict[str, str]:
    """Marker -> why this test cannot run here."""
    names = {marker.name for marker in item.iter_markers()}
    return {name: why for name in sorted(names) if (why := lacking(name))}


def pytest_configure(config: pytest.Config) -> None:
    """The markers that only these tests have, and Ctrl-C as a terminal gives it.

    A shell starts background jobs with SIGINT ignored, and Python then raises no KeyboardInterrupt.
    """
    config.addinivalue_line("markers", "mounting: needs a root that may mount a small disk")
    config.addinivalue_line("markers", "registry: needs Debian's docker-registry")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run here, and remember the reason; in CI it stays, and fails."""
    left_out = config.stash.setdefault(LEFT_OUT, {})
    if IN_CI:
        return
    kept = [item for item in items if not reasons(item)]
    gone = [item for item in items if reasons(item)]
    for item in gone:
        left_out.update(reasons(item))
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reached only in CI by a test that cannot run here."""
    for name, why in reasons(item).items():
        pytest.fail(f"CI=true and the test needs {name}: {why}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each thing that this run did not show."""
    for name, why in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_line(f"left out: {name} ({why})")
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        terminalreporter.write_line(f"left out: comparisons with {', '.join(absent)} (not installed)")
