"""The examples of `--help` of lock, fetch, build, verify and test record, run line by line on a real model.

Those of the other commands are run beside their own tests.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped, without_figures
from tests.e2e.world import TOY, User, linked_copy

pytestmark = [pytest.mark.network, pytest.mark.slow]
"""The images hold the real numpy and onnxruntime, from the configured index."""


@pytest.fixture
def user(toy: User, tmp_path: Path) -> User:
    """The toy under the name that the examples use, in a store of its own."""
    copied = toy.elsewhere(tmp_path / "project", store=linked_copy(toy.store, tmp_path / "store"))
    (copied.project / "model.toml").write_text(TOY.replace("models.toy", "models.digits"))
    return copied


def test_every_example_runs(user: User) -> None:
    """In the order in which a project is made; what a line prints is in the snapshots."""
    for command in ("lock", "fetch", "build", "verify", "test record"):
        text = user.must(*command.split(), "--help").out.partition("example:")[2]
        lines = re.findall(r"^  nnenv (.*)$", text, re.MULTILINE)
        assert lines, command
        for line in lines:
            if "--apply-fix" in line:  # there is nothing to repair; tests/e2e/test_gpu_lock.py has what there is
                assert user.run(*shlex.split(line, comments=True)).code == 2
                continue
            user.must(*shlex.split(line, comments=True))
    assert "needs no GPU" in user.must("doctor", "--offline", "--target", "cpu").out
    assert (user.project / "cpu.tar").is_file()
    assert 'data = "tests/digits"' in (user.project / "model.toml").read_text()


def test_recorded_cases(user: User) -> None:
    """What `nnenv test record` prints, piped and on a terminal."""
    user.must("lock")
    line = ("test", "record", "digits", "--target", "cpu", "--count", "2")
    outputs = [piped(user, *line, "--runner", "sandbox")]
    user.must("lock")
    outputs.append(on_a_terminal(user, *line, "--cross-check", "--runner", "sandbox", "--into", "tests/more"))
    text = re.sub(r"onnx [0-9.]+ (.*) agrees to \S+", r"onnx <version> \1 agrees to <number>", "\n".join(outputs))
    compare("test-record", without_figures(text))
