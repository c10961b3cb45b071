"""What can stand on the command line, as values: read from the parsers, for completion scripts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from nnenv.cli.arguments import COLORS, command_parser, top_parser
from nnenv.cli.commands import COMMANDS


class Kind(StrEnum):
    """What an option's value or a positional argument can be."""

    NOTHING = "nothing"
    """Nobody can guess it."""
    WORDS = "words"
    """One of a few words."""
    FOLDER = "folder"
    FILE = "file"
    TARGETS = "targets"
    PACKAGES = "packages"
    REQUIREMENTS = "requirements"
    MODELS = "models"

    @property
    def is_project(self) -> bool:
        """Whether the project's files say what can stand there: `nnenv completion --names KIND` lists it."""
        return self in (Kind.TARGETS, Kind.PACKAGES, Kind.REQUIREMENTS, Kind.MODELS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """What follows an option, or stands by itself."""

    kind: Kind
    label: str = ""
    """`NAME`, for people."""
    words: tuple[str, ...] = ()
    """With `Kind.WORDS`; one that ends in a colon goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option with all its spellings."""

    spellings: tuple[str, ...]
    help: str
    value: Value | None
    """None for a switch."""
    repeatable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One command as it can be typed."""

    path: tuple[str, ...]
    """`("test", "record")`; empty for what stands before the command."""
    help: str
    options: tuple[Option, ...]
    positional: Value | None
    """The positional arguments, however many; None where there are none."""
    takes_command: bool
    """Whether everything from the first positional argument on belongs to another program."""
    inner: tuple[tuple[str, str], ...]
    """(name, what help says) of commands below this one."""


_BY_DESTINATION: Final = {
    ("add", "target"): Kind.TARGETS,
    ("diff", "sides"): Kind.FILE,
    ("init", "new"): Kind.FOLDER,
    ("lock", "upgrade_package"): Kind.PACKAGES,
    ("remove", "names"): Kind.REQUIREMENTS,
    ("run", "volume"): Kind.FILE,
    ("shell", "volume"): Kind.FILE,
    ("test", "model"): Kind.MODELS,
    ("tree", "invert"): Kind.PACKAGES,
    ("why", "name"): Kind.PACKAGES,
}
"""(command, destination) -> what the parser does not say of it."""

_BY_METAVAR: Final = {"DIR": Kind.FOLDER, "FILE": Kind.FILE}

_OUTPUTS: Final = ("docker", "oci:", "dir:")
"""As `workflows.building.Output.parse` takes them."""


def forms() -> tuple[Form, ...]:
    """Every command that can be typed, `nnenv` itself first; commands with inner ones stand before these.

    Imports every command's module. Nothing of the environment gets in.
    """
    summaries = tuple(COMMANDS.items())
    top = top_parser({})
    options = tuple(_option("", action) for action in top._actions if action.option_strings)
    first = Form(path=(), help="", options=options, positional=None, takes_command=False, inner=summaries)
    return (first, *(form for name, help in summaries for form in _forms((name,), help, command_parser(name, {}))))


def _forms(path: tuple[str, ...], help: str, parser: argparse.ArgumentParser) -> Iterator[Form]:
    options, positional, takes_command = [], None, False
    inner: dict[str, argparse.ArgumentParser] = {}
    summaries: list[tuple[str, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = dict(action.choices)
            summaries = [(choice.dest, choice.help or "") for choice in action._choices_actions]
        elif action.option_strings:
            if action.help != argparse.SUPPRESS:
                options.append(_option(path[0], action))
        else:
            takes_command = action.nargs == argparse.REMAINDER
            positional = _value(path[0], action)
    yield Form(
        path=path,
        help=help,
        options=tuple(options),
        positional=positional,
        takes_command=takes_command,
        inner=tuple(summaries),
    )
    for name, summary in summaries:
        yield from _forms((*path, name), summary, inner[name])


def _option(command: str, action: argparse.Action) -> Option:
    return Option(
        spellings=tuple(action.option_strings),
        help=(action.help or "").replace("%%", "%"),
        value=None if action.nargs == 0 else _value(command, action),
        repeatable=isinstance(action, argparse._AppendAction),
    )


def _value(command: str, action: argparse.Action) -> Value:
    label = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        return Value(kind=Kind.WORDS, label=label, words=tuple(map(str, action.choices)))
    if action.metavar == "OUT":
        return Value(kind=Kind.WORDS, label=label, words=_OUTPUTS)
    if action.dest == "color":
        return Value(kind=Kind.WORDS, label=label, words=COLORS)
    default = Kind.TARGETS if action.dest == "target" else _BY_METAVAR.get(label, Kind.NOTHING)
    return Value(kind=_BY_DESTINATION.get((command, action.dest), default), label=label)
