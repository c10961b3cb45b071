"""A Debian archive as text: the simulator of `DebianCatalog` for resolver tests."""

from __future__ import annotations

import hashlib

from nnenv.formats.deb822 import iterate_paragraphs
from nnenv.resolve.debian import newest
from nnenv.resolve.debian_catalog import DebRecord, ReleaseFacts
from nnenv.resolve.debian_relation import provided_names
from nnenv.spec.artifact import sha256_of

SUITES = ("main", "security")


class TextCatalog:
    """Packages from deb822 paragraphs; `Suite:` defaults to main, `Architecture:` to amd64."""

    def __init__(self, text: str) -> None:
        self._records = [_record(dict(fields)) for fields in iterate_paragraphs(text)]

    def releases(self) -> tuple[ReleaseFacts, ...]:
        return ()

    def candidates(self, name: str) -> tuple[DebRecord, ...]:
        return newest((record for record in self._records if record.name == name), SUITES)

    def providers(self, virtual: str) -> tuple[DebRecord, ...]:
        names = sorted({record.name for record in self._records if virtual in provided_names(record)})
        return tuple(r for name in names for r in self.candidates(name) if virtual in provided_names(r))


def _record(fields: dict[str, str]) -> DebRecord:
    name, version = fields["Package"], fields.get("Version", "1")
    return DebRecord(
        name=name,
        version=version,
        architecture=fields.get("Architecture", "amd64"),
        multi_arch=fields.get("Multi-Arch", ""),
        essential=False,
        depends=fields.get("Depends", ""),
        pre_depends=fields.get("Pre-Depends", ""),
        provides=fields.get("Provides", ""),
        conflicts=fields.get("Conflicts", ""),
        breaks=fields.get("Breaks", ""),
        path=f"pool/main/{name}_{version}.deb",
        sha256=sha256_of(hashlib.sha256(f"{name} {version}".encode()).hexdigest()),
        size=1,
        suite=fields.get("Suite", "main"),
    )
