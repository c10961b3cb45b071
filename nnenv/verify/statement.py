"""The report as evidence: an in-toto Statement v1 with a test-result v0.1 predicate, in canonical bytes.

It binds image, lock, model and case digests, tolerances, host and numbers, and holds no clock reading: the same
image verified again on the same host gives the same bytes. https://in-toto.io/Statement/v1 and
https://in-toto.io/attestation/test-result/v0.1 define the outer form; `predicate.nnenv` is ours.
"""

from __future__ import annotations

import json
from typing import Any, Final

from nnenv.verify.ladder import Status, Verdict
from nnenv.verify.report import CaseReport, Report, report_json

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"


def statement(report: Report) -> bytes:
    """The statement in canonical form; equal reports give equal bytes, and any other finding gives others."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": report.target, "digest": {"sha256": report.manifest_digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "result": _result(report),
                "configuration": _configuration(report),
                "passedTests": [_name(case) for case in _cases(report) if case.passed and not case.vacuity.vacuous],
                "warnedTests": [_name(case) for case in _cases(report) if case.passed and case.vacuity.vacuous],
                "failedTests": [_name(case) for case in _cases(report) if not case.passed],
                "nnenv": _without_timings(report_json(report)),
            },
        }
    )


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: UTF-8, no white space, keys sorted by code point, floats as Python's `repr`.

    RFC 8785 but for two things: it sorts by UTF-16 units (the same below U+10000) and writes numbers as ECMAScript
    does (`1e-05` is `0.00001` there). NaN and infinities are a ValueError: write them as strings.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A lone surrogate (from a file name that is not UTF-8) becomes \udcXX, which JSON reads as itself.
    return text.encode("utf-8", "backslashreplace")


def _result(report: Report) -> str:
    """PASSED, WARNED or FAILED: the values that test-result v0.1 allows."""
    if any(check.verdict is Verdict.FAILED for check in report.checks.values()):
        return "FAILED"
    return "PASSED" if report.status is Status.VERIFIED else "WARNED"


def _configuration(report: Report) -> list[dict[str, Any]]:
    """What was tested against, as resource descriptors."""
    described = [("model.lock", report.lock_sha256), ("harness", report.harness_sha256)]
    for model in report.models:
        described.append((f"model/{model.name}", model.sha256))
        for case in model.cases:
            described.append((f"case/{_name(case)}/inputs", case.input_sha256))
            described.append((f"case/{_name(case)}/expected", case.expected_sha256))
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in described]


def _cases(report: Report) -> list[CaseReport]:
    return [case for model in report.models for case in model.cases]


def _name(case: CaseReport) -> str:
    return f"{case.model}/{case.name}"


def _without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_timings(inner) for key, inner in value.items() if key != "timings"}
    if isinstance(value, list):
        return [_without_timings(inner) for inner in value]
    return value
