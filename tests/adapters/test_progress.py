"""Bars on a terminal: bytes and time left while a step lasts, and a clean screen after it, whatever happens."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from nnenv.adapters.progress import BarProgress


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def seen(stream: io.StringIO, text: str) -> bool:
    """Whether the text was drawn within a few seconds, escapes aside."""
    return _soon(lambda: text in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()))


def _soon(question: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if question():
            return True
        time.sleep(0.01)
    return False


def screen(written: str) -> list[str]:
    """What a terminal of one tall page shows after `written`: only the escapes that rich uses are known."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[([0-9;?]*)([a-zA-Z])|([^\x1b])", written):
        number, command, letter = part
        if command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif letter == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif letter == "\r":
            column = 0
        elif letter:
            lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_bytes_and_time_left() -> None:
    """Title, as it is, bytes of how many, and a time; after the end of all steps the screen is empty."""
    stream = Terminal()
    progress = BarProgress(stream, patience=0.01)
    one, other = progress.start("fetch [a].whl", 4 << 20), progress.start("verify cpu")
    one.advance(1 << 20)
    assert seen(stream, "fetch [a].whl")
    assert seen(stream, "1.0/4.0 MiB")
    assert seen(stream, "verify cpu")
    one.advance(1 << 20)
    one.finish()
    other.advance(5)
    other.finish()
    assert screen(stream.getvalue()) == []
    assert stream.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in stream.getvalue()
    one.finish()


def test_a_step_without_bytes_shows_how_long_it_takes() -> None:
    """Its bar appears though it never advances, with the time it has taken and no bytes."""
    stream = Terminal()
    progress = BarProgress(stream, patience=0.01)
    progress.start("verify cpu")
    assert seen(stream, "0:00:0")
    assert "bytes" not in stream.getvalue()
    progress.close()
    assert screen(stream.getvalue()) == []


def test_closing_removes_what_an_error_left() -> None:
    """Steps that nobody finished, shown or not yet; nothing is drawn any more."""
    stream = Terminal()
    progress = BarProgress(stream, patience=0.01)
    shown = progress.start("shown", 10)
    assert seen(stream, "shown")
    late = BarProgress(stream, patience=0.2)
    late.start("late", 10)
    progress.close()
    late.close()
    written = stream.getvalue()
    shown.advance(5)
    time.sleep(0.3)
    assert stream.getvalue() == written
    assert screen(written) == []


def test_many_threads_share_the_display() -> None:
    """No step is lost, and the last one ends the display."""
    stream = Terminal()
    progress = BarProgress(stream, patience=0.0)

    def work(number: int) -> None:
        for _ in range(20):
            task = progress.start(f"step {number}", 100)
            task.advance(100)
            task.finish()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.close()
    assert screen(stream.getvalue()) == []


INTERRUPTED = """
import sys, time
from nnenv.adapters.progress import BarProgress
progress = BarProgress(sys.stderr, patience=0.01)
try:
    task = progress.start("a long step", 1 << 20)
    task.advance(1 << 10)
    time.sleep(60)
except KeyboardInterrupt:
    pass
finally:
    progress.close()
print("error: interrupted", file=sys.stderr)
"""


def test_an_interrupt_leaves_a_clean_terminal() -> None:
    """Ctrl-C while a bar is drawn: the bar is gone, the cursor is back, and the message stands alone."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
    )
    os.close(theirs)
    shown = b""
    while b"a long step" not in shown:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # EIO: the other end is closed (pty(7))
        pass
    os.close(ours)
    process.wait()
    assert screen(shown.decode()) == ["error: interrupted"]
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") >= 0
