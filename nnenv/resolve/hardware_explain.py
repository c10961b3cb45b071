"""Why a target with an accelerator has no solution, in the words of its hardware, and what would give it one.

Everything said here was tried: the requirements that clash are the fewest that have no solution together, what each
of them needs is read from its solution alone, and every repair was solved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nnenv.errors import NnenvError, Repair
from nnenv.resolve.compat import is_part_of_cuda
from nnenv.resolve.hardware import GpuTarget, is_exact
from nnenv.resolve.hardware_result import cuda_in, floor_in, major_in
from nnenv.resolve.python import ChosenWheel
from nnenv.resolve.python_requirement import read_requirement

Solve = Callable[[Sequence[str], GpuTarget], Sequence[ChosenWheel]]
"""The wheels for requirements on a target; NnenvError if there are none."""
Place = Callable[[str], str]
"""Where a requirement stands in model.toml; "" if it does not."""

_MOST_REPAIRS: Final = 3
_MOST_LINES: Final = 3
"""Of evidence for one package."""


@dataclass(frozen=True, kw_only=True)
class _Alone:
    """What one requirement of the clash leads to when nothing else is asked for."""

    requirement: str
    name: str
    version: str
    versions: Mapping[str, str]
    """All wheels that it brings."""
    pins: Mapping[str, str]
    """Parts of CUDA that its own metadata pins, and to what."""


@dataclass(frozen=True, kw_only=True)
class _Reason:
    """What stands in the way."""

    code: str
    what: str
    because: Sequence[str] = ()
    """Evidence; empty if that of the search is as good."""


def explained(
    error: NnenvError, requirements: Sequence[str], target: GpuTarget, solve: Solve, place: Place
) -> NnenvError:
    """A better error in place of `error`, which `requirements` on `target` ended in; itself if none is found."""
    clash = _fewest(requirements, target, solve)
    alone = [found for text in clash if (found := _alone(text, target, solve)) is not None]
    together = len(alone) == len(clash) > 1
    reason = _difference(alone) if together else _demand(clash, target, solve)
    if error.code == "opset-unsupported":
        reason = _Reason(code=error.code, what=f"nothing for {', '.join(clash)} loads the models of the target")
    if reason is None:
        return error
    repairs = [
        *_other_versions(requirements, clash, target, solve, place),
        *_other_targets(requirements, target, solve),
    ]
    if not repairs:
        repairs = list(_all_other_versions(requirements, clash, target, solve, place))
    return NnenvError(
        reason.code,
        f"target {target.name}: {reason.what}",
        where=error.where,
        because=reason.because or _without_supply(error.because),
        repairs=repairs[:_MOST_REPAIRS],
        fix=() if repairs else error.fix,
    )


def with_other_runtimes(
    error: NnenvError,
    requirements: Sequence[str],
    solve: Callable[[Sequence[str]], Sequence[ChosenWheel]],
    place: Place,
) -> NnenvError:
    """`error` of a CPU target whose runtime loads not all its models, with the other versions that do."""
    target = GpuTarget(name="", machine="")
    clash = _fewest(requirements, target, lambda texts, _: solve(texts))
    repairs = list(_other_versions(requirements, clash, target, lambda texts, _: solve(texts), place))
    return NnenvError(
        error.code,
        error.what,
        where=error.where,
        because=_without_supply(error.because),
        repairs=repairs[:_MOST_REPAIRS],
        fix=() if repairs else error.fix,
    )


def with_other_targets(error: NnenvError, requirements: Sequence[str], target: GpuTarget, solve: Solve) -> NnenvError:
    """`error`, which the target's own keys led to before any search, with the changes of these keys that help."""
    repairs = list(_other_targets(requirements, target, solve))[:_MOST_REPAIRS]
    return NnenvError(
        error.code,
        error.what,
        where=error.where,
        because=error.because,
        repairs=repairs,
        fix=() if repairs else error.fix,
    )


def _fewest(requirements: Sequence[str], target: GpuTarget, solve: Solve) -> list[str]:
    """Requirements that have no solution together, none of which can be left out."""
    needed = list(dict.fromkeys(requirements))
    for text in tuple(needed):
        without = [other for other in needed if other != text]
        if without and not _solvable(without, target, solve):
            needed = without
    return needed


