"""Suite `profile-build`: where the time of a cold build goes, by module of nnenv and by what the C library does."""

from __future__ import annotations

import marshal
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.container import NO_ENGINE, engine_environment
from bench.image_project import settle, workshop
from bench.run import Run
from bench.tables import Table, number
from bench.timing import must

Function = tuple[str, int, str]
"""File, line, name; a C function has the file `~`."""
Calls = tuple[int, int, float, float]
"""Calls without recursion, calls, own seconds, seconds with what was called."""
Statistics = Mapping[Function, tuple[int, int, float, float, Mapping[Function, Calls]]]
"""What cProfile dumps: the same four, and by caller."""
OUTSIDE: Final = "start-up and imports"
SHOWN: Final = 14
_PASSES: Final = 60
_PROFILED: Final = Path(__file__).with_name("profiled.py")


def suite(run: Run) -> Iterator[Table]:
    """A profile of one cold build without an engine, and of one where nothing changed."""
    shop = workshop(run, 20 if run.quick else 100)
    folder = run.folder("profile")
    project, store = folder / "project", shop.copy_store(folder / "store")
    shop.first.enter(project)
    python = run.nnenv() / "bin" / "python"
    try:
        for what in ("cold", "nothing changed"):
            dump = folder / "statistics"
            settle()
            must(
                [python, _PROFILED, dump, "build", "--quiet", "-C", project, "--store", store],
                cwd=project,
                environment=engine_environment(DOCKER_HOST=NO_ENGINE),
            )
            statistics: Statistics = marshal.loads(dump.read_bytes())
            yield shares(f"Profile of a build, {what}: seconds by module of nnenv", "module", by_module(statistics))
            yield shares(f"Profile of a build, {what}: seconds in C functions", "function", by_c_function(statistics))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shares(title: str, what: str, seconds: Mapping[str, float]) -> Table:
    """The largest first, the small ones together."""
    total = sum(seconds.values()) or 1.0
    order = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(value for _, value in order[SHOWN:])
    rows = [*order[:SHOWN], *([("all others", rest)] if rest else [])]
    return Table(
        title=title,
        columns=(what, "s", "share"),
        rows=tuple((name, number(value), f"{100 * value / total:.0f} %") for name, value in rows),
        notes=("Profiling slows Python code more than C code: read the shares as rough.",),
    )


def by_module(statistics: Statistics) -> dict[str, float]:
    """Module of nnenv -> seconds, with those of the library functions that it calls.

    A library function's own seconds go to its callers, in proportion to the time they spent in it, until they arrive at
    a module of nnenv or at nobody.
    """
    pending = {function: facts[2] for function, facts in statistics.items()}
    found: dict[str, float] = {}
    for _ in range(_PASSES):
        moved: dict[Function, float] = {}
        for function, seconds in pending.items():
            module = module_of(function)
            if module:
                found[module] = found.get(module, 0.0) + seconds
                continue
            callers = {caller: calls[3] for caller, calls in statistics[function][4].items() if caller != function}
            total = sum(callers.values())
            if total <= 0:
                found[OUTSIDE] = found.get(OUTSIDE, 0.0) + seconds
                continue
            for caller, share in callers.items():
                moved[caller] = moved.get(caller, 0.0) + seconds * share / total
        pending = {function: seconds for function, seconds in moved.items() if seconds > 1e-9}
    # What still goes round between library functions that call each other.
    found[OUTSIDE] = found.get(OUTSIDE, 0.0) + sum(pending.values())
    return found


def by_c_function(statistics: Statistics) -> dict[str, float]:
    """C function -> own seconds; Python code together."""
    found: dict[str, float] = {}
    for function, facts in statistics.items():
        name = c_function(function[2]) if function[0] == "~" else "Python code"
        found[name] = found.get(name, 0.0) + facts[2]
    return found


def c_function(name: str) -> str:
    """The name as people know it: `posix.write` for `<built-in method posix.write>`; no addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", name.strip("<>{}").removeprefix("built-in method "))


def module_of(function: Function) -> str:
    """`image.layers` for a function of nnenv, or "". The top of a module is importing, which is nobody's work."""
    found = re.search(r"/nnenv/((?:\w+/)*\w+)\.py$", function[0])
    return found[1].replace("/", ".") if found and function[2] != "<module>" else ""
