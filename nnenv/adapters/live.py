"""Commands whose streams are the caller's: what is asked of a runner, and the copying between the two sides.

Every stream is copied by a thread of its own, so that a slow reader holds up nothing but its writer; the main thread
waits for the end and for signals. Nothing is kept but one chunk a stream.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from nnenv.errors import NnenvError

CHUNK: Final = 1 << 16

SCRATCH_BYTES: Final = 4 << 30
"""Size of /tmp when no limit of memory is asked for; it is memory only as far as it is filled."""

PROCESSES: Final = 4096
"""Most processes of one command: enough for people, too few for a fork bomb."""

FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that a command gets when nnenv gets them."""

_FATAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
_PATIENCE: Final = 3
"""The so-many-th of these signals kills: a program may ignore the others."""

_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A folder or file of the host that a command sees."""

    source: Path
    """Absolute."""
    destination: PurePosixPath
    """Absolute, in the image."""
    read_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """One command inside an image: read-only root, non-root, no capabilities; /tmp is a fresh tmpfs."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """The whole of it, but for HOME, which the runner takes from the image's accounts."""
    workdir: str = "/"
    uid: int = 65532
    gid: int = 65532
    network: bool = False
    volumes: Sequence[Volume] = field(default=())
    memory_bytes: int | None = None
    seconds: float | None = None
    terminal: bool = False
    """Whether the command gets a terminal of its own in place of three streams."""
    gpu: bool = False
    """Whether the command gets the host's GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """Descriptors of the caller; they stay open. With a terminal, only the first two are used."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code, or 128 and the number of the signal that ended it."""
    limit_hit: str = ""
    """`time` or `memory` when that limit ended it, else empty."""


def shell_code(code: int) -> int:
    """An exit code as shells give it: -N, death by signal N, is 128 + N."""
    return 128 - code if code < 0 else code


def scratch_bytes(run: LiveRun) -> int:
    """How large /tmp may become."""
    return SCRATCH_BYTES if run.memory_bytes is None else run.memory_bytes // 4


def standard_streams() -> Streams:
    """This process's own; a closed standard input reads as empty. The null device stays open then."""
    try:
        os.fstat(0)
        stdin = 0
    except OSError:
        stdin = os.open(os.devnull, os.O_RDONLY)
    return Streams(stdin=stdin, stdout=sys.stdout.fileno(), stderr=sys.stderr.fileno())


@contextmanager
def kept_streams(stdin: int, limit: int) -> Iterator[tuple[Streams, Callable[[], tuple[bytes, bytes]]]]:
    """Streams whose output goes to temporary files, and a function that gives the first `limit` bytes of each."""
    with ExitStack() as files:
        out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))

        def kept() -> tuple[bytes, bytes]:
            return os.pread(out.fileno(), limit, 0), os.pread(err.fileno(), limit, 0)

        yield Streams(stdin=stdin, stdout=out.fileno(), stderr=err.fileno()), kept


# Copying


def write_patiently(descriptor: int, data: bytes) -> None:
    """Write every byte, also where somebody else made the descriptor non-blocking; OSError of the descriptor."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def read_patiently(descriptor: int) -> bytes:
    """Some bytes, b"" at the end, also where somebody else made the descriptor non-blocking; OSError."""
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            select.select([descriptor], [], [])
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that hung up, or the other end of a pty that closed: pty(7)
                raise
            return b""


def _in_background(descriptor: int) -> bool:
    """Whether reading this terminal would stop the whole job, as it does in the background."""
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) not in (os.getpgrp(), 0)
    except OSError:
        return False


class Inflow:
    """Copies the caller's input to a command until either side ends; never waited for, since people may never type."""

    def __init__(self, source: int, give: Callable[[bytes], object], end: Callable[[], object]) -> None:
        """`give` takes each chunk and raises OSError when the command reads no more; `end` is called at the end."""
        self._source, self._give, self._end = source, give, end
        threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        with suppress(OSError, ValueError):
            while chunk := self._typed():
                self._give(chunk)
        with suppress(OSError, ValueError):
            self._end()

    def _typed(self) -> bytes:
        while _in_background(self._source):
            time.sleep(_POLL_SECONDS)
        return read_patiently(self._source)


class Outflow:
    """Copies what a command writes to the caller; `refused` is why the caller took no more."""

    def __init__(self, source: int, sink: int) -> None:
        """Owns `source`, and closes it at once when the sink takes no more: the command then gets SIGPIPE."""
        self.refused: OSError | None = None
        self._source, self._sink = source, sink
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        try:
            while chunk := read_patiently(self._source):
                try:
                    write_patiently(self._sink, chunk)
                except OSError as error:
                    self.refused = error
                    return
        finally:
            os.close(self._source)

    def wait(self) -> None:
        """Return when everything is copied."""
        self._thread.join()


def refuse_lost_output(refusals: Sequence[OSError | None]) -> None:
    """Raise NnenvError `disk-full` for output that could not be written; a reader that left is no error."""
    for error in refusals:
        if error is not None and not isinstance(error, BrokenPipeError):
            from nnenv.adapters.files import write_refused

            raise write_refused(error, Path("standard output")) from None


# Signals


@contextmanager
def caught_signals(*more: signal.Signals) -> Iterator[int]:
    """A descriptor that gives the number of each signal that arrives meanwhile, a byte each, in place of its effect.

    Signals that the caller ignores (nohup) stay ignored. Main thread only.
    """
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)
    wanted = [number for number in (*FORWARDED, *more) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in wanted}
    woken = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    for number in wanted:
        signal.signal(number, lambda *_: None)
    try:
        yield out
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(out)
        os.close(into)


def attend(
    done: int,
    arrived: int,
    forward: Callable[[int], object],
    *,
    seconds: float | None = None,
    exhausted: Callable[[], bool] | None = None,
) -> tuple[bytes, str]:
    """Wait for the end of `done`: what came by it, and which limit was hit before (`time`, `memory`) or "".

    `forward` gets the number of each signal from `arrived`; the third that asks to end becomes SIGKILL.
    `exhausted` is asked some twenty times a second, if given.
    """
    told = bytearray()
    asked_to_end = 0
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        pause = None if deadline is None else max(0.0, deadline - time.monotonic())
        if exhausted is not None:
            pause = min(0.05, pause if pause is not None else 0.05)
        ready, _, _ = select.select([done, arrived], [], [], pause)
        if arrived in ready:
            for number in os.read(arrived, CHUNK):
                asked_to_end += number in _FATAL
                forward(signal.SIGKILL if asked_to_end >= _PATIENCE else number)
        if done in ready:
            chunk = os.read(done, CHUNK)
            if not chunk:
                return bytes(told), ""
            told += chunk
        if exhausted is not None and exhausted():
            return bytes(told), "memory"
        if deadline is not None and time.monotonic() >= deadline:
            return bytes(told), "time"


# Terminals


def insist_on_terminal(streams: Streams) -> None:
    """Raise NnenvError `usage` unless input and output are a terminal."""
    if not (os.isatty(streams.stdin) and os.isatty(streams.stdout)):
        raise NnenvError(
            "usage",
            "a conversation needs a terminal on standard input and output",
            fix=["type it at a terminal", "for pipes and scripts: `nnenv run -- COMMAND`"],
            exit_code=2,
        )


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Hand every key to the command, Ctrl-C included; the old settings come back whatever happens."""
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


def window_size(descriptor: int) -> tuple[int, int]:
    """(rows, columns) of a terminal; (24, 80) where it does not say."""
    rows, columns = termios.tcgetwinsize(descriptor)
    return (rows, columns) if rows and columns else (24, 80)