def _alone(text: str, target: GpuTarget, solve: Solve) -> _Alone | None:
    try:
        wheels = solve([text], target)
    except NnenvError:
        return None
    roots = [wheel for wheel in wheels if "model.toml" in wheel.parents]
    root = next((wheel for wheel in roots if not is_part_of_cuda(wheel.record.project)), wheels[0])
    read = [read_requirement(line) for line in root.requires]
    return _Alone(
        requirement=text,
        name=root.record.project,
        version=root.version,
        versions={wheel.record.project: wheel.version for wheel in wheels},
        pins={
            item.name: str(item.specifier)
            for item in read
            if is_part_of_cuda(item.name) and is_exact(str(item.specifier))
        },
    )


def _difference(alone: Sequence[_Alone]) -> _Reason | None:
    """Why packages that are fine alone clash."""
    majors = {major_in(one.versions) for one in alone} - {None}
    if len(majors) > 1:
        lines = [f"{one.name} {one.version}  CUDA {cuda_in(one.versions)}  {_sign(one)}".rstrip() for one in alone]
        what = "two packages need different CUDA majors"
        return _Reason(code="cuda-major-conflict", what=what, because=lines)
    shared = sorted(set.intersection(*(set(one.versions) for one in alone)))
    differing = [name for name in shared if len({one.versions[name] for one in alone}) > 1 and is_part_of_cuda(name)]
    pinned = [name for name in differing if sum(name in one.pins for one in alone) > 1] or differing
    pinned.sort(key=lambda name: not name.startswith("nvidia-cudnn"))  # the one that people know
    if not pinned:
        return None
    lines = [
        f"{name}: " + ", ".join(f"{one.name} {one.version} {_asks(one, name)}" for one in alone) for name in pinned
    ]
    what = f"two packages need different versions of {pinned[0]}"
    return _Reason(code="python-unsatisfiable", what=what, because=lines[:_MOST_LINES])


def _sign(one: _Alone) -> str:
    pins = [f"{name} {version.removeprefix('==')}" for name, version in sorted(one.pins.items())]
    if pins:
        return f"pins {pins[0]}"
    parts = [f"{name} {version}" for name, version in sorted(one.versions.items()) if name.startswith("nvidia-cublas")]
    return f"needs {parts[0]}" if parts else ""


def _asks(one: _Alone, name: str) -> str:
    return f"pins {one.pins[name].removeprefix('==')}" if name in one.pins else f"takes {one.versions[name]}"


def _without_supply(because: Sequence[str]) -> list[str]:
    """Evidence without what indexes have besides: a version that is left out for hardware is no matter of supply."""
    return [line for line in because if ": usable here are" not in line and ": left out " not in line]


def _demand(clash: Sequence[str], target: GpuTarget, solve: Solve) -> _Reason | None:
    """Which demand of the target itself leaves no solution: the first without which there is one."""
    names = ", ".join(clash)
    demands: list[tuple[_Reason, GpuTarget]] = []
    if target.driver:
        reason = _Reason(code="driver-too-old", what=f"nothing for {names} runs on driver {target.driver}")
        demands.append((reason, replace(target, driver="")))
    if target.cudnn:
        reason = _Reason(code="cudnn-outside-range", what=f'nothing for {names} takes cuDNN "{target.cudnn}"')
        demands.append((reason, replace(target, cudnn="")))
    for one in target.capabilities:
        what = f"nothing for {names} has code for compute capability {one}"
        demands.append((_Reason(code="compute-capability-uncovered", what=what), _without(target, one)))
    if target.cuda:
        reason = _Reason(code="cuda-outside-range", what=f'nothing for {names} is of CUDA "{target.cuda}"')
        demands.append((reason, replace(target, cuda="")))
    return next((reason for reason, relaxed in demands if _solvable(clash, relaxed, solve)), None)


def _without(target: GpuTarget, capability: str) -> GpuTarget:
    return replace(target, capabilities=tuple(one for one in target.capabilities if one != capability))


