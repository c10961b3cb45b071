"""`nnenv store`: what the content-addressed store holds, whether it is whole, and what may go."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nnenv.cli.arguments import Parser, add_common, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette, bytes_text, counted, short, table, took
from nnenv.workflows.session import Session
from nnenv.workflows.storing import (
    Amount,
    Collected,
    Damage,
    GarbageOptions,
    Sizes,
    StoreCheck,
    collect_garbage,
    store_sizes,
    verify_store,
)

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES: Final = {
    **{"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40},
}


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv store` and of the commands below it."""
    describe(
        parser,
        "Look after the content-addressed store, which all projects share.",
        "  nnenv store size\n  nnenv store verify\n  nnenv store gc --dry-run",
    )
    inner = parser.add_subparsers(dest="store_command", metavar="COMMAND", required=True, parser_class=Parser)
    _add_size(inner.add_parser("size", help="say how much of each kind is in the store"))
    _add_verify(inner.add_parser("verify", help="read and hash everything in the store again"))
    _add_gc(inner.add_parser("gc", help="remove what no known project needs"))


def _add_size(parser: Parser) -> None:
    describe(
        parser,
        "Say how much of each kind is in the store. `size` adds up the files; `on disk` is what the file system\n"
        "spends on them. A file with several names counts once. Nothing is hashed.",
        "  nnenv store size\n  nnenv store size --json",
    )
    add_common(parser)


def _add_verify(parser: Parser) -> None:
    describe(
        parser,
        "Read and hash every file and every extracted layer of the store again. What is damaged is moved away, so\n"
        "that no command uses it; with --repair it is fetched again for the project that needs it.\n"
        "Exit code 1 if anything was damaged, with --repair only if something could not be repaired.",
        "  nnenv store verify             # every command checks what it uses; this checks all\n"
        "  nnenv store verify --repair    # and fetches again what was damaged",
    )
    add_common(parser)
    parser.add_argument("--repair", action="store_true", help="fetch damaged files again, from where their lock says")


def _add_gc(parser: Parser) -> None:
    describe(
        parser,
        "Remove what no known project's model.lock needs. A project is known once a command has used its lock with\n"
        "this store, until its model.lock is gone. What a running command uses stays, and so does what was written\n"
        "within the last hour; commands may run and start meanwhile. What is missed later is fetched or made again.",
        "  nnenv store gc --dry-run            # only say what would go\n"
        "  nnenv store gc --older-than 30d     # keep what was written in the last 30 days\n"
        "  nnenv store gc --max-size 20GB      # the oldest first, until the store takes no more than that\n"
        "  nnenv store gc --all                # all that no running command uses, as if no project were known",
    )
    add_common(parser)
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, only say what would go")
    parser.add_argument(
        "--older-than", type=duration, metavar="AGE", default=None,
        help="keep what was written within this time: 45m, 12h, 30d, 2w (default: 1h, and 0s with --all)",
    )  # fmt: skip
    parser.add_argument(
        "--max-size", type=size, metavar="SIZE", default=None,
        help="stop once the store takes no more of the disk than this: 500MB, 20GB, 1.5TiB",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="as if no project were known")


