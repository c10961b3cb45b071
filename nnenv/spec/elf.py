"""Facts about shared objects, read from the bytes once and keyed by the artifact's sha256."""

from __future__ import annotations

from dataclasses import dataclass, field

from nnenv.spec.gpu import GpuCode


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfFacts:
    """What the dynamic linker would ask of one ELF file, and what the file offers."""

    path: str
    """Path inside the artifact (zip member or data.tar entry), no leading slash."""
    machine: str
    """`x86_64`, `aarch64`, or `em-N` for another e_machine."""
    soname: str
    """DT_SONAME, or empty."""
    needed: tuple[str, ...]
    """DT_NEEDED in file order."""
    runpath: tuple[str, ...]
    """DT_RUNPATH, else DT_RPATH, split at colons, `$ORIGIN` kept."""
    version_needs: tuple[tuple[str, str], ...]
    """(library, version) pairs of .gnu.version_r, sorted: `("libc.so.6", "GLIBC_2.34")`."""
    version_definitions: tuple[str, ...]
    """Names of .gnu.version_d without the base definition, sorted."""
    gpu: GpuCode = field(default=GpuCode())
    """GPU code in the file; empty in most."""
