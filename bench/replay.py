"""The replaying index as a process beside the contestants."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.peers import ROOT
from bench.run import Run
from bench.timing import ContestantFailed, Sample, Unavailable

_TRIES = 5
"""Turns until one needs nothing that is not recorded yet: a turn asks for new pages only as far as it got."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A running replay index."""

    url: str
    """`http://127.0.0.1:PORT/simple`"""

    def fetched(self) -> int:
        """Questions that had to be passed on to the real index so far."""
        with urllib.request.urlopen(self.url.removesuffix("/simple") + "/fetched", timeout=30) as response:
            return int(response.read())

    def undisturbed(self, turn: Callable[[], Mapping[str, Sample]]) -> Mapping[str, Sample]:
        """The samples of a turn that was answered from recordings alone: others are only recorded, and repeated."""
        for _ in range(_TRIES):
            before = self.fetched()
            try:
                samples = turn()
            except ContestantFailed:
                # It may have run into the upstream's trouble.
                if self.fetched() == before:
                    raise
                continue
            if self.fetched() == before:
                return samples
        raise ContestantFailed("it asks the index for something else each time, or the index fails")


@contextmanager
def replay(run: Run, delay_ms: float = 0) -> Iterator[Replay]:
    """A replay index, for as long as the block lasts; Unavailable if there is nothing to replay and none to record."""
    folder = run.cache / "replay"
    command = [sys.executable, "-m", "bench.replay_index", "--folder", str(folder), "--delay-ms", str(delay_ms)]
    server = _started(command)
    if server is None:
        if not (folder / "pages").exists():
            raise Unavailable("no Python index answers, and nothing is recorded")
        server = _started([*command, "--offline"])
    if server is None:
        raise Unavailable("the replay index does not start")
    process, url = server
    try:
        yield Replay(url=url)
    finally:
        process.communicate()


def _started(command: list[str]) -> tuple[subprocess.Popen[str], str] | None:
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if url:
        return process, url
    process.communicate()
    return None
