"""Bytecode in the background, with this machine's interpreter in place of a locked one in a sandbox."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.image.tree import Entry
from nnenv.verify.protocols import Completed, Run
from nnenv.workflows.compiling import Compiler

PYTHON = ".".join(map(str, sys.version_info[:3]))


@dataclass
class Here:
    """A runner without walls: the program runs under this test's interpreter."""

    mode: str = "namespaces"
    opened: int = 0
    running: int = 0
    most: int = 0
    hold: threading.Event | None = None
    broken: str = "nothing"
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self) -> Iterator[Here]:
        """What a Compiler opens."""
        self.opened += 1
        yield self

    def stream(
        self, request: Run, feed: Iterator[bytes], take: Callable[[bytes], object], watch: Callable[[], object]
    ) -> Completed:
        """As the sandbox's; with `hold` it waits, and with `broken` it fails for sources that hold that word."""
        with self._mutex:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            while self.hold is not None and not self.hold.wait(0.01):
                watch()
            asked = b"".join(feed)
            time.sleep(0.05)  # long enough for others to be seen beside it
            code = 3 if self.broken.encode() in asked else 0
            done = subprocess.run(
                [sys.executable, *request.argv[1:]],
                input=asked,
                env=dict(request.environment),
                capture_output=True,
                check=True,
            )
            take(done.stdout)
            return Completed(exit_code=code, stdout=b"", stderr=b"it broke\n", seconds=0.0)
        finally:
            with self._mutex:
                self.running -= 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(tmp_path / "store")


def compiler(store: Store, here: Here) -> Compiler:
    """A compiler that runs things here."""
    return Compiler(store, PYTHON, here.open)  # type: ignore[arg-type]


def group(name: str, count: int = 3) -> tuple[Entry, ...]:
    """Some sources."""
    return tuple(
        Entry(path=f"site/{name}/m{number}.py", kind="file", mode=0o644, content=f"{name} = {number}\n".encode())
        for number in range(count)
    )


def contents(store: Store, entries: tuple[Entry, ...]) -> dict[str, bytes]:
    """The compiled files."""
    found = {}
    for entry in entries:
        with store.open(entry.content.sha256) as stream:  # type: ignore[union-attr]
            stream.seek(entry.content.offset)  # type: ignore[union-attr]
            found[entry.path] = stream.read(entry.content.length)  # type: ignore[union-attr]
    return found


def test_groups_are_the_same_alone_and_beside_each_other(tmp_path: Path) -> None:
    """Six groups at once and six one after the other give the same files, named as the interpreter looks for them."""
    names = [f"group{number}" for number in range(6)]
    here, alone = Here(), Here(mode="restricted")
    stores = Store(tmp_path / "one"), Store(tmp_path / "other")
    found = []
    for store, runner in zip(stores, (here, alone), strict=True):
        with compiler(store, runner) as compiling:
            for name in names:
                compiling.submit(name, group(name))
            found.append({name: contents(store, compiling.entries(name)) for name in names})
    assert found[0] == found[1]
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
    assert set(found[0]["group0"]) == {f"site/group0/__pycache__/m{number}.{tag}.pyc" for number in range(3)}
    assert here.most > 1
    assert alone.most == 1, "in this mode runs share /tmp"


def test_a_group_is_compiled_once(store: Store) -> None:
    """Twice submitted, or remembered by the store, it is not compiled again; nothing to compile opens no sandbox."""
    here = Here()
    with compiler(store, here) as compiling:
        compiling.submit("a", group("a"))
        compiling.submit("a", group("a"))
        compiling.submit("empty", ())
        first = compiling.entries("a")
        assert compiling.entries("empty") == ()
    again = Here()
    with compiler(store, again) as compiling:
        compiling.submit("a", group("a"))
        compiling.submit("empty", ())
        assert compiling.entries("a") == first
    assert (here.opened, again.opened) == (1, 0)


def test_a_failure_is_told_to_whoever_waits_for_the_group(store: Store) -> None:
    """The other groups are made all the same."""
    here = Here(broken="bad")
    with compiler(store, here) as compiling:
        for name in ("bad", "good"):
            compiling.submit(name, group(name))
        assert len(compiling.entries("good")) == 3
        with pytest.raises(NnenvError, match="could not compile") as caught:
            compiling.entries("bad")
        assert caught.value.because == ("it broke",)
        assert not compiling.is_done("bad")


def test_leaving_ends_what_runs(store: Store) -> None:
    """An interrupted build waits for nothing: what runs is stopped, what waits never begins, no thread stays."""
    here = Here(hold=threading.Event())
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), compiler(store, here) as compiling:
        for number in range(20):
            compiling.submit(f"{number}", group("a"))
        while not here.running:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert set(threading.enumerate()) == before
    assert here.running == 0
    assert not any(compiling.is_done(f"{number}") for number in range(20))
