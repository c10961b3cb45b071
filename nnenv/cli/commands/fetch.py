"""`nnenv fetch`: everything that model.lock names, into the store."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnenv.cli.arguments import Parser, add_frozen, add_target, describe, targets_of
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import bytes_text, counted, table, took
from nnenv.spec.artifact import Artifact
from nnenv.workflows.building import Fetched, fetch_targets
from nnenv.workflows.healing import healed
from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv fetch`."""
    describe(
        parser,
        "Download, in parallel and verified, every file that model.lock names; afterwards --offline works.",
        "  nnenv fetch --target cpu",
    )
    add_target(parser, environment)
    add_frozen(parser, environment)


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Fetch, and print how much is there now."""
    fetched = healed(lambda: fetch_targets(session, targets_of(arguments), frozen=arguments.frozen), notice(arguments))
    emit(
        arguments,
        "fetch",
        fetch_json(fetched),
        lambda: fetch_text(fetched, palette(arguments)("green", "all in the store and verified"), session.elapsed),
    )
    return 0


def fetch_json(fetched: Sequence[Fetched]) -> dict[str, Any]:
    """What `nnenv fetch --json` prints."""
    return {
        "ok": True,
        **_amounts(artifact for one in fetched for artifact in one.artifacts),
        "targets": [
            {"name": one.target, "missing_bytes": one.missing_bytes, **_amounts(one.artifacts)} for one in fetched
        ],
    }


def _amounts(artifacts: Iterable[Artifact]) -> dict[str, int]:
    """Each file counts once."""
    sizes = {artifact.sha256: artifact.size for artifact in artifacts}
    return {"files": len(sizes), "bytes": sum(sizes.values())}


def fetch_text(fetched: Sequence[Fetched], result: str, seconds: float) -> str:
    """What `nnenv fetch` prints: a line a target, and what they have together."""
    rows = [("target", "files", "size", "fetched now")]
    for one in fetched:
        amounts = _amounts(one.artifacts)
        rows.append((one.target, str(amounts["files"]), bytes_text(amounts["bytes"]), bytes_text(one.missing_bytes)))
    together = _amounts(artifact for one in fetched for artifact in one.artifacts)
    text = table(rows, right=frozenset({1, 2, 3}))
    return f"{text}{counted(together['files'], 'file')}, {bytes_text(together['bytes'])}, {result}, {took(seconds)}\n"
