"""Run a Python program and say where its CPU time went: `python bench/sampled.py REPORT SCRIPT|-m MODULE ARGUMENT...`.

A thread looks at all the others every few milliseconds, and books the CPU time that each has used since on what it is
in: importing, else the innermost module of nnenv on its stack. Writes one JSON object: seconds by module and by
function, seconds that the main thread waited, and seconds in all. What the C parts of a library do within one call of
nnenv's is booked on the module that called.
"""

from __future__ import annotations

import json
import runpy
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL = 0.004
"""Seconds between looks."""


class Sampler(threading.Thread):
    """Books CPU time until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.modules: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.waited = 0.0
        self.stop = threading.Event()
        self.main = threading.main_thread().native_id
        self.used: dict[int, float] = {}

    def run(self) -> None:
        """Look, book, sleep."""
        last = time.perf_counter()
        while not self.stop.wait(INTERVAL):
            now = time.perf_counter()
            frames = sys._current_frames()
            for thread in threading.enumerate():
                if thread is not self and thread.ident in frames and thread.native_id is not None:
                    self._book(thread.native_id, frames[thread.ident], now - last)
            last = now

    def _book(self, thread: int, frame: FrameType, passed: float) -> None:
        try:
            # Documentation/scheduler/sched-stats.rst: the first number is nanoseconds on a CPU.
            total = int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[0]) / 1e9
        except OSError:
            return
        spent = total - self.used.get(thread, 0.0)
        self.used[thread] = total
        module, function = place(frame)
        self.modules[module] += spent  # type: ignore[assignment]
        self.functions[f"{module}: {function}"] += spent  # type: ignore[assignment]
        if thread == self.main:
            self.waited += max(0.0, passed - spent)


def place(frame: FrameType | None) -> tuple[str, str]:
    """(module, function) of the innermost frame of nnenv, `(imports)` while one imports, else `(other)`."""
    found = ("(other)", "")
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == "importlib._bootstrap":
            return "(imports)", ""
        if found[0] == "(other)" and name.startswith("nnenv."):
            found = (name.removeprefix("nnenv."), frame.f_code.co_qualname)
        frame = frame.f_back
    return found


def main() -> int:
    """The program's exit code."""
    report = Path(sys.argv[1])
    as_module = sys.argv[2] == "-m"
    program = sys.argv[3] if as_module else sys.argv[2]
    sys.argv = sys.argv[3 if as_module else 2 :]
    sampler = Sampler()
    begun = time.perf_counter()
    sampler.start()
    code = 0
    try:
        if as_module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    sampler.stop.set()
    sampler.join()
    facts = {
        "wall": time.perf_counter() - begun,
        "waited": sampler.waited,
        "modules": dict(sampler.modules.most_common()),
        "functions": dict(sampler.functions.most_common(40)),
    }
    report.write_text(json.dumps(facts))
    return code


if __name__ == "__main__":
    sys.exit(main())