def duration(text: str) -> int:
    """A time in nanoseconds: a whole number and one of s, m, h, d, w."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 45m, 12h, 30d or 2w")
    return int(found[1]) * _SECONDS[found[2]] * 10**9


def size(text: str) -> int:
    """A number of bytes: a number and a unit, decimal (MB) or binary (MiB)."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)", text)
    if found is None or found[2] not in _BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 500MB, 20GB or 1.5TiB")
    return int(float(found[1]) * _BYTES[found[2]])


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Do what the inner command says; 1 if the store was damaged."""
    match arguments.store_command:
        case "size":
            sizes = store_sizes(session)
            emit(arguments, "store size", size_json(sizes), lambda: size_text(sizes))
            return 0
        case "verify":
            check = verify_store(session, repair=arguments.repair)
            emit(
                arguments,
                "store verify",
                verify_json(check),
                lambda: verify_text(check, palette(arguments), session.elapsed),
            )
            return 0 if check.whole else 1
        case _:
            options = GarbageOptions(
                dry_run=arguments.dry_run,
                older_than_ns=arguments.older_than,
                most_bytes=arguments.max_size,
                everything=arguments.all,
            )
            collected = collect_garbage(session, options)
            emit(
                arguments,
                "store gc",
                gc_json(collected, options),
                lambda: gc_text(collected, options, palette(arguments), session.elapsed),
            )
            return 0


# Size


def size_json(sizes: Sizes) -> dict[str, Any]:
    """What `nnenv store size --json` prints."""
    return {
        "ok": True,
        "store": str(sizes.store),
        "projects": [str(path) for path in sizes.projects],
        "kinds": [_amount_json(amount) for amount in sizes.amounts],
        **_total_json(sizes.amounts),
    }


def _amount_json(amount: Amount) -> dict[str, Any]:
    return {
        "kind": amount.kind,
        "entries": amount.entries,
        "bytes": amount.bytes,
        "disk_bytes": amount.disk_bytes,
    }


def _total_json(amounts: Sequence[Amount]) -> dict[str, Any]:
    return {key: value for key, value in _amount_json(_total(amounts)).items() if key != "kind"}


def _total(amounts: Sequence[Amount]) -> Amount:
    return Amount(
        kind="in all",
        entries=sum(amount.entries for amount in amounts),
        bytes=sum(amount.bytes for amount in amounts),
        disk_bytes=sum(amount.disk_bytes for amount in amounts),
    )


def size_text(sizes: Sizes) -> str:
    """What `nnenv store size` prints: the kinds of which there is something."""
    present = [amount for amount in sizes.amounts if amount.entries]
    known = counted(len(sizes.projects), "known project")
    return f"{_amounts_text([*present, _total(present)])}{sizes.store}, {known}\n"


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def _amounts_text(amounts: Sequence[Amount]) -> str:
    rows = [("kind", "entries", "size", "on disk")]
    rows += [(a.kind, str(a.entries), bytes_text(a.bytes), bytes_text(a.disk_bytes)) for a in amounts]
    return table(rows, right=frozenset({1, 2, 3}))


# Verify


def verify_json(check: StoreCheck) -> dict[str, Any]:
    """What `nnenv store verify --json` prints."""
    return {
        "ok": check.whole,
        "entries": check.entries,
        "bytes": check.bytes,
        "damaged": [
            {"name": one.name, "what": one.what, "repaired": one.repaired, "remedy": one.remedy}
            for one in check.damaged
        ],
    }


def verify_text(check: StoreCheck, palette: Palette, seconds: float) -> str:
    """What `nnenv store verify` prints."""
    read = f"{_entries(check.entries)}, {bytes_text(check.bytes)}"
    if not check.damaged:
        return f"{read}: {palette('green', 'all whole')}, read {took(seconds)}\n"
    lines = [f"{read}: {palette('red', f'{len(check.damaged)} damaged')}, moved away, read {took(seconds)}"]
    for one in check.damaged:
        remedy = palette("green" if one.repaired else "yellow", one.remedy)
        lines += [f"  {_short_name(one)}  {one.what}", f"    {remedy}"]
    return "\n".join(lines) + "\n"


def _short_name(damage: Damage) -> str:
    return f"sha256:{short(damage.name)}" if re.fullmatch("[0-9a-f]{64}", damage.name) else damage.name[:24]


# Garbage


def gc_json(collected: Collected, options: GarbageOptions) -> dict[str, Any]:
    """What `nnenv store gc --json` prints."""
    return {
        "ok": True,
        "dry_run": options.dry_run,
        "removed": [_amount_json(amount) for amount in collected.removed],
        **_total_json(collected.removed),
        "kept_entries": collected.kept.entries,
        "kept_disk_bytes": collected.kept.disk_bytes,
        "projects": [str(path) for path in collected.projects],
        "in_use": collected.in_use,
        "young": collected.young,
    }


def gc_text(collected: Collected, options: GarbageOptions, palette: Palette, seconds: float) -> str:
    """What `nnenv store gc` prints."""
    total = _total(collected.removed)
    done = "would remove" if options.dry_run else "removed"
    text = _amounts_text([*collected.removed, total]) if collected.removed else ""
    went = f"{_entries(total.entries)}, {bytes_text(total.disk_bytes)} on disk"
    text += f"{palette('green', done)} {went}, {took(seconds)}\n"
    kept = [f"{_entries(collected.kept.entries)}, {bytes_text(collected.kept.disk_bytes)} on disk"]
    if not options.everything:
        kept.append(counted(len(collected.projects), "known project"))
    if collected.in_use:
        kept.append(f"{_entries(collected.in_use)} in use by running commands")
    if collected.young:
        kept.append(f"{_entries(collected.young)} too young to go")
    text += f"kept {', '.join(kept)}\n"
    if options.most_bytes is not None and collected.kept.disk_bytes > options.most_bytes:
        text += f"note: that is more than {bytes_text(options.most_bytes)}, but it is needed, in use or too young\n"
    return text
