"""Cases: tensors find their inputs and outputs, and settings are read strictly."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.spec.artifact import sha256_of
from nnenv.verify.cases import (
    CaseFiles,
    CaseKind,
    CaseSettings,
    bind,
    parse_case_toml,
    tensors_digest,
    write_case_toml,
)
from nnenv.verify.tensors import write_tensor

A, B, Y = (np.full(2, value, np.float32) for value in (1, 2, 3))


def files(**tensors: tuple[str, np.ndarray]) -> CaseFiles:
    """A case of tensor files, `input_0=(name, array)`."""
    return CaseFiles(
        name="set", files={f"{name}.pb": write_tensor(label, array) for name, (label, array) in tensors.items()}
    )


def npz(**arrays: np.ndarray) -> CaseFiles:
    """A case of one .npz file; `__` in a key stands for the colon."""
    stream = io.BytesIO()
    np.savez(stream, **{key.replace("__", ":"): array for key, array in arrays.items()})
    return CaseFiles(name="set", files={"case.npz": stream.getvalue()})


def test_names_win_over_numbers() -> None:
    """Where every tensor is named as the model does, the numbers of the files do not matter."""
    case = bind(files(input_0=("b", B), input_1=("a", A), output_0=("y", Y)), ["a", "b"], ["y"])
    assert (case.inputs["a"][0], case.inputs["b"][0], list(case.inputs)) == (1, 2, ["a", "b"])


@pytest.mark.parametrize("labels", [("", ""), ("data_0", "data_1")])
def test_numbers_bind_tensors_without_the_models_names(labels: tuple[str, str]) -> None:
    """As in the model zoo: input_0.pb is the first input, whatever its tensor is called."""
    case = bind(files(input_0=(labels[0], A), input_1=(labels[1], B), output_0=("", Y)), ["a", "b"], ["y"])
    assert (case.inputs["a"][0], case.inputs["b"][0], case.expected["y"][0]) == (1, 2, 3)


def test_numbers_are_numbers_not_texts() -> None:
    """input_10.pb is the eleventh input, not the second."""
    many = {f"input_{i}": ("", np.full(1, i, np.float32)) for i in range(11)}
    case = bind(files(**many, output_0=("", Y)), [f"x{i}" for i in range(11)], ["y"])
    assert case.inputs["x10"][0] == 10


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"input_0": ("a", A), "output_0": ("y", Y)}, "no tensor for input 'b'"),
        ({"input_0": ("", A), "input_2": ("", B), "output_0": ("y", Y)}, "set/input_2.pb"),
        (
            {"input_0": ("", A), "input_1": ("", B), "input_2": ("", B), "output_0": ("y", Y)},
            "the model has the inputs",
        ),
        ({"input_0": ("a", A), "input_1": ("a", B), "output_0": ("y", Y)}, "named 'a'"),
        ({"input_0": ("b", B), "input_1": ("typo", A), "output_0": ("y", Y)}, "stands where the model has input 'a'"),
        ({"input_0": ("a", A), "input_1": ("b", B)}, "no tensor for output 'y'"),
        ({"input_0": ("a", A), "input_1": ("b", B), "output_0": ("y", Y), "output_1": ("z", Y)}, "output_1.pb"),
        ({"input_0": ("a", A), "input_1": ("b", B), "output_x": ("y", Y)}, "input_N.pb or output_N.pb"),
        ({}, "either one .npz file or"),
    ],
)
def test_what_does_not_fit_is_named(tensors: dict[str, tuple[str, np.ndarray]], message: str) -> None:
    """Missing, left-over, doubled and contradictory tensors are case-invalid, with file, name and the model's."""
    with pytest.raises(NnenvError) as caught:
        bind(files(**tensors), ["a", "b"], ["y"])
    assert caught.value.code == "case-invalid"
    assert message in "\n".join([caught.value.what, str(caught.value.where), *caught.value.because])


def test_an_unreadable_tensor_names_its_file() -> None:
    """The error says which file and which rule."""
    broken = CaseFiles(name="set", files={"input_0.pb": b"\x08", "output_0.pb": write_tensor("y", Y)})
    with pytest.raises(NnenvError, match="ends inside a varint") as caught:
        bind(broken, ["a"], ["y"])
    assert caught.value.where == "set/input_0.pb"


def test_a_model_without_inputs_has_cases_too() -> None:
    """Constant models exist; their cases have outputs only."""
    assert dict(bind(files(output_0=("", Y)), [], ["y"]).inputs) == {}


def test_a_case_that_expects_nothing_is_refused() -> None:
    """Nothing expected would always pass."""
    with pytest.raises(NnenvError, match="can prove nothing"):
        bind(files(input_0=("a", A)), ["a"], [])


