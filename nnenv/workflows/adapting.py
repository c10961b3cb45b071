"""Models as their targets get them: adapted once, when they are locked, and measured.

What the old lock or the store knows of a step, by the digest of all that decides it, is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from nnenv.adapt.recipe import Step, decided, tools_for
from nnenv.errors import NnenvError
from nnenv.formats.oci import canonical_json
from nnenv.formats.onnx_model import OnnxFacts, TensorInfo, read_onnx
from nnenv.resolve.model_runtime import ModelNeeds
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lockfile import CaseLock, DerivationLock, EvaluationLock, Lockfile, ModelLock, StepLock, TargetLock
from nnenv.spec.manifest import AdaptSpec, Manifest, ModelSpec, evaluations_in
from nnenv.verify.evaluate import Ran
from nnenv.verify.report import HostFacts
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.inputs import Inputs
from nnenv.workflows.session import Session
from nnenv.workflows.toolchains import Toolchain, digest_of, opened, program_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnenv.verify.evaluate import CaseUnderTest

    Array = NDArray[Any]

RECORD: Final = "derivation-1"
"""Kind of the store's records: what a step made, and how far that is from its model."""
LOOSE: Final = 2.0
"""An adapted model may differ from the one before by so many times what was measured when it was made."""
LEAST_LOOSE: Final = 1e-4
"""The fp32 limit of a test case (reference/inference_test.md, 6.3), for steps that change nothing."""
_MADE_UP: Final = 2
"""Inputs that are made up for a model without cases."""

LockToolchain = Callable[[str, Sequence[str], str], TargetLock]
"""(name, requirements, operating system) -> the locked toolchain, whose artifacts the caller keeps."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What a lock says of adapted models."""

    toolchains: tuple[TargetLock, ...] = ()
    derivations: tuple[DerivationLock, ...] = ()
    evaluations: tuple[EvaluationLock, ...] = ()
    artifacts: Mapping[Sha256, Artifact] = field(default_factory=dict)
    """The files that were made."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """One model on its way to one target."""

    model: ModelLock
    target: str
    steps: tuple[Step, ...]
    toolchain: TargetLock

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for targets that get the same file."""
        return (self.model.name, self.toolchain.name, canonical_json([[s.spec.step, s.options] for s in self.steps]))


def adapted(
    session: Session,
    manifest: Manifest,
    inputs: Inputs,
    targets: Sequence[TargetLock],
    artifacts: Mapping[Sha256, Artifact],
    old: Lockfile | None,
    forgotten: frozenset[str],
    lock_toolchain: LockToolchain,
) -> Adaptation:
    """Every model of every target, adapted and measured as the manifest says.

    `artifacts` are those that are locked so far; `lock_toolchain` adds to them. Of the models that are `forgotten` the
    old lock and the store count as knowing nothing.
    Raises NnenvError `quantisation-saturates` before anything runs; `adaptation-failed` or `adaptation-drift`, naming
    model and step.
    """
    if not any(model.adapt or any(one.at_least for one in model.evaluations) for model in manifest.models):
        return Adaptation()
    return _Adapting(session, manifest, inputs, targets, artifacts, old, forgotten, lock_toolchain).adapted()


