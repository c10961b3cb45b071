"""One module a command: its arguments, one workflow call, what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COMMANDS: Final[Mapping[str, str]] = {
    "lock": "resolve model.toml into model.lock",
    "fetch": "bring everything that model.lock names into the store",
    "build": "turn model.lock into an image, bit for bit",
    "verify": "prove an image by the standard inference test",
    "test": "make test cases",
}
"""Name of the command, which is also its module's, and what `nnenv --help` says of it, in that order."""
