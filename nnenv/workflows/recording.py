"""`nnenv test record`: cases for a model that has none, made inside the target's own image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nnenv.adapters.files import open_inside, refusing_writes, write_atomically
from nnenv.errors import NnenvError
from nnenv.formats.model_file import RUNTIMES
from nnenv.formats.onnx_model import TensorInfo
from nnenv.image.plan import model_path
from nnenv.spec.artifact import Sha256
from nnenv.spec.lockfile import Lockfile, ModelLock
from nnenv.spec.manifest_edit import with_test
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.names import MANIFEST_NAME
from nnenv.verify.cases import CaseKind, CaseSettings, write_case_toml
from nnenv.verify.evaluate import answer_of, ran, run_request
from nnenv.verify.protocols import Run
from nnenv.workflows.building import ENVIRONMENT, SELF_TEST, assemble, checked_lock
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.inputs import stored_facts
from nnenv.workflows.session import Session
from nnenv.workflows.targets import chosen_targets
from nnenv.workflows.verifying import open_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SEED: Final = 20260101
"""Of made-up inputs; the inputs themselves are stored, so that no generator has to repeat itself (NEP 19)."""

_RECORDERS: Final = {"onnx": "onnxruntime without graph optimization", "keras": "keras"}

AGREEMENT: Final = 1e-4
"""Largest normalised difference between two implementations (reference/inference_test.md, 6.4)."""


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What the user asked of `nnenv test record`."""

    model: str
    target: str = ""
    inputs: str = ""
    count: int = 2
    into: str = ""
    cross_check: bool = False
    runner: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What was recorded."""

    cases: tuple[str, ...]
    """Folders of the cases, from the project."""
    kind: str
    notes: tuple[str, ...]


def record_cases(session: Session, options: RecordOptions) -> Recorded:
    """Write `test_data_set_N` folders and case.toml, and name them in model.toml if it does not yet.

    Raises NnenvError `case-invalid` if the model is unknown, has cases there already, does not run on the inputs, or
    the cross-check disagrees; nothing is written then.
    """
    lockfile = checked_lock(session, frozen=False)
    target = chosen_targets(lockfile, [options.target] if options.target else [lockfile.targets[0].name])[0]
    model = _model(lockfile, target.models, options.model)
    folder = case_folder(session, options.into or f"tests/{model.name}")
    artifact = lockfile.by_digest[model.file]
    fetch_locked(session, [artifact], target.os)
    facts = stored_facts(session, artifact, model.format)
    if model.format not in RUNTIMES:
        raise NnenvError(
            "case-invalid",
            f"model {model.name} is of the format {model.format}, which the standard inference test cannot run",
            fix=["test it with `nnenv run`, or convert the model"],
        )
    inputs = _given(session, options.inputs, facts.inputs) if options.inputs else made_up(facts.inputs, options.count)
    maker, documents = assemble(session, lockfile, target)
    with open_runner(session, maker, documents, options.runner) as runner:
        outputs = _run(runner, "/" + model_path(model.name, artifact), model, inputs)
    if options.cross_check and model.format != "onnx":
        raise NnenvError(
            "case-invalid",
            "--cross-check knows a second implementation for ONNX models alone",
            because=[f"{model.name} is of the format {model.format}"],
            fix=["record without --cross-check"],
        )
    notes = [_cross_checked(session, artifact.sha256, inputs, outputs)] if options.cross_check else []
    settings = CaseSettings(
        kind=CaseKind.GOLDEN if options.cross_check else CaseKind.SELFTEST,
        model_sha256=model.file,
        provenance="; ".join([f"recorded by nnenv in target {target.name}, {_RECORDERS[model.format]}", *notes]),
    )
    names = _write(session, folder, inputs, outputs, settings)
    if _declare(session, model.name, folder):
        notes.append(f"added the cases to {MANIFEST_NAME}")
    return Recorded(cases=names, kind=str(settings.kind), notes=tuple(notes))


def _model(lockfile: Lockfile, names: Sequence[str], wanted: str) -> ModelLock:
    if wanted not in names:
        raise NnenvError(
            "case-invalid",
            f"the target has no model {wanted}",
            because=[f"it has {', '.join(names) or 'none'}"],
            fix=["name one of these"],
        )
    return lockfile.model(wanted)


def case_folder(session: Session, text: str) -> str:
    """Path from the project of a new or empty folder for cases, as model.toml can hold it.

    Raises NnenvError `path-escapes` if it leaves the project, `case-invalid` if something is there already.
    """
    root = session.project.resolve()
    path = (root / text).resolve()
    if path == root or not path.is_relative_to(root) or not text.isprintable() or "\\" in text:
        raise NnenvError(
            "path-escapes",
            f"{text!r} is no folder inside of the project",
            where="--into",
            fix=["name a folder in the project, such as tests/NAME"],
        )
    folder = path.relative_to(root).as_posix()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise NnenvError(
            "case-invalid",
            f"{folder} is no empty folder",
            where=folder,
            fix=["name another folder with --into, or remove the old cases first"],
        )
    return folder


def _given(session: Session, path: str, wanted: Sequence[TensorInfo]) -> list[dict[str, Array]]:
    import numpy as np

    names = [item.name for item in wanted]
    try:
        with open_inside(session.project, path) as stream, np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError) as error:
        raise NnenvError("case-invalid", f"{path} is no readable .npz file", where=path, because=[str(error)]) from None
    if set(found) != set(names):
        raise NnenvError(
            "case-invalid",
            f"{path} does not hold the model's inputs",
            where=path,
            because=[f"the model wants {', '.join(names)}; the file has {', '.join(sorted(found))}"],
            fix=["save one array per input, under the input's name"],
        )
    return [{name: found[name] for name in names}]


def made_up(wanted: Sequence[TensorInfo], count: int) -> list[dict[str, Array]]:
    """Seeded normal floats, integers 0 and 1, false and true; free dimensions have size 1."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(SEED))
    cases = []
    for _ in range(count):
        case: dict[str, Array] = {}
        for item in wanted:
            shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in item.shape)
            if item.dtype in {"float32", "float64", "float16"}:
                case[item.name] = generator.standard_normal(shape).astype(item.dtype)
            elif item.dtype.startswith(("int", "uint")) or item.dtype == "bool":
                case[item.name] = generator.integers(0, 2, shape).astype(item.dtype)
            else:
                raise NnenvError(
                    "case-invalid",
                    f"no input can be made up for {item.name} ({item.dtype or 'not a tensor'})",
                    fix=["give inputs with --inputs FILE.npz"],
                )
        cases.append(case)
    return cases


