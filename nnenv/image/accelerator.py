"""What an image for an accelerator has beyond others: where its CUDA libraries are found, and what it tells NVIDIA's
container runtime.

The container runtime brings the driver's libraries and runs ldconfig in the container, so the cache alone would not
do: the directories stand in a file that ldconfig reads as well (ld.so(8), ldconfig(8)).
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from typing import Final

LINKER_CONFIGURATION: Final = "etc/ld.so.conf.d/nnenv.conf"
"""The directories of the CUDA libraries, one a line."""

CAPABILITIES_LABEL: Final = "io.nnenv.compute-capabilities"
"""Label with the compute capabilities that the image has code for: `8.6,9.0`."""

_ALWAYS: Final = ("compute", "utility")
"""CUDA itself, and nvidia-smi with NVML: what NVIDIA's own CUDA images ask for."""


def linked_libraries(sonames: Mapping[str, str], driver: Collection[str]) -> dict[str, str]:
    """Those of the libraries (path -> soname) that the dynamic linker is to find by name, by path.

    A directory with a library of the driver holds stubs to link against: none of it may be found before the real ones.
    """
    stubs = {posixpath.dirname(path) for path, soname in sonames.items() if soname in driver}
    return {path: soname for path, soname in sorted(sonames.items()) if soname and posixpath.dirname(path) not in stubs}


def linker_configuration(paths: Iterable[str]) -> bytes:
    """The text of LINKER_CONFIGURATION for the libraries at `paths`, which have no leading slash."""
    directories = sorted({posixpath.dirname(path) for path in paths})
    return "".join(f"/{directory}\n" for directory in directories).encode()


def runtime_environment(cuda: str, capabilities: Iterable[str]) -> dict[str, str]:
    """Variables that NVIDIA's container runtime reads (NVIDIA Container Toolkit, environment variables).

    `cuda` is the CUDA release that the host's driver has to know at least, `12.4`; empty for none. `capabilities`
    are those of the driver that the libraries need, `compute`, `video`, ….
    """
    wanted = [*_ALWAYS, *sorted(set(capabilities) - set(_ALWAYS))]
    required = {"NVIDIA_REQUIRE_CUDA": f"cuda>={cuda}"} if cuda else {}
    return {
        "NVIDIA_DRIVER_CAPABILITIES": ",".join(wanted),
        **required,
        "NVIDIA_VISIBLE_DEVICES": "all",
    }
