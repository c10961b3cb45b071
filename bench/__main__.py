"""`python -m bench [SUITE...]`: run suites, print their tables, keep them where asked.

The exit code is 0 whatever the times are, and 1 if a contestant failed to run or gave a wrong result.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import docs, machine
from bench.peers import Peers, cache_folder
from bench.plot import Plot
from bench.run import Run
from bench.tables import Table
from bench.timing import ContestantFailed, Unavailable

SUITES = {
    "limits": "bench.limits",
    "start": "bench.start",
    "lock": "bench.lock",
    "lock-scaling": "bench.lock_scaling",
    "profile-lock": "bench.profile_lock",
    "image": "bench.image",
    "load": "bench.load",
    "import": "bench.imports",
    "image-scaling": "bench.image_scaling",
    "memory": "bench.memory",
    "facts": "bench.facts",
    "gpu": "bench.gpu",
    "profile-build": "bench.profile_build",
}
"""Suite -> module whose function `suite` takes a Run and yields Tables and Plots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one suite found."""

    suite: str
    parts: tuple[Table | Plot, ...]
    versions: Mapping[str, str]
    """Of the contestants that it ran."""
    disturbance: str = ""
    """What else the machine did when it began."""

    def markdown(self) -> str:
        """For the documentation."""
        used = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        measured = f"Measured on: {machine.sentence()}." + (f" Versions: {used}." if used else "")
        return (
            "\n".join([*(part.markdown() for part in self.parts), measured, *filter(None, [self.disturbance])]) + "\n"
        )

    def as_json(self) -> dict[str, object]:
        """As plain values."""
        tables = [part.as_json() for part in self.parts if isinstance(part, Table)]
        return {"versions": dict(sorted(self.versions.items())), "tables": tables}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites; the exit code."""
    options = _parser().parse_args(arguments)
    cache = cache_folder(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nnenv-bench-", dir=options.scratch) as scratch:
        run = Run(
            rounds=options.rounds,
            quick=options.quick,
            cache=cache,
            scratch=Path(scratch),
            peers=Peers(cache=cache, fresh=options.fresh_peers, installed=options.installed),
        )
        print(machine.sentence() + "\n", flush=True)
        reports = [_report(name, run) for name in options.suites or SUITES]
    versions = {name: version for report in reports for name, version in report.versions.items()}
    if versions:
        print("versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    _keep(reports, run, options)
    for failure in run.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if run.failures else 0


def _report(name: str, run: Run) -> Report:
    """Run one suite and print its parts as they come."""
    print(f"suite {name}", file=sys.stderr, flush=True)
    disturbance = machine.disturbance()
    if disturbance:
        print(f"warning: {disturbance}", file=sys.stderr, flush=True)
    parts: list[Table | Plot] = []
    run.versions.clear()
    try:
        found: Iterable[Table | Plot] = importlib.import_module(SUITES[name]).suite(run)
        for part in found:
            parts.append(part)
            if isinstance(part, Table):
                print(part.text(), flush=True)
    except Unavailable as reason:
        print(f"{name}: not available: {reason}\n", flush=True)
    except ContestantFailed as reason:
        run.fail(f"{name}: {reason}")
    except Exception as bug:
        # The suites after it still have something to say.
        traceback.print_exc()
        run.fail(f"{name}: a bug of the bench: {type(bug).__name__}: {bug}")
    return Report(suite=name, parts=tuple(parts), versions=dict(run.versions), disturbance=disturbance)


def _keep(reports: Sequence[Report], run: Run, options: argparse.Namespace) -> None:
    if options.json:
        facts = {
            "version": 1,
            "machine": machine.machine(),
            "suites": {report.suite: report.as_json() for report in reports},
            "failures": run.failures,
        }
        docs.write(Path(options.json), json.dumps(facts, indent=1) + "\n")
    if options.out:
        folder = Path(options.out)
        for report in reports:
            docs.write(folder / f"{report.suite}.md", report.markdown())
            for part in report.parts:
                if isinstance(part, Plot):
                    docs.write(folder / "performance" / f"{part.slug}.svg", part.svg())
    if options.update_docs:
        kept = {report.suite: report.markdown() for report in reports if report.parts}
        plots = {part.slug: part.svg() for report in reports for part in report.parts if isinstance(part, Plot)}
        docs.update(run.root / "docs", kept, plots)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What nnenv costs beside its peers. Suites: " + ", ".join(SUITES) + ".",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", type=_suite, help="default: all of them")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contestant (default: the suite's)")
    parser.add_argument("--quick", action="store_true", help="one round, small work, no slow peers")
    parser.add_argument("--out", metavar="DIR", help="write each suite's tables as Markdown, and its plots, into DIR")
    parser.add_argument("--json", metavar="FILE", help="write all figures into FILE")
    parser.add_argument("--update-docs", action="store_true", help="put what was measured into docs/performance.md")
    parser.add_argument("--fresh-peers", action="store_true", help="install the peers anew")
    parser.add_argument(
        "--installed", action="store_true", help="measure the nnenv of this interpreter, without building a wheel"
    )
    parser.add_argument("--scratch", metavar="DIR", help="where to work (default: the system's temporary folder)")
    return parser


def _suite(text: str) -> str:
    if text not in SUITES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SUITES)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
