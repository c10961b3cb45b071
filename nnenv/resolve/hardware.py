"""The hardware rules of a target in the choice of wheels (ADR 0009): what CUDA brings, and what it rules out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata
from nnenv.resolve import compat
from nnenv.resolve.compat import TOOLKIT, older
from nnenv.resolve.gpu_coverage import Code, LibraryCoverage, cover_all
from nnenv.resolve.model_runtime import ModelNeeds, runtime_objection
from nnenv.resolve.python_catalog import Project, WheelRecord
from nnenv.resolve.variants import Variants
from nnenv.resolve.wheel_libraries import cuda_major_of_layout
from nnenv.resolve.wheel_rules import VIRTUAL, Demand, Judgement, Objection
from nnenv.spec.elf import ElfFacts
from nnenv.spec.gpu import GpuCode, WheelOutline

CUDA: Final = f"{VIRTUAL}cuda"
"""The package whose version is the target's CUDA major."""
_SUFFIX: Final = re.compile(r"-cu(?:da)?(1[0-9])x?(?=-|$)")
_VERSIONED: Final = re.compile(r"lib(?:cudart|cublas|cublasLt)\.so\.(1[0-9])(?:\.0)?")
"""Libraries whose version has been the CUDA major since 10."""
_RUNTIME: Final = re.compile(r"nvidia-cuda-runtime(-cu1[0-9])?")
_CUDNN: Final = re.compile(r"nvidia-cudnn(-cu1[0-9])?")
_MOST_MINORS: Final = 20
"""Minor releases that a CUDA major may have; 12 had ten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTarget:
    """A kind of machine with an accelerator."""

    name: str
    machine: str
    """`x86_64` or `aarch64`."""
    cuda: str = ""
    """Range of the toolkit; empty if the target does not say."""
    cudnn: str = ""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities that the image must have code for, `8.6`."""
    driver: str = ""
    """The oldest driver that the hosts have; empty if the target does not say."""


class Knowledge(Protocol):
    """What wheels are asked for, each answer the same for the whole run."""

    def outline(self, wheel: WheelRecord) -> WheelOutline:
        """File list and statements, without reading the wheel whole."""
        ...

    def libraries(self, wheel: WheelRecord) -> Sequence[ElfFacts]:
        """Facts of every library; the wheel is read whole if they are not known."""
        ...


