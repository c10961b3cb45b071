"""Runs inside an image: how far an execution provider of onnxruntime gets on this machine.

Its library cannot be opened alone: it asks onnxruntime for its functions while it is loaded, and crashes without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

_IDENTITY: Final = bytes.fromhex(
    "080712003a370a100a017812017922084964656e746974791201675a0f0a0178120"
    "a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)
"""A model of one Identity node: opset 13, a float."""

_LINE: Final = re.compile(rb"(?i)[^\n]*(?:error|fail|cannot open)[^\n]*")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
READY: Final = "ready"
"""What `attempt` returns for a provider that took the model."""


def attempt(provider: str, in_child: Callable[[Callable[[], str]], str]) -> str:
    """READY if onnxruntime opens a small model on `provider`, else what it said; in a process of its own."""
    return in_child(lambda: _attempt(provider))


def _attempt(provider: str) -> str:
    log = os.memfd_create("stderr")  # onnxruntime writes its log there, from C++
    os.dup2(log, 2)
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(2)
        # Without enable_fallback=0 a failure ends in a session on the CPU.
        session = onnxruntime.InferenceSession(_IDENTITY, providers=[provider], enable_fallback=0)
        if provider in session.get_providers():
            return READY
        raised = ""
    except Exception as error:  # whatever it is, it is the answer
        raised = f"{type(error).__name__}: {error}\n"
    lines = [line.decode("utf-8", "replace") for line in _LINE.findall(_content(log))]
    return _COLOUR.sub("", raised + "\n".join(lines))[:3000] or f"{provider} was not used, and nothing says why"


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 20, 0)
