"""The facts that nnenv ships: `python -m bench.ship_facts REQUIREMENT...` reads wheels, and adds them to the file.

    python -m bench.ship_facts --store DIR 'onnxruntime-gpu==1.26.0' 'nvidia-cudnn-cu12>=9.1'

Each wheel of these versions for Linux (x86_64 and aarch64; CPython 3.11 and 3.13, or any Python) comes from the
configured index, is read once, and leaves the store again: a wheel of CUDA may have 700 MB. `nnenv/data/facts.gz` is
written anew after each wheel, so that a run can be stopped and repeated; wheels that it knows already are not fetched.
The same wheels give the same bytes, in whatever order they were read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.docs import write_bytes
from bench.peers import ROOT
from nnenv.adapters.fetch import Download, fetch_all
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.python_index import PythonIndexes
from nnenv.adapters.store import Store, remove
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import normal_name
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.workflows.facts import packed, read_wheel_facts, shipped_file, shipped_rows
from nnenv.workflows.session import Session

PLACE: Final = ROOT / "nnenv" / "data" / "facts.gz"
INTERPRETERS: Final = ("cp311", "cp313")
MACHINES: Final = ("x86_64", "aarch64")

Rows = dict[tuple[str, Sha256], bytes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Add the wheels' facts to the file; 1 if a wheel could not be fetched or read."""
    options = _parser().parse_args(arguments)
    store = Store(Path(options.store))
    session = Session(
        project=Path(options.store),
        store=store,
        progress=SilentProgress(),
        environment=os.environ,
        home=Path.home(),
    )
    rows: Rows = shipped_rows(PLACE.read_bytes()) if PLACE.exists() else {}
    failed = 0
    with session.python_indexes(None) as indexes:
        for record in wanted(options.requirements, indexes, options.machine or MACHINES):
            if any(name == record.filename for name, _ in rows):
                continue
            started = time.perf_counter()
            try:
                rows |= facts_of(indexes.identify(record), session, indexes)
            except NnenvError as error:
                failed += 1
                print(f"{record.filename}: {error.what} {error.because}", file=sys.stderr, flush=True)
                continue
            write_bytes(PLACE, shipped_file(rows))
            seconds = time.perf_counter() - started
            print(f"{record.filename}: {seconds:.0f} s, all {PLACE.stat().st_size} bytes", flush=True)
    return 1 if failed else 0


def wanted(requirements: Iterable[str], indexes: PythonIndexes, machines: Sequence[str]) -> Iterator[WheelRecord]:
    """The wheels that the requirements allow, newest version first, pre-releases and yanked ones left out.

    `NAME==newest` is the newest release.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    for text in requirements:
        name, _, newest = text.partition("==newest")
        requirement = Requirement(name if text.endswith("==newest") else text)
        project = indexes.project(normal_name(requirement.name))
        versions = [
            version
            for version in project.versions
            if not Version(version).is_prerelease and requirement.specifier.contains(version)
        ]
        for version in versions[:1] if text != name and not newest else versions:
            for record in project.wheels_of(version):
                if fits(record.filename, machines) and not record.yanked:
                    yield record


def fits(filename: str, machines: Sequence[str]) -> bool:
    """Whether the wheel is for glibc, one of the machines and one of our interpreters, or any Python 3."""
    *_, interpreter, abi, platform = filename.removesuffix(".whl").split("-")
    if "manylinux" not in platform and not platform.startswith("linux_"):
        return False
    if not platform.endswith(tuple(machines)):
        return False
    return "py3" in interpreter.split(".") or abi == "abi3" or (interpreter in INTERPRETERS and abi == interpreter)


def facts_of(record: WheelRecord, session: Session, indexes: PythonIndexes) -> Mapping[tuple[str, Sha256], bytes]:
    """One row; the wheel is in the store only meanwhile."""
    wheel = Artifact(
        kind=Kind.WHEEL,
        name=record.project,
        version=record.version,
        filename=record.filename,
        sha256=Sha256(record.sha256),
        size=record.size or 0,
        origin=record.origin,
    )
    download = Download(
        sha256=wheel.sha256, size=record.size, filename=wheel.filename, urls=lambda: indexes.locate(wheel)
    )
    fetch_all([download], session.store, session.http)
    try:
        return {(wheel.filename, wheel.sha256): packed(read_wheel_facts(session.store, wheel))}
    finally:
        remove(session.store.path(wheel.sha256))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ship_facts", description="Add to the facts nnenv ships.")
    parser.add_argument("requirements", nargs="+", metavar="REQUIREMENT")
    parser.add_argument("--store", required=True, metavar="DIR", help="where the wheels are while they are read")
    parser.add_argument("--machine", action="append", choices=MACHINES, help="only wheels for this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
