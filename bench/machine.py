"""The machine under the figures: what a reader needs to compare them, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path


def machine() -> dict[str, str]:
    """Property -> value; what cannot be read is left out. The date is the day of the run (UTC)."""
    found = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "CPU": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "kernel": platform.release(),
        "system": _first(Path("/etc/os-release"), r'PRETTY_NAME="?([^"\n]+)'),
        "Python": platform.python_version(),
        "Docker": _docker(),
    }
    return {name: value for name, value in found.items() if value}


def sentence() -> str:
    """The same in a line."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def disturbance() -> str:
    """A warning if more processes wanted a core in the last minute than there are cores; "" if not."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load <= cores:
        return ""
    return f"The machine was busy with other work (load {load:.1f} on {cores} cores): CPU says more than wall time."


def _first(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.read_text("utf-8", "replace"))
    except OSError:
        return ""
    return " ".join(found[1].split()) if found else ""


def _memory() -> str:
    kibibytes = _first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)")
    return f"{int(kibibytes) / (1 << 20):.0f} GiB" if kibibytes else ""


def _docker() -> str:
    if shutil.which("docker") is None:
        return ""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
