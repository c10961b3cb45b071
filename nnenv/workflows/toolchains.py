"""A locked toolchain at work: the steps of adaptation, and the models before and after them, in the sandbox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nnenv.adapt
from nnenv.errors import NnenvError
from nnenv.formats.oci import canonical_json
from nnenv.image.plan import SHARE, LayerKind, plan_layers
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.verify.evaluate import Ran, answer_of, ran, run_request
from nnenv.verify.protocols import Limits, Run
from nnenv.workflows.building import ENVIRONMENT, SELF_TEST
from nnenv.workflows.layering import LayerMaker, harness_files
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnenv.adapters.sandbox import SandboxRunner
    from nnenv.adapters.store import ObjectWriter

    Array = NDArray[Any]

_PLACE: Final = "opt/nnenv/adapt"
_WITHOUT: Final = (LayerKind.NNENV, LayerKind.INTERPRETER_BYTECODE, LayerKind.WHEEL_BYTECODE, LayerKind.MODEL)
"""Layers that a toolchain does without: bytecode costs more to make than one run gains by it."""
_LIMITS: Final = Limits(memory_bytes=16 << 30, seconds=3600.0, output_bytes=4 << 30)
_LONGEST_HEAD: Final = 1 << 20
_ENVIRONMENT: Final[Mapping[str, str]] = {**ENVIRONMENT, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HOME": "/tmp"}


def program() -> bytes:
    """The program that does the steps, as nnenv ships it."""
    return (Path(nnenv.adapt.__file__).parent / "steps.py").read_bytes()


def program_digest() -> Sha256:
    """The digest of that program."""
    return Sha256(hashlib.sha256(program()).hexdigest())


def digest_of(toolchain: TargetLock) -> str:
    """One digest over everything that is in a toolchain."""
    parts = [toolchain.platform, toolchain.os, toolchain.python, *toolchain.wheels, *toolchain.debs]
    return hashlib.sha256(canonical_json(parts)).hexdigest()


@contextmanager
def opened(session: Session, toolchain: TargetLock, artifacts: Sequence[Artifact]) -> Iterator[Toolchain]:
    """The toolchain, whose files must be in the store, ready to run for as long as the `with` lasts.

    Raises NnenvError `sandbox-unavailable`, or `emulator-missing` where its processor is another one.
    """
    from nnenv.adapters.host import find_emulator, machine
    from nnenv.adapters.sandbox import SandboxRunner, compose_root, place_files

    lock = Lockfile(
        manifest={"project": {"name": "adapt", "version": "0"}},
        releases=(),
        targets=(toolchain,),
        models=(),
        artifacts=tuple(artifacts),
    )
    maker = LayerMaker(session, lock, toolchain)
    task = session.progress.start(f"prepare {toolchain.name}")
    try:
        plans = [plan for plan in plan_layers(lock, toolchain) if plan.kind not in _WITHOUT]
        trees = [maker.tree(maker.layer(plan)) for plan in plans]
        with session.store.scratch() as scratch:
            root = scratch / "root"
            compose_root(trees, root)
            place_files(root, {f"{_PLACE}/steps.py": program()})
            place_files(root, {f"{SHARE}/{name}": text for name, text in harness_files().items()})
            emulator = None if machine() == toolchain.machine else find_emulator(toolchain.machine)
            runner = SandboxRunner(root, machine=toolchain.machine, environment=_ENVIRONMENT, emulator=emulator)
            task.finish()
            yield Toolchain(session, runner)
    finally:
        task.finish()


@dataclass(frozen=True)
class Toolchain:
    """A toolchain that can be run."""

    session: Session
    runner: SandboxRunner

    def made(
        self, step: str, options: Mapping[str, object], model: Sha256, files: Mapping[str, Sequence[tuple[str, Sha256]]]
    ) -> tuple[Sha256, int]:
        """(sha256, size) of the model that a step makes of a model, in the store then.

        `files` are (base name, digest) by the option that names them. Raises NnenvError `adaptation-failed`.
        """
        placed = {
            name: [self._placed(digest, f"{name}/{number}/{base}") for number, (base, digest) in enumerate(several)]
            for name, several in files.items()
        }
        request = {
            "step": step,
            "model": self._placed(model, "model.onnx"),
            "options": options,
            "files": {name: paths if name == "inputs" else paths[0] for name, paths in placed.items()},
        }
        run = Run(argv=(SELF_TEST[0], f"/{_PLACE}/steps.py"), environment=_ENVIRONMENT, limits=_LIMITS)
        with self.session.store.writer() as writer:
            taker = _Taker(writer)
            completed = self.runner.stream(run, iter((json.dumps(request).encode(),)), taker.take)
            if completed.exit_code != 0 or completed.limit_hit or taker.head is None:
                said = completed.stderr[-4000:].decode("utf-8", "replace").splitlines()[-4:]
                ended = f"it hit the {completed.limit_hit} limit" if completed.limit_hit else "the tools crashed"
                raise _failed(step, [ended, *said])
            if not taker.head.get("ok"):
                raise _failed(step, [str(taker.head.get("because", "it gave no reason"))[:2000]])
            sha256, size = writer.commit()
        if size != taker.head.get("size"):
            raise _failed(step, ["the model that it wrote did not arrive whole"])
        return sha256, size

    def answers(
        self, model: Sha256, inputs: Sequence[Mapping[str, Array]], beside: Sequence[tuple[str, Sha256]] = ()
    ) -> Ran:
        """What a model of the store answers to each of the inputs, optimised as images run it.

        `beside` are its further files: (path from its directory, digest).
        """
        from nnenv.adapters.sandbox import place_files

        for path, digest in beside:
            place = f"{_PLACE}/files/{model}/{path}"
            place_files(self.runner.root, {place: self.session.store.path(digest)})
        request = run_request(self._placed(model, "model.onnx"), model, inputs)
        run = Run(argv=(*SELF_TEST, "serve-request"), environment=_ENVIRONMENT, stdin=request, limits=_LIMITS)
        return ran(answer_of(self.runner.run(run)), len(inputs))

    def _placed(self, digest: Sha256, name: str) -> str:
        """Absolute path in the sandbox of an object of the store."""
        from nnenv.adapters.sandbox import place_files

        path = f"{_PLACE}/files/{digest}/{name}"
        place_files(self.runner.root, {path: self.session.store.path(digest)})
        return f"/{path}"


class _Taker:
    """Parts the head of a step's answer from the model that follows."""

    def __init__(self, writer: ObjectWriter) -> None:
        self.head: dict[str, Any] | None = None
        self._writer = writer
        self._begun = bytearray()

    def take(self, chunk: bytes) -> None:
        """The next bytes of the answer."""
        if self.head is not None:
            self._writer.write(chunk)
            return
        self._begun += chunk
        length = int.from_bytes(self._begun[:8], "big")
        if len(self._begun) < 8 or len(self._begun) < 8 + min(length, _LONGEST_HEAD):
            return
        try:
            head = json.loads(self._begun[8 : 8 + length])
        except ValueError:
            head = None
        self.head = head if isinstance(head, dict) else {"because": "its answer is not understood"}
        self._writer.write(bytes(self._begun[8 + length :]))


def _failed(step: str, because: Sequence[str]) -> NnenvError:
    return NnenvError(
        "adaptation-failed",
        f"the step {step} made no model",
        because=because,
        fix=["change the step or its tools in model.toml"],
    )
