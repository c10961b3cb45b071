"""`nnenv compat refresh`: the tables that follow from the Python index, derived anew and compared with the shipped."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nnenv import data
from nnenv.errors import NnenvError
from nnenv.resolve.compat import TABLE, TOOLKIT, cuda_majors
from nnenv.resolve.compat_derived import (
    Sonames,
    component_rows,
    library_distributions,
    library_sonames,
    soname_rows,
    sonames_by_version,
    with_rows,
)
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.python_index import PythonIndexes
    from nnenv.resolve.python_catalog import WheelRecord

_PLATFORM: Final = "x86_64"
"""NVIDIA's wheels for other CPUs hold libraries of the same sonames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """The data file as the index would have it."""

    text: str
    difference: str
    """A unified diff from the shipped file; empty if they are the same."""
    out: str | None
    """Where it was written."""


def refresh(session: Session, out: str | None) -> Refreshed:
    """Derive the tables `toolkit-components` and `soname-providers` from the configured index; write them to `out`.

    File lists are read by ranges, of as few wheels as tell (about 300 small requests on the public index).
    Raises NnenvError `source-unconfigured` if the index has no cuda-toolkit.
    """
    shipped = data.text(TABLE)
    task = session.progress.start(f"read file lists of {TOOLKIT}")
    try:
        with session.python_indexes(None) as indexes:
            requires = {major: indexes.metadata(wheel).requires for major, wheel in _toolkits(indexes).items()}
            components = component_rows(requires)
            distributions = library_distributions(components, requires)
            with ThreadPoolExecutor(session.workers) as pool:
                held = list(pool.map(partial(_held, indexes), distributions))
    finally:
        task.finish()
    text = with_rows(shipped, "toolkit-components", components)
    text = with_rows(text, "soname-providers", soname_rows(dict(zip(distributions, held, strict=True))))
    if out is not None:
        _write(session.project / out, text)
    lines = unified_diff(
        shipped.splitlines(keepends=True), text.splitlines(keepends=True), "shipped compat.toml", "by the index"
    )
    return Refreshed(text=text, difference="".join(lines), out=out)


def _toolkits(indexes: PythonIndexes) -> Mapping[int, WheelRecord]:
    """CUDA major -> the newest release of the metapackage, oldest major first."""
    newest = {int(version.partition(".")[0]): wheel for version, wheel in _final_wheels(indexes, TOOLKIT).items()}
    found = {major: newest[major] for major in sorted(newest) if major >= min(cuda_majors())}
    if not found:
        raise NnenvError(
            "source-unconfigured",
            f"the configured Python index has no {TOOLKIT}",
            because=["the derivable tables follow from it"],
            fix=["configure an index that has it (NNENV_INDEX_URL)"],
        )
    return found


def _held(indexes: PythonIndexes, wanted: tuple[int, str]) -> Mapping[str, Sonames]:
    """Release -> the libraries that a distribution holds for a CUDA major; releases without any are left out."""
    major, name = wanted
    wheels = _final_wheels(indexes, name)
    # Without a CUDA major in its name a distribution may have releases for several; the folder tells.
    folder = "" if name.endswith(f"-cu{major}") else f"nvidia/cu{major}/"

    def sonames_of(version: str) -> Sonames:
        files = indexes.outline(wheels[version]).files
        return library_sonames(file.path for file in files if file.path.startswith(folder))

    found = sonames_by_version(list(wheels), sonames_of)
    return {version: sonames for version, sonames in found.items() if sonames}


def _final_wheels(indexes: PythonIndexes, name: str) -> Mapping[str, WheelRecord]:
    """Final release -> its wheel for any CPU, or for the one that we look at; oldest first."""
    from packaging.version import Version

    project = indexes.project(name)
    found: dict[str, WheelRecord] = {}
    for version in reversed(project.versions):
        fitting = [wheel for wheel in project.wheels_of(version) if _fits(wheel.filename)]
        if fitting and not Version(version).is_prerelease:
            found[version] = min(fitting, key=_filename)
    return found


def _fits(filename: str) -> bool:
    return filename.endswith((f"{_PLATFORM}.whl", "-any.whl"))


def _filename(wheel: WheelRecord) -> str:
    return wheel.filename


def _write(path: Path, text: str) -> None:
    from nnenv.adapters.files import write_atomically

    write_atomically(path, text.encode())
