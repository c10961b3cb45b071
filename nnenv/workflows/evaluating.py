"""Evaluation: a model on labelled data, in a toolchain when it is locked, and in its image with `verify --eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nnenv.errors import NnenvError
from nnenv.formats.model_file import ModelFacts
from nnenv.formats.onnx_model import OnnxFacts
from nnenv.image.plan import model_path
from nnenv.spec.artifact import Sha256
from nnenv.spec.lockfile import EvaluationLock, Lockfile, ModelLock, TargetLock
from nnenv.spec.manifest import EvalSpec, evaluations_in
from nnenv.verify.evaluate import Ran, answer_of, measured, measuring_request, ran
from nnenv.verify.protocols import Limits, Run, Runner
from nnenv.verify.quality import DEFAULT_K, SMALLER_IS_BETTER, QualityError, classes, classification_report, measure
from nnenv.verify.report import EvaluationReport, ModelCost
from nnenv.workflows.building import ENVIRONMENT, SELF_TEST
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.inputs import stored_facts
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnenv.adapters.store import Store
    from nnenv.workflows.toolchains import Toolchain

    Array = NDArray[Any]

_BATCH: Final = 64
"""Samples run at once where the model leaves that free."""
_LABELS: Final = "labels"


@dataclass(frozen=True)
class EvaluationData:
    """The samples of one measure, as a model wants them."""

    inputs: Mapping[str, Array]
    """By input; the first axis counts the samples."""
    labels: Array | None
    batch: int

    @classmethod
    def read(cls, store: Store, digest: Sha256, one: EvalSpec, facts: OnnxFacts | ModelFacts) -> EvaluationData:
        """The data of a measure, from the store; NnenvError `evaluation-invalid` if it does not fit the model."""
        import numpy as np

        try:
            with store.open(digest) as stream, np.load(stream, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError) as error:
            raise _invalid(one, "is no readable .npz file", [str(error)]) from None
        names = [port.name for port in facts.inputs]
        label = one.labels or _LABELS
        others = [name for name in found if name != label]
        if len(names) == 1 and names[0] not in found and len(others) == 1:
            # With one input and one array besides the labels there is no doubt what is meant.
            found[names[0]] = found.pop(others[0])
        wanted = [*names, *([] if one.metric == "agreement" else [label])]
        missing = [name for name in wanted if name not in found]
        if missing:
            raise _invalid(one, f"has no array {', '.join(missing)}", [f"it has {', '.join(sorted(found)) or 'none'}"])
        counts = {len(found[name]) if found[name].ndim else 0 for name in wanted}
        if len(counts) != 1 or counts == {0}:
            raise _invalid(one, "has arrays that count different samples, or none", [f"{sorted(counts)} samples"])
        fixed = [port.shape[0] for port in facts.inputs if port.shape and isinstance(port.shape[0], int)]
        batch = next((size for size in fixed if size > 0), _BATCH)
        return cls(inputs={name: found[name] for name in names}, labels=found.get(label), batch=batch)

    def batches(self) -> list[dict[str, Array]]:
        """The samples in the model's batches; the last sample fills the last batch up."""
        import numpy as np

        total = len(next(iter(self.inputs.values())))
        batches = []
        for start in range(0, total, self.batch):
            part = {name: array[start : start + self.batch] for name, array in self.inputs.items()}
            short = self.batch - (min(start + self.batch, total) - start)
            if short:
                part = {name: np.concatenate([array, array[-1:].repeat(short, 0)]) for name, array in part.items()}
            batches.append(part)
        return batches

    def sample(self) -> dict[str, Array]:
        """One batch of the least size that the model takes."""
        size = 1 if self.batch == _BATCH else self.batch
        return {name: array[:size] for name, array in self.batches()[0].items()}

    def joined(self, outputs: Sequence[Mapping[str, Array]], one: EvalSpec) -> Array:
        """The measured output of all samples, without what filled the last batch up."""
        import numpy as np

        name = one.output or next(iter(outputs[0]))
        if name not in outputs[0]:
            raise _invalid(
                one, f"measures an output {name} that the model has not", [f"it has {', '.join(outputs[0])}"]
            )
        total = len(next(iter(self.inputs.values())))
        whole = np.concatenate([np.atleast_1d(batch[name]) for batch in outputs])
        if len(whole) < total:
            raise _invalid(one, f"measures an output {name} that has no answer for each sample", [str(whole.shape)])
        return whole[:total]


