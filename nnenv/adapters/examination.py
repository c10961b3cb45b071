"""Facts about the machine that `nnenv doctor` shows: memory, disks, programs, drivers, time. Nothing is changed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_DRIVER_LIBRARY: Final = "libcuda.so.1"
_LIBRARY_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
)
"""Where distributions, WSL, container platforms and NixOS put the driver's library."""

_GPU_TOOLS: Final = ("nvidia-container-runtime", "nvidia-ctk", "nvidia-container-cli")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """In bytes; 0 where the kernel does not say."""

    total: int
    available: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a folder that may not exist yet stands on."""

    path: Path
    exists: bool
    nearest: Path
    """The folder itself, or the nearest one above it that is there."""
    file_system: str
    """`ext4`, `tmpfs`, ...; empty where the kernel does not say."""
    free_bytes: int
    """For this user."""
    total_bytes: int
    obstacle: str
    """Why nothing can be written there, empty if something can."""
    has_locks: bool
    """Whether the kernel locks files there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """What this machine has of NVIDIA's driver."""

    driver: str
    """As /proc says it, empty without a kernel module."""
    library: str
    """Where libcuda.so.1 lies, or empty."""
    tools: tuple[str, ...]
    """Programs that bring the GPU into containers."""


def memory(table: Path = Path("/proc/meminfo")) -> Memory:
    """Of this machine, whatever a control group allows of it."""
    sizes = {}
    try:
        for line in table.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            sizes[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return Memory(total=sizes.get("MemTotal", 0), available=sizes.get("MemAvailable", 0))


def place(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Place:
    """Facts about a folder; nothing stays there, and what does not exist is not made."""
    nearest = next(folder for folder in (path, *path.parents) if folder.is_dir())
    usage = os.statvfs(nearest)
    obstacle, has_locks = _trial(nearest)
    return Place(
        path=path,
        exists=nearest == path,
        nearest=nearest,
        file_system=_file_system(nearest.resolve(), mounts),
        free_bytes=usage.f_bavail * usage.f_frsize,
        total_bytes=usage.f_blocks * usage.f_frsize,
        obstacle=obstacle,
        has_locks=has_locks,
    )


def _trial(folder: Path) -> tuple[str, bool]:
    """(why a file cannot be made in `folder`, whether one can be locked); the file has no name and vanishes."""
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            try:
                fcntl.flock(trial, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return "", False
            return "", True
    except OSError as error:
        return error.strerror or str(error), False


def _file_system(folder: Path, mounts: Path) -> str:
    """The type of the mount that holds `folder`: proc(5), /proc/pid/mountinfo; the last of the longest paths wins."""
    best, found = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, more = line.partition(" - ")
        point = Path(fields.split()[4].encode().decode("unicode_escape"))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), more.split()[0]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU, as the driver describes it."""

    name: str
    capability: str
    """`8.6`."""
    total_bytes: int
    free_bytes: int
    """0 where the driver does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuHost:
    """What this machine could run GPU images with."""

    driver: str
    """Version of the kernel module, `550.54.15`; empty without one."""
    gpus: tuple[Gpu, ...]
    problem: str
    """Why libcuda told nothing; empty if it did."""


_PROBE_SECONDS: Final = 20.0


def gpu_host(environment: Mapping[str, str], proc: Path = Path("/proc")) -> GpuHost:
    """Asks the driver in a process of its own (`gpu_probe`), which gets `environment`."""
    import json

    module = gpu_facts(proc).driver
    version = re.search(r"\b[0-9]{3}\.[0-9]+(?:\.[0-9]+)?\b", module)
    command = [sys.executable, "-I", str(Path(__file__).with_name("gpu_probe.py"))]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROBE_SECONDS, env=dict(environment), check=False, text=True
        )
        told: dict[str, Any] = (
            json.loads(done.stdout) if not done.returncode else {"error": f"asking it ended with {done.returncode}"}
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        told = {"error": f"asking it failed: {type(error).__name__}"}
    found = [
        Gpu(name=one["name"], capability=one["capability"], total_bytes=one["total"], free_bytes=one["free"])
        for one in told.get("gpus", ())
    ]
    return GpuHost(driver=version[0] if version else "", gpus=tuple(found), problem=told.get("error", ""))


def gpu_facts(proc: Path = Path("/proc"), folders: tuple[str, ...] = _LIBRARY_FOLDERS) -> GpuFacts:
    """What there is of NVIDIA's driver; nothing is loaded or run."""
    try:
        lines = (proc / "driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    libraries = (Path(folder, _DRIVER_LIBRARY) for folder in folders)
    return GpuFacts(
        driver=lines[0].removeprefix("NVRM version:").strip() if lines else "",
        library=next((str(path) for path in libraries if path.exists()), ""),
        tools=tuple(name for name in _GPU_TOOLS if shutil.which(name)),
    )


def program_version(*command: str) -> str:
    """The first line that a program prints, empty if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=4, env=environment, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return lines[0].strip() if lines and done.returncode == 0 else ""


def has_binary_format(machine: str, registered: Path = Path("/proc/sys/fs/binfmt_misc")) -> bool:
    """Whether the kernel hands programs of `machine` to qemu by itself, as engines need it."""
    try:
        return (registered / f"qemu-{machine}").read_text(encoding="ascii", errors="replace").startswith("enabled")
    except OSError:
        return False


def now() -> datetime:
    """This machine's clock, UTC."""
    return datetime.now(UTC)
