"""How far a long step is: nothing, a line at its end, or a bar."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_WORTH_SAYING: Final = 1.0
"""Seconds; a shorter step is not mentioned."""


class Task(Protocol):
    """One step under way; its methods may be called from any thread."""

    def advance(self, n: int) -> None:
        """`n` more bytes are done; a negative `n` takes back what has to be done again."""
        ...

    def finish(self) -> None:
        """The step is over, well or not."""
        ...


class Progress(Protocol):
    """Who is told about long steps."""

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """Begin a step; `total_bytes` None where nobody knows."""
        ...


class SilentProgress:
    """Says nothing."""

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """A step that nobody hears of."""
        return _SilentTask()


class _SilentTask:
    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass


class PlainProgress:
    """One line for each finished step that took over a second: for pipes and logs."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """A step that writes its line at its end."""
        return _PlainTask(self._stream, title, self._clock)


class _PlainTask:
    def __init__(self, stream: TextIO, title: str, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._title = title
        self._clock = clock
        self._begun = clock()
        self._done = 0
        self._mutex = threading.Lock()

    def advance(self, n: int) -> None:
        with self._mutex:
            self._done += n

    def finish(self) -> None:
        seconds = self._clock() - self._begun
        if seconds < _WORTH_SAYING:
            return
        # One write, so that the lines of several threads do not mix.
        amount = f"{readable_bytes(self._done)} in " if self._done else ""
        self._stream.write(f"{self._title}: {amount}{seconds:.1f} s\n")
        self._stream.flush()


class BarProgress:
    """Bars with bytes, speed and time left, shown once a step takes over a second: for terminals."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._mutex = threading.Lock()
        self._bars: RichProgress | None = None
        self._shown = 0

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """A step whose bar appears when it turns out to be long."""
        return _BarTask(self, title, total_bytes, self._clock)

    def show(self, title: str, total_bytes: int | None, done: int) -> TaskID:
        """Draw a new bar; the first one starts the display."""
        with self._mutex:
            if self._bars is None:
                self._bars = _bars(self._stream)
                self._bars.start()
            self._shown += 1
            return self._bars.add_task(title, total=total_bytes, completed=done)

    def move(self, bar: TaskID, n: int) -> None:
        """Move a bar by `n` bytes."""
        with self._mutex:
            if self._bars is not None:
                self._bars.advance(bar, n)

    def hide(self, bar: TaskID) -> None:
        """Remove a bar; the last one ends the display."""
        with self._mutex:
            if self._bars is None:
                return
            self._bars.remove_task(bar)
            self._shown -= 1
            if self._shown == 0:
                self._bars.stop()
                self._bars = None


class _BarTask:
    def __init__(self, owner: BarProgress, title: str, total_bytes: int | None, clock: Callable[[], float]) -> None:
        self._owner = owner
        self._title = title
        self._total = total_bytes
        self._clock = clock
        self._begun = clock()
        self._done = 0
        self._bar: TaskID | None = None
        self._mutex = threading.Lock()

    def advance(self, n: int) -> None:
        with self._mutex:
            self._done += n
            if self._bar is not None:
                self._owner.move(self._bar, n)
            elif self._clock() - self._begun >= _WORTH_SAYING:
                self._bar = self._owner.show(self._title, self._total, self._done)

    def finish(self) -> None:
        with self._mutex:
            if self._bar is not None:
                self._owner.hide(self._bar)
                self._bar = None


def _bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )


def make_progress(stream: TextIO, quiet: bool, isatty: bool) -> Progress:
    """Silence when `quiet`, bars on a terminal, else lines."""
    if quiet:
        return SilentProgress()
    return BarProgress(stream) if isatty else PlainProgress(stream)


def readable_bytes(count: int) -> str:
    """`count` with a binary unit: `512 B`, `1.5 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