class Measuring:
    """Measures files of one model in a toolchain."""

    def __init__(self, store: Store, model: ModelLock, facts: OnnxFacts) -> None:
        self._store = store
        self._data = dict(model.data)
        self._beside = {model.file: model.files}
        self._facts = facts
        self._parents: dict[tuple[str, str, str], tuple[Array | None, float]] = {}

    def reference(
        self, one: EvalSpec, toolchain: Toolchain, parent: Sha256, *, adapted: bool
    ) -> tuple[Array | None, float | None]:
        """(classes to agree with, what the model before adaptation measured), as far as the metric has such things."""
        if not adapted:
            return None, None
        key = (one.metric, one.data, one.output)
        if key not in self._parents:
            data = EvaluationData.read(self._store, self._data[one.data], one, self._facts)
            output = self._output(one, toolchain, parent, data)
            if one.metric == "agreement":
                self._parents[key] = _fitting(one, lambda: classes(output)), 1.0
            else:
                self._parents[key] = None, _value(one, output, data.labels)
        return self._parents[key]

    def value(self, one: EvalSpec, toolchain: Toolchain, file: Sha256, labels: Array | None) -> float:
        """What a file measures."""
        data = EvaluationData.read(self._store, self._data[one.data], one, self._facts)
        output = self._output(one, toolchain, file, data)
        return _value(one, output, data.labels if labels is None else labels)

    def _output(self, one: EvalSpec, toolchain: Toolchain, file: Sha256, data: EvaluationData) -> Array:
        said = toolchain.answers(file, data.batches(), self._beside.get(file, ()))
        return data.joined(_answered(said, one), one)

    @staticmethod
    def encoded(labels: Array) -> bytes:
        """Classes as the lock's artifacts hold them: a TensorProto."""
        from nnenv.verify.tensors import write_tensor

        return write_tensor(_LABELS, labels)


def evaluated(
    session: Session, lockfile: Lockfile, target: TargetLock, runner: Runner, limits: Limits
) -> tuple[EvaluationReport, ...]:
    """Every measure of the target's models, taken inside the image.

    Raises NnenvError `evaluation-invalid` for data that does not fit, `verification-failed` if nothing is answered.
    """
    reports: list[EvaluationReport] = []
    for model in lockfile.models_of(target):
        wanted = [
            (number, one)
            for number, one in enumerate(evaluations_in(lockfile.manifest, model.name))
            if not one.targets or target.name in one.targets
        ]
        if wanted:
            reports += _model_evaluated(session, lockfile, target, model, wanted, runner, limits)
    return tuple(reports)


def _model_evaluated(
    session: Session,
    lockfile: Lockfile,
    target: TargetLock,
    model: ModelLock,
    wanted: Sequence[tuple[int, EvalSpec]],
    runner: Runner,
    limits: Limits,
) -> Iterator[EvaluationReport]:
    from nnenv.verify.tensors import read_tensor

    whole = lockfile.model(model.name)
    paths = dict(whole.data)
    locked = {one.number: one for one in lockfile.evaluations if (one.model, one.file) == (model.name, model.file)}
    needed = [paths[one.data] for _, one in wanted] + [one.labels for one in locked.values() if one.labels]
    fetch_locked(session, [lockfile.by_digest[digest] for digest in needed], target.os)
    artifact = lockfile.by_digest[model.file]
    facts = stored_facts(session, artifact, model.format)
    cost: ModelCost | None = None
    for number, one in wanted:
        known = locked.get(number)
        if one.metric == "agreement" and (known is None or known.labels is None):
            continue
        data = EvaluationData.read(session.store, paths[one.data], one, facts)
        labels = data.labels
        if known is not None and known.labels is not None:
            with session.store.open(known.labels) as stream:
                _, labels = read_tensor(stream.read())
        path = "/" + model_path(model.name, artifact)
        request = measuring_request(path, model.file, data.sample(), data.batches(), kind=model.format)
        run = Run(argv=(*SELF_TEST, "serve-request"), environment=ENVIRONMENT, stdin=request, limits=limits)
        answer = answer_of(runner.run(run))
        if cost is None:
            cost = measured(answer, len(data.batches()), artifact.size)
        answered = ran(answer, len(data.batches()) + 1, skip=1)
        output = data.joined(_answered(answered, one), one)
        value = _value(one, output, labels)
        yield EvaluationReport(
            model=model.name,
            number=number,
            metric=one.metric if one.metric != "top-k" else f"top-{one.k or DEFAULT_K}",
            value=value,
            samples=len(output),
            baseline=known.baseline if known else None,
            failures=tuple(_failures(one, value, known, cost, runner, answered)),
            notes=tuple(_notes(one, cost, runner, answered)),
            cost=cost,
            classes=classification_report(output, labels) if labels is not None and one.metric in _CLASSES else (),
        )


