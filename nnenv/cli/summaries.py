"""The summary of each command, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnenv.cli.render import Palette, bytes_text, short, table
from nnenv.spec.artifact import Kind
from nnenv.spec.lockfile import LOCK_NAME, Lockfile, TargetLock
from nnenv.verify.ladder import Status, Verdict

if TYPE_CHECKING:
    from nnenv.verify.report import CaseReport, Report
    from nnenv.workflows.building import Built
    from nnenv.workflows.locking import LockOptions, LockOutcome
    from nnenv.workflows.verifying import Verified


def lock_json(outcome: LockOutcome) -> dict[str, Any]:
    """What `nnenv lock --json` prints."""
    return {
        "ok": True,
        "changed": outcome.changed,
        "targets": [_target_json(outcome.lockfile, target) for target in outcome.lockfile.targets],
        "changes": changes(outcome.previous, outcome.lockfile),
    }


def _target_json(lockfile: Lockfile, target: TargetLock) -> dict[str, Any]:
    return {
        "name": target.name,
        "platform": target.platform,
        "os": target.os,
        "python": target.python,
        "glibc": target.glibc,
        "wheels": {wheel.name: wheel.version for wheel in lockfile.wheels_of(target)},
        "debs": {deb.name: deb.version for deb in lockfile.debs_of(target)},
        "models": list(target.models),
        "bytes": sum(artifact.size for artifact in lockfile.artifacts_of(target)),
    }


def changes(old: Lockfile | None, new: Lockfile) -> list[str]:
    """One line per new target, and per package that came, went or moved in another."""
    lines = []
    for target in new.targets:
        if old is None or old.target(target.name) is None:
            lines.append(f"+ target {target.name}")
            continue
        before = _versions(old, old.target(target.name))
        after = _versions(new, target)
        for name in sorted({*before, *after}):
            if name not in before:
                lines.append(f"{target.name}: + {name} {after[name]}")
            elif name not in after:
                lines.append(f"{target.name}: - {name} {before[name]}")
            elif before[name] != after[name]:
                lines.append(f"{target.name}: {name} {before[name]} -> {after[name]}")
    return lines


def _versions(lockfile: Lockfile, target: TargetLock | None) -> dict[str, str]:
    if target is None:
        return {}
    return {artifact.name: artifact.version for artifact in (*lockfile.wheels_of(target), *lockfile.debs_of(target))}


def lock_text(outcome: LockOutcome, options: LockOptions, palette: Palette) -> str:
    """What `nnenv lock` prints."""
    lockfile = outcome.lockfile
    rows = [("target", "platform", "os", "python", "glibc", "wheels", "debs", "models", "to fetch")]
    for target in lockfile.targets:
        size = sum(artifact.size for artifact in lockfile.artifacts_of(target) if artifact.kind is not Kind.FILE)
        counts = (str(len(target.wheels)), str(len(target.debs)), str(len(target.models)))
        rows.append((target.name, target.platform, target.os, target.python, target.glibc, *counts, bytes_text(size)))
    moved = [] if outcome.previous is None else changes(outcome.previous, lockfile)
    text = "".join(f"{line}\n" for line in moved) + table(rows, right=frozenset({5, 6, 7, 8}))
    text += "".join(f"note: {notice}\n" for notice in lockfile.notices)
    if not outcome.changed:
        return text + f"{palette('green', LOCK_NAME + ' is up to date')}\n"
    return text + (f"{LOCK_NAME} would change\n" if options.dry_run else f"{palette('green', 'wrote ' + LOCK_NAME)}\n")


def build_json(built: Sequence[Built]) -> dict[str, Any]:
    """What `nnenv build --json` prints."""
    return {
        "ok": True,
        "images": [
            {
                "target": image.target,
                "reference": image.documents.reference,
                "manifest": f"sha256:{image.documents.manifest_digest}",
                "config": f"sha256:{image.documents.config_digest}",
                "expected": image.expected,
                "layers": [
                    {"title": layer.title, "digest": f"sha256:{layer.digest}", "bytes": layer.size}
                    for layer in image.documents.layers
                ],
                "delivered": list(image.delivered),
            }
            for image in built
        ],
    }


def build_text(built: Sequence[Built], palette: Palette) -> str:
    """What `nnenv build` prints."""
    rows = [("target", "image", "layers", "size", "manifest digest", "status")]
    for image in built:
        documents = image.documents
        size = bytes_text(sum(layer.size for layer in documents.layers))
        status = "as locked" if image.expected else "first build: digest noted in model.lock"
        rows.append(
            (
                image.target,
                documents.reference,
                str(len(documents.layers)),
                size,
                f"sha256:{documents.manifest_digest}",
                status,
            )
        )
    text = table(rows, right=frozenset({2, 3}))
    for image in built:
        text += f"{image.target}: image ID sha256:{image.documents.config_digest}\n"
        places = image.delivered or ("the store only (no Docker engine answers; --output oci:FILE writes a tar)",)
        text += "".join(f"{image.target}: in {place}\n" for place in places)
    return text


def verify_json(results: Sequence[Verified], ok: bool) -> dict[str, Any]:
    """What `nnenv verify --json` prints."""
    from nnenv.verify.report import report_json

    return {
        "ok": ok,
        "reports": [{**report_json(result.report), "statement": str(result.statement)} for result in results],
    }


def verify_text(results: Sequence[Verified], palette: Palette) -> str:
    """What `nnenv verify` prints."""
    return "\n".join(_report_text(result, palette) for result in results)


def _report_text(result: Verified, palette: Palette) -> str:
    report = result.report
    where = f"{report.runner} ({report.extra.get('isolation', '')})" + (", emulated CPU" if report.emulated else "")
    lines = [f"{palette('bold', report.target)}: image sha256:{short(report.manifest_digest)}, run by {where}"]
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
    style = "green" if report.status is Status.VERIFIED else "yellow"
    return palette(style, report.status.label)
