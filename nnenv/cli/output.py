"""The standard streams: what a command prints, and what it says meanwhile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from nnenv.cli.render import JSON_VERSION, Palette, json_text


def emit(arguments: argparse.Namespace, command: str, document: Mapping[str, Any], text: Callable[[], str]) -> None:
    """Print the result of a command: the document with --json, nothing with --quiet, else the text."""
    if arguments.json:
        write(json_text({"version": JSON_VERSION, "command": command, **document}))
    elif not arguments.quiet:
        write(text())


def notice(arguments: argparse.Namespace) -> Callable[[str], object]:
    """How a workflow tells people something on standard error; silent with --quiet."""
    return lambda text: None if arguments.quiet else sys.stderr.write(f"note: {text}\n")


def palette(arguments: argparse.Namespace) -> Palette:
    """Colours for standard output."""
    return Palette(colours(["--color", arguments.color], os.environ, sys.stdout))


def colours(line: Sequence[str], environment: Mapping[str, str], stream: TextIO) -> bool:
    """Whether `stream` gets colours; the line wins over NNENV_COLOR, and a terminal without NO_COLOR is the default."""
    wanted = environment.get("NNENV_COLOR", "auto")
    for index, word in enumerate(line):
        if word.startswith("--color="):
            wanted = word.partition("=")[2]
        elif word == "--color" and index + 1 < len(line):
            wanted = line[index + 1]
    return wanted == "always" or (wanted == "auto" and stream.isatty() and "NO_COLOR" not in environment)


def write(text: str) -> None:
    """Put `text` on standard output; NnenvError `disk-full` if what stands behind it takes no more.

    BrokenPipeError if the reader left, as `head` does.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from nnenv.adapters.files import write_refused

        discard_output()
        raise write_refused(error, Path("standard output")) from None


def discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail over it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def replace_closed_streams() -> None:
    """Streams that the caller closed (`>&-`) become the null device: Python leaves None in their place."""
    if sys.stdout is None:
        sys.stdout = _null_stream()
    if sys.stderr is None:
        sys.stderr = _null_stream()


def _null_stream() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
