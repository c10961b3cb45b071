"""`nnenv test record`: cases for a model that has none."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from nnenv.cli.arguments import Parser, add_common, add_runner, describe, positive
from nnenv.cli.output import emit, notice
from nnenv.workflows.healing import healed
from nnenv.workflows.recording import RecordOptions, record_cases
from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv test` and of `nnenv test record`."""
    describe(
        parser,
        "Make inference test cases.",
        "  nnenv test record digits --target cpu",
    )
    inner = parser.add_subparsers(dest="test_command", metavar="COMMAND", required=True, parser_class=Parser)
    record = inner.add_parser("record", help="make cases for a model that has none")
    describe(
        record,
        "Run a model inside its target's image and record inputs and outputs as test cases. Without --inputs the\n"
        "inputs are made up from a seed. Cases that only repeat what the model said are marked `selftest` and give no\n"
        "more than the status `smoke`; with --cross-check a second implementation (the onnx package's reference\n"
        "evaluator, in 64-bit floats) must agree, and the cases are golden.",
        "  nnenv test record digits --target cpu --count 2 --cross-check",
    )
    add_common(record)
    record.add_argument("model", help="name of the model in model.toml")
    record.add_argument("-t", "--target", metavar="NAME", default="", help="the target to run in (default: the first)")
    record.add_argument("--inputs", metavar="FILE", default="", help=".npz with one array per input of the model")
    record.add_argument("--count", type=positive, default=2, metavar="N", help="made-up cases (default: 2)")
    record.add_argument("--into", metavar="DIR", default="", help="folder for the cases (default: tests/MODEL)")
    record.add_argument("--cross-check", action="store_true", help="demand that onnx's reference evaluator agrees")
    add_runner(record, environment)


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Record, and print the cases' folders and what to do next."""
    options = RecordOptions(
        model=arguments.model,
        target=arguments.target,
        inputs=arguments.inputs,
        count=arguments.count,
        into=arguments.into,
        cross_check=arguments.cross_check,
        runner=arguments.runner,
    )
    recorded = healed(lambda: record_cases(session, options), notice(arguments))
    emit(
        arguments,
        "test record",
        {"ok": True, "cases": list(recorded.cases), "kind": recorded.kind, "notes": list(recorded.notes)},
        lambda: (
            "".join(f"recorded {case}\n" for case in recorded.cases)
            + "".join(f"note: {note}\n" for note in recorded.notes)
            + f"these cases are {recorded.kind}; run `nnenv lock` next\n"
        ),
    )
    return 0