def _other_versions(
    requirements: Sequence[str], clash: Sequence[str], target: GpuTarget, solve: Solve, place: Place
) -> Iterator[Repair]:
    """Repairs that move one package of the clash and leave all else."""
    for text in reversed(clash):
        read = read_requirement(text)
        if not read.specifier:
            continue
        try:
            wheels = solve([_bare(text) if one == text else one for one in requirements], target)
        except NnenvError:
            continue
        version = next((wheel.version for wheel in wheels if _is_meant(wheel, read.name)), "")
        if version:
            new = f"{_bare(text)}=={version}"
            what = f"{new} instead of {text}{_at(place(text))}  ->  {_cost(wheels)}"
            yield Repair(what=what, key=("requires", "packages"), old=text, new=new)


def _all_other_versions(
    requirements: Sequence[str], clash: Sequence[str], target: GpuTarget, solve: Solve, place: Place
) -> Iterator[Repair]:
    """The repair that moves every package of the clash, where moving one of them does not help."""
    bounded = [text for text in clash if read_requirement(text).specifier]
    if len(bounded) < 2:
        return
    try:
        wheels = solve([_bare(text) if text in bounded else text for text in requirements], target)
    except NnenvError:
        return
    moves = []
    for text in bounded:
        name = read_requirement(text).name
        version = next((wheel.version for wheel in wheels if _is_meant(wheel, name)), "")
        if not version:
            return
        if not read_requirement(text).specifier.contains(version, prereleases=True):
            moves.append((text, f"{_bare(text)}=={version}"))
    if not moves:
        return
    (old, new), *more = moves
    told = " and ".join(f"{new} instead of {old}{_at(place(old))}" for old, new in moves)
    yield Repair(what=f"{told}  ->  {_cost(wheels)}", key=("requires", "packages"), old=old, new=new, more=tuple(more))


def _bare(text: str) -> str:
    """The requirement without its range."""
    read = read_requirement(text)
    return f"{read.name}[{','.join(read.extras)}]" if read.extras else read.name


def _is_meant(wheel: ChosenWheel, name: str) -> bool:
    """Whether a wheel is what a requirement's name came to, itself or as its build for CUDA."""
    return wheel.record.project == name or (
        wheel.record.project.startswith(f"{name}-") and "model.toml" in wheel.parents
    )


def _other_targets(requirements: Sequence[str], target: GpuTarget, solve: Solve) -> Iterator[Repair]:
    """Repairs that ask less of the image, or more of the hosts."""
    tries: list[tuple[str, str, GpuTarget]] = [
        ("compute-capability", f"compute-capability without {one}", _without(target, one))
        for one in target.capabilities
        if len(target.capabilities) > 1
    ]
    if target.driver:
        tries.append(("driver", "", replace(target, driver="")))
    if target.cudnn:
        tries.append(("cudnn", "without cudnn", replace(target, cudnn="")))
    if target.cuda:
        tries.append(("cuda", "", replace(target, cuda="")))
    for key, what, relaxed in tries:
        try:
            wheels = solve(requirements, relaxed)
        except NnenvError:
            continue
        versions = {wheel.record.project: wheel.version for wheel in wheels}
        values = {
            "cuda": f'"{major_in(versions)}"',
            "driver": f'">={floor_in(versions)}"',
            "compute-capability": "[" + ", ".join(f'"{one}"' for one in relaxed.capabilities) + "]",
        }
        value = values.get(key, "")
        if key == "cuda" and major_in(versions) is None:
            continue  # what was found brings its own CUDA, or none
        text = f"{what or f'{key} = {value}'}  ->  {_cost(wheels)}"
        yield Repair(what=text, key=("targets", target.name, key), new=value)


def _cost(wheels: Sequence[ChosenWheel]) -> str:
    versions = {wheel.record.project: wheel.version for wheel in wheels}
    size = sum(wheel.record.size or 0 for wheel in wheels)
    cuda = cuda_in(versions)
    hardware = f"CUDA {cuda}, driver >= {floor_in(versions)}, " if cuda else ""
    return f"{hardware}{size / 1e9:.1f} GB"


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _solvable(requirements: Sequence[str], target: GpuTarget, solve: Solve) -> bool:
    try:
        solve(requirements, target)
    except NnenvError:
        return False
    return True
