"""Whole outputs of `nnenv store`, piped and on a terminal, compared with files in `snapshots/`, and its examples, run.

`NNENV_UPDATE_SNAPSHOTS=1` writes the files anew.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from nnenv.adapters.store import Store
from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped
from tests.e2e.world import User, World, flip_bit, toy_project

INNER = ("size", "verify", "gc")


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody whose toy model is locked, with one file in the store that no project needs."""
    offer_tiny_wheels(world)
    user = world.user(toy_project(tmp_path / "project"), tmp_path / "store")
    user.must("lock")
    store = Store(user.store)
    store.put(b"of no project")
    store.close()
    return user


def settled(text: str) -> str:
    """No sizes, which are this file system's and compiler's, and no counts of what is remembered."""
    text = re.sub(r"\b\d+(?:\.\d+)? (?:B|kB|MB|GB)\b", "<size>", text)
    text = re.sub(r"(remembered results|in all) +\d+", r"\1  <number>", text)
    text = re.sub(r"\b\d+( entries, <size>)", r"<number>\1", text)
    text = re.sub(r'("(?:\w*bytes|\w*entries)"): \d+', r"\1: <number>", text)
    text = re.sub(r"sha256:[0-9a-f]{12}", "sha256:<digest>", text)
    text = re.sub(r'"[0-9a-f]{64}"', '"<digest>"', text)
    return re.sub(r"(?<=\S) {2,}", "  ", text)


def model_in_store(user: User) -> Path:
    """The model's entry in the store."""
    digest = user.lock().models[0].file
    return user.store / "objects" / "sha256" / digest[:2] / digest


def test_size(user: User) -> None:
    """By kind, piped, in colours on a terminal, as JSON."""
    outputs = [piped(user, "store", "size"), on_a_terminal(user, "store", "size")]
    outputs.append(piped(user, "store", "size", "--json"))
    compare("store-size", settled("\n".join(outputs)))


def test_verify(user: User) -> None:
    """Whole; damaged; damaged and repaired; as JSON."""
    outputs = [piped(user, "store", "verify"), on_a_terminal(user, "store", "verify")]
    flip_bit(model_in_store(user))
    outputs += [piped(user, "store", "verify"), piped(user, "store", "verify", "--repair")]
    flip_bit(model_in_store(user))
    outputs.append(piped(user, "store", "verify", "--repair", "--json"))
    outputs.append(on_a_terminal(user, "store", "verify", "--color", "always"))
    compare("store-verify", settled("\n".join(outputs)))


def test_gc(user: User) -> None:
    """Too young; tried; done; nothing left; another limit; as JSON; of a project that is gone."""
    outputs = [
        piped(user, "store", "gc"),
        piped(user, "store", "gc", "--older-than", "0s", "--dry-run"),
        piped(user, "store", "gc", "--older-than", "0s", "--dry-run", "--json"),
        piped(user, "store", "gc", "--older-than", "0s", "--max-size", "1TB"),
        piped(user, "store", "gc", "--older-than", "0s", "--max-size", "1B"),
        on_a_terminal(user, "store", "gc", "--older-than", "0s"),
    ]
    user.lock_path.unlink()
    outputs += [
        piped(user, "store", "gc", "--older-than", "0s"),
        on_a_terminal(user, "store", "gc", "--all"),
        piped(user, "store", "size"),
    ]
    compare("store-gc", settled("\n".join(outputs)))


def test_refusals(user: User) -> None:
    """A time and a size that are none, a lock that cannot be read, no inner command."""
    user.lock_path.unlink()
    user.lock_path.mkdir()
    outputs = [
        piped(user, "store"),
        piped(user, "store", "gc", "--older-than", "soon"),
        piped(user, "store", "gc", "--max-size", "20"),
        piped(user, "store", "gc"),
    ]
    compare("store-refusals", "\n".join(outputs))


@pytest.mark.parametrize("inner", ["", *INNER])
def test_every_example_runs(user: User, inner: str) -> None:
    """Each line under `example:` does what it says, in a store in which there is something to do."""
    text = user.must("store", *inner.split(), "--help").out
    lines = re.findall(r"^  nnenv (.*)$", text.partition("example:")[2], re.MULTILINE)
    assert lines
    for line in lines:
        user.must(*shlex.split(line.partition("#")[0]))


def test_the_last_example_empties_the_store(user: User) -> None:
    """`--all` leaves nothing but what makes it a store, and locking again fills it."""
    assert user.must("store", "gc", "--all", "--json").json()["kept_entries"] == 0
    user.must("lock", "-U")
    assert user.must("store", "size", "--json").json()["entries"] > 0


def test_a_no_op_lock_leaves_no_trace(user: User) -> None:
    """It uses no entry, so it writes no lease; the project is remembered once and for all."""

    def told() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for folder in ("roots", "leases") for path in place(folder)}

    def place(folder: str) -> list[Path]:
        return [user.store / folder, *(user.store / folder).iterdir()]

    before = told()
    user.must("lock")
    user.must("lock", "--check")
    assert told() == before
    assert len(place("roots")) == 2
    assert len(place("leases")) == 1
    assert time.time_ns() > max(before.values())
    assert {path.name for path in (user.store / "tmp").iterdir()} <= {"partial"}