@dataclass(slots=True)
class _Adapting:
    """One lock's adaptations."""

    _session: Session
    _manifest: Manifest
    _inputs: Inputs
    _targets: Sequence[TargetLock]
    _artifacts: Mapping[Sha256, Artifact]
    _old: Lockfile | None
    _forgotten: frozenset[str]
    _lock_toolchain: LockToolchain
    _toolchains: dict[tuple[tuple[str, ...], str], TargetLock] = field(default_factory=dict)
    _running: dict[str, Toolchain] = field(default_factory=dict)
    _ends: ExitStack = field(default_factory=ExitStack)
    _made: dict[Sha256, Artifact] = field(default_factory=dict)
    _notices: dict[str, None] = field(default_factory=dict)

    def adapted(self) -> Adaptation:
        """Everything, in the order of models and targets."""
        with self._ends:
            chains = list(self._chains())
            derivations: dict[tuple[object, ...], DerivationLock] = {}
            for chain in chains:
                if not chain.steps:
                    continue
                done = derivations.get(chain.identity) or self._derived(chain)
                derivations[chain.identity] = replace(done, targets=tuple(sorted({*done.targets, chain.target})))
            ordered = tuple(sorted(derivations.values(), key=lambda one: (one.model, one.targets)))
            evaluations = tuple(self._evaluations(chains, ordered))
        return Adaptation(
            toolchains=tuple(sorted(self._toolchains.values(), key=lambda one: one.name)),
            derivations=ordered,
            evaluations=evaluations,
            artifacts=self._made,
            notices=tuple(self._notices),
        )

    def _chains(self) -> Iterator[_Chain]:
        """Each model of each target that is adapted, or measured against what it was before."""
        specs = {spec.name: spec for spec in self._manifest.targets}
        locked = {model.name: model for model in self._inputs.models}
        for target in self._targets:
            models = [spec for spec in self._manifest.models if spec.name in target.models]
            steps = {spec.name: spec.adapted_for(target.name) for spec in models}
            wanted = [spec for spec in models if steps[spec.name] or _is_measured(spec, target.name)]
            for spec in wanted:
                place = self._place(spec, steps[spec.name][0]) if steps[spec.name] else f"models.{spec.name}.eval"
                _insist_on_one_onnx_file(locked[spec.name], place, is_adapted=bool(steps[spec.name]))
            if not wanted:
                continue
            decisions = {
                spec.name: tuple(
                    decided(step, specs[target.name], self._place(spec, step)) for step in steps[spec.name]
                )
                for spec in wanted
            }
            toolchain = self._toolchain(target, [step for spec in wanted for step in steps[spec.name]])
            for spec in wanted:
                for step in decisions[spec.name]:
                    if step.notice:
                        self._notices[f"{spec.name} on {target.name}: {step.notice}"] = None
                    if step.spec.step == "prune":
                        self._notices[f"{spec.name} on {target.name} is pruned: a different model"] = None
                yield _Chain(
                    model=locked[spec.name], target=target.name, steps=decisions[spec.name], toolchain=toolchain
                )

    def _place(self, spec: ModelSpec, step: AdaptSpec) -> str:
        return self._manifest.position("models", spec.name, "adapt", str(spec.adapt.index(step)))

    def _toolchain(self, target: TargetLock, steps: Sequence[AdaptSpec]) -> TargetLock:
        """The toolchain for a target; targets that ask for the same tools share one."""
        wheels = (self._artifacts[digest] for digest in target.wheels)
        version = next((wheel.version for wheel in wheels if wheel.name.startswith("onnxruntime")), "")
        requirements = tools_for(steps, version.partition("+")[0])
        key = (requirements, target.os)
        if key not in self._toolchains:
            self._toolchains[key] = self._lock_toolchain(f"adapt-{target.name}", requirements, target.os)
        return self._toolchains[key]

    def _run(self, toolchain: TargetLock) -> Toolchain:
        """The toolchain at work; it is opened when it is needed first."""
        if toolchain.name not in self._running:
            artifacts = [self._artifacts[digest] for digest in (*toolchain.wheels, *toolchain.debs, *toolchain.tools)]
            fetch_locked(self._session, artifacts, toolchain.os)
            self._running[toolchain.name] = self._ends.enter_context(opened(self._session, toolchain, artifacts))
        return self._running[toolchain.name]

    # Derivations

    def _derived(self, chain: _Chain) -> DerivationLock:
        """The derivation that the old lock knows, where all that decides it is the same; else one that is made."""
        model = chain.model
        for before in self._before(model.name):
            if self._keys(chain, before.steps) == [step.key for step in before.steps] and (
                _asked(before.cases) == _asked(model.cases)
            ):
                for step, done in zip(chain.steps, before.steps, strict=True):
                    _insist_on_drift(chain, step, done)
                return self._reused(before)
        steps: list[StepLock] = []
        current = model.file
        for step in chain.steps:
            key = self._key(chain, step, current)
            done = self._remembered(key, model.name) or self._done(chain, step, key, current)
            _insist_on_drift(chain, step, done)
            steps.append(done)
            current = done.output
        return self._whole(chain, tuple(steps), current)

    def _before(self, model: str) -> list[DerivationLock]:
        if self._old is None or model in self._forgotten:
            return []
        return [one for one in self._old.derivations if one.model == model]

    def _key(self, chain: _Chain, step: Step, model: Sha256) -> Sha256:
        files = {
            name: [digest for _, digest in several] for name, several in named_files(chain.model, step.spec).items()
        }
        return step.key(model, files, digest_of(chain.toolchain), program_digest())

    def _keys(self, chain: _Chain, steps: Sequence[StepLock]) -> list[Sha256]:
        """The keys of the chain's steps, if each made what the lock says."""
        models = [chain.model.file, *(step.output for step in steps)]
        return [self._key(chain, step, model) for step, model in zip(chain.steps, models, strict=False)]

    def _reused(self, before: DerivationLock) -> DerivationLock:
        assert self._old is not None
        used = {before.file, *(digest for case in before.cases for digest in _digests(case))}
        self._made.update({digest: self._old.by_digest[digest] for digest in used - {*self._inputs.artifacts}})
        return replace(before, targets=())

    def _remembered(self, key: Sha256, model: str) -> StepLock | None:
        """The step as the store knows it, with its output; None if it does not, or is not to."""
        record = None if model in self._forgotten else self._session.store.load(RECORD, key)
        if record is None:
            return None
        said = json.loads(record)
        output = Sha256(said["output"])
        if not self._session.store.contains(output):
            return None
        return StepLock(step=said["step"], key=key, output=output, size=said["size"], drift=said["drift"])

    def _done(self, chain: _Chain, step: Step, key: Sha256, model: Sha256) -> StepLock:
        """The step, done now and found good."""
        name, what = chain.model.name, step.spec.step
        task = self._session.progress.start(f"{what} {name} for {chain.target}")
        try:
            toolchain = self._run(chain.toolchain)
            output, size = toolchain.made(what, step.options, model, named_files(chain.model, step.spec))
            drift = self._checked(chain, step, model, output)
        except NnenvError as error:
            raise _told(error, name, chain.target) from None
        finally:
            task.finish()
        done = StepLock(step=what, key=key, output=output, size=size, drift=drift)
        said = {"step": what, "output": output, "size": size, "drift": drift}
        self._session.store.save(RECORD, key, canonical_json(said))
        return done

    def _checked(self, chain: _Chain, step: Step, before: Sha256, after: Sha256) -> float:
        """How far the model that a step made is from the one before, after every post-condition."""
        old, new = self._facts(before), self._facts(after)
        if step.keeps_ports and _ports(old, step) != _ports(new, step):
            raise _refused(step, "inputs or outputs have changed", [_shown(old), _shown(new)])
        toolchain = self._run(chain.toolchain)
        cases = self._asked(chain.model, old)
        probes = _probes(cases[0])
        said = toolchain.answers(after, [*cases, *probes])
        if said.error:
            raise _refused(step, "the model that it made does not run", [said.error])
        _insist_on_life(step, said)
        if _ports(old, None) != _ports(new, None):
            return 0.0
        reference = toolchain.answers(before, cases)
        if reference.error:
            raise _refused(step, "the model before it does not run", [reference.error])
        drift = max(distance(one, other) for one, other in zip(reference.outputs, said.outputs, strict=False))
        return _rounded(drift)

    def _whole(self, chain: _Chain, steps: tuple[StepLock, ...], file: Sha256) -> DerivationLock:
        """The derivation with its cases: what the adapted model answers, and what the one before was to answer."""
        model, before = chain.model, self._inputs.artifacts[chain.model.file]
        last = steps[-1]
        self._made[file] = Artifact(
            kind=Kind.MODEL,
            name=model.name,
            version=model.version,
            filename=before.filename,
            sha256=file,
            size=last.size,
            origin=f"derived:{last.key}",
        )
        facts = self._facts(file)
        bound = self._bound(model)
        said = self._run(chain.toolchain).answers(file, [one.case.inputs for one in bound] or [_some(facts)])
        cases = [
            case
            for lock, one, outputs in zip(model.cases, bound, said.outputs, strict=False)
            for case in self._cases(model, lock, one, outputs, steps)
        ]
        return DerivationLock(
            model=model.name,
            targets=(),
            parent=model.file,
            file=file,
            toolchain=chain.toolchain.name,
            host=_host(said.host),
            opsets=tuple(f"{domain}:{version}" for domain, version in facts.opsets),
            steps=steps,
            cases=tuple(cases),
        )

    def _cases(
        self,
        model: ModelLock,
        lock: CaseLock,
        bound: CaseUnderTest,
        outputs: Mapping[str, Array],
        steps: Sequence[StepLock],
    ) -> Iterator[CaseLock]:
        """A strict case of what the adapted model answered, and a loose one of what the model before was to answer."""
        last = steps[-1]
        strict = CaseLock(
            name=lock.name,
            inputs=self._tensors(lock.name, "input", bound.case.inputs, last),
            expected=self._tensors(lock.name, "output", outputs, last),
            settings=self._kept(lock.name, "case.toml", _own_settings(last.output), last),
        )
        yield strict
        if set(bound.case.expected) == set(outputs):
            loose = max(LEAST_LOOSE, LOOSE * distance(bound.case.expected, outputs), lock.tolerance or 0.0)
            if loose >= 1:
                # At 1 an output of zeros would pass: such a case proves nothing.
                done = " and ".join(step.step for step in steps)
                too_far = f"{model.name}: {done} moves the outputs of {lock.name} so far that"
                self._notices[f"{too_far} no case of the model before can speak for the adapted one"] = None
                return
            name = f"{lock.name} before adaptation"
            yield replace(lock, name=name, tolerance=_rounded(loose), against=model.file)

    def _tensors(self, case: str, role: str, tensors: Mapping[str, Array], last: StepLock) -> tuple[Sha256, ...]:
        from nnenv.verify.tensors import write_tensor

        return tuple(
            self._kept(case, f"{role}_{index}.pb", write_tensor(name, array), last)
            for index, (name, array) in enumerate(tensors.items())
        )

    def _kept(self, name: str, filename: str, content: bytes, last: StepLock) -> Sha256:
        """The digest of a file that was made, which the store and the lock have from now on."""
        sha256 = self._session.store.put(content)
        if sha256 not in self._inputs.artifacts:
            self._made.setdefault(
                sha256,
                Artifact(
                    kind=Kind.CASE,
                    name=name,
                    version="",
                    filename=filename,
                    sha256=sha256,
                    size=len(content),
                    origin=f"derived:{last.key}",
                ),
            )
        return sha256

    # What is asked

    def _facts(self, file: Sha256) -> OnnxFacts:
        with self._session.store.open(file) as stream:
            return read_onnx(stream, "the adapted model")

    def _bound(self, model: ModelLock) -> list[CaseUnderTest]:
        from nnenv.workflows.cases import bound_case

        return [bound_case(self._session.store, self._inputs.artifacts, model, case) for case in model.cases]

    def _asked(self, model: ModelLock, facts: OnnxFacts) -> list[Mapping[str, Array]]:
        """Inputs to compare models on: those of the cases that fit, else made-up ones."""
        names = {port.name for port in facts.inputs}
        cases = [one.case.inputs for one in self._bound(model) if set(one.case.inputs) == names]
        return [*cases] or [_some(facts)]

    # Evaluations

    def _evaluations(self, chains: Sequence[_Chain], derivations: Sequence[DerivationLock]) -> Iterator[EvaluationLock]:
        """What each model file measured, in the toolchain, where something must not be lost."""
        from nnenv.workflows.evaluating import Measuring

        specs = {spec.name: spec for spec in self._manifest.models}
        found: dict[tuple[str, int, str], EvaluationLock] = {}
        files = {(one.model, target): one for one in derivations for target in one.targets}
        for chain in chains:
            spec, model = specs[chain.model.name], chain.model
            measuring = Measuring(self._session.store, model, self._facts(model.file))
            derivation = files.get((model.name, chain.target))
            file = derivation.file if derivation else model.file
            for number, one in enumerate(spec.evaluations):
                if one.targets and chain.target not in one.targets:
                    continue
                if not one.at_least and one.metric != "agreement":
                    continue
                key = (model.name, number, file)
                if key in found or (one.metric == "agreement" and derivation is None):
                    continue
                known = self._measured(model, number, file)
                if known is None:
                    toolchain = self._run(chain.toolchain)
                    fetch_locked(self._session, [{**self._inputs.artifacts, **self._made}[file]], chain.toolchain.os)
                    labels, baseline = measuring.reference(one, toolchain, model.file, adapted=derivation is not None)
                    value = measuring.value(one, toolchain, file, labels)
                    known = EvaluationLock(model=model.name, number=number, file=file, value=value)
                    if derivation is not None:
                        known = replace(known, baseline=baseline, baseline_file=model.file)
                        if labels is not None:
                            kept = self._kept(one.data, "labels.pb", measuring.encoded(labels), derivation.steps[-1])
                            known = replace(known, labels=kept)
                    else:
                        known = self._with_predecessor(known)
                found[key] = known
        yield from (found[key] for key in sorted(found))

    def _measured(self, model: ModelLock, number: int, file: Sha256) -> EvaluationLock | None:
        """What the old lock says of this very measure of this very file."""
        old = self._old
        if old is None or model.name in self._forgotten or model.name not in {one.name for one in old.models}:
            return None
        spec = next(spec for spec in self._manifest.models if spec.name == model.name)
        before = evaluations_in(old.manifest, model.name)
        if old.model(model.name).data != model.data or before[number : number + 1] != (spec.evaluations[number],):
            return None
        found = next(
            (
                one
                for one in old.evaluations
                if (one.model, one.number, one.file) == (model.name, number, file)
                and (not one.baseline_file or model.file in (one.baseline_file, file))
            ),
            None,
        )
        if found is not None and found.labels:
            self._made.setdefault(found.labels, old.by_digest[found.labels])
        return found

    def _with_predecessor(self, one: EvaluationLock) -> EvaluationLock:
        """The measure of a model that is not adapted, with that of the file that was locked before it."""
        old = self._old.evaluations if self._old else ()
        files = {model.file for model in self._old.models} if self._old else set()
        for before in old:
            is_other = before.file in files and before.file != one.file
            if is_other and (before.model, before.number) == (one.model, one.number):
                return replace(one, baseline=before.value, baseline_file=before.file)
        return one


