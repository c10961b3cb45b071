"""One run of the bench, as suites see it: what they may use, and where they report."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import ROOT, Peers
from bench.timing import Contestant, Series, race


@dataclass(kw_only=True)
class Run:
    """What a suite is given."""

    rounds: int | None
    """Rounds that the user asked for; None leaves the choice to the suite."""
    quick: bool
    """A run to see that all works: fewest rounds, small work, no slow peers."""
    cache: Path
    """Kept between runs: peers, recordings."""
    scratch: Path
    """Empty at the start, removed at the end."""
    peers: Peers
    failures: list[str] = field(default_factory=list)
    """Contestants that did not run or gave a wrong result; the bench exits 1 if there are any."""
    versions: dict[str, str] = field(default_factory=dict)
    """Contestant -> version, of those that were used."""

    @property
    def root(self) -> Path:
        """The repository."""
        return ROOT

    def say(self, text: str) -> None:
        """Tell whoever watches, on stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def fail(self, text: str) -> None:
        """Note a contestant that did not run or gave a wrong result."""
        self.failures.append(text)
        self.say(f"FAILED {text}")

    def rounds_or(self, usual: int, quick: int = 1) -> int:
        """How many rounds: what the user asked for, else `quick` or `usual`."""
        return self.rounds or (quick if self.quick else usual)

    def race(
        self, contestants: Sequence[Contestant], *, scenarios: Sequence[str] = ("",), rounds: int
    ) -> dict[str, list[Series]]:
        """`timing.race`, reporting here."""
        return race(contestants, scenarios=scenarios, rounds=rounds, failed=self.fail, say=self.say)

    def peer(self, name: str, *requirements: str) -> Path:
        """The folder of a peer's environment, its version noted; Unavailable if it cannot be installed."""
        peer = self.peers.get(name, *requirements)
        self.versions[name] = peer.version
        return peer.folder

    def nnenv(self) -> Path:
        """The folder of nnenv's environment, its version noted; Unavailable if it cannot be made."""
        peer = self.peers.nnenv()
        self.versions["nnenv"] = peer.version
        return peer.folder

    def folder(self, name: str = "work") -> Path:
        """A new empty folder in the scratch space."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))

    def environment(self, **variables: str) -> dict[str, str]:
        """What a contestant sees: a home of its own, nothing that configures pip, uv or nnenv, bytecode as usual."""
        home = self.scratch / "home"
        home.mkdir(exist_ok=True)
        bare = {"HOME": str(home), "PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        return {**bare, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