class CpuRules:
    """The rules of a target without an accelerator; satisfies `WheelRules`."""

    def __init__(self, variants: Variants, refused: Mapping[str, Objection], models: Sequence[ModelNeeds] = ()) -> None:
        """`refused`: file name -> what a look at the whole choice had against it; `models` are to be loaded."""
        self._variants = variants
        self._refused = refused
        self._models = models

    def renamed(self, name: str, extras: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        return self._variants.mapped(name, extras, None)

    def roots(self) -> Sequence[Demand]:
        return ()

    def judge(self, wheel: WheelRecord, metadata: CoreMetadata, required: Sequence[tuple[str, str]]) -> Judgement:
        if compat.is_part_of_cuda(wheel.project):
            why = "is part of CUDA, and a target without an accelerator contains none"
            return Judgement(objection=Objection(code="cuda-on-cpu-target", why=why))
        refused = self._refused.get(wheel.filename)
        return Judgement(objection=refused or runtime_objection(wheel.project, wheel.version, self._models))

    def virtual(self, name: str) -> Project:
        raise KeyError(name)


class CudaRules:
    """The rules of a target with an accelerator; satisfies `WheelRules`. What it was asked, it remembers."""

    def __init__(
        self,
        target: GpuTarget,
        variants: Variants,
        knowledge: Knowledge,
        *,
        refused: Mapping[str, Objection],
        missing: Mapping[str, tuple[Demand, ...]],
        coherent: bool = True,
        models: Sequence[ModelNeeds] = (),
    ) -> None:
        """`refused`: file name -> what a look at the whole choice had against it; `missing`: distribution -> what it
        turned out to need besides. `coherent`: components of the toolkit are of one release. `models` are to be loaded.

        Raises NnenvError `driver-too-old` if the target's driver runs none of its CUDA majors.
        """
        self.target = target
        self.majors = allowed_majors(target)
        self.has_guessed = False
        """Whether a name was taken for its build for the newest CUDA, because the target leaves the major open."""
        self._cuda = SpecifierSet(target.cuda)
        self._cudnn = SpecifierSet(target.cudnn)
        self._variants = variants
        self._knowledge = knowledge
        self._coherent = coherent
        self._refused = refused
        self._missing = missing
        self._models = models

    def renamed(self, name: str, extras: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        # Where several majors are open, the newest for which there is a build.
        major = next((one for one in self.majors if self._variants.serves(name, one)), self.majors[0])
        self.has_guessed = self.has_guessed or (len(self.majors) > 1 and self._variants.depends_on_major(name))
        return self._variants.mapped(compat.published_name(name), extras, major)

    def roots(self) -> Sequence[Demand]:
        asked = f'is a CUDA target (cuda = "{self.target.cuda}")' if self.target.cuda else "is a CUDA target"
        return (Demand(name=CUDA, why=f"says that {self.target.name} {asked}"),)

    def virtual(self, name: str) -> Project:
        assert name == CUDA, name
        return _Majors(self.majors)

    def judge(self, wheel: WheelRecord, metadata: CoreMetadata, required: Sequence[tuple[str, str]]) -> Judgement:
        objection = (
            self._refused.get(wheel.filename)
            or self._outside(wheel)
            or runtime_objection(wheel.project, wheel.version, self._models)
        )
        if objection is not None:
            return Judgement(objection=objection)
        needs = self._needs(wheel)
        objection = self._uncovered(wheel, needs)
        if objection is not None:
            return Judgement(objection=objection)
        demands = self._demands(wheel.project, needs, dict(required))
        return Judgement(demands=(*demands, *self._missing.get(wheel.project, ())))

    # What is outside of what the target asks for

    def _outside(self, wheel: WheelRecord) -> Objection | None:
        version = Version(wheel.version)
        # The runtime's patch numbers are not the toolkit's: 12.9.79 is of 12.9.1.
        if _RUNTIME.fullmatch(wheel.project) and not family_fits(self._cuda, version.major, version.minor):
            return Objection(code="cuda-outside-range", why=f'is not of CUDA "{self.target.cuda}"')
        if wheel.project == TOOLKIT and not self._cuda.contains(version):
            return Objection(code="cuda-outside-range", why=f'is not of CUDA "{self.target.cuda}"')
        if _CUDNN.fullmatch(wheel.project) and not self._cudnn.contains(version):
            return Objection(code="cudnn-outside-range", why=f'is not cuDNN "{self.target.cudnn}"')
        return None

    # What a wheel needs of CUDA

    def _needs(self, wheel: WheelRecord) -> _Needs:
        """From the name where that tells, else from the outline of the distributions that are worth a look."""
        needs = _Needs()
        named = major_in_name(wheel.project)
        if named is not None:
            needs.of_major(named, f"is built for CUDA {named}")
        elif wheel.project == TOOLKIT:
            major = Version(wheel.version).major
            needs.of_major(major, f"is the toolkit of CUDA {major}")
        if compat.is_part_of_cuda(wheel.project):
            needs.looked_at = True
            if not needs.majors and wheel.project != TOOLKIT:
                layout = cuda_major_of_layout(self._knowledge.outline(wheel))
                if layout is not None:
                    needs.of_major(layout, f"holds libraries of CUDA {layout}")
        elif compat.is_framework(wheel.project):
            needs.looked_at = True
            self._read_outline(wheel, needs)
        return needs

    def _read_outline(self, wheel: WheelRecord, needs: _Needs) -> None:
        outline = self._knowledge.outline(wheel)
        if outline.cuda:
            needs.built_with = outline.cuda
            needs.of_major(Version(outline.cuda).major, f"states that it was built with CUDA {outline.cuda}")
        needs.cudnn = outline.cudnn
        optional = compat.optional_sonames(wheel.project)
        named = outline.needed
        if not outline.cuda and not named:
            # Neither states nor shows it at its beginning: only the whole wheel tells which CUDA it is for.
            named = tuple((fact.path, fact.needed) for fact in self._knowledge.libraries(wheel))
        for path, sonames in named:
            for soname in sonames:
                if soname not in optional:
                    needs.of_soname(soname, f"{path.rsplit('/', 1)[-1]} needs {soname}")
        for soname in compat.lazy_sonames(wheel.project, wheel.version):
            needs.of_soname(soname, f"loads {soname} when it is first used")

    def _demands(self, project: str, needs: _Needs, required: Mapping[str, str]) -> Iterator[Demand]:
        for major, why in sorted(needs.majors.items()):
            yield Demand(name=CUDA, specifier=f"=={major}", why=why)
        if len(needs.majors) == 1:
            (major,) = needs.majors
            components: dict[str, str] = {}
            yield from self._by_library(needs, required, major, components)
            yield from self._by_name(project, needs, required, major, components)
            for component, why in sorted(components.items()):
                specifier = _toolkit_range(major, needs.built_with)
                yield Demand(name=TOOLKIT, extras=(component,), specifier=specifier, why=why)

    def _by_library(
        self, needs: _Needs, required: Mapping[str, str], major: int, components: dict[str, str]
    ) -> Iterator[Demand]:
        """What holds the libraries that a wheel needs; parts of the toolkit are added to `components` instead."""
        for soname, why in sorted(needs.sonames.items()):
            provider = compat.provider_of_soname(soname, major)
            if provider is None or is_exact(required.get(provider.distribution, "")):
                continue
            if provider.component and self._coherent:
                components.setdefault(provider.component, why)
            elif provider.distribution not in required:
                parts = [provider.specifier] if provider.specifier else []
                if _RUNTIME.fullmatch(provider.distribution) and needs.built_with:
                    parts.append(f">={needs.built_with}")  # the runtime's minor is the toolkit's
                if _CUDNN.fullmatch(provider.distribution) and needs.cudnn:
                    parts.append(f">={needs.cudnn}")
                yield Demand(name=provider.distribution, specifier=",".join(parts), why=why)

    def _by_name(
        self, project: str, needs: _Needs, required: Mapping[str, str], major: int, components: dict[str, str]
    ) -> Iterator[Demand]:
        """What a wheel's own requirements on parts of CUDA leave open, as `_by_library`."""
        for name, specifier in sorted(required.items()):
            if is_exact(specifier):
                continue
            component = compat.toolkit_component(name, major)
            if component and self._coherent:
                components.setdefault(component, f"needs {name}{specifier}")
            if _CUDNN.fullmatch(name) and needs.cudnn:
                why = f"states that it was built with cuDNN {needs.cudnn}"
                yield Demand(name=name, specifier=f">={needs.cudnn}", why=why)
        own = compat.toolkit_component(project, major)
        if own and components:
            components.setdefault(own, "is a part of the toolkit itself")

    # Compute capabilities

    def _uncovered(self, wheel: WheelRecord, needs: _Needs) -> Objection | None:
        if not needs.looked_at or not self.target.capabilities:
            return None
        codes = gpu_code(wheel.project, self._knowledge.libraries(wheel))
        for capability in self.target.capabilities if codes else ():
            coverage = cover_all(codes, capability)
            if coverage.code is Code.NONE:
                return Objection(
                    code="compute-capability-uncovered",
                    why=f"has no code for compute capability {capability}",
                    evidence=(f"{coverage.library} has {_shown(codes[coverage.library])}",),
                )
            if coverage.code is Code.PTX and self.target.driver:
                floor = ptx_driver(coverage)
                if not floor or older(self.target.driver, floor):
                    needed = f"driver {floor}" if floor else "a driver that nnenv does not know"
                    return Objection(
                        code="driver-too-old",
                        why=f"has only PTX {coverage.ptx} for compute capability {capability}: that needs {needed}",
                        evidence=(f"the target's hosts have driver {self.target.driver} at least",),
                    )
        return None


@dataclass(kw_only=True, slots=True)
class _Needs:
    """What one wheel needs of CUDA, and how that shows."""

    majors: dict[int, str] = field(default_factory=dict)
    sonames: dict[str, str] = field(default_factory=dict)
    built_with: str = ""
    cudnn: str = ""
    looked_at: bool = False
    """Whether it is a wheel whose GPU code counts."""

    def of_major(self, major: int, why: str) -> None:
        """The first sign of a major is the one that is told."""
        self.majors.setdefault(major, why)

    def of_soname(self, soname: str, why: str) -> None:
        """A library from outside; NVIDIA's tell a major too."""
        self.sonames.setdefault(soname, why)
        versioned = _VERSIONED.fullmatch(soname)
        major = int(versioned[1]) if versioned else compat.cuda_major_of_soname(soname)
        if major is not None:
            self.of_major(major, why)


class _Majors:
    """CUDA majors as a project; satisfies `Project`."""

    name = CUDA
    known = True
    misnamed: Sequence[WheelRecord] = ()
    other_names: Sequence[str] = ()

    def __init__(self, majors: Sequence[int]) -> None:
        self.versions = tuple(map(str, majors))

    def wheels_of(self, version: str) -> Sequence[WheelRecord]:
        """One, that is no file."""
        return (
            WheelRecord(project=CUDA, version=version, filename=f"_cuda-{version}-py3-none-any.whl", origin="target"),
        )


def allowed_majors(target: GpuTarget) -> tuple[int, ...]:
    """CUDA majors that the target's `cuda` and `driver` allow, newest first.

    Raises NnenvError `driver-too-old` if its driver runs none of those that its `cuda` allows, and
    `cuda-unknown` if nnenv knows no release in the range.
    """
    asked = SpecifierSet(target.cuda)
    majors = [major for major in compat.cuda_majors() if family_fits(asked, major)]
    if not majors:
        raise NnenvError(
            "cuda-unknown",
            f'target {target.name}: nnenv knows no CUDA "{target.cuda}"',
            where=f"targets.{target.name}.cuda",
            because=[f"known are CUDA {', '.join(map(str, compat.cuda_majors()))} (`nnenv compat`)"],
            fix=["ask for one of these"],
        )
    running = [major for major in majors if not target.driver or not older(target.driver, floor_of(major))]
    if not running:
        oldest = majors[-1]
        raise NnenvError(
            "driver-too-old",
            f"target {target.name}: CUDA {oldest} needs driver {floor_of(oldest)} or newer",
            where=f"targets.{target.name}.driver",
            because=[f'driver = ">={target.driver}" promises no more than {target.driver} on the hosts'],
            fix=[f'driver = ">={floor_of(oldest)}", if all hosts have it'],
        )
    return tuple(running)


def floor_of(major: int) -> str:
    """The oldest driver that runs any release of a CUDA major that `compat` knows (minor-version compatibility)."""
    floor = compat.driver_floor(major)
    assert floor is not None, major
    return floor


def family_fits(specifier: SpecifierSet, major: int, minor: int | None = None) -> bool:
    """Whether some release of the CUDA major, or of its minor, is in the range."""
    minors = range(_MOST_MINORS) if minor is None else (minor,)
    return any(specifier.contains(f"{major}.{m}.{patch}") for m in minors for patch in range(4))


def gpu_code(distribution: str, libraries: Sequence[ElfFacts]) -> Mapping[str, GpuCode]:
    """Library -> its code, of those that load whatever a model does, and that can be read."""
    return {
        name: fact.gpu
        for fact in libraries
        if fact.gpu
        and compat.always_loaded(distribution, name := fact.path.rsplit("/", 1)[-1])
        and not compat.is_opaque(name)
    }


def ptx_driver(coverage: LibraryCoverage) -> str:
    """The oldest driver that translates the PTX by which a capability is covered; "" if none is known, or needed."""
    if coverage.code is not Code.PTX:
        return ""
    cuda = compat.cuda_of_ptx(coverage.ptx)
    return (compat.driver_for_cuda(cuda) or "") if cuda else ""


def major_in_name(distribution: str) -> int | None:
    """The CUDA major in a distribution's name: `nvidia-cublas-cu12`, `cupy-cuda12x`, `jax-cuda13-plugin`."""
    match = _SUFFIX.search(distribution)
    return int(match[1]) if match else None


def is_exact(specifier: str) -> bool:
    """Whether a range is one release: `==12.4.5.8`, or `==12.4.5.8.*` as toolkits pin their components."""
    return any(part.operator in {"==", "==="} for part in SpecifierSet(specifier))


def _toolkit_range(major: int, built_with: str) -> str:
    """Releases of the major that are not older than the one a framework was built with."""
    try:
        return f"=={major}.*,>={Version(built_with)}" if built_with else f"=={major}.*"
    except InvalidVersion:
        return f"=={major}.*"


def _shown(code: GpuCode) -> str:
    parts = [*(f"sm_{arch}" for arch in code.sass), *(f"compute_{arch} (PTX {isa})" for arch, isa in code.ptx)]
    return ", ".join(parts)
