"""Facts about CUDA, read from wheels once and keyed by their sha256."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuCode:
    """For which GPUs a shared library carries machine code.

    An architecture is its number with the suffix of the compiler: `80`, `90a` (this GPU alone), `100f` (this family).
    """

    sass: tuple[str, ...] = ()
    """Architectures with machine code (SASS), by number and suffix."""
    ptx: tuple[tuple[str, str], ...] = ()
    """(architecture, version of the PTX language) of code that the driver translates, `("90", "8.4")`; sorted."""

    def __bool__(self) -> bool:
        return bool(self.sass or self.ptx)


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFile:
    """One member of a wheel, as the zip's central directory has it."""

    path: str
    size: int
    """Bytes, uncompressed."""
    crc32: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelOutline:
    """What a wheel says about itself without being read whole: its file list, and what some small members state."""

    files: tuple[WheelFile, ...]
    """Every member but folders, by path."""
    cuda: str = ""
    """CUDA that the wheel states it was built with, `12.8`; empty if no member that nnenv knows states one."""
    cudnn: str = ""
    """The same of cuDNN: `9`, or more of the version if it is stated."""
    needed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(path, sonames that it needs, and its own) of the libraries whose beginning was enough to tell, by path."""
