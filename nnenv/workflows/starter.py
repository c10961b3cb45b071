"""The text of a new model.toml, from what is known of the models; no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from nnenv.data import table
from nnenv.formats.onnx_model import OnnxFacts, TensorInfo
from nnenv.resolve.model_runtime import ModelNeeds, first_release, measured_releases
from nnenv.spec.toml_array import quoted

TARGETS: Final = {
    "cpu": ("linux/amd64", "debian:12"),
    "cpu-arm64": ("linux/arm64", "debian:12"),
    "cpu-debian13": ("linux/amd64", "debian:13"),
    "cpu-arm64-debian13": ("linux/arm64", "debian:13"),
}
"""Target that a starter can have -> its platform and system."""

SCHEMA_NAME: Final = "model.schema.json"
VERSION: Final = "0.1.0"
"""Of a new project and of its models."""

_MOST_TENSORS: Final = 20
"""Inputs, or outputs, that the comment on a model lists."""
_WIDEST_NAME: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class StarterModel:
    """A model that a new manifest names."""

    name: str
    path: str
    """From the project."""
    facts: OnnxFacts
    tests: tuple[str, ...]
    """Folders of its inference tests, from the project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeFloor:
    """Which onnxruntime the models ask for."""

    version: str
    """The oldest release that loads all of them, or the newest that is known if none does."""
    notes: tuple[str, ...]
    """What onnxruntime may refuse, one sentence each."""


def runtime_floor(models: Sequence[StarterModel]) -> RuntimeFloor:
    """The onnxruntime for these models, by `nnenv/data/onnxruntime.toml`."""
    known: Any = table("onnxruntime")
    releases = measured_releases()
    needed = [releases[0]]
    notes = []
    for model in models:
        opset = dict(model.facts.opsets).get("ai.onnx", 0)
        able = first_release(ModelNeeds(name=model.name, opsets=model.facts.opsets, ir=model.facts.ir_version))
        needed.append(able or releases[-1])
        if able is None:
            notes.append(f"{model.name}: {_format(model.facts)} is newer than any onnxruntime that this nnenv knows")
        if 0 < opset < known["oldest-opset"]:
            notes.append(f"{model.name}: onnxruntime implements opset {known['oldest-opset']} and later only")
        foreign = [_shown(domain) for domain, _ in model.facts.opsets if domain not in known["domains"]]
        if foreign:
            notes.append(f"{model.name}: operators of {', '.join(foreign)} are no part of onnxruntime")
    return RuntimeFloor(version=max(needed, key=releases.index), notes=tuple(notes))


def starter_text(
    name: str, models: Sequence[StarterModel], targets: Sequence[str], *, with_schema: bool = False
) -> str:
    """A whole model.toml; without models it has one as a comment."""
    floor = runtime_floor(models)
    head = f"#:schema ./{SCHEMA_NAME}\n" if with_schema else ""
    head += (
        "# What this project needs; `nnenv lock` turns it into model.lock, which says what it gets. Commit both.\n"
        "# An unknown key is an error. `nnenv init --schema` makes editors check and explain the keys.\n"
    )
    project = f'[project]\nname = "{name}"\nversion = "{VERSION}"\n'
    parts = [head, project, *(_model(model) for model in models)]
    parts += [_NO_MODEL] * (not models)
    parts += [_requires(models, floor), *(_target(target) for target in targets)]
    parts += [_ANOTHER_TARGET] * (not models)
    return "\n".join(parts)


_NO_MODEL: Final = f"""\
# A neural network, under a name of your choice. The file stands beside this one, or below it.
# [models.my-model]
# version = "{VERSION}"
# source = "file:model.onnx"

# Its inference tests, in the ONNX layout: tests/my-model/test_data_set_0/input_0.pb and output_0.pb, and so on.
# `nnenv test record my-model` makes them for a model that has none.
# [[models.my-model.tests]]
# data = "tests/my-model"
"""

_ANOTHER_TARGET: Final = """\
# A kind of machine to build for; one image comes out for each.
# [targets.edge]
# platform = "linux/arm64"
# os = "debian:12"
"""


def _model(model: StarterModel) -> str:
    lines = [f"# {_format(model.facts)}", *_tensors(model.facts)]
    lines += [f"[models.{_key(model.name)}]", f'version = "{VERSION}"', f"source = {quoted('file:' + model.path)}"]
    for test in model.tests:
        lines += ["", f"[[models.{_key(model.name)}.tests]]", f"data = {quoted(test)}"]
    if not model.tests:
        lines.append(f"# `nnenv test record {model.name}` makes inference tests, and names them here.")
    return "\n".join(lines) + "\n"


def _requires(models: Sequence[StarterModel], floor: RuntimeFloor) -> str:
    lines = ["# What every target needs: Python packages as in requirements.txt, and Debian packages by name."]
    if models and not floor.notes:
        several = "these models" if len(models) > 1 else "this model"
        lines.append(f"# onnxruntime {floor.version} is the oldest with a wheel for Python 3.11 that loads {several}.")
    lines += [f"# {note}." for note in floor.notes]
    lines += ["[requires]", f'packages = ["numpy", "onnxruntime>={floor.version}"]', '# system = ["libgomp1"]']
    return "\n".join(lines) + "\n"


def _target(name: str) -> str:
    platform, system = TARGETS[name]
    return f'[targets.{name}]\nplatform = "{platform}"\nos = "{system}"\n'


def _format(facts: OnnxFacts) -> str:
    opsets = ", ".join(f"{_shown(domain)} opset {version}" for domain, version in facts.opsets)
    return f"ONNX, IR version {facts.ir_version}, {opsets}"


def _tensors(facts: OnnxFacts) -> list[str]:
    """A comment line for each input and output, in columns."""
    rows = []
    for role, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        rows += [
            (role, _shown(item.name), item.dtype or "no tensor", shape_text(item)) for item in tensors[:_MOST_TENSORS]
        ]
        if len(tensors) > _MOST_TENSORS:
            rows.append((role, f"and {len(tensors) - _MOST_TENSORS} more", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["# " + "  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]


def shape_text(tensor: TensorInfo) -> str:
    """`[batch, 3, ?]`; nothing for what is no tensor."""
    sizes = [str(size) if isinstance(size, int) else _shown(size) or "?" for size in tensor.shape]
    return f"[{', '.join(sizes)}]" if tensor.dtype else ""


def _shown(text: str) -> str:
    """A name out of a model as a comment and a terminal can hold it."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= _WIDEST_NAME else f"{clean[: _WIDEST_NAME - 1]}…"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[a-z0-9_-]+", name) else f'"{name}"'


def name_from(text: str) -> str:
    """The nearest name that model.toml allows; "" if nothing of `text` is left."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")
