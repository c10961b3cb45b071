"""Runs inside an image: what CUDA's libraries say of their own versions. No GPU and no driver is needed for that.

How each writes its version was measured with the wheels of CUDA 12.9.2 and 13.5.0 (24 November 2026): 12090 is 12.9 of
the runtime, 120902 is 12.9.2 of cuBLAS, 92801 is 9.28.1 of cuDNN, 11401 is 11.4.1 of cuFFT, 10310 is 10.3.10 of cuRAND.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final

CUDNN_PARTS: Final = ("Graph", "Ops", "Cnn", "Adv")
"""Each checks that its library is there and of the same version: 0, or 3009 where one is missing (measured)."""


def version_of(soname: str) -> str:
    """What the library that the dynamic linker finds by this name says of itself, `12.9.2`; loads it for good.

    Raises OSError with the linker's message, AttributeError for a library without the function, ValueError for what
    the library itself reports as wrong, KeyError for a library that none of the CALLS knows.
    """
    read = CALLS[soname.partition(".so")[0]]
    return read(ctypes.CDLL(soname))


def _numbers(function: str, count: int, library: Any) -> tuple[int, ...]:
    """What a function writes through its pointers."""
    values = [ctypes.c_int() for _ in range(count)]
    error = getattr(library, function)(*map(ctypes.byref, values))
    if error:
        raise ValueError(f"{function} reports error {error}")
    return tuple(value.value for value in values)


def _returned(function: str, library: Any) -> int:
    called = getattr(library, function)
    called.restype = ctypes.c_size_t
    return int(called())


def _cudart(library: Any) -> str:
    (number,) = _numbers("cudaRuntimeGetVersion", 1, library)
    return f"{number // 1000}.{number % 1000 // 10}"


def _cublas(library: Any) -> str:
    parts = []
    for part in range(3):
        value = ctypes.c_int()
        if library.cublasGetProperty(part, ctypes.byref(value)):
            raise ValueError("cublasGetProperty reports an error")
        parts.append(str(value.value))
    return ".".join(parts)


def _cublaslt(library: Any) -> str:
    return _hundreds(_returned("cublasLtGetVersion", library), 10000)


def _cudnn(library: Any) -> str:
    number = _returned("cudnnGetVersion", library)
    for part in CUDNN_PARTS:
        check = getattr(library, f"cudnn{part}VersionCheck", None)  # from cuDNN 9 on
        if check is not None and (error := check()):
            raise ValueError(
                f"cudnn{part}VersionCheck reports {error}: a part of cuDNN is missing or of another version"
            )
    return _hundreds(number, 10000 if number >= 90000 else 1000)


def _cufft(library: Any) -> str:
    return _hundreds(_numbers("cufftGetVersion", 1, library)[0], 1000)


def _curand(library: Any) -> str:
    return _hundreds(_numbers("curandGetVersion", 1, library)[0], 1000)


def _nvrtc(library: Any) -> str:
    return "{}.{}".format(*_numbers("nvrtcVersion", 2, library))


def _nvjitlink(library: Any) -> str:
    return "{}.{}".format(*_numbers("nvJitLinkVersion", 2, library))


def _hundreds(number: int, major: int) -> str:
    """Major, minor and patch of a number whose last two digits are the patch; `major` is the weight of the first."""
    return f"{number // major}.{number % major // 100}.{number % 100}"


CALLS: Final[dict[str, Callable[[Any], str]]] = {
    "libcublas": _cublas,
    "libcublasLt": _cublaslt,
    "libcudart": _cudart,
    "libcudnn": _cudnn,
    "libcufft": _cufft,
    "libcurand": _curand,
    "libnvJitLink": _nvjitlink,
    "libnvrtc": _nvrtc,
}
"""File name without its end -> how to ask the library."""


def versions(sonames: Sequence[str], in_child: Callable[[Callable[[], str]], str]) -> dict[str, str]:
    """Soname -> its version, or `error: ` and why there is none; `in_child` runs a function in a process of its own."""
    return {soname: in_child(lambda name=soname: _told(name)) for soname in sonames}  # type: ignore[misc]


def _told(soname: str) -> str:
    try:
        return version_of(soname)
    except (OSError, AttributeError, ValueError, KeyError) as error:
        return f"error: {error}"
