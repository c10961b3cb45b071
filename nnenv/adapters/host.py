"""Facts about the machine nnenv runs on: for reports, and to choose how a command can be run here."""

from __future__ import annotations

import os
import platform
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Other spellings of the kernel's names."""

_RELEVANT_ISA: Final = frozenset(
    {"sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"}
    | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
    | {"amx_tile", "amx_int8", "amx_bf16"}
    | {"asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme"}
)
"""Flags that select kernels in onnxruntime, oneDNN and OpenBLAS, as Linux spells them in /proc/cpuinfo."""

_ELF_PT_INTERP: Final = 3

_ARM_PARTS: Final = {
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
}
"""(implementer, part) of /proc/cpuinfo -> name, from MIDR_EL1 in Arm's technical reference manuals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """What a report says of the machine a case ran on; nothing here may reach a lock or an image."""

    machine: str
    """`x86_64` or `aarch64`, else as the kernel says."""
    cpu_model: str
    """As /proc/cpuinfo names it; empty where that cannot be read."""
    isa: tuple[str, ...]
    """Instruction-set flags that numeric libraries dispatch on, sorted."""
    processors: int
    """How many this process may use."""
    kernel: str
    """`Linux 6.1.0-13-amd64`."""


def machine() -> str:
    """`x86_64` or `aarch64`, else as the kernel says."""
    name = platform.machine()
    return _MACHINES.get(name.lower(), name)


def host_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> HostFacts:
    """The facts of this host; what cannot be read is empty. Reads one file."""
    fields = dict(_cpuinfo_fields(cpuinfo))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    system = os.uname()
    return HostFacts(
        machine=machine(),
        cpu_model=fields.get("model name") or _arm_name(fields),
        isa=tuple(sorted(_RELEVANT_ISA.intersection(flags))),
        processors=_usable_processors(),
        kernel=f"{system.sysname} {system.release}",
    )


def find_emulator(target_machine: str) -> Path | None:
    """A static qemu-user binary on PATH that runs programs of `target_machine`, or None.

    Only a static one will do: inside the image there are no libraries of the host.
    """
    for name in (f"qemu-{target_machine}-static", f"qemu-{target_machine}"):
        found = shutil.which(name)
        if found is not None and is_static_program(Path(found)):
            return Path(found)
    return None


def is_static_program(path: Path) -> bool:
    """True when `path` is a 64-bit ELF file without program interpreter (ELF-64 object file format, chapter 4)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
            if len(head) < 64 or head[:5] != b"\x7fELF\x02":
                return False
            order = "<" if head[5] == 1 else ">"
            (table,) = struct.unpack_from(f"{order}Q", head, 32)
            entry_size, count = struct.unpack_from(f"{order}HH", head, 54)
            stream.seek(table)
            entries = stream.read(entry_size * count)
    except OSError:
        return False
    if entry_size < 4 or len(entries) < entry_size * count:
        return False
    kinds = (struct.unpack_from(f"{order}I", entries, index * entry_size)[0] for index in range(count))
    return _ELF_PT_INTERP not in kinds


def user_namespace_obstacles(kernel_settings: Path = Path("/proc/sys")) -> tuple[str, ...]:
    """Why this kernel keeps ordinary users from making user namespaces, one line per setting; empty if none does."""
    rules = (
        ("user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns is 1"),
    )
    return tuple(line for name, closed, line in rules if _setting(kernel_settings / name) == closed)


def _cpuinfo_fields(path: Path) -> Iterator[tuple[str, str]]:
    """`(field, value)` of the first processor."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.split("\n\n", 1)[0].splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _arm_name(fields: dict[str, str]) -> str:
    implementer, part = fields.get("CPU implementer", ""), fields.get("CPU part", "")
    if not implementer:
        return ""
    return _ARM_PARTS.get((implementer, part), f"Arm implementer {implementer} part {part}")


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _setting(path: Path) -> str | None:
    """The value of one sysctl; None where this kernel does not have it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
