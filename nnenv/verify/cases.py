"""Inference test cases: the ONNX layout and `.npz` files as named tensors, and the settings in `case.toml`."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from nnenv.errors import NnenvError
from nnenv.spec.artifact import Sha256, sha256_of
from nnenv.verify.compare import AXES, LIMITS
from nnenv.verify.tensors import MAX_RANK, TensorError, read_tensor, write_tensor
from nnenv.verify.wire import DTYPES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

CASE_SCHEMA: Final = "nnenv.test/1"
SETTINGS_LIMIT: Final = 64 << 10
"""Characters of a case.toml at most."""
NPZ_LIMIT: Final = 1 << 30
"""Uncompressed bytes of an `.npz` case at most."""

_TENSOR_FILE: Final = re.compile(r"(input|output)_(0|[1-9][0-9]{0,5})\.pb\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseFiles:
    """One case as its files' bytes."""

    name: str
    """`test_data_set_0`, or the stem of an `.npz` file."""
    files: Mapping[str, bytes]
    """Base name -> bytes: `input_0.pb`, `output_0.pb`, …, or one `.npz`. Files of other kinds are ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One inference test: what goes in and what must come out."""

    name: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


class CaseKind(StrEnum):
    """Where the expected outputs come from."""

    GOLDEN = "golden"
    """Somebody vouches for them: a model zoo, the training run, a second implementation."""
    SELFTEST = "selftest"
    """nnenv made the inputs up and recorded what the model answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseSettings:
    """`case.toml`, which lies beside the test data sets; every key but `schema` is optional."""

    kind: CaseKind = CaseKind.GOLDEN
    model_sha256: Sha256 | None = None
    """The one model file the expected outputs are valid for."""
    provenance: str = ""
    """Who recorded the outputs, with what; for people."""
    tolerance: Mapping[str, float] = field(default_factory=dict)
    """Precision class (`fp16`, `fp32`, `fp64`; `tf32` for float32 on a GPU that rounds it) -> limit, in place of the
    policy's."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Output -> `tensor` or `row`: what its error is normalised by. From `[[outputs]]`."""


