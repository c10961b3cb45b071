"""The Python environment of a target, computed from the lock and never from the host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

RUNTIMES: Final[Mapping[str, tuple[str, ...]]] = {"onnx": ("onnxruntime",), "keras": ("keras", "tensorflow")}
"""Format of a model -> what the standard inference test needs inside an image that holds it, beside numpy."""

_KERAS_BACKENDS: Final = frozenset({"jax", "tensorflow", "tensorflow-cpu", "torch"})

_LEGACY: Final = {
    "x86_64": {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"},
    "aarch64": {17: "manylinux2014"},
}
"""Machine -> minor version of glibc 2 -> older name of that platform tag (PEP 600, "Legacy manylinux tags")."""


def runtimes(asked: Iterable[str], formats: Iterable[str]) -> tuple[str, ...]:
    """Requirements of what runs models of these formats, each once; none for no models.

    `asked` are the user's requirements: a backend of Keras among them is the one that is meant.
    """
    wanted = dict.fromkeys(name for one in formats if one in RUNTIMES for name in ("numpy", *RUNTIMES[one]))
    named = {re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower() for requirement in asked}
    if named & _KERAS_BACKENDS:
        wanted.pop("tensorflow", None)
    return tuple(wanted)


@dataclass(frozen=True, kw_only=True)
class PythonTarget:
    """An interpreter on an OS release, as markers and wheel tags see it."""

    name: str
    """Name of the target, for messages."""
    python: str
    """Full version, `3.11.2`."""
    machine: str
    """`x86_64` or `aarch64`."""
    glibc: str
    """`2.36`."""
    libstdcxx: str = ""
    """The GCC whose libstdc++ the target has, `12.2.0`; empty if that is not known."""

    @property
    def minor(self) -> str:
        """`3.11`."""
        return ".".join(self.python.split(".")[:2])

    @cached_property
    def markers(self) -> dict[str, str]:
        """The marker environment (PEP 508 "Environment markers"); kernel fields are empty, an image has no kernel."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": self.minor,
            "sys_platform": "linux",
        }

    @cached_property
    def tags(self) -> dict[str, int]:
        """Wheel tag -> rank, best first (PEP 425 order, platforms by PEP 600 from the target's glibc down)."""
        minor = int(self.minor.split(".")[1])
        platforms = list(self._platforms())
        own = f"cp3{minor}"
        pythons = [f"py3{minor}", "py3", *(f"py3{older}" for older in range(minor - 1, -1, -1))]
        interpreters = [f"{own}-{own}", f"{own}-abi3", f"{own}-none"]
        # Wheels for the stable ABI run on later interpreters too; it began with 3.2 (PEP 384).
        interpreters += [f"cp3{older}-abi3" for older in range(minor - 1, 1, -1)]
        ordered = [
            *(f"{interpreter}-{platform}" for interpreter in interpreters for platform in platforms),
            *(f"{python}-none-{platform}" for python in pythons for platform in platforms),
            f"{own}-none-any",
            *(f"{python}-none-any" for python in pythons),
        ]
        return {tag: rank for rank, tag in enumerate(ordered)}

    def _platforms(self) -> Iterator[str]:
        major, minor = (int(part) for part in self.glibc.split("."))
        legacy = _LEGACY[self.machine]
        oldest = min(legacy)
        for floor in range(minor, oldest - 1, -1):
            yield f"manylinux_{major}_{floor}_{self.machine}"
            if floor in legacy:
                yield f"{legacy[floor]}_{self.machine}"
        yield f"linux_{self.machine}"
