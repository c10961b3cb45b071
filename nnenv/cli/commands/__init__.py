"""One module a command: its arguments, one workflow call, what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COMMANDS: Final[Mapping[str, str]] = {
    "init": "write a model.toml that fits the models here",
    "add": "add packages to model.toml, and lock",
    "remove": "remove packages from model.toml, and lock",
    "lock": "resolve model.toml into model.lock",
    "outdated": "show which models have something newer at their source",
    "fetch": "bring everything that model.lock names into the store",
    "build": "turn model.lock into an image, bit for bit",
    "verify": "prove an image by the standard inference test",
    "run": "run a command inside an image",
    "shell": "talk to a shell, or to Python, inside an image",
    "test": "make test cases",
    "why": "show what leads from model.toml to a package",
    "tree": "show what each target needs, as a tree",
    "diff": "show what changed between two locks",
    "compat": "show what nnenv knows of CUDA: drivers, libraries, known trouble",
    "store": "look after the store that all projects share",
    "doctor": "say what this machine can do, and what to do where it cannot",
    "completion": "print a completion script for bash, zsh or fish",
}
"""Name of the command, which is also its module's, and what `nnenv --help` says of it, in that order."""