def tensors_digest(tensors: Mapping[str, Array]) -> Sha256:
    """One sha256 over names, types, shapes and values, whatever file they came in.

    The sha256 of the TensorProto of each, as `write_tensor` writes it, in the order of the names, each preceded
    by its length as 8 bytes, big-endian.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        data = write_tensor(name, tensors[name])
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return Sha256(digest.hexdigest())


def bind(files: CaseFiles, model_inputs: Sequence[str], model_outputs: Sequence[str]) -> Case:
    """The case's tensors under the names of the model's inputs and outputs.

    By TensorProto name if every name is one of the model's; else by the number in the file name (`input_0.pb` is
    the first input). Raises NnenvError `case-invalid` for anything unreadable, missing, left over or contradictory.
    """
    archives = [name for name in files.files if name.endswith(".npz")]
    tensors = sorted(name for name in files.files if name.endswith(".pb"))
    if len(archives) + bool(tensors) != 1:
        found = ", ".join(sorted(files.files)) or "nothing"
        raise _invalid(files.name, "a case is either one .npz file or input_N.pb and output_N.pb files", [found])
    if archives:
        # A case that is one file is named after it.
        where = files.name if files.name.endswith(".npz") else f"{files.name}/{archives[0]}"
        inputs, expected = _from_npz(where, files.files[archives[0]])
        _same_names(files.name, "input", inputs, model_inputs)
        _same_names(files.name, "output", expected, model_outputs)
    else:
        read = _read_files(files, tensors)
        inputs = _bound(files.name, "input", read["input"], model_inputs)
        expected = _bound(files.name, "output", read["output"], model_outputs)
    if not expected:
        raise _invalid(files.name, "the case expects no output, so it can prove nothing", [])
    return Case(
        name=files.name,
        inputs={name: inputs[name] for name in model_inputs},
        expected={name: expected[name] for name in model_outputs},
    )


def parse_case_toml(text: str, where: str) -> CaseSettings:
    """The settings in `text`; every mistake is named at once in one NnenvError `case-invalid`.

    `where` is the file's name, for messages.
    """
    if len(text) > SETTINGS_LIMIT:
        raise _invalid(where, f"the file has more than {SETTINGS_LIMIT} characters", [])
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _invalid(where, "the file is no TOML", [str(error)]) from error
    mistakes = _unknown(document, ("schema", "kind", "model_sha256", "provenance", "tolerance", "outputs"), "")
    if document.get("schema") != CASE_SCHEMA:
        mistakes.append(f'schema: must be "{CASE_SCHEMA}"')
    settings = CaseSettings(
        kind=_kind(document.get("kind", "golden"), mistakes),
        model_sha256=_digest(document.get("model_sha256"), mistakes),
        provenance=_provenance(document.get("provenance", ""), mistakes),
        tolerance=_tolerance(document.get("tolerance", {}), mistakes),
        axes=_axes(document.get("outputs", []), mistakes),
    )
    if mistakes:
        raise _invalid(where, "the settings of a case break the rules of case.toml", mistakes)
    return settings


def write_case_toml(settings: CaseSettings) -> str:
    """`settings` in the one spelling nnenv writes: fixed order, sorted tables, defaults of optional keys left out."""
    lines = [f'schema = "{CASE_SCHEMA}"', f'kind = "{settings.kind}"']
    if settings.model_sha256 is not None:
        lines.append(f'model_sha256 = "{settings.model_sha256}"')
    if settings.provenance:
        lines.append(f"provenance = {_quoted(settings.provenance)}")
    if settings.tolerance:
        lines += ["", "[tolerance]"]
        lines += [f"{name} = {limit!r}" for name, limit in sorted(settings.tolerance.items())]
    for name, axis in sorted(settings.axes.items()):
        lines += ["", "[[outputs]]", f"name = {_quoted(name)}", f'axis = "{axis}"']
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but TOML also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_CORRECT: Final = ("correct the file, or make the cases anew with `nnenv test record`",)


def _invalid(where: str, what: str, because: Sequence[str], fix: Sequence[str] = _CORRECT) -> NnenvError:
    return NnenvError("case-invalid", what, where=where, because=because, fix=fix)


# --- tensors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """One tensor file."""

    file: str
    number: int
    name: str
    array: Array


def _read_files(files: CaseFiles, names: Sequence[str]) -> dict[str, list[_Read]]:
    read: dict[str, list[_Read]] = {"input": [], "output": []}
    for name in names:
        matched = _TENSOR_FILE.match(name)
        where = f"{files.name}/{name}"
        if matched is None:
            raise _invalid(where, "a tensor file is named input_N.pb or output_N.pb", [])
        try:
            label, array = read_tensor(files.files[name])
        except TensorError as error:
            raise _invalid(where, f"the tensor cannot be read: {error}", []) from error
        read[matched[1]].append(_Read(file=where, number=int(matched[2]), name=label, array=array))
    for found in read.values():
        found.sort(key=lambda one: one.number)
    return read


def _bound(case: str, role: str, read: Sequence[_Read], model: Sequence[str]) -> dict[str, Array]:
    names = [one.name for one in read]
    if all(name in model for name in names):
        for one in read:
            if names.count(one.name) > 1:
                raise _invalid(one.file, f"two {role} files are named {one.name!r}", _has(role, model))
        bound = {one.name: one.array for one in read}
        _same_names(case, role, bound, model)
        return bound
    numbers = [one.number for one in read]
    if numbers != list(range(len(model))):
        listed = [f"{one.file}: tensor {one.name!r}" for one in read]
        raise _invalid(case, f"the {role} files do not fit the model", [*listed, *_has(role, model)])
    for one in read:
        if one.name in model and model[one.number] != one.name:
            what = f"tensor {one.name!r} stands where the model has {role} {model[one.number]!r}"
            raise _invalid(one.file, what, _has(role, model), ["name every tensor as the model does, or none"])
    return {model[one.number]: one.array for one in read}


def _has(role: str, model: Sequence[str]) -> list[str]:
    return [f"the model has the {role}s {', '.join(model) or '(none)'}"]


def _same_names(case: str, role: str, found: Mapping[str, Array], model: Sequence[str]) -> None:
    missing = [name for name in model if name not in found]
    left_over = [name for name in found if name not in model]
    if missing or left_over:
        because = [f"no tensor for {role} {name!r}" for name in missing]
        because += [f"tensor {name!r} is no {role} of the model" for name in left_over]
        raise _invalid(case, f"the {role}s of the case are not those of the model", [*because, *_has(role, model)])


# --- npz -------------------------------------------------------------------------------------------------------------


def _from_npz(where: str, data: bytes) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and expected outputs of an .npz with keys `input:NAME` and `output:NAME`; nothing is unpickled."""
    import struct
    import zipfile
    import zlib

    tensors: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > NPZ_LIMIT:
                raise _invalid(where, f"the arrays are larger than {NPZ_LIMIT} bytes", [])
            for member in members:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _invalid(where, "an array is compressed by a method that numpy does not use", [])
                role, name = _npz_key(where, member.filename)
                if name in tensors[role]:
                    raise _invalid(where, f"the key {role}:{name} occurs twice", [])
                tensors[role][name] = _npz_array(f"{where}: {role}:{name}", archive.read(member))
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        # zipfile has no one error for damaged archives; NotImplementedError is a RuntimeError.
        raise _invalid(where, "the file is no readable .npz archive", [str(error)]) from error
    return tensors["input"], tensors["output"]


