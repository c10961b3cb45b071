"""What NVIDIA's driver says of this machine's GPUs.

Runs as a program of its own, since a driver that hangs or crashes must not take nnenv with it; prints one JSON object.

Functions: CUDA driver API (cuda.h); attributes 75 and 76 are the compute capability.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any


def gpus() -> dict[str, Any]:
    """`cuda`, the release that the driver brings (`12.4`), and `gpus`: `name`, `capability`, `total` and `free` bytes
    each; or `error`."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {"error": str(error)}
    code = cuda.cuInit(0)
    if code:
        return {"error": f"cuInit reports error {code}"}
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    release = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return {"cuda": release, "gpus": [_gpu(cuda, number) for number in range(count.value)]}


def _gpu(cuda: Any, number: int) -> dict[str, Any]:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (75, 76):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    context = ctypes.c_void_p()
    if not cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        cuda.cuCtxSetCurrent(context)
        cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    return {
        "name": name.value.decode("utf-8", "replace"),
        "capability": ".".join(parts),
        "total": total.value,
        "free": free.value,
    }


if __name__ == "__main__":
    json.dump(gpus(), sys.stdout)
