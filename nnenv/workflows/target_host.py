"""`nnenv doctor --target`: could this machine run the image of a target? Asked before anything is pulled."""

from __future__ import annotations

from collections.abc import Collection

from nnenv.adapters.examination import GpuHost
from nnenv.resolve.compat import older
from nnenv.spec.lockfile import GpuLock, TargetLock
from nnenv.workflows.doctoring import Line, State, size


def target_lines(target: TargetLock, host: GpuHost, machine: str, runtimes: Collection[str] | None) -> tuple[Line, ...]:
    """Lines on CPU, driver, GPUs and container runtime.

    `machine` is this machine's, as `uname -m` says; `runtimes` those of the Docker engine, None without one. What
    keeps the image from running here is fatal.
    """
    name = f"target {target.name}"
    cpu = f"made for {target.machine}, and this machine is {machine}"
    if machine != target.machine:
        fix = "run it on such a machine; `verify` can emulate the CPU, and no GPU"
        return (Line(name=name, state=State.MISSING, text=cpu, fix=(fix,), fatal=target.gpu is not None),)
    if target.gpu is None:
        return (Line(name=name, state=State.OK, text=f"{target.platform}, and needs no GPU"),)
    return (
        _driver_line(name, target.gpu, host),
        *_gpu_lines(name, target.gpu, host),
        _runtime_line(name, runtimes),
    )


def _driver_line(name: str, gpu: GpuLock, host: GpuHost) -> Line:
    needed = f"{gpu.driver} or newer is needed: {gpu.driver_reason}" if gpu.driver else "any driver will do"
    if not host.driver:
        fix = "install NVIDIA's driver on this host"
        return Line(name=name, state=State.MISSING, text=f"no NVIDIA driver; {needed}", fix=(fix,), fatal=True)
    if gpu.driver and older(host.driver, gpu.driver):
        fixes = ("install a newer driver", "lock for this one: `driver` of the target in model.toml, then `nnenv lock`")
        return Line(name=name, state=State.MISSING, text=f"driver {host.driver}; {needed}", fix=fixes, fatal=True)
    return Line(name=name, state=State.OK, text=f"driver {host.driver}; {needed}")


def _gpu_lines(name: str, gpu: GpuLock, host: GpuHost) -> tuple[Line, ...]:
    """A line a GPU: one that the image has code for is enough."""
    if not host.gpus:
        why = host.problem or "the driver lists none"
        return (Line(name=name, state=State.MISSING, text=f"no GPU: {why}", fatal=True),)
    covered = dict(gpu.capabilities)
    usable = [one for one in host.gpus if one.capability in covered]
    lines = []
    for number, one in enumerate(host.gpus):
        free = f", {size(one.free_bytes)} of {size(one.total_bytes)} free" if one.free_bytes else ""
        text = f"GPU {number}: {one.name}, compute capability {one.capability}{free}"
        if one.capability in covered:
            lines.append(Line(name=name, state=State.OK, text=f"{text}: code by {covered[one.capability]}"))
            continue
        fix = f'add "{one.capability}" to compute-capability of the target, and run `nnenv lock`'
        state = State.WARNING if usable else State.MISSING
        text = f"{text}: the image is not known to have code for it"
        lines.append(Line(name=name, state=state, text=text, fix=(fix,), fatal=not usable))
    return tuple(lines)


def _runtime_line(name: str, runtimes: Collection[str] | None) -> Line:
    if runtimes is None:
        text = "no Docker engine answers: whether containers get a GPU is unknown"
        return Line(name=name, state=State.WARNING, text=text)
    if "nvidia" in runtimes:
        return Line(name=name, state=State.OK, text="the Docker engine has NVIDIA's runtime")
    fix = "install NVIDIA's container toolkit, then `nvidia-ctk runtime configure` and restart Docker"
    return Line(name=name, state=State.MISSING, text="the Docker engine has no NVIDIA runtime", fix=(fix,), fatal=True)