def _insist_on_drift(chain: _Chain, step: Step, done: StepLock) -> None:
    """NnenvError `adaptation-drift` if a step, done now or before, moves more than it may."""
    if step.max_drift is not None and not done.drift <= step.max_drift:
        error = NnenvError(
            "adaptation-drift",
            f"the step {step.spec.step} moves the outputs too far",
            because=[f"max|a-e|/max|e| is {done.drift:.1e}, more than {step.max_drift:.1e}"],
            fix=["change the step, or allow more with max-drift if the model's quality allows it"],
        )
        raise _told(error, chain.model.name, chain.target)


def _insist_on_one_onnx_file(model: ModelLock, where: str, *, is_adapted: bool) -> None:
    """NnenvError for a model that a toolchain cannot run, or a step cannot read."""
    if model.format != "onnx":
        raise NnenvError(
            "adaptation-failed" if is_adapted else "evaluation-invalid",
            f"model {model.name} is of the format {model.format}, and toolchains run ONNX models alone",
            where=where,
            because=["steps read and write ONNX files; `at-least` is measured when the model is locked"],
            fix=["export the model to ONNX first", "or measure it with `minimum`, which needs no toolchain"],
        )
    if is_adapted and model.files:
        raise NnenvError(
            "adaptation-failed",
            f"model {model.name} has its weights in further files, and cannot be adapted",
            where=where,
            because=["steps read and write single files"],
            fix=["save the model as one file of less than 2 GiB"],
        )