def _npz_key(where: str, filename: str) -> tuple[str, str]:
    role, _, name = filename.removesuffix(".npy").partition(":")
    if role not in ("input", "output") or not name:
        raise _invalid(where, f"the key {filename!r} is neither input:NAME nor output:NAME", [])
    return role, name


def _npz_array(where: str, data: bytes) -> Array:
    import numpy as np

    shape, fortran, dtype, raw = _npy_parts(where, data)
    if dtype.kind != "U" and dtype.name not in DTYPES:
        raise _invalid(where, f"arrays of type {dtype} are not supported", [])
    # Checked before numpy sees the shape: the header may announce anything, only the bytes that are there count.
    count = 1
    for extent in shape:
        count *= extent
    too_large = len(shape) > MAX_RANK or any(extent < 0 or extent >> 58 for extent in shape)
    if too_large or dtype.itemsize == 0 or len(raw) != count * dtype.itemsize:
        raise _invalid(where, f"shape {list(shape)} and type {dtype} do not fit {len(raw)} bytes", [])
    if dtype.kind == "b" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise _invalid(where, "a bool is neither 0 nor 1", [])
    try:
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        array = array.astype(object if dtype.kind == "U" else dtype.newbyteorder("="), copy=False)
        if dtype.kind == "U":
            write_tensor("", array)
    except ValueError as error:
        raise _invalid(where, "the array cannot be read", [str(error)]) from error
    return array


def _npy_parts(where: str, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], bytes]:
    """Shape, Fortran order, dtype and the values' bytes of one .npy file."""
    from numpy.lib import format as npy

    stream = io.BytesIO(data)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError) as error:
        raise _invalid(where, "the array has no valid .npy header", [str(error)]) from error
    return shape, fortran, dtype, data[stream.tell() :]


# --- case.toml -------------------------------------------------------------------------------------------------------


def _unknown(table: Mapping[str, object], known: Sequence[str], prefix: str) -> list[str]:
    mistakes = []
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            mistakes.append(f"{prefix}{key}: unknown key{hint}")
    return mistakes


def _kind(value: object, mistakes: list[str]) -> CaseKind:
    if value in tuple(CaseKind):
        return CaseKind(str(value))
    mistakes.append(f"kind: must be one of {', '.join(CaseKind)}")
    return CaseKind.GOLDEN


def _digest(value: object, mistakes: list[str]) -> Sha256 | None:
    if value is None:
        return None
    try:
        return sha256_of(str(value))
    except ValueError:
        mistakes.append("model_sha256: must be 64 lower-case hexadecimal digits")
        return None


def _provenance(value: object, mistakes: list[str]) -> str:
    if isinstance(value, str):
        return value
    mistakes.append("provenance: must be a text")
    return ""


def _tolerance(value: object, mistakes: list[str]) -> dict[str, float]:
    if not isinstance(value, dict):
        mistakes.append("tolerance: must be a table")
        return {}
    mistakes += _unknown(value, (*LIMITS, "tf32"), "tolerance.")
    limits = {}
    for name in (*LIMITS, "tf32"):
        limit = value.get(name)
        # At 1 an output of nothing but zeros passes, so such a limit tests nothing.
        if isinstance(limit, int | float) and not isinstance(limit, bool) and 0 <= limit < 1:
            limits[name] = float(limit)
        elif limit is not None:
            mistakes.append(f"tolerance.{name}: must be a number from 0 to below 1")
    return limits


def _axes(value: object, mistakes: list[str]) -> dict[str, str]:
    axes: dict[str, str] = {}
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        mistakes.append("outputs: must be [[outputs]] tables")
        return axes
    for number, item in enumerate(value):
        mistakes += _unknown(item, ("name", "axis"), f"outputs[{number}].")
        name, axis = item.get("name"), item.get("axis", "tensor")
        if not isinstance(name, str):
            mistakes.append(f"outputs[{number}].name: must be the name of an output")
        elif name in axes:
            mistakes.append(f"outputs[{number}].name: {name} is named twice")
        elif axis not in AXES:
            mistakes.append(f"outputs[{number}].axis: must be one of {', '.join(AXES)}")
        else:
            axes[name] = axis
    return axes
