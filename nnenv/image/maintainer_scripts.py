"""What the maintainer scripts of a .deb would make, without running them.

Two sources: `read_script` understands what debhelper generates; for scripts that do more, the table
`nnenv/data/maintainer_scripts.toml` holds what a review of one exact text found. Anything else is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, cast, get_args

from nnenv.data import table
from nnenv.errors import NnenvError
from nnenv.image.script_reader import ACTIONS, Alternative, Link, read_script

EffectKind = Literal["directory", "file", "copy", "symlink", "alternative", "rule", "absent"]
RULES: Final = ("accounts", "ca-certificates", "ld-cache")
"""Effects that need the whole tree; `os_state` has the rule of each name, `ld-cache` belongs to the last layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One thing that a package's scripts make on a first installation."""

    kind: EffectKind
    package: str
    path: str
    """Where, without a leading slash; for `rule` its name; for `absent` a prefix that no package may fill,
    because the script would then make something that no rule makes."""
    target: str = ""
    """What a symlink says; the source path of a copy; the text of a file."""
    mode: int = 0o755
    """Of a directory."""
    alternative: Alternative | None = None
    """The candidate, for kind `alternative`; its links have leading slashes as in the script."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewed:
    """One row of the table: texts of a script that were reviewed, and what they do."""

    package: str
    script: str
    texts: tuple[str, ...]
    """sha256 of each `normalised` text."""
    effects: tuple[Effect, ...]
    reason: str


def effects(package: str, version: str, scripts: Mapping[str, str]) -> tuple[Effect, ...]:
    """What the scripts of `package` make on a first installation, in the order in which they would.

    `scripts` maps control file names to texts; `config` asks questions that nobody answers here, and `prerm` and
    `postrm` do not run. Raises `maintainer-script`, naming each line that no rule knows.
    """
    found: list[Effect] = []
    unknown: list[str] = []
    for name in ACTIONS:
        if name not in scripts:
            continue
        row = _reviewed().get((package, name, script_digest(scripts[name], version)))
        if row is not None:
            found += row.effects
            continue
        reading = read_script(name, scripts[name])
        found += [_alternative_effect(package, alternative) for alternative in reading.alternatives]
        unknown += [f"{name}, {line}" for line in reading.unknown]
    unknown += [f"triggers: {line}" for line in _unknown_triggers(scripts.get("triggers", ""))]
    if unknown:
        raise _refusal(package, version, unknown)
    return tuple(found)


def script_digest(text: str, version: str) -> str:
    """sha256 of `normalised(text, version)`, as the table states it."""
    return hashlib.sha256(normalised(text, version).encode()).hexdigest()


def normalised(text: str, version: str) -> str:
    """`text` without what differs between builds of one script: the package's version, architecture, debhelper's."""
    text = re.sub(rf"(?<![\w.+~:-]){re.escape(version)}(?![\w.+~:-])", "@VERSION@", text)
    text = re.sub(r"\b(?:x86_64|aarch64)-linux-gnu\b", "@MULTIARCH@", text)
    text = re.sub(r":(?:amd64|arm64)\b", ":@ARCHITECTURE@", text)
    return re.sub(r"(# Automatically added by \w+)/[\w.~+-]+", r"\1", text)


@lru_cache(maxsize=1)
def _reviewed() -> Mapping[tuple[str, str, str], Reviewed]:
    rows = [reviewed_row(row) for row in table("maintainer_scripts")["script"]]
    return {(row.package, row.script, text): row for row in rows for text in row.texts}


def reviewed_row(row: Mapping[str, object]) -> Reviewed:
    """One `[[script]]` of the table as a value."""
    package = str(row["package"])
    listed = cast("Sequence[Mapping[str, object]]", row.get("effects", ()))
    return Reviewed(
        package=package,
        script=str(row["script"]),
        texts=tuple(cast("Sequence[str]", row["sha256"])),
        effects=tuple(_table_effect(package, effect) for effect in listed),
        reason=str(row["reason"]),
    )


def _table_effect(package: str, row: Mapping[str, object]) -> Effect:
    (kind,) = (key for key in row if key in get_args(EffectKind))
    if kind == "alternative":
        path, name, target, priority = cast("tuple[str, str, str, int]", row[kind])
        link = Link(path=path, name=name, target=target)
        return _alternative_effect(package, Alternative(link=link, priority=priority))
    path = str(row[kind])
    if kind == "rule" and path not in RULES:
        raise ValueError(f"no rule is named {path!r}")
    return Effect(
        kind=cast("EffectKind", kind),
        package=package,
        path=path,
        target=str(row.get("target", row.get("text", row.get("source", "")))),
        mode=cast("int", row.get("mode", 0o755)),
    )


def _alternative_effect(package: str, alternative: Alternative) -> Effect:
    path = alternative.link.path.lstrip("/")
    return Effect(kind="alternative", package=package, path=path, alternative=alternative)


def _unknown_triggers(text: str) -> list[str]:
    """Lines that wake another package's script; `interest` only offers the own one (deb-triggers(5))."""
    lines = (line.split("#", 1)[0].split() for line in text.splitlines())
    return [
        " ".join(words)
        for words in lines
        if words and not words[0].startswith("interest") and words[1:] not in (["ldconfig"], ["update-ca-certificates"])
    ]


def _refusal(package: str, version: str, unknown: Sequence[str]) -> NnenvError:
    shown = list(unknown[:12])
    if len(unknown) > len(shown):
        shown.append(f"... and {len(unknown) - len(shown)} lines more")
    return NnenvError(
        "maintainer-script",
        f"the scripts of {package} {version} do something that no rule of nnenv reproduces, and nnenv runs none",
        where=f"{package} {version}",
        because=shown,
        fix=[
            f"leave {package} out of [requires] system, or choose a package that does not need it",
            "report the package, so that its scripts are read and added to the table of reviewed scripts",
        ],
    )
