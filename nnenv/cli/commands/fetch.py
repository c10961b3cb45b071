"""`nnenv fetch`: everything that model.lock names, into the store."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from nnenv.cli.arguments import Parser, add_frozen, add_target, describe, targets_of
from nnenv.cli.output import emit, notice
from nnenv.cli.render import bytes_text
from nnenv.workflows.building import fetch_targets
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
    count, size = len(fetched), sum(artifact.size for artifact in fetched)
    emit(
        arguments,
        "fetch",
        {"ok": True, "files": count, "bytes": size},
        lambda: f"{count} files, {bytes_text(size)}, verified and in the store\n",
    )
    return 0
