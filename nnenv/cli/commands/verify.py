"""`nnenv verify`: the standard inference test inside the image."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nnenv.cli.arguments import (
    Parser,
    add_frozen,
    add_runner,
    add_target,
    chosen,
    describe,
    positive,
    seconds,
    targets_of,
)
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette, bytes_text, counted, short, table, took
from nnenv.errors import NnenvError
from nnenv.verify.ladder import Status, Verdict
from nnenv.verify.protocols import Limits
from nnenv.verify.report import CaseReport, EvaluationReport, Report, report_json
from nnenv.workflows.healing import healed
from nnenv.workflows.session import Session
from nnenv.workflows.verifying import Verified, VerifyOptions, verify_targets

STATUSES: Final = ("closed", "loadable", "smoke", "model-valid", "verified")


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv verify`."""
    describe(
        parser,
        "Check the closure of shared libraries, load everything, and run the models' test cases inside the image:\n"
        "network off, read-only root, non-root, no capabilities. The comparison happens outside of the image.\n"
        "Exit code 0 only if every target is `verified` (or --require is met).",
        "  nnenv verify --target cpu\n  nnenv verify --runner sandbox --json",
    )
    add_target(parser, environment)
    add_frozen(parser, environment)
    add_runner(parser, environment)
    parser.add_argument(
        "--require", choices=STATUSES, default=chosen(environment, "REQUIRE", STATUSES, "verified"),
        help="least status for exit code 0 (default: verified)",
    )  # fmt: skip
    parser.add_argument(
        "--here", action="store_true",
        help="check the image that this very process runs in, as in a pod with a GPU; needs no project and no engine",
    )  # fmt: skip
    parser.add_argument(
        "--eval", action="store_true",
        help="measure the models on the data of their [[models.NAME.eval]], too; a gate that is not met fails",
    )  # fmt: skip
    parser.add_argument(
        "--report", metavar="FILE", default="", help="with --eval: write one HTML page with tables and plots"
    )
    parser.add_argument("--memory", type=positive, metavar="GIB", default=4, help="memory limit (default: 4 GiB)")
    parser.add_argument("--timeout", type=seconds, metavar="S", default=600.0, help="time limit (default: 600 s)")


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Verify, and print each report."""
    options = VerifyOptions(
        runner=arguments.runner,
        frozen=arguments.frozen,
        limits=Limits(memory_bytes=arguments.memory << 30, seconds=arguments.timeout),
        evaluate=arguments.eval,
    )
    if arguments.report and not arguments.eval:
        raise NnenvError("usage", "--report shows what --eval measures", exit_code=2, fix=["add --eval"])
    results = healed(lambda: _verified(session, arguments, options), notice(arguments))
    required = next(status for status in Status if status.label == arguments.require)
    ok = all(result.report.status >= required and not unmet(result.report) for result in results)
    if arguments.report:
        from nnenv.workflows.reporting import write_page

        write_page(Path(arguments.report), session.lockfile(), [result.report for result in results])
    emit(
        arguments,
        "verify",
        verify_json(results, ok),
        lambda: verify_text(results, palette(arguments), session.elapsed),
    )
    if arguments.quiet and not arguments.json:
        for result in results:
            if result.report.status < required:
                sys.stderr.write(f"error: {shortfall(result.report, required)}\n")
            for what in unmet(result.report):
                sys.stderr.write(f"error: {result.report.target}: {what}\n")
    return 0 if ok else 1


def _verified(session: Session, arguments: argparse.Namespace, options: VerifyOptions) -> list[Verified]:
    if not arguments.here:
        return verify_targets(session, targets_of(arguments), options)
    for option, is_given in (("--target", bool(targets_of(arguments))), ("--eval", arguments.eval)):
        if is_given:
            what = f"--here is about the image around us, without any project, and takes no {option}"
            raise NnenvError("usage", what, exit_code=2, fix=["leave one out"])
    from nnenv.workflows.verifying_here import verify_here

    return [verify_here(session, options)]


def unmet(report: Report) -> list[str]:
    """What the measures of the report do not reach, a line each."""
    return [f"{one.model}: {what}" for one in report.evaluations or () for what in one.failures]


def shortfall(report: Report, required: Status) -> str:
    """In one line, for --quiet: how far a target came, and the first thing found wrong."""
    findings = [finding.what for check in report.checks.values() for finding in check.findings]
    found = f": {findings[0]}" if findings else ""
    return f"{report.target} is {report.status.label}, not {required.label}{found}"


def verify_json(results: Sequence[Verified], ok: bool) -> dict[str, Any]:
    """What `nnenv verify --json` prints."""

    def written(result: Verified) -> str | None:
        return str(result.statement) if result.statement else None

    return {
        "ok": ok,
        "reports": [{**report_json(result.report), "statement": written(result)} for result in results],
    }


def verify_text(results: Sequence[Verified], palette: Palette, seconds: float) -> str:
    """What `nnenv verify` prints: each report, then how many came to which status."""
    text = "\n".join(_report_text(result, palette) for result in results)
    reached = Counter(result.report.status for result in results)
    from nnenv.workflows.reporting import place_of

    measures = [(place_of(result.report), one) for result in results for one in result.report.evaluations or ()]
    if measures:
        text += "\n" + _measures_text(measures, palette) + "\n"
    counts = ", ".join(f"{number} {status.label}" for status, number in sorted(reached.items(), reverse=True))
    return f"{text}{counted(len(results), 'target')}: {counts}, {took(seconds)}\n"


def _measures_text(measures: Sequence[tuple[str, EvaluationReport]], palette: Palette) -> str:
    """A table of the measures, then what they do not reach, and what was not enforced."""
    rows = [("target", "model", "measure", "value", "of", "size", "min time", "cpu time", "peak", "")]
    for target, one in measures:
        cost = one.cost
        rows.append(
            (
                target,
                one.model,
                one.metric,
                f"{one.value:.4f}",
                "" if one.baseline is None else f"{100 * one.value / one.baseline:.2f} %" if one.baseline else "",
                bytes_text(cost.size),
                f"{cost.milliseconds:.2f} ms",
                f"{cost.cpu_milliseconds:.2f} ms",
                f"{cost.peak_mebibytes:.0f} MiB",
                "passed" if one.passed else "failed",
            )
        )
    text = table(rows, right=frozenset(range(3, 9)))
    for target, one in measures:
        text += "".join(f"{palette('red', 'not met')}  {target} {one.model}: {what}\n" for what in one.failures)
        text += "".join(f"note: {target} {one.model}: {what}\n" for what in one.notes)
    return text + "".join(_factors(measures))


def _factors(measures: Sequence[tuple[str, EvaluationReport]]) -> Iterator[str]:
    """By which factor a model is smaller than the largest of the same name."""
    largest: dict[str, int] = {}
    for _, one in measures:
        largest[one.model] = max(largest.get(one.model, 0), one.cost.size)
    seen = set()
    for target, one in measures:
        factor = largest[one.model] / max(one.cost.size, 1)
        if factor > 1 and (target, one.model) not in seen:
            seen.add((target, one.model))
            yield f"{target} {one.model}: {factor:.2f} times smaller than the largest variant\n"


def _report_text(result: Verified, palette: Palette) -> str:
    report = result.report
    where = f"{report.runner} ({report.extra.get('isolation', '')})" + (", emulated CPU" if report.emulated else "")
    image = f"image sha256:{short(report.manifest_digest)}" if report.manifest_digest else "the image around us"
    lines = [f"{palette('bold', report.target)}: {image}, run by {where}"]
    for name, check in report.checks.items():
        # Padded outside of the colour, whose escapes have no width.
        padding = " " * (10 - len(check.verdict))
        lines.append(f"  {name:<12} {_verdict(check.verdict, palette)}{padding} {check.note}".rstrip())
        for finding in check.findings[:20]:
            lines.append(f"    {finding.where + ': ' if finding.where else ''}{finding.what}")
            lines += [f"      {text}" for text in finding.because]
        if len(check.findings) > 20:
            lines.append(f"    and {len(check.findings) - 20} more (see --json)")
    for model in report.models:
        for case in model.cases:
            lines += _case_lines(case, palette)
    lines.append(f"  status       {_status(report, palette)}")
    if result.statement is not None:
        lines.append(f"  statement    {result.statement}")
    return "\n".join(lines) + "\n"


def _case_lines(case: CaseReport, palette: Palette) -> list[str]:
    worst = max((o for o in case.outputs if o.normalised_error is not None), key=_error, default=None)
    number = "" if worst is None else f"max|a-e|/max|e| {worst.normalised_error:.1e}, limit {worst.limit:.0e}"
    relaxed = "  RELAXED" if any(output.relaxed for output in case.outputs) else ""
    kind = "" if str(case.kind) == "golden" else f"  {case.kind}"
    vacuous = f"  VACUOUS: {case.vacuity.reason}" if case.vacuity.vacuous else ""
    word = palette("green", "passed") if case.passed else palette("red", "failed")
    return [f"    {case.model}: {case.name}  {word}  {number}{relaxed}{kind}{vacuous}".rstrip()]


def _error(output: Any) -> float:
    return float(output.normalised_error)


def _verdict(verdict: Verdict, palette: Palette) -> str:
    style = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.NOT_RUN: "yellow"}[verdict]
    return palette(style, str(verdict))


def _status(report: Report, palette: Palette) -> str:
    failed = any(check.verdict is Verdict.FAILED for check in report.checks.values())
    style = "green" if report.status is Status.VERIFIED else "red" if failed else "yellow"
    return palette(style, report.status.label)