def test_npz_cases_bind_by_key() -> None:
    """`input:NAME` and `output:NAME`; text arrays become strings, Fortran and big-endian ones keep their values."""
    ordered = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    case = bind(npz(input__a=ordered, input__b=np.array(["x", "yz"]), output__y=Y), ["a", "b"], ["y"])
    assert case.inputs["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert case.inputs["a"].dtype == np.dtype("float32")
    assert case.inputs["b"].tolist() == ["x", "yz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input__a": A, "y": Y}, "neither input:NAME nor output:NAME"),
        ({"input__b": A, "output__y": Y}, "no tensor for input 'a'"),
        ({"input__a": np.array([object()], dtype=object), "output__y": Y}, "not supported"),
        ({"input__a": np.zeros(1, "M8[s]"), "output__y": Y}, "not supported"),
    ],
)
def test_npz_mistakes_are_named(arrays: dict[str, np.ndarray], message: str) -> None:
    """Unknown keys, missing names, pickles and dates are case-invalid."""
    with pytest.raises(NnenvError) as caught:
        bind(npz(**arrays), ["a"], ["y"])
    assert caught.value.code == "case-invalid"
    assert message in "\n".join([caught.value.what, *caught.value.because])


def test_npz_headers_that_lie_about_the_size_are_refused() -> None:
    """A header may announce any shape; only the bytes that are there count."""
    good = npz(input__a=A, output__y=Y).files["case.npz"]
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"(2,)", b"(9,)"))
    with pytest.raises(NnenvError, match="do not fit 8 bytes"):
        bind(CaseFiles(name="set", files={"case.npz": stream.getvalue()}), ["a"], ["y"])


@given(st.data())
def test_a_damaged_npz_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever byte is replaced, nothing but case-invalid escapes."""
    whole = npz(input__a=A, output__y=Y).files["case.npz"]
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + 1 :]
    try:
        bind(CaseFiles(name="set", files={"case.npz": damaged}), ["a"], ["y"])
    except NnenvError as error:
        assert error.code == "case-invalid"


def test_the_digest_of_tensors_depends_on_names_types_shapes_and_values_only() -> None:
    """The order and the file format do not show; any other change does."""
    base = tensors_digest({"a": A, "b": B})
    assert tensors_digest({"b": B, "a": A}) == base
    others = ({"a": B, "b": A}, {"a": A}, {"a": A.reshape(2, 1), "b": B}, {"a": A.astype("f8"), "b": B})
    assert len({base, *map(tensors_digest, others)}) == 5


SETTINGS = """\
schema = "nnenv.test/1"
kind = "selftest"
model_sha256 = "%s"
provenance = "onnxruntime 1.32.0, \\"all\\""

[tolerance]
fp16 = 0.02
fp32 = 1e-05

[[outputs]]
name = "logits"
axis = "row"
""" % ("0" * 64)


def test_case_toml_has_one_spelling() -> None:
    """Reading and writing the canonical text changes nothing."""
    settings = parse_case_toml(SETTINGS, "case.toml")
    assert settings == CaseSettings(
        kind=CaseKind.SELFTEST,
        model_sha256=sha256_of("0" * 64),
        provenance='onnxruntime 1.32.0, "all"',
        tolerance={"fp16": 0.02, "fp32": 1e-5},
        axes={"logits": "row"},
    )
    assert write_case_toml(settings) == SETTINGS


@given(
    st.builds(
        CaseSettings,
        kind=st.sampled_from(CaseKind),
        model_sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64).map(sha256_of),
        provenance=st.text(st.characters(exclude_categories=["Cs"])),
        tolerance=st.dictionaries(st.sampled_from(["fp16", "fp32", "fp64"]), st.floats(0, 0.99)),
        axes=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["tensor", "row"])),
    )
)
def test_any_settings_survive_being_written(settings: CaseSettings) -> None:
    """What `write_case_toml` writes, `parse_case_toml` reads as it was, whatever characters it holds."""
    assert parse_case_toml(write_case_toml(settings), "case.toml") == settings


def test_every_mistake_in_case_toml_is_named_at_once() -> None:
    """Unknown keys with a suggestion, wrong types, limits that accept anything."""
    text = """
knd = "golden"
kind = "gold"
model_sha256 = "abc"
provenance = 1
[tolerance]
fp32 = 1.0
fp64 = nan
fp8 = 0.1
[[outputs]]
axis = "column"
[[outputs]]
name = "y"
axis = "column"
"""
    with pytest.raises(NnenvError) as caught:
        parse_case_toml(text, "tests/m/case.toml")
    assert caught.value.where == "tests/m/case.toml"
    assert list(caught.value.because) == [
        "knd: unknown key; did you mean kind?",
        'schema: must be "nnenv.test/1"',
        "kind: must be one of golden, selftest",
        "model_sha256: must be 64 lower-case hexadecimal digits",
        "provenance: must be a text",
        "tolerance.fp8: unknown key",
        "tolerance.fp32: must be a number from 0 to below 1",
        "tolerance.fp64: must be a number from 0 to below 1",
        "outputs[0].name: must be the name of an output",
        "outputs[1].axis: must be one of tensor, row",
    ]


@pytest.mark.parametrize("text", ["=", "a = " + "[" * 5000, "x" * (65 << 10), "tolerance = 1", "outputs = [1]"])
def test_hostile_case_toml_is_refused(text: str) -> None:
    """Broken, deep, large and mistyped files are case-invalid."""
    with pytest.raises(NnenvError) as caught:
        parse_case_toml(text, "case.toml")
    assert caught.value.code == "case-invalid"