def _run(runner: Any, path: str, model: ModelLock, inputs: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """What the model answers inside the image, without graph optimization and with one thread."""
    request = run_request(path, model.file, inputs, optimization="disable", kind=model.format)
    run = Run(argv=(*SELF_TEST, "serve-request"), environment=ENVIRONMENT, stdin=request)
    answered = ran(answer_of(runner.run(run)), len(inputs))
    if not answered.error:
        return list(answered.outputs)
    raise NnenvError(
        "case-invalid",
        f"model {model.name} does not run on these inputs",
        because=[answered.error[:500]],
        fix=["give fitting inputs with --inputs FILE.npz"],
    )


def _cross_checked(
    session: Session, model: Sha256, inputs: Sequence[Mapping[str, Array]], outputs: Sequence[Mapping[str, Array]]
) -> str:
    """A sentence that the onnx reference evaluator, in float64, agrees; NnenvError `case-invalid` if it does not.

    The model is first converted to opset 17: at old opsets the evaluator itself is wrong for BatchNormalization and
    Softmax (reference/inference_test.md, finding 8).
    """
    import numpy as np

    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
        from onnx.version_converter import convert_version
    except ImportError:
        raise NnenvError(
            "case-invalid",
            "--cross-check needs the onnx package on this machine",
            fix=["pip install 'nnenv[crosscheck]'"],
        ) from None
    with session.store.open(model) as stream:
        # Not `load_model`: it takes the stream's name for a path, and an opened descriptor has none.
        loaded = onnx.load_model_from_string(stream.read())
    if any(opset.domain in {"", "ai.onnx"} and opset.version < 17 for opset in loaded.opset_import):
        loaded = convert_version(loaded, 17)
    evaluator = ReferenceEvaluator(_in_float64(loaded))
    names = [output.name for output in loaded.graph.output]
    worst = 0.0
    for case, recorded in zip(inputs, outputs, strict=True):
        wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in case.items()}
        for name, value in zip(names, evaluator.run(names, wide), strict=True):
            expected = np.asarray(value, dtype=np.float64)
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
            difference = np.abs(expected - recorded[name].astype(np.float64)).max(initial=0.0)
            worst = max(worst, float(difference) / scale)
    if not worst <= AGREEMENT:
        raise NnenvError(
            "case-invalid",
            "two implementations disagree about this model, so neither can vouch for it",
            because=[f"max|a-e|/max|e| is {worst:.1e} between onnxruntime and onnx's reference evaluator"],
            fix=["find out which one is right before recording, or record without --cross-check (status smoke)"],
        )
    return f"onnx {onnx.__version__} reference evaluator in float64 agrees to {worst:.1e}"


def _in_float64(model: Any) -> Any:
    """A copy whose float32 weights, inputs and outputs are float64."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    wide = type(model)()
    wide.CopyFrom(model)
    tensors = list(wide.graph.initializer)
    tensors += [a.t for node in wide.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in [*wide.graph.input, *wide.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def _write(
    session: Session,
    folder: str,
    inputs: Sequence[Mapping[str, Array]],
    outputs: Sequence[Mapping[str, Array]],
    settings: CaseSettings,
) -> tuple[str, ...]:
    """The cases' files, case.toml last: without it an interrupted recording is no set of cases."""
    from nnenv.verify.tensors import write_tensor

    names = []
    for number, (case, expected) in enumerate(zip(inputs, outputs, strict=True)):
        name = f"{folder}/test_data_set_{number}"
        path = session.project / name
        with refusing_writes(path):
            path.mkdir(parents=True, exist_ok=True)
        for role, tensors in (("input", case), ("output", expected)):
            for index, (tensor, array) in enumerate(tensors.items()):
                write_atomically(path / f"{role}_{index}.pb", write_tensor(tensor, array))
        names.append(name)
    write_atomically(session.project / folder / "case.toml", write_case_toml(settings).encode())
    return tuple(names)


def _declare(session: Session, model: str, folder: str) -> bool:
    """Add `[[models.X.tests]]` to model.toml, keeping its comments; False if the folder is named already."""
    path = session.project / MANIFEST_NAME
    data = path.read_bytes()
    if any(case.data == folder for spec in parse_manifest(data).models if spec.name == model for case in spec.tests):
        return False
    edited = with_test(data, model, folder) or _with_test_in_place(data, model, folder)
    write_atomically(path, edited, mode=path.stat().st_mode & 0o777)
    return True


def _with_test_in_place(data: bytes, model: str, folder: str) -> bytes:
    """The manifest with the folder among the model's tests, for models that are written without headers."""
    import tomlkit

    document: Any = tomlkit.parse(data.decode())
    table = document["models"][model]
    if "tests" not in table:
        table["tests"] = tomlkit.array()
    entry = tomlkit.inline_table()
    entry["data"] = folder
    table["tests"].append(entry)
    return tomlkit.dumps(document).encode()