def named_files(model: ModelLock, step: AdaptSpec) -> dict[str, list[tuple[str, Sha256]]]:
    """(base name, digest) of the files that a step reads, by the option that names them."""
    known = dict(model.data)
    named = {"calibration": (step.calibration,), "script": (step.script,), "inputs": step.inputs}
    return {
        name: [(path.rpartition("/")[2], known[path]) for path in paths] for name, paths in named.items() if any(paths)
    }


def recorded(
    session: Session, lockfile: Lockfile, model: ModelLock, derivation: DerivationLock, toolchain: Toolchain
) -> None:
    """Put into the store what belongs to a derivation's cases and can be had again: inputs, settings, and answers."""
    from nnenv.verify.tensors import write_tensor
    from nnenv.workflows.cases import bound_case

    for case in model.cases:
        files = [lockfile.by_digest[digest] for digest in _digests(case)]
        fetch_locked(session, files, lockfile.toolchain(derivation.toolchain).os)
    bound = [bound_case(session.store, lockfile.by_digest, model, case) for case in model.cases]
    said = toolchain.answers(derivation.file, [one.case.inputs for one in bound])
    for one, outputs in zip(bound, said.outputs, strict=False):
        for tensors in (one.case.inputs, outputs):
            for name, array in tensors.items():
                session.store.put(write_tensor(name, array))
    session.store.put(_own_settings(derivation.file))


