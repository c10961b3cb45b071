"""What suite `facts` measures, one step a process, with the nnenv of the interpreter that runs it.

    python bench/facts_trial.py fetch STORE NAME VERSION    the wheel for Linux on x86_64, into the store
    python bench/facts_trial.py inflate STORE FILE DIGEST   its libraries inflated one after the other, and dropped
    python bench/facts_trial.py facts STORE FILE DIGEST     its facts from its bytes
    python bench/facts_trial.py known STORE FILE DIGEST     its facts as nnenv ships them
    python bench/facts_trial.py extract STORE FILE DIGEST PATH    its largest library, to PATH
    python bench/facts_trial.py library PATH                facts of a library that lies there inflated

Each prints one JSON object; `seconds` is the time of the step without Python's own start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnenv.adapters.fetch import Download, fetch_all
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.formats.wheel import read_wheel
from nnenv.formats.zip_gate import ZipMember, inflate
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.workflows.facts import library_facts, read_wheel_facts, shipped_facts
from nnenv.workflows.session import Session


def main(words: Sequence[str]) -> dict[str, object]:
    """Do the step; what there is to say of it."""
    step, *more = words
    begun = time.perf_counter()
    found: dict[str, object]
    if step == "fetch":
        found = _fetched(Path(more[0]), *more[1:])
    elif step == "library":
        found = _library(Path(more[0]))
    else:
        # Hashing the wheel first is not what is measured: `fetch` did it, and the store noted that.
        store = Store(Path(more[0]), trust_stamps=True)
        wheel = _wheel(*more[1:3])
        begun = time.perf_counter()
        found = _step(step, store, wheel, *more[3:])
    return {"seconds": time.perf_counter() - begun, **found}


def _step(step: str, store: Store, wheel: Artifact, *more: str) -> dict[str, object]:
    if step == "inflate":
        return {
            "size": sum(len(chunk) for member in _libraries(store, wheel) for chunk in _chunks(store, wheel, member))
        }
    if step == "facts":
        return {"libraries": len(read_wheel_facts(store, wheel))}
    if step == "known":
        return {"libraries": len(shipped_facts(wheel.sha256) or ())}
    assert step == "extract"
    largest = max(_libraries(store, wheel), key=lambda member: member.size)
    with Path(more[0]).open("wb") as out:
        for chunk in _chunks(store, wheel, largest):
            out.write(chunk)
    return {"name": largest.name.rsplit("/", 1)[-1], "size": largest.size}


def _fetched(root: Path, name: str, version: str) -> dict[str, object]:
    """File name and digest of the wheel that is now in the store."""
    store = Store(root, trust_stamps=True)
    session = Session(project=root, store=store, progress=SilentProgress(), environment=os.environ, home=Path.home())
    with session.python_indexes(None) as indexes:
        offers = indexes.project(name).wheels_of(version)
        fitting = [offer for offer in offers if offer.filename.endswith("x86_64.whl") and "musl" not in offer.filename]
        record = indexes.identify(sorted(fitting, key=lambda offer: offer.filename)[0])
        wheel = _wheel(record.filename, record.sha256, name=name)
        download = Download(
            sha256=wheel.sha256, size=record.size, filename=wheel.filename, urls=lambda: indexes.locate(wheel)
        )
        fetch_all([download], store, session.http)
    store.open(wheel.sha256).close()
    return {"filename": wheel.filename, "sha256": wheel.sha256}


def _library(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        facts = library_facts(stream, path.name)
    assert facts is not None
    return {"code": [*facts.gpu.sass, *(f"PTX {architecture} of {version}" for architecture, version in facts.gpu.ptx)]}


def _wheel(filename: str, sha256: str, *, name: str = "") -> Artifact:
    return Artifact(
        kind=Kind.WHEEL, name=name, version="", filename=filename, sha256=Sha256(sha256), size=0, origin="python"
    )


def _libraries(store: Store, wheel: Artifact) -> list[ZipMember]:
    with store.open(wheel.sha256) as stream:
        contents = read_wheel(stream, wheel.filename)
    return [member for member in contents.members if ".so" in member.name.rsplit("/", 1)[-1]]


def _chunks(store: Store, wheel: Artifact, member: ZipMember) -> Iterator[bytes]:
    with store.open(wheel.sha256) as stream:
        yield from inflate(stream, member, wheel.filename)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
