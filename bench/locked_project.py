"""A locked project of any size, without network: `python bench/locked_project.py FOLDER WHEELS DEBS TARGETS`.

The lock says what a real one says (names, versions, digests, requirements), but its files exist nowhere: good for
whatever reads manifest and lock, and nothing else. Equal arguments give equal bytes. Run by the nnenv to be measured.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import Lockfile, ReleaseLock, TargetLock, artifact_order
from nnenv.spec.manifest import meaning
from nnenv.spec.manifest_toml import parse_manifest

ROOTS = 13
"""Packages that the manifest asks for."""
EDGES = 6
"""Requirements that each wheel states: the mean of the large list's wheels, whose extras are mostly not installed."""
MOMENT = "2026-01-03T10:00:00Z"


def main() -> None:
    """Write model.toml and model.lock."""
    folder = Path(sys.argv[1])
    wheels, debs, targets = (int(word) for word in sys.argv[2:5])
    folder.mkdir(parents=True, exist_ok=True)
    text = manifest_text(min(ROOTS, wheels), targets)
    (folder / "model.toml").write_text(text)
    (folder / "model.lock").write_bytes(write_lock(lock(text, wheels, debs, targets)))


def manifest_text(roots: int, targets: int) -> str:
    """A model.toml."""
    packages = ", ".join(f'"{_name(number)}>=1.{number}"' for number in range(roots))
    tables = "\n".join(
        f'[targets.cpu{number}]\nplatform = "linux/amd64"\nos = "debian:12"\n' for number in range(targets)
    )
    return f'[project]\nname = "locked"\nversion = "1"\n\n[requires]\npackages = [{packages}]\n\n{tables}'


def lock(text: str, wheels: int, debs: int, targets: int) -> Lockfile:
    """A lock that fits the manifest in `text`; all targets have the same files."""
    artifacts = [*(_wheel(number, wheels) for number in range(wheels)), *(_deb(number, debs) for number in range(debs))]
    artifacts.sort(key=artifact_order)
    chosen = {kind: tuple(a.sha256 for a in artifacts if a.kind is kind) for kind in (Kind.WHEEL, Kind.DEB)}
    release = {"architecture": "amd64", "date": MOMENT}
    return Lockfile(
        manifest=meaning(parse_manifest(text.encode())),
        releases=tuple(
            ReleaseLock(suite=suite, sha256=_digest(suite), **release) for suite in ("bookworm", "bookworm-security")
        ),
        artifacts=tuple(artifacts),
        models=(),
        targets=tuple(
            TargetLock(
                name=f"cpu{number}",
                platform="linux/amd64",
                os="debian:12",
                python="3.11.2",
                moment=MOMENT,
                glibc="2.36",
                wheels=chosen[Kind.WHEEL],
                debs=chosen[Kind.DEB],
            )
            for number in range(targets)
        ),
    )


def _wheel(number: int, count: int) -> Artifact:
    name, version = _name(number), f"1.{number}.3"
    others = sorted({(number * 7 + step * 13) % count for step in range(1, EDGES + 1)} - {number})
    return Artifact(
        kind=Kind.WHEEL,
        name=name,
        version=version,
        filename=f"{name.replace('-', '_')}-{version}-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        sha256=_digest(name),
        size=1_000_000 + number,
        origin="python",
        requires_python=">=3.9",
        requires=tuple(f'{_name(other)}>=1.{other}; extra == "all"' for other in others),
    )


def _deb(number: int, count: int) -> Artifact:
    name, version = f"libpackage{number}", f"2.{number}-1"
    path = f"pool/main/libp/{name}/{name}_{version}_amd64.deb"
    return Artifact(
        kind=Kind.DEB,
        name=name,
        version=version,
        filename=path.rpartition("/")[2],
        sha256=_digest(name),
        size=100_000 + number,
        origin=f"debian:bookworm:{path}",
        architecture="amd64",
        requires=(f"Depends: libc6 (>= 2.34), libpackage{(number + 1) % count} (>= 2.0)",),
    )


def _name(number: int) -> str:
    return f"distribution-{number}"


def _digest(text: str) -> Sha256:
    return Sha256(hashlib.sha256(text.encode()).hexdigest())


if __name__ == "__main__":
    main()