def _own_settings(file: Sha256) -> bytes:
    """case.toml of what an adapted model answered when it was made."""
    from nnenv.verify.cases import CaseKind, CaseSettings, write_case_toml

    settings = CaseSettings(
        kind=CaseKind.SELFTEST,
        model_sha256=file,
        provenance="recorded by nnenv when the model was adapted; the same inputs as those of the model before",
    )
    return write_case_toml(settings).encode()


def _is_measured(spec: ModelSpec, target: str) -> bool:
    return any(one.at_least and (not one.targets or target in one.targets) for one in spec.evaluations)


def _asked(cases: Sequence[CaseLock]) -> list[tuple[object, ...]]:
    """What decides the cases of a derivation: those of the model before."""
    from_before = [case for case in cases if case.against is not None] or list(cases)
    return [
        (case.name.removesuffix(" before adaptation"), case.inputs, case.expected, case.settings)
        for case in from_before
    ]


def _digests(case: CaseLock) -> Iterator[Sha256]:
    yield from case.inputs
    yield from case.expected
    if case.settings:
        yield case.settings


def _some(facts: OnnxFacts) -> Mapping[str, Array]:
    from nnenv.workflows.recording import made_up

    return made_up(facts.inputs, _MADE_UP)[0]


def _probes(inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], ...]:
    from nnenv.verify.vacuity import probe_inputs

    return probe_inputs(inputs)


