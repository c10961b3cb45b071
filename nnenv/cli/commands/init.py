"""`nnenv init`: a starter model.toml."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnenv.cli.arguments import Parser, describe
from nnenv.cli.output import emit, palette
from nnenv.cli.render import Palette, table

if TYPE_CHECKING:
    from nnenv.formats.onnx_model import TensorInfo
    from nnenv.workflows.session import Session
    from nnenv.workflows.starter import StarterModel
    from nnenv.workflows.starting import Started


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv init`."""
    from nnenv.workflows.starter import TARGETS

    describe(
        parser,
        "Write a model.toml that fits the models here: what each one is, takes and gives, its inference tests in the\n"
        "ONNX layout, and the oldest onnxruntime that loads it. A model.toml that is there is never overwritten.",
        "  nnenv init                             # for every .onnx file here and in models/\n"
        "  nnenv init demo                        # in a new folder\n"
        "  nnenv init --model net.onnx --name classifier --target cpu --target cpu-arm64\n"
        "  nnenv init --schema                    # also model.schema.json, for editors",
    )
    parser.add_argument("new", nargs="?", metavar="DIR", default=".", help="the new project's folder (default: this)")
    parser.add_argument(
        "--model", action="append", metavar="FILE", default=[],
        help="this .onnx file, which is in the project's folder; may be repeated (default: all that are found)",
    )  # fmt: skip
    parser.add_argument(
        "--name", metavar="NAME", type=_name, default="", help="name of the project (default: that of the folder)"
    )
    parser.add_argument(
        "-t", "--target", action="append", choices=sorted(TARGETS), default=None,
        help="a target to start with; may be repeated (default: cpu)",
    )  # fmt: skip
    parser.add_argument(
        "--schema", action="store_true",
        help="put the JSON Schema of model.toml beside it, for editors; in a project that exists, only that",
    )  # fmt: skip


def _name(text: str) -> str:
    """A name, or nothing: argparse asks for the default too."""
    from nnenv.spec.manifest import NAME

    if text and (len(text) > 128 or not re.fullmatch(NAME, text)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a name: lower-case letters and digits, . _ - between")
    return text


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Write the starter, and print what it holds and what to do next."""
    from nnenv.workflows.starting import InitOptions, start_project

    options = InitOptions(
        directory=arguments.new,
        models=tuple(arguments.model),
        name=arguments.name,
        targets=tuple(dict.fromkeys(arguments.target or ["cpu"])),
        schema=arguments.schema,
    )
    started = start_project(session, options)
    steps = next_steps(started, arguments.new)
    emit(arguments, "init", init_json(started, steps), lambda: init_text(started, steps, palette(arguments)))
    return 0


def next_steps(started: Started, directory: str) -> list[str]:
    """Command lines that lead from here to a verified image, for a shell; none where only the schema was written."""
    if "model.toml" not in started.wrote:
        return []
    steps = [] if directory == "." else [f"cd {shlex.quote(directory)}"]
    untested = [model for model in started.models if not model.tests]
    steps.append("nnenv lock")
    for model in untested:
        given = "" if all(_can_be_made_up(item) for item in model.facts.inputs) else " --inputs FILE.npz"
        steps.append(f"nnenv test record {model.name} --cross-check{given}")
    steps += ["nnenv lock"] * bool(untested)
    return [*steps, "nnenv build", "nnenv verify"] if started.models else steps


def _can_be_made_up(item: TensorInfo) -> bool:
    """Whether `nnenv test record` makes values for such an input itself."""
    return item.dtype in {"float16", "float32", "float64", "bool"} or item.dtype.startswith(("int", "uint"))


def init_json(started: Started, steps: Sequence[str]) -> dict[str, Any]:
    """What `nnenv init --json` prints."""
    return {
        "ok": True,
        "project": str(started.project),
        "wrote": list(started.wrote),
        "models": [_model_json(model) for model in started.models],
        "notes": list(started.notes),
        "next": list(steps),
    }


def _model_json(model: StarterModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": f"file:{model.path}",
        "ir_version": model.facts.ir_version,
        "opsets": dict(model.facts.opsets),
        "inputs": [_tensor_json(item) for item in model.facts.inputs],
        "outputs": [_tensor_json(item) for item in model.facts.outputs],
        "tests": list(model.tests),
    }


def _tensor_json(item: TensorInfo) -> dict[str, Any]:
    return {"name": item.name, "dtype": item.dtype, "shape": list(item.shape)}


def init_text(started: Started, steps: Sequence[str], palette: Palette) -> str:
    """What `nnenv init` prints: the models, what was written, notes, and what to do next."""
    rows = [("model", "file", "inputs", "outputs", "tests")]
    for model in started.models:
        counts = (str(len(model.facts.inputs)), str(len(model.facts.outputs)))
        rows.append((model.name, model.path, *counts, ", ".join(model.tests) or "none"))
    text = table(rows, right=frozenset({2, 3})) if started.models else ""
    text += f"{palette('green', 'wrote ' + ' and '.join(started.wrote))}\n"
    text += "".join(f"note: {note}\n" for note in started.notes)
    if "model.toml" in started.wrote and not started.models:
        text += "note: no .onnx file is here: model.toml shows in comments how to name one\n"
    if any("--cross-check" in step for step in steps):
        text += "note: --cross-check needs the onnx package: pip install 'nnenv[crosscheck]'\n"
    if any("FILE.npz" in step for step in steps):
        text += "note: FILE.npz holds one array per input, under the input's name\n"
    return text + ("next:\n" + "".join(f"  {step}\n" for step in steps) if steps else "")
