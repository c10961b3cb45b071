"""Memory does not grow with the model: `lock`, `build` and `verify` of a large one, as whole processes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.onnx_file import write_model
from tests.e2e.world import TOY, User

pytestmark = pytest.mark.network
"""The tiny world's .debs come from the configured archive."""

SMALL, LARGE = 1, 600
"""MB of model."""
LIMIT = 150
"""MB that nnenv and whatever it starts may have resident."""

MEASURED = """
import os, sys
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
with open(sys.argv[1], "a") as record:
    record.write(f"{usage.ru_maxrss}\\n")
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and notes the peak of it and of all that it waited for, in KiB."""


def peaks(tiny: User, folder: Path, megabytes: int) -> list[float]:
    """MB that lock, build, an unchanged build and verify had resident at most, for a model of that size."""
    user = tiny.elsewhere(folder / "project", store=folder / "store")
    shutil.copytree(tiny.store, user.store, symlinks=True)
    shutil.rmtree(user.project / "tests")
    (user.project / "model.toml").write_text(TOY.replace('[[models.toy.tests]]\ndata = "tests/toy"\n', ""))
    write_model(user.project / "model.onnx", megabytes, seed=1, sparse=True)
    record = folder / "peaks"
    before = [sys.executable, "-c", MEASURED, str(record)]
    for words in (["lock"], ["build"], ["build"]):
        user.must(*words, before=before, DOCKER_HOST="unix:///nonexistent")
    # The wheels are make-believe, so it fails after everything was extracted and looked at.
    user.refused("verify", "--runner", "sandbox", before=before)
    return [int(line) * 1024 / 1e6 for line in record.read_text().split()]


def test_memory_does_not_grow_with_the_model(tiny: User, tmp_path: Path) -> None:
    """A model 600 times as large costs no more memory, and the limit holds whatever its size."""
    small, large = (peaks(tiny, tmp_path / f"{size}", size) for size in (SMALL, LARGE))
    assert max(large) < LIMIT
    for one, other in zip(small, large, strict=True):
        assert other < 1.15 * one + 8
