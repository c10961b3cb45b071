"""What verification asks of the outside: run one command in an image, isolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a run may use at most."""

    memory_bytes: int = 4 << 30
    processes: int = 256
    seconds: float = 600.0
    output_bytes: int = 512 << 20
    """Bytes of standard output kept before the run is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One command inside an image: network off, read-only root, non-root, no capabilities; /tmp is a fresh tmpfs."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    gpu: bool = False
    """Whether the command gets the host's GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """How a run ended."""

    exit_code: int
    """Negative: minus the signal number; 137 or -9 also when a limit was hit."""
    stdout: bytes
    stderr: bytes
    seconds: float
    limit_hit: str = ""
    """`time`, `memory` or `output` when that limit ended the run, else empty."""


class Runner(Protocol):
    """An isolated place to run a command in one given image."""

    name: str
    """`docker` or `sandbox`, for reports."""
    emulated: bool
    """True when another CPU architecture is emulated."""

    def why_no_gpu(self) -> str:
        """Why no command can get a GPU here, in one clause; empty if one can."""
        ...

    def run(self, request: Run) -> Completed:
        """Run to the end; raises NnenvError only when the command could not be started."""
        ...
