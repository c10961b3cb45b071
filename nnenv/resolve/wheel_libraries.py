"""What the file list of a wheel tells: the shared libraries in it, and which CUDA they are laid out for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from nnenv.spec.gpu import WheelOutline

_SHARED: Final = re.compile(r"lib[^/]*\.so\.[0-9.]+")
"""File names that are sonames as well, by NVIDIA's habit: `libcublas.so.12`."""
_LAYOUT: Final = re.compile(r"nvidia/cu([1-9][0-9])/")
"""Where NVIDIA's wheels put CUDA 13 and later; earlier ones have a folder for each component."""


def sonames_in(outline: WheelOutline) -> Mapping[str, str]:
    """Soname -> path in the wheel, of each library whose file name has a version."""
    return {name: file.path for file in outline.files if _SHARED.fullmatch(name := file.path.rsplit("/", 1)[-1])}


def cuda_major_of_layout(outline: WheelOutline) -> int | None:
    """The CUDA major in the paths of NVIDIA's libraries; None where there is none, or more than one."""
    majors = {int(match[1]) for file in outline.files if (match := _LAYOUT.match(file.path))}
    return majors.pop() if len(majors) == 1 else None
