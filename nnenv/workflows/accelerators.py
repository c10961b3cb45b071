"""What verification asks of an image for an accelerator beyond others, from the lock and the facts of its libraries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from packaging.requirements import Requirement
from packaging.version import Version

from nnenv.resolve import compat
from nnenv.resolve.gpu_coverage import Code, cover_all
from nnenv.resolve.hardware import gpu_code
from nnenv.resolve.variants import colliding
from nnenv.spec.lockfile import GpuLock, Lockfile, TargetLock
from nnenv.verify.closure import Accelerated, ImageElf
from nnenv.verify.cuda_calls import CALLS
from nnenv.verify.report import Finding

PROVIDER: Final = "CUDAExecutionProvider"
_PROVIDER_LIBRARY: Final = "libonnxruntime_providers_cuda.so"
_ANY_PROVIDER: Final = re.compile(r"/libonnxruntime_providers_(?!shared\.)[a-z]+\.so\Z")


class AcceleratorImage:
    """The accelerator's part of one target's image."""

    def __init__(self, lockfile: Lockfile, target: TargetLock, gpu: GpuLock, elves: Iterable[ImageElf]) -> None:
        self._gpu = gpu
        self._wheels = lockfile.wheels_of(target)
        self._elves = [elf for elf in elves if elf.facts.machine == target.machine]
        self._asked_for = _asked_for(lockfile, target)

    @property
    def accelerated(self) -> Accelerated:
        """What closure has to know."""
        return Accelerated(
            driver=compat.driver_sonames(),
            optional={
                f"{wheel.name} {wheel.version}": compat.optional_sonames(wheel.name)
                for wheel in self._wheels
                if compat.optional_sonames(wheel.name)
            },
            by_name=tuple(soname for soname, _ in self._gpu.lazy),
            own=frozenset(self._cuda_libraries),
        )

    @cached_property
    def _cuda_libraries(self) -> Mapping[str, tuple[str, ImageElf]]:
        """Soname -> (version of the wheel, library) of CUDA's wheels."""
        owners = {f"{w.name} {w.version}": w.version for w in self._wheels if compat.is_part_of_cuda(w.name)}
        return {
            elf.facts.soname: (owners[elf.owner], elf)
            for elf in self._elves
            if elf.owner in owners and elf.facts.soname
        }

    def versions(self) -> dict[str, str]:
        """Soname -> version of its wheel, for the libraries that can be asked for their own."""
        return {
            soname: version
            for soname, (version, _) in sorted(self._cuda_libraries.items())
            if soname.partition(".so")[0] in CALLS
        }

    def provider(self) -> str:
        """The execution provider that runs models on the accelerator; empty without onnxruntime's library for it."""
        return PROVIDER if any(elf.path.endswith(f"/{_PROVIDER_LIBRARY}") for elf in self._elves) else ""

    @staticmethod
    def is_provider(path: str) -> bool:
        """Whether a library is one of onnxruntime's providers, which only onnxruntime can open."""
        return _ANY_PROVIDER.search(path) is not None

    def optional(self) -> dict[str, frozenset[str]]:
        """Absolute path of a library -> sonames that its distribution can do without."""
        accelerated = self.accelerated
        return {
            f"/{elf.path}": accelerated.optional[elf.owner] for elf in self._elves if elf.owner in accelerated.optional
        }

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the set of libraries as a whole."""
        return (*self._majors(), *self._collisions(), *self._uncovered(), *self._incoherent())

    def _majors(self) -> Iterator[Finding]:
        """More than one CUDA major among what libraries need."""
        found: dict[int, str] = {}
        for elf in self._elves:
            for soname in elf.facts.needed:
                major = compat.cuda_major_of_soname(soname)
                if major is not None and soname not in compat.driver_sonames():
                    found.setdefault(major, f"{elf.path} ({elf.owner}) needs {soname} of CUDA {major}")
        if len(found) > 1:
            majors = " and ".join(map(str, sorted(found)))
            because = tuple(found[major] for major in sorted(found))
            yield Finding(code="cuda-major-conflict", what=f"CUDA {majors} in one image", because=because)

    def _collisions(self) -> Iterator[Finding]:
        """Two variants of one module."""
        for collision in colliding({wheel.name for wheel in self._wheels}):
            what = f"{' and '.join(collision.distributions)} both bring the module {collision.imports}"
            yield Finding(code="variant-collision", what=what)

    def _uncovered(self) -> Iterator[Finding]:
        """Compute capabilities that some library has no code for, though the lock says that all have."""
        for wheel in self._wheels:
            owner = f"{wheel.name} {wheel.version}"
            code = gpu_code(wheel.name, [elf.facts for elf in self._elves if elf.owner == owner])
            for capability, _ in self._gpu.capabilities if code else ():
                coverage = cover_all(code, capability)
                if coverage.code is Code.NONE:
                    what = f"{owner} has no code for compute capability {capability}"
                    yield Finding(code="compute-capability-uncovered", what=what, where=coverage.library)

    def _incoherent(self) -> Iterator[Finding]:
        """Components that are not of the locked release of the toolkit, unless the user asked for them."""
        versions = {wheel.name: wheel.version for wheel in self._wheels}
        asking = {
            name for wheel in self._wheels if wheel.name != compat.TOOLKIT for name in _asked_names(wheel.requires)
        }
        for wheel in self._wheels:
            for text in wheel.requires if wheel.name == compat.TOOLKIT else ():
                pin = Requirement(text)
                locked = versions.get(pin.name)
                if locked is None or pin.name in self._asked_for or pin.name in asking:
                    continue
                if not pin.specifier.contains(Version(locked), prereleases=True):
                    what = f"{pin.name} {locked} is not of {compat.TOOLKIT} {wheel.version}, which has {pin.specifier}"
                    yield Finding(code="toolkit-incoherent", what=what, where=pin.name)


def _asked_names(requires: Sequence[str]) -> Iterator[str]:
    """Distributions that are required in an exact version."""
    for text in requires:
        requirement = Requirement(text)
        if any(one.operator == "==" for one in requirement.specifier):
            yield requirement.name


def _asked_for(lockfile: Lockfile, target: TargetLock) -> frozenset[str]:
    """Distributions that model.toml itself names for the target."""
    manifest = lockfile.manifest
    targets = manifest.get("targets", {})
    declared = targets.get(target.name, {}) if isinstance(targets, Mapping) else {}
    lists = [_packages(manifest.get("requires", {})), _packages(declared.get("requires", {}))]
    return frozenset(Requirement(text).name for texts in lists for text in texts)


def _packages(table: object) -> Sequence[str]:
    packages = table.get("packages", []) if isinstance(table, Mapping) else []
    return packages if isinstance(packages, list) else []
