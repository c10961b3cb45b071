"""`nnenv outdated`: models whose sources offer something newer than model.lock has."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette, table
from nnenv.workflows.outdating import ModelStanding, Standing, model_standings
from nnenv.workflows.session import Session

_STYLES = {Standing.CURRENT: "green", Standing.OUTDATED: "yellow", Standing.UNREACHABLE: "red"}


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv outdated`."""
    describe(
        parser,
        "Ask the sources of the models in model.lock what their branches, tags and ranges come to now.\n"
        "Nothing is fetched or changed; `nnenv lock -P MODEL` moves a model on.",
        "  nnenv outdated\n  nnenv outdated --json",
    )


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Ask, and print a line a model; exit code 0, whatever is outdated."""
    found = model_standings(session)
    emit(arguments, "outdated", standings_json(found), lambda: standings_text(found, palette(arguments)))
    return 0


def standings_json(found: Sequence[ModelStanding]) -> dict[str, Any]:
    """What `nnenv outdated --json` prints."""
    return {
        "ok": True,
        "models": [
            {
                "name": one.name,
                "version": one.version,
                "locked": one.locked,
                "offered": one.offered,
                "standing": str(one.standing),
                "why": one.why,
            }
            for one in found
        ],
    }


def standings_text(found: Sequence[ModelStanding], palette: Palette) -> str:
    """What `nnenv outdated` prints."""
    if not found:
        return "no model of model.lock comes from elsewhere\n"
    rows = [("model", "version", "locked", "offered", "")]
    rows += [(one.name, one.version, _short(one.locked), _short(one.offered), str(one.standing)) for one in found]
    text = table(rows)
    text += "".join(f"note: {one.name}: {one.why}\n" for one in found if one.why)
    moved = [one.name for one in found if one.standing is Standing.OUTDATED]
    for standing, style in _STYLES.items():
        text = text.replace(f"  {standing}\n", f"  {palette(style, str(standing))}\n")
    return text + (f"move on with: nnenv lock {' '.join(f'-P {name}' for name in moved)}\n" if moved else "")


def _short(revision: str) -> str:
    """Enough of a digest or commit to tell two apart."""
    plain = revision.removeprefix("sha256:")
    return plain[:12] if len(plain) >= 40 else plain
