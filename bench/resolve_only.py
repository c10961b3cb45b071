"""The Python part of a lock alone: `resolve_wheels` over the configured index, as `nnenv lock` runs it.

Prints one line a target: its name, the number of packages, and a digest of the solution. Run it twice with one --store
to measure a warm lock. Nothing here is faster than in the product: session, indexes, caches and resolver are its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nnenv.adapters.http import Http
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.resolve.python import ChosenWheel, PythonPolicy, resolve_wheels
from nnenv.resolve.python_target import PythonTarget
from nnenv.workflows.session import Session

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}


def main(arguments: Sequence[str]) -> int:
    """0, or 1 after an error of ours on stderr."""
    options = _parser().parse_args(arguments)
    environment = {"NNENV_INDEX_URL": options.index, "PIP_CONFIG_FILE": "/dev/null"}
    session = Session(
        project=Path.cwd(),
        store=Store(options.store),
        http=Http(environ=os.environ),
        progress=SilentProgress(),
        environment=environment,
        home=Path.home(),
    )
    try:
        with closing(session.store), session.python_indexes(None) as indexes:
            for target in options.target:
                wheels = resolve_wheels(
                    options.packages,
                    indexes,
                    target,
                    PythonPolicy(exclude_newer=options.exclude_newer),
                    pins={},
                )
                sys.stdout.write(f"{target.name} {len(wheels)} packages sha256:{solution_digest(wheels)}\n")
    except NnenvError as error:
        sys.stderr.write(f"{error}\n" + "".join(f"  {line}\n" for line in error.because))
        return 1
    return 0


def solution_digest(wheels: Iterable[ChosenWheel]) -> str:
    """A sha256 over everything that a lock keeps of the wheels."""
    digest = hashlib.sha256()
    for wheel in wheels:
        record = wheel.record
        facts = (record.project, wheel.version, record.filename, record.sha256, record.size, record.upload_time)
        digest.update(repr((*facts, wheel.requires, wheel.requires_python, wheel.parents)).encode())
    return digest.hexdigest()


def target_of(text: str) -> PythonTarget:
    """The target that NAME=PLATFORM:PYTHON:GLIBC describes; ValueError if it is none."""
    name, _, rest = text.partition("=")
    platform, python, glibc = rest.split(":")
    return PythonTarget(name=name, python=python, machine=MACHINES[platform], glibc=glibc)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True, metavar="URL", help="the only index that is asked")
    parser.add_argument("--store", required=True, type=Path, metavar="DIR", help="new for a cold run, kept for warm")
    parser.add_argument("--target", required=True, type=target_of, action="append", metavar="N=PLATFORM:PYTHON:GLIBC")
    parser.add_argument("--exclude-newer", default="", metavar="TIME", help="RFC 3339 UTC, as in the manifest")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE", help="requirements (PEP 508)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
