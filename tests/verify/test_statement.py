"""Report and statement: canonical, without a clock, and bound to everything that was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest

from nnenv.spec.artifact import Sha256
from nnenv.verify.cases import CaseKind
from nnenv.verify.compare import OutputVerdict
from nnenv.verify.ladder import Status, Verdict
from nnenv.verify.report import CaseReport, Check, Finding, HostFacts, ModelReport, Report, report_json
from nnenv.verify.statement import canonical_json, statement
from nnenv.verify.vacuity import Vacuity


def digest(character: str) -> Sha256:
    """A sha256 of one repeated digit."""
    return Sha256(character * 64)


OUTPUT = OutputVerdict(
    name="logits",
    passed=True,
    reason="",
    precision="fp32",
    limit=1e-4,
    relaxed=False,
    normalised_error=2.5e-07,
    worst_index=(0, 3),
    expected_value=1.5,
    actual_value=1.25,
    bit_exact=False,
    cosine=1.0,
)
CASE = CaseReport(
    model="net",
    name="set0",
    kind=CaseKind.GOLDEN,
    passed=True,
    reason="",
    input_sha256=digest("1"),
    expected_sha256=digest("2"),
    output_sha256=digest("3"),
    outputs=(OUTPUT,),
    vacuity=Vacuity(vacuous=False, reason="", sensitivity=0.25, distinct_values=10),
    load_milliseconds=12.5,
    run_milliseconds=3.5,
)
MODEL = ModelReport(
    name="net",
    sha256=digest("4"),
    found_sha256=digest("4"),
    providers=("CPUExecutionProvider",),
    error="",
    cases=(CASE,),
)
FINDING = Finding(code="x", what="w", where="p", because=("b",))
REPORT = Report(
    target="cpu",
    status=Status.VERIFIED,
    checks={
        "closure": Check(verdict=Verdict.PASSED, findings=(FINDING,), note="n"),
        "load": Check(verdict=Verdict.PASSED),
        "reference": Check(verdict=Verdict.PASSED),
    },
    manifest_digest=digest("5"),
    config_digest=digest("6"),
    lock_sha256=digest("7"),
    harness_sha256=digest("8"),
    runner="sandbox",
    emulated=False,
    host=HostFacts(machine="x86_64", cpu="EPYC", isa=("avx2", "fma"), kernel="6.1.0"),
    runtime={"python": "3.11.2", "onnxruntime": "1.32.0"},
    models=(MODEL,),
    nnenv_version="0.1.0",
    extra={"k": "v"},
)


def other(value: Any) -> Any:
    """A different value of the same type."""
    if isinstance(value, Enum):
        return next(one for one in type(value) if one is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x" if len(value) != 64 else "f" * 64
    return value[:-1]


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Every copy of the dataclass `value` with one leaf changed, and the path of the leaf."""
    for one in fields(value):
        inner = getattr(value, one.name)
        for path, changed in variants(inner):
            yield f"{one.name}{path}", replace(value, **{one.name: changed})


def variants(inner: Any) -> Iterator[tuple[str, Any]]:
    """Changed copies of one field's value."""
    if is_dataclass(inner):
        for path, changed in changes(inner):
            yield f".{path}", changed
    elif isinstance(inner, dict):
        for key, item in inner.items():
            for path, changed in variants(item):
                yield f".{key}{path}", {**inner, key: changed}
    elif isinstance(inner, tuple) and inner and is_dataclass(inner[0]):
        yield "[]", ()
        for path, changed in changes(inner[0]):
            yield f"[0].{path}", (changed, *inner[1:])
    elif inner not in ((), None):
        yield "", other(inner)


CHANGES = dict(changes(REPORT))


@pytest.mark.parametrize("path", CHANGES)
def test_any_other_finding_is_another_statement(path: str) -> None:
    """Each leaf of the report is bound by the statement, except clock readings, which are not in it."""
    changed = statement(CHANGES[path])
    assert (changed == statement(REPORT)) is path.endswith("_milliseconds")


def test_the_leaves_above_are_the_whole_report() -> None:
    """The test before this one visits what it claims to."""
    assert len(CHANGES) > 50
    assert {"manifest_digest", "lock_sha256", "models[0].cases[0].outputs[0].limit", "host.kernel"} <= set(CHANGES)


def test_the_statement_is_an_in_toto_test_result() -> None:
    """Type, subject, predicate, result and the tests by outcome, as the two specifications name them."""
    vacuous = replace(CASE, name="set1", vacuity=replace(CASE.vacuity, vacuous=True))
    failed = replace(CASE, name="set2", passed=False)
    report = replace(REPORT, models=(replace(MODEL, cases=(CASE, vacuous, failed)),))
    document = json.loads(statement(report))
    predicate = document["predicate"]
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["subject"] == [{"name": "cpu", "digest": {"sha256": "5" * 64}}]
    assert document["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert predicate["passedTests"] == ["net/set0"]
    assert predicate["warnedTests"] == ["net/set1"]
    assert predicate["failedTests"] == ["net/set2"]
    assert predicate["configuration"][0] == {"name": "model.lock", "digest": {"sha256": "7" * 64}}
    assert "timings" not in json.dumps(document)
    assert "timings" in json.dumps(report_json(report))


@pytest.mark.parametrize(
    ("verdict", "status", "result"),
    [
        (Verdict.PASSED, Status.VERIFIED, "PASSED"),
        (Verdict.PASSED, Status.SMOKE, "WARNED"),
        (Verdict.NOT_RUN, Status.LOADABLE, "WARNED"),
        (Verdict.FAILED, Status.LOADABLE, "FAILED"),
    ],
)
def test_the_result_follows_checks_and_status(verdict: Verdict, status: Status, result: str) -> None:
    """PASSED only when verified; one failed check is FAILED."""
    report = replace(REPORT, checks={**REPORT.checks, "reference": Check(verdict=verdict)}, status=status)
    assert json.loads(statement(report))["predicate"]["result"] == result


def test_canonical_json_has_one_spelling() -> None:
    """Sorted keys, no spaces, UTF-8 as it is, floats as repr; the order of insertion does not show."""
    value = {"b": [1e-05, 1.0, 0.1, True, None], "a": {"ü": '\n"', "Z": -0.0}}
    assert canonical_json(value) == '{"a":{"Z":-0.0,"ü":"\\n\\""},"b":[1e-05,1.0,0.1,true,null]}'.encode()
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert json.loads(canonical_json(["\udc80"])) == ["\udc80"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_numbers_that_json_lacks_do_not_break_the_statement() -> None:
    """NaN and infinite values in a failed output are written as strings."""
    bad = replace(OUTPUT, normalised_error=float("inf"), actual_value=float("nan"))
    report = replace(REPORT, models=(replace(MODEL, cases=(replace(CASE, outputs=(bad,)),)),))
    output = json.loads(statement(report))["predicate"]["nnenv"]["models"][0]["cases"][0]["outputs"][0]
    assert (output["normalised_error"], output["actual_value"]) == ("Infinity", "NaN")
