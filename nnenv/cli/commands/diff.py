"""`nnenv diff`: what changed between two locks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette, bytes_text, printable, short, table
from nnenv.image.layer_difference import ImageDifference, LayerMove
from nnenv.resolve.lock_difference import Change, LockDifference, ModelChange, Move, PackageChange, TargetDifference
from nnenv.spec.lockfile import ModelLock, TargetLock
from nnenv.workflows.comparing import Comparison, compare_locks
from nnenv.workflows.session import Session

_SIGNS: Final = {Move.ADDED: "+", Move.REMOVED: "-"}
"""Of everything else: ~."""
_COLOURS: Final = {Move.ADDED: "green", Move.REMOVED: "red"}
_DETAILS: Final = "only details changed that are not shown: origins, metadata or notices"
_LONGEST_LIST: Final = 20
"""Items of one value that are shown."""


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv diff`."""
    describe(
        parser,
        "Compare two locks: for each target the packages that came, went or moved, with sizes, and what it means for\n"
        "the image: which layers a host has already, and how much it has to pull. Then models, test cases, settings\n"
        "and the dates of Debian's archive. Each side is a lock file, a folder with one, or a git revision; without\n"
        "sides HEAD is compared with the working tree. Git runs nothing that a repository configures.",
        "  nnenv diff                         # what `git commit` would change\n"
        "  nnenv diff HEAD~1 HEAD             # what the last commit changed\n"
        "  nnenv diff main...HEAD --markdown  # for a pull request\n"
        "  nnenv diff old.lock model.lock     # two files",
    )
    parser.add_argument(
        "sides", nargs="*", metavar="SIDE",
        help="a lock file, a folder, a git revision, or A..B (default: HEAD, and the working tree)",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a comment on a pull request")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if the locks differ")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Compare, and print what differs."""
    found = compare_locks(session, arguments.sides)
    text = markdown_text if arguments.markdown else diff_text
    emit(arguments, "diff", diff_json(found), lambda: text(found, palette(arguments)))
    return 1 if arguments.exit_code and not found.difference.same else 0


# JSON


def diff_json(found: Comparison) -> dict[str, Any]:
    """What `nnenv diff --json` prints."""
    difference = found.difference
    return {
        "ok": True,
        "old": found.old.name,
        "new": found.new.name,
        "same": difference.same,
        "manifest": [_change_json(change) for change in difference.manifest],
        "releases": [_change_json(change) for change in difference.releases],
        "models": [_model_json(model) for model in difference.models],
        "files": [{"name": name, "move": str(move)} for name, move in difference.files],
        "targets": [_target_json(target, found.images[target.name]) for target in difference.targets],
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {"key": change.key, "gone": list(change.gone), "came": list(change.came)}


def _model_json(model: ModelChange) -> dict[str, Any]:
    return {
        "name": model.name,
        "move": str(model.move),
        "old_version": model.old.version if model.old else None,
        "new_version": model.new.version if model.new else None,
        "old_sha256": model.old.file if model.old else None,
        "new_sha256": model.new.file if model.new else None,
        "bytes_more": model.growth,
        "opsets": [_change_json(model.opsets)] if model.opsets else [],
        "cases": [{"name": name, "move": str(move)} for name, move in model.cases],
    }


def _target_json(target: TargetDifference, image: ImageDifference) -> dict[str, Any]:
    return {
        "name": target.name,
        "move": str(target.move) if target.move else None,
        "facts": [_change_json(change) for change in target.facts],
        "packages": [_package_json(package) for package in target.packages],
        "old_bytes": target.old_size,
        "new_bytes": target.new_size,
        "image": {
            "exact": image.exact,
            "pull_bytes": image.pull,
            "pull_bytes_by_chain": image.pull_by_chain,
            "layers": [{"title": layer.title, "move": str(layer.move), "bytes": layer.size} for layer in image.layers],
        },
    }


def _package_json(package: PackageChange) -> dict[str, Any]:
    return {
        "kind": package.role,
        "name": package.name,
        "move": str(package.move),
        "old_version": package.old.version if package.old else None,
        "new_version": package.new.version if package.new else None,
        "old_sha256": package.old.sha256 if package.old else None,
        "new_sha256": package.new.sha256 if package.new else None,
        "bytes_more": package.growth,
    }


# Text


def diff_text(found: Comparison, palette: Palette) -> str:
    """What `nnenv diff` prints: the parts in which something changed."""
    heading = f"model.lock: {palette('bold', found.old.name)} -> {palette('bold', found.new.name)}\n"
    difference = found.difference
    if difference.same:
        return heading + "nothing has changed\n"
    parts = [
        _part("model.toml", _change_rows(difference.manifest), palette),
        _part("models", _model_rows(difference.models), palette),
        _part("files of the image", [(_sign(move), name) for name, move in difference.files], palette),
        *(_target_text(target, found.images[target.name], palette) for target in difference.targets),
        _part("Debian releases", _change_rows(difference.releases), palette),
    ]
    shown = [part for part in parts if part]
    if not shown:
        return heading + f"{_DETAILS}\n"
    return "\n".join([heading, *shown])


Row = tuple[str, ...]
"""Sign and columns."""


def _part(title: str, rows: Sequence[Row], palette: Palette, indent: str = "  ") -> str:
    """A heading and aligned rows in the colours of their signs; "" without rows."""
    heading = f"{palette('bold', title)}\n" if title else ""
    return heading + _aligned(rows, palette, indent) if rows else ""


def _aligned(rows: Sequence[Row], palette: Palette, indent: str) -> str:
    width = max(len(row) for row in rows)
    filled = [(*map(printable, row), *[""] * (width - len(row))) for row in rows]
    styles = [{"+": "green", "-": "red"}.get(row[0], "") for row in rows]
    lines = zip(styles, table(filled).splitlines(), strict=True)
    return "".join(f"{indent}{palette(style, line) if style else line}\n" for style, line in lines)


def _sign(move: Move) -> str:
    return _SIGNS.get(move, "~")


def _change_rows(changes: Sequence[Change]) -> list[Row]:
    """One row for a value that changed, or one for each item that came or went."""
    rows: list[Row] = []
    for change in changes:
        if len(change.gone) == len(change.came) == 1:
            rows.append(("~", change.key, f"{change.gone[0]} -> {change.came[0]}"))
            continue
        for sign, items in (("-", change.gone), ("+", change.came)):
            rows += [(sign, change.key, item) for item in items[:_LONGEST_LIST]]
            if len(items) > _LONGEST_LIST:
                rows.append((sign, change.key, f"and {len(items) - _LONGEST_LIST} more (see --json)"))
    return rows


def _model_rows(models: Sequence[ModelChange]) -> list[Row]:
    rows: list[Row] = []
    for model in models:
        rows.append((_sign(model.move), model.name, _between(model), _more(model.growth)))
        if model.opsets and model.move is Move.CHANGED:
            gone, came = ", ".join(model.opsets.gone), ", ".join(model.opsets.came)
            rows.append(("~", model.name, f"operator sets {gone or 'none'} -> {came or 'none'}"))
        cases = model.cases if model.move is Move.CHANGED else ()
        rows += [(_sign(move), model.name, f"test case {name} {move}") for name, move in cases]
    return rows


def _between(model: ModelChange) -> str:
    """Versions and digests, old and new."""
    ends = [_model_text(end) for end in (model.old, model.new) if end]
    return (
        " -> ".join(ends)
        if len(set(ends)) > 1
        else f"{ends[0]} (the same file)"
        if model.old and model.new
        else ends[0]
    )


def _model_text(model: ModelLock) -> str:
    return f"{model.version} sha256:{short(model.file)}"


def _target_text(target: TargetDifference, image: ImageDifference, palette: Palette) -> str:
    """A target that came, went or changed; "" for one that did not."""
    if target.move is None:
        return ""
    lock = target.new or target.old
    assert lock is not None
    sign = _SIGNS.get(target.move, "")
    title = palette(_COLOURS.get(target.move, "bold"), f"{sign} target {target.name}".strip())
    text = f"{title} ({lock.platform}, {lock.os}, Python {lock.python})\n"
    text += _part("", _change_rows(_short_facts(target)), palette)
    if target.move is Move.CHANGED:
        text += _part("", [_package_row(package) for package in target.packages], palette)
    return text + _part("", [("", *row) for row in _sums(target, image)], palette, indent="")


def _short_facts(target: TargetDifference) -> list[Change]:
    """The facts without those that follow from what is shown anyway."""
    return [change for change in target.facts if change.key not in {"image", "moment"}]


def _package_row(package: PackageChange) -> Row:
    word = str(package.move) if package.move not in _SIGNS else ""
    versions = _versions(package)
    return (_sign(package.move), package.role, package.name, versions, _more(package.growth), word)


def _versions(package: PackageChange) -> str:
    """`2.0.0 -> 2.1.0`, or the only one."""
    versions = [end.version for end in (package.old, package.new) if end]
    return " -> ".join(dict.fromkeys(versions))


def _sums(target: TargetDifference, image: ImageDifference) -> Iterator[tuple[str, str]]:
    """(what, how much) of the target as a whole."""
    if target.move is Move.CHANGED:
        signs = (("+", "added"), ("-", "removed"), ("~", "moved"))
        counts = [f"{_count(target, sign)} {word}" for sign, word in signs if _count(target, sign)]
        yield "packages", ", ".join(counts) or "as before"
        change = f"{bytes_text(target.old_size)} -> {bytes_text(target.new_size)}"
        yield "to fetch", f"{change} ({_more(target.new_size - target.old_size) or 'as before'})"
    else:
        yield "packages", str(len(target.packages))
        yield "to fetch", bytes_text(target.new_size or target.old_size)
    if any(change.key == "image" for change in target.facts):
        yield "image", f"{_image_text(target.old)} -> {_image_text(target.new)}"
    if target.new is None:
        return
    moves = (LayerMove.SHARED, LayerMove.REMADE, LayerMove.NEW, LayerMove.GONE)
    counts = [f"{image.count(move)} {move}" for move in moves if image.count(move)]
    yield "layers", ", ".join(counts)
    for layer in image.layers:
        if layer.move is not LayerMove.SHARED and target.old is not None:
            yield "", f"{layer.move} {layer.title}, {_about(image, layer.size)}"
    whose = "has no other image of this project" if target.old is None else "has the old image"
    yield "to pull", f"{_about(image, image.pull)} for a host that {whose}"
    if target.old is not None and image.pull_by_chain != image.pull:
        yield "", f"{_about(image, image.pull_by_chain)} with Docker's classic store, which shares from the bottom up"
    if not image.exact:
        yield "", "estimated, since not both images are built" if target.old else "estimated, since it is not built"


def _image_text(target: TargetLock | None) -> str:
    return f"sha256:{short(target.image.manifest)}" if target and target.image else "not built"


def _count(target: TargetDifference, sign: str) -> int:
    return sum(_sign(package.move) == sign for package in target.packages)


def _about(image: ImageDifference, size: int) -> str:
    if size == 0:
        return "nothing"
    return bytes_text(size) if image.exact else f"about {bytes_text(size)}"


def _more(growth: int) -> str:
    """`+1.2 MB`, `-1.2 MB`, or "" for no difference."""
    return f"{'+' if growth > 0 else '-'}{bytes_text(abs(growth))}" if growth else ""


# Markdown


def markdown_text(found: Comparison, palette: Palette) -> str:
    """What `nnenv diff --markdown` prints; never coloured, since services colour `diff` blocks themselves."""
    difference = found.difference
    text = f"### model.lock: {_code(found.old.name)} → {_code(found.new.name)}\n"
    if difference.same:
        return text + "\nNothing has changed.\n"
    for title, rows in _settings(difference):
        if rows:
            text += f"\n**{title}**\n\n{_diff_block(rows)}"
    shown = [target for target in difference.targets if target.move is not None]
    if not shown and text.count("\n") == 1:
        return f"{text}\n{_DETAILS}\n"
    return text + "".join(_markdown_target(target, found.images[target.name]) for target in shown)


def _settings(difference: LockDifference) -> Iterator[tuple[str, list[Row]]]:
    """Everything that is not about one target."""
    yield "model.toml", _change_rows(difference.manifest)
    yield "Models", _model_rows(difference.models)
    yield "Files of the image", [(_sign(move), name) for name, move in difference.files]
    yield "Debian releases", _change_rows(difference.releases)


def _diff_block(rows: Sequence[Row]) -> str:
    """Aligned rows, in which `!` marks what changed; the fence is longer than any in them."""
    marked = [("!" if row[0] == "~" else row[0], *row[1:]) for row in rows]
    lines = _aligned(marked, Palette(False), "")
    fence = "```"
    while fence in lines:
        fence += "`"
    return f"{fence}diff\n{lines}{fence}\n"


def _markdown_target(target: TargetDifference, image: ImageDifference) -> str:
    text = f"\n**Target {_code(target.name)}** {target.move}\n"
    facts = _change_rows(_short_facts(target))
    if facts:
        text += f"\n{_diff_block(facts)}"
    if target.packages and target.move is Move.CHANGED:
        text += "\n| | package | old | new | size |\n|---|---|---|---|---:|\n"
        for package in target.packages:
            old, new = (_code(end.version) if end else "" for end in (package.old, package.new))
            text += f"| {package.move} | {_code(package.name)} | {old} | {new} | {_more(package.growth)} |\n"
    items = (
        f"- {what}: {printable(text)}\n" if what else f"  - {printable(text)}\n" for what, text in _sums(target, image)
    )
    return f"{text}\n{''.join(items)}"


def _code(text: str) -> str:
    """Text of others that Markdown, also in a table, shows as it is."""
    plain = printable(text).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"