_CLASSES: Final = frozenset({"accuracy", "agreement", "f1", "top-k"})


def _failures(
    one: EvalSpec, value: float, known: EvaluationLock | None, cost: ModelCost, runner: Runner, answered: Ran
) -> Iterator[str]:
    """What the measure does not reach."""
    smaller = one.metric in SMALLER_IS_BETTER
    if one.minimum is not None and (value > one.minimum if smaller else value < one.minimum):
        yield f"{one.metric} is {value:.4f}, {'more' if smaller else 'less'} than {one.minimum:g}"
    if one.at_least and known is not None and known.baseline is not None:
        part = float(one.at_least.removesuffix("%")) / 100
        bound = known.baseline / part if smaller else known.baseline * part
        if value > bound if smaller else value < bound:
            yield (
                f"{one.metric} is {value:.4f}, which is not {one.at_least} of {known.baseline:.4f} (bound {bound:.4f})"
            )
    if one.max_size is not None and cost.size > one.max_size * (1 << 20):
        yield f"the model has {cost.size / (1 << 20):.2f} MiB, more than {one.max_size:g}"
    if _is_enforced(one, runner, answered):
        if one.max_latency is not None and cost.milliseconds > one.max_latency:
            yield f"one run takes {cost.milliseconds:.2f} ms at least, more than {one.max_latency:g}"
        if one.max_memory is not None and cost.peak_mebibytes > one.max_memory:
            yield f"the process took {cost.peak_mebibytes:.0f} MiB, more than {one.max_memory:g}"


def _notes(one: EvalSpec, cost: ModelCost, runner: Runner, answered: Ran) -> Iterator[str]:
    if (one.max_latency is None and one.max_memory is None) or _is_enforced(one, runner, answered):
        return
    yield (
        f"budgets of time and memory are not enforced on {answered.host.cpu or 'this processor'}: they were set for"
        f" {one.hardware or 'no named hardware'}"
    )


def _is_enforced(one: EvalSpec, runner: Runner, answered: Ran) -> bool:
    return bool(one.hardware) and one.hardware in answered.host.cpu and not runner.emulated


def _answered(said: Ran, one: EvalSpec) -> Sequence[Mapping[str, Array]]:
    if said.error:
        raise _invalid(one, "cannot be run by the model", [said.error])
    return said.outputs


def _value(one: EvalSpec, output: Array, labels: Array | None) -> float:
    assert labels is not None
    found = labels
    value: float = _fitting(one, lambda: measure(one.metric, output, found, k=one.k or DEFAULT_K))
    return value


def _fitting(one: EvalSpec, work: Any) -> Any:
    try:
        return work()
    except QualityError as error:
        raise _invalid(one, f"does not fit the metric {one.metric}", [str(error)]) from None


def _invalid(one: EvalSpec, what: str, because: Sequence[str]) -> NnenvError:
    return NnenvError(
        "evaluation-invalid",
        f"{one.data} {what}",
        where=one.data,
        because=because,
        fix=["correct `data`, `labels`, `output` or `metric` of the [[models.NAME.eval]]"],
    )
