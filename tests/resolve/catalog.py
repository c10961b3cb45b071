"""A catalog of wheels written as text, one file a line; satisfies `resolve.python_catalog.WheelCatalog`.

    aa 1.0
    aa 2.0 | requires bb>=1; extra == 'x' | requires-python >=3.12 | yanked | uploaded 2025-01-01T00:00:00Z
    aa 2.0 | tag cp311-cp311-manylinux_2_39_x86_64 | build 2
    file aa: whatever its name is.whl
    empty aa

`metadata-python` is a Requires-Python that only the METADATA states; `refused WHY` is a wheel that breaks a gate.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata
from nnenv.formats.packed_page import might_run
from nnenv.resolve.python_catalog import WheelRecord


class TextProject:
    """The files of one project; satisfies `resolve.python_catalog.Project`."""

    def __init__(self, name: str, wheels: list[WheelRecord], others: list[str], known: bool) -> None:
        self.name = name
        self.known = known
        self.wheels = wheels
        self.misnamed: list[WheelRecord] = []
        self.other_names = list(others)
        self._wheels: dict[Version, list[WheelRecord]] = {}
        for wheel in wheels:
            if not might_run(wheel.filename):
                self.other_names.append(wheel.filename)
                continue
            try:
                self._wheels.setdefault(Version(wheel.version), []).append(wheel)
            except InvalidVersion:
                self.misnamed.append(wheel)
        self.versions = [str(version) for version in sorted(self._wheels, reverse=True)]

    def wheels_of(self, version: str) -> list[WheelRecord]:
        """Those of one of `versions`."""
        return self._wheels[Version(version)]


@dataclass
class TextCatalog:
    """The wheels of `text`; `shuffle` puts the files of every page in another order."""

    text: str
    shuffle: int | None = None
    asked: list[str] = field(default_factory=list)
    """File names whose metadata was asked for, in order."""

    def __post_init__(self) -> None:
        self._files: dict[str, list[WheelRecord]] = {}
        self._sdists: dict[str, list[str]] = {}
        self._metadata: dict[str, CoreMetadata | str] = {}
        for line in self.text.strip().splitlines():
            if line.strip():
                self._read(line.strip())
        if self.shuffle is not None:
            for records in self._files.values():
                random.Random(self.shuffle).shuffle(records)

    def project(self, name: str) -> TextProject:
        """The page of `name`."""
        return TextProject(name, self._files.get(name, []), self._sdists.get(name, []), name in self._files)

    def metadata(self, record: WheelRecord) -> CoreMetadata:
        """What the line says."""
        self.asked.append(record.filename)
        found = self._metadata[record.filename]
        if isinstance(found, str):
            raise NnenvError("wheel-refused", found, fix=["choose another"])
        return found

    def identify(self, record: WheelRecord) -> WheelRecord:
        """The record: every file has a digest here."""
        return record

    def prefetch(self, name: str, then: object) -> None:
        """Nothing is far away."""
        assert name == canonicalize_name(name)

    def expect(self, record: WheelRecord, then: object) -> None:
        """Nothing is far away."""

    def _read(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        if kind == "empty":
            self._files.setdefault(rest, [])
        elif kind == "file":
            name, _, filename = rest.partition(": ")
            self._add(name, filename, {})
        elif kind == "sdist":
            name = canonicalize_name(rest.rpartition("-")[0])
            self._files.setdefault(name, [])
            self._sdists.setdefault(name, []).append(rest)
        else:
            self._wheel(line)

    def _wheel(self, line: str) -> None:
        head, *options = [part.strip() for part in line.split(" | ")]
        name, version = head.split(" ")
        said: dict[str, list[str]] = {}
        for option in options:
            key, _, value = option.partition(" ")
            said.setdefault(key, []).append(value)
        build = "".join(f"-{number}" for number in said.get("build", []))
        tag = said.get("tag", ["py3-none-any"])[0]
        filename = f"{name.replace('-', '_')}-{version}{build}-{tag}.whl"
        self._metadata[filename] = CoreMetadata(
            name=name,
            version=version,
            requires=tuple(said.get("requires", [])),
            requires_python=(said.get("requires-python", []) + said.get("metadata-python", []) + [""])[0],
            extras=tuple(said.get("extra", [])),
        )
        if "refused" in said:
            self._metadata[filename] = said["refused"][0]
        self._add(name, filename, said)

    def _add(self, name: str, filename: str, said: dict[str, list[str]]) -> None:
        project = canonicalize_name(name)
        self._files.setdefault(project, []).append(
            WheelRecord(
                project=project,
                version=filename.split("-")[1] if "-" in filename else "",
                filename=filename,
                origin="python",
                sha256=hashlib.sha256(filename.encode()).hexdigest(),
                size=1,
                requires_python=said.get("requires-python", [""])[0],
                yanked="yanked" in said,
                upload_time=said.get("uploaded", [""])[0],
            )
        )