def _insist_on_life(step: Step, said: Ran) -> None:
    """The last two answers are to probes: they must be finite, and differ."""
    import numpy as np

    from nnenv.verify.vacuity import assess

    case, *probes = said.outputs[0], *said.outputs[-2:]
    for name, array in case.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise _refused(step, "the model that it made answers NaN or infinity", [f"output {name}"])
    vacuity = assess(case, *probes)
    if vacuity.vacuous:
        raise _refused(step, "the model that it made answers the same whatever it is asked", [vacuity.reason])


def distance(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    """Largest max|a-e|/max|e| of the outputs, in float64; 1 for another shape."""
    import numpy as np

    worst = 0.0
    for name, reference in expected.items():
        array = actual.get(name)
        if array is None or array.shape != reference.shape:
            return 1.0
        if reference.dtype.kind not in "fiub":
            continue
        wide = reference.astype(np.float64)
        scale = max(float(np.abs(wide).max(initial=0.0)), 1e-30)
        worst = max(worst, float(np.abs(array.astype(np.float64) - wide).max(initial=0.0)) / scale)
    return worst


def _rounded(number: float) -> float:
    """Two significant digits: enough for people, and small diffs of locks."""
    return float(f"{number:.1e}")


def _ports(facts: OnnxFacts, step: Step | None) -> list[tuple[str, str, int]]:
    """(name, type, rank) of inputs and outputs; ranks of outputs do not count where sizes are fixed."""
    ports: list[TensorInfo] = [*facts.inputs, *facts.outputs]
    return [(port.name, port.dtype, len(port.shape) if step is None or port in facts.inputs else 0) for port in ports]


def _shown(facts: OnnxFacts) -> str:
    def text(ports: Sequence[TensorInfo]) -> str:
        return ", ".join(f"{port.name} {port.dtype} {list(port.shape)}" for port in ports)

    return f"{text(facts.inputs)} -> {text(facts.outputs)}"


def _host(host: HostFacts) -> str:
    return " ".join((host.machine, *host.isa))


def _refused(step: Step, what: str, because: Sequence[str]) -> NnenvError:
    return NnenvError(
        "adaptation-failed",
        f"the step {step.spec.step} cannot be used: {what}",
        because=because,
        fix=["change the step, its order or its tools in model.toml"],
    )


def _told(error: NnenvError, model: str, target: str) -> NnenvError:
    """The same refusal, with the model and the target that it is about."""
    where = error.where or f"models.{model}.adapt"
    return NnenvError(
        error.code,
        f"model {model} cannot be adapted to {target}: {error.what}",
        where=where,
        because=error.because,
        fix=error.fix,
    )


def needs_of(model: ModelLock, facts: OnnxFacts) -> ModelNeeds:
    """What a model file needs of the runtime that loads it."""
    return ModelNeeds(name=model.name, opsets=facts.opsets, ir=facts.ir_version)
