"""The text that `nnenv init` writes, and that editors with the schema agree with it."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.data import table
from nnenv.formats.onnx_model import OnnxFacts, TensorInfo
from nnenv.spec.manifest import NAME, Manifest
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.schema import schema_of
from nnenv.workflows.starter import TARGETS, StarterModel, name_from, runtime_floor, starter_text

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema_of(Manifest))
MANIFESTS = sorted([*ROOT.glob("examples/*/model.toml"), *ROOT.glob("templates/*.toml")])


def tensor(name: str = "x", dtype: str = "float32", shape: tuple[int | str, ...] = (1, "n", "")) -> TensorInfo:
    """An input."""
    return TensorInfo(name=name, dtype=dtype, shape=shape)


def model(
    name: str = "m",
    *,
    opsets: tuple[tuple[str, int], ...] = (("ai.onnx", 17),),
    ir: int = 8,
    inputs: tuple[TensorInfo, ...] = (tensor(),),
    path: str = "m.onnx",
    tests: tuple[str, ...] = (),
) -> StarterModel:
    """A model of one input and one output."""
    facts = OnnxFacts(ir_version=ir, opsets=opsets, inputs=inputs, outputs=(tensor("y"),))
    return StarterModel(name=name, path=path, facts=facts, tests=tests)


# onnxruntime


@pytest.mark.parametrize(
    ("opset", "ir", "version"),
    [
        (7, 3, "1.15"),
        (19, 9, "1.15"),
        (20, 9, "1.17"),
        (21, 8, "1.18"),
        (17, 10, "1.18"),
        (22, 10, "1.21"),
        (23, 11, "1.23"),
        (24, 11, "1.24"),
        (25, 13, "1.24"),
        (26, 12, "1.25"),
        (28, 14, "1.32"),
    ],
)
def test_the_floor_is_the_oldest_that_loads_the_model(opset: int, ir: int, version: str) -> None:
    """By opset and IR version, as they were measured."""
    floor = runtime_floor([model(opsets=(("ai.onnx", opset),), ir=ir)])
    assert (floor.version, floor.notes) == (version, ())


def test_the_floor_serves_every_model() -> None:
    """The newest of what each one needs; ai.onnx.ml counts too."""
    assert runtime_floor([model(), model(opsets=(("ai.onnx", 22),)), model()]).version == "1.21"
    assert runtime_floor([model(opsets=(("ai.onnx", 15), ("ai.onnx.ml", 4)))]).version == "1.17"


def test_what_onnxruntime_may_refuse_is_said() -> None:
    """A format from the future, an opset from before, and operators of somebody else."""
    (future,) = runtime_floor([model(opsets=(("ai.onnx", 99),))]).notes
    assert future == "m: ONNX, IR version 8, ai.onnx opset 99 is newer than any onnxruntime that this nnenv knows"
    (past,) = runtime_floor([model(opsets=(("ai.onnx", 6),))]).notes
    assert past == "m: onnxruntime implements opset 7 and later only"
    (foreign,) = runtime_floor([model(opsets=(("ai.onnx", 17), ("com.microsoft", 1), ("my.ops", 1)))]).notes
    assert foreign == "m: operators of my.ops are no part of onnxruntime"


def test_newer_releases_load_no_less() -> None:
    """Down the table no figure falls, and each row adds something."""
    rows = table("onnxruntime")["releases"]
    for older, newer in pairwise(rows):
        assert all(newer[key] >= older[key] for key in ("opset", "ml", "ir"))
        assert newer != {**older, "version": newer["version"]}


# The text


def test_a_model_is_described_above_its_table() -> None:
    """Format, inputs and outputs in columns; free sizes by their names."""
    text = starter_text("p", [model(inputs=(tensor(), tensor("longer", "int64", ())), tests=("tests/m",))], ["cpu"])
    assert (
        "# ONNX, IR version 8, ai.onnx opset 17\n"
        "# input   x       float32  [1, n, ?]\n"
        "# input   longer  int64    []\n"
        "# output  y       float32  [1, n, ?]\n"
        "[models.m]\n"
        'version = "0.1.0"\n'
        'source = "file:m.onnx"\n'
        "\n"
        "[[models.m.tests]]\n"
        'data = "tests/m"\n'
    ) in text


def test_a_long_list_of_inputs_is_cut() -> None:
    """Twenty, and how many more."""
    text = starter_text("p", [model(inputs=tuple(tensor(f"x{number}") for number in range(25)))], ["cpu"])
    assert "# input   and 5 more\n" in text
    assert "x20" not in text


HOSTILE = st.text(min_size=1, max_size=80)


@given(name=HOSTILE, size=HOSTILE, domain=HOSTILE, path=st.from_regex(r"[^\x00-\x1f\x7f\\/]{1,20}", fullmatch=True))
def test_names_out_of_a_model_break_no_line(name: str, size: str, domain: str, path: str) -> None:
    """Whatever a file calls its tensors and itself, the text is a right manifest that names the file."""
    if not path.isprintable() or path in {".", ".."}:
        return
    made = model(inputs=(tensor(name, shape=(size,)),), opsets=((domain, 1),), path=path, tests=(f"tests/{path}",))
    manifest = parse_manifest(starter_text("p", [made], ["cpu"]).encode())
    assert [(m.path, [t.data for t in m.tests]) for m in manifest.models] == [(path, [f"tests/{path}"])]


@given(text=st.text())
def test_a_name_is_a_name(text: str) -> None:
    """Of any folder or file, or nothing."""
    found = name_from(text)
    assert found == "" or re.fullmatch(NAME, found)


def test_every_target_can_be_had() -> None:
    """With its platform and system."""
    manifest = parse_manifest(starter_text("p", [], list(TARGETS)).encode())
    assert {target.name: (target.platform, target.os) for target in manifest.targets} == TARGETS


def test_the_template_is_the_starter_without_models() -> None:
    """templates/starter.toml is what `nnenv init` writes into an empty folder called my-model."""
    assert (ROOT / "templates/starter.toml").read_text("utf-8") == starter_text("my-model", [], ["cpu"])


# Editors


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_example_and_template_fits_the_schema(path: Path) -> None:
    """As an editor checks it; with its suggestions taken up, too."""
    text = path.read_text("utf-8")
    VALIDATOR.validate(tomllib.loads(text))
    VALIDATOR.validate(tomllib.loads(re.sub(r"^# (?=\[|[a-z]+ = )", "", text, flags=re.MULTILINE)))


def test_a_starter_with_models_fits_the_schema() -> None:
    """Models with dots in their names and tests too."""
    text = starter_text("p", [model("a.b", tests=("t",)), model()], list(TARGETS), with_schema=True)
    assert text.startswith("#:schema ./model.schema.json\n")
    VALIDATOR.validate(tomllib.loads(text))


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("[models.m]", "[model.m]", []),
        ('source = "file:m.onnx"', 'sources = "file:m.onnx"', ["models", "m", "sources"]),
        ('source = "file:m.onnx"', 'source = "/m.onnx"', ["models", "m", "source"]),
        ('"numpy",', '"numpy >",,'.replace(",,", ","), None),
        ('["numpy", ', "[1, ", ["requires", "packages", 0]),
        ('"linux/amd64"', '"linux/x86_64"', ["targets", "cpu", "platform"]),
        ('os = "debian:12"', 'os = "ubuntu:24.04"', ["targets", "cpu", "os"]),
        ('name = "p"', 'name = "My Project"', ["project", "name"]),
        ("[targets.cpu]", "[targets.CPU]", ["targets"]),
    ],
)
def test_typical_mistakes_are_marked_where_they_are(right: str, wrong: str, place: list[str] | None) -> None:
    """The validator that editors use points at the key; None: only the parser knows."""
    text = starter_text("p", [model()], ["cpu"])
    assert text.count(right) == 1
    found = [list(error.absolute_path) for error in VALIDATOR.iter_errors(tomllib.loads(text.replace(right, wrong)))]
    assert (place in found) if place is not None else found == []


def test_every_key_has_a_description() -> None:
    """An editor shows it on hovering: every property at any depth, and every table with names of the user's own."""

    def undescribed(schema: object, path: str) -> list[str]:
        if not isinstance(schema, dict):
            return []
        found = [] if "description" in schema or not path else [path]
        for name, inner in schema.get("properties", {}).items():
            found += undescribed(inner, f"{path}.{name}")
        for key in ("additionalProperties", "items"):
            if isinstance(schema.get(key), dict) and schema[key].get("type") == "object":
                found += undescribed(schema[key], f"{path}.*")
        return found

    assert undescribed(schema_of(Manifest), "") == []
