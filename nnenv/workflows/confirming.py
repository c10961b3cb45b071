"""A lock that was found to fit is not looked through again until something changes.

Parsing and comparing both files costs more than starting Python, so what came out is remembered in the store: under
the digests of model.toml and model.lock, with the stamp of every other file and folder of the project that was looked
at. Losing the memory costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from nnenv import __version__
from nnenv.workflows.session import Session

_SETTLED_NS = 20_000_000
"""Nanoseconds; a tick of the kernel's clock is 10 ms at most."""
_RECORD = "confirmed"


Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime in nanoseconds: whatever changes a file or folder changes its ctime, which no
user can set back."""


def stamp_of(facts: os.stat_result) -> Stamp:
    """The stamp of what was asked."""
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def settled(stamp: Stamp, started_ns: int) -> bool:
    """Whether a change after `started_ns` (nanoseconds since 1970) would have to show in the stamp: two writes within
    one tick of the kernel's clock leave the same."""
    return stamp[4] < started_ns - _SETTLED_NS


def confirmed(session: Session) -> dict[str, Any] | None:
    """What was remembered of the lock as it is now, if it was found to fit and nothing has changed; else None."""
    manifest, lock = session.manifest_bytes(), session.lock_bytes()
    record = None if lock is None else session.store.load(_RECORD, _key(session, manifest, lock))
    if record is None:
        return None
    document = json.loads(record)
    for path, stamp in document["seen"].items():
        try:
            facts = (session.project / path).stat()
        except OSError:
            return None
        if list(stamp_of(facts)) != stamp:
            return None
    summary: dict[str, Any] = document["summary"]
    return summary


def remember(
    session: Session, manifest: bytes, lock: bytes, seen: Mapping[str, Stamp], summary: Mapping[str, Any]
) -> None:
    """Note that `lock` fits `manifest` and all that was `seen`; `summary` is what `confirmed` returns from then on.

    Nothing is noted while something changed too recently to notice a further change.
    """
    if all(settled(stamp, session.started_ns) for stamp in seen.values()):
        document = json.dumps({"seen": seen, "summary": summary})
        session.store.save(_RECORD, _key(session, manifest, lock), document.encode())


def _key(session: Session, manifest: bytes, lock: bytes) -> str:
    """Of the two files, of the folder they lie in, and of this version's rules."""
    digests = (hashlib.sha256(data).hexdigest() for data in (manifest, lock))
    return " ".join((__version__, *digests, str(session.project.absolute())))
