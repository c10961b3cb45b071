"""`nnenv verify --here`: the verdicts on the image that this process runs in, from what the image says of itself.

The image holds the part of model.lock that it was made from, the cases and the harness. What is compared outside of
the image by `nnenv verify` is compared beside it here: this proves a host, not that nobody changed the image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnenv.adapters.here import HereFiles, HereRunner
from nnenv.errors import NnenvError
from nnenv.image.plan import SHARE
from nnenv.spec.artifact import Sha256
from nnenv.spec.lock_toml import read_lock
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.verify.cases import Case, CaseKind, CaseSettings
from nnenv.verify.closure import ImageElf
from nnenv.verify.evaluate import CaseUnderTest, ModelUnderTest, harness_digest
from nnenv.verify.harness import FILES
from nnenv.verify.tensors import read_tensor
from nnenv.workflows.facts import library_facts
from nnenv.workflows.session import Session
from nnenv.workflows.verifying import ImageUnderTest, Verified, VerifyOptions, verdicts


@dataclass(frozen=True)
class HereImage:
    """The image around this process; satisfies `verifying.ImageContents`."""

    files: HereFiles
    lockfile: Lockfile
    target: TargetLock

    @cached_property
    def _elves(self) -> list[ImageElf]:
        owners = self.files.owners()
        found = [(path, library_facts(stream, path)) for path, stream in self.files.programs()]
        return [
            ImageElf(path=path, owner=owners.get(path, "the operating system"), facts=facts)
            for path, facts in found
            if facts is not None
        ]

    def elves(self) -> list[ImageElf]:
        """Every ELF file of the image, at its place."""
        return self._elves

    def links(self) -> Mapping[str, str]:
        """Path of each symbolic link -> target as written."""
        return self.files.links()

    def linker_directories(self) -> tuple[str, ...]:
        """Those of /etc/ld.so.conf.d."""
        return self.files.linker_directories()

    def brings(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.files.exists(path)


def verify_here(session: Session, options: VerifyOptions, files: HereFiles | None = None) -> Verified:
    """The report on the image around this process; no statement is written, an image cannot know its own digest.

    Raises NnenvError `file-unreadable` outside of an image that nnenv built, `case-invalid` for one whose cases are
    not what nnenv writes.
    """
    files = files or HereFiles()
    lock = files.read(f"/{SHARE}/model.lock")
    lockfile = read_lock(lock)
    (target,) = lockfile.targets
    image = HereImage(files, lockfile, target)
    report = verdicts(
        ImageUnderTest(
            contents=image,
            models=_models(files),
            manifest_digest=Sha256(""),
            config_digest=Sha256(""),
            lock_sha256=Sha256(hashlib.sha256(lock).hexdigest()),
            harness_sha256=harness_digest({name: files.read(f"/{SHARE}/{name}") for name in FILES}),
            is_around_us=True,
        ),
        HereRunner(session.environment),
        options.limits,
    )
    return Verified(report=report, statement=None)


def _models(files: HereFiles) -> tuple[ModelUnderTest, ...]:
    """Models and cases, as `selftest.json` lists them."""
    try:
        listed = json.loads(files.read(f"/{SHARE}/selftest.json"))
        return tuple(
            ModelUnderTest(
                name=model["name"],
                path=model["path"],
                sha256=Sha256(model["sha256"]),
                format=model.get("format", "onnx"),
                beside={path: Sha256(digest) for path, digest in model.get("beside", {}).items()},
                cases=tuple(_case(case, files) for case in model["cases"]),
            )
            for model in listed["models"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NnenvError(
            "case-invalid",
            f"selftest.json cannot be used: {type(error).__name__}: {error}",
            where=f"/{SHARE}/selftest.json",
            fix=["build the image anew: it was made by another nnenv"],
        ) from None


def _case(case: Mapping[str, Any], files: HereFiles) -> CaseUnderTest:
    def tensors(listed: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return {one["name"]: read_tensor(files.read(f"/{SHARE}/{one['file']}"))[1] for one in listed}

    return CaseUnderTest(
        case=Case(name=case["name"], inputs=tensors(case["inputs"]), expected=tensors(case["outputs"])),
        settings=CaseSettings(kind=CaseKind(case["kind"]), tolerance=case["limits"], axes=case["axes"]),
    )
