"""How far a long step is: nothing, a line at its end, or a bar."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
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

    def close(self) -> None:
        """The command is over, well or not: nothing of its steps stays on the screen."""
        ...


class SilentProgress:
    """Says nothing."""

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """A step that nobody hears of."""
        return _SilentTask()

    def close(self) -> None:
        """Nothing is there to remove."""


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

    def close(self) -> None:
        """Lines stay where they are; a step that did not end has none."""


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
    """Bars with bytes, speed and time left, shown once a step takes over a second: for terminals.

    A step that says nothing of bytes shows how long it has taken.
    """

    def __init__(self, stream: TextIO, *, patience: float = _WORTH_SAYING) -> None:
        self._stream = stream
        self._patience = patience
        self._mutex = threading.RLock()
        self._bars: RichProgress | None = None
        self._tasks: list[_BarTask] = []

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """A step whose bar appears when it turns out to be long."""
        task = _BarTask(self, title, total_bytes)
        with self._mutex:
            self._tasks.append(task)
        timer = threading.Timer(self._patience, self._show, (task,))
        timer.daemon = True
        task.timer = timer
        timer.start()
        return task

    def close(self) -> None:
        """Remove all bars, whatever became of their steps."""
        with self._mutex:
            for task in list(self._tasks):
                self.end(task)

    def advance(self, task: _BarTask, n: int) -> None:
        """Move a step by `n` bytes."""
        with self._mutex:
            task.done += n
            if self._bars is not None and task.bar is not None:
                self._bars.advance(task.bar, n)

    def end(self, task: _BarTask) -> None:
        """Remove a step; the last bar ends the display, and the line it stood in is free again."""
        with self._mutex:
            if task not in self._tasks:
                return
            self._tasks.remove(task)
            if task.timer is not None:
                task.timer.cancel()
            if self._bars is None or task.bar is None:
                return
            self._bars.remove_task(task.bar)
            if not any(other.bar is not None for other in self._tasks):
                self._bars.stop()
                self._bars = None

    def _show(self, task: _BarTask) -> None:
        """Draw the bar of a step that has lasted; the first one starts the display."""
        with self._mutex:
            if task not in self._tasks:
                return
            if self._bars is None:
                self._bars = _bars(self._stream)
                self._bars.start()
            task.bar = self._bars.add_task(task.title, total=task.total, completed=task.done)


class _BarTask:
    def __init__(self, owner: BarProgress, title: str, total_bytes: int | None) -> None:
        self._owner = owner
        self.title = title
        self.total = total_bytes
        self.done = 0
        self.bar: TaskID | None = None
        self.timer: threading.Timer | None = None

    def advance(self, n: int) -> None:
        self._owner.advance(self, n)

    def finish(self) -> None:
        self._owner.end(self)


def _bars(stream: TextIO) -> RichProgress:
    """A display of bars that fits into 80 columns; columns of bytes stay empty for a step that counts none."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Task as RichTask
    from rich.text import Text

    class OfBytes(ProgressColumn):
        """Another column, for steps whose bytes are known."""

        def __init__(self, column: ProgressColumn, other: ProgressColumn | None = None) -> None:
            super().__init__()
            self.column = column
            self.other = other

        def render(self, task: RichTask) -> RenderableType:
            if task.total is not None:
                return self.column.render(task)
            return Text("") if self.other is None else self.other.render(task)

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        OfBytes(DownloadColumn(binary_units=True)),
        OfBytes(TransferSpeedColumn()),
        OfBytes(TimeRemainingColumn(), TimeElapsedColumn()),
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
