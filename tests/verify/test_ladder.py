"""The status ladder: each rung needs every check below it."""

from __future__ import annotations

import itertools

import pytest

from nnenv.verify.ladder import Status, Verdict, status

P, F, N = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_RUN


def climbed(*verdicts: Verdict, **facts: object) -> Status:
    """The status of a CPU target, unless `facts` say otherwise."""
    options: dict = {"vacuous": False, "self_made": False, "accelerator_required": False, **facts}
    return status(*verdicts, **options)


def test_the_order_is_total_and_printed_in_the_designs_words() -> None:
    """assembled < closed < loadable < smoke < model-valid < verified."""
    labels = [one.label for one in sorted(Status)]
    assert labels == ["assembled", "closed", "loadable", "smoke", "model-valid", "verified"]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((P, P, P), Status.VERIFIED),
        ((P, P, F), Status.LOADABLE),
        ((P, P, N), Status.LOADABLE),
        ((P, F, P), Status.CLOSED),
        ((P, N, P), Status.CLOSED),
        ((F, P, P), Status.ASSEMBLED),
        ((N, P, P), Status.ASSEMBLED),
    ],
)
def test_a_check_that_did_not_pass_stops_the_climb(verdicts: tuple[Verdict, ...], expected: Status) -> None:
    """Failed or not run: both stop it, whatever passed above."""
    assert climbed(*verdicts) is expected


@pytest.mark.parametrize("weak", [{"vacuous": True}, {"self_made": True}])
def test_weak_evidence_stops_at_smoke(weak: dict[str, bool]) -> None:
    """Vacuous or self-made cases prove that it runs, on a GPU target too."""
    assert climbed(P, P, P, **weak) is Status.SMOKE
    assert climbed(P, P, P, accelerator_required=True, accelerator=P, **weak) is Status.SMOKE


@pytest.mark.parametrize(("accelerator", "expected"), [(P, "verified"), (F, "model-valid"), (N, "model-valid")])
def test_a_gpu_target_needs_the_gpu(accelerator: Verdict, expected: str) -> None:
    """Without a passed run on the accelerator it is model-valid at most."""
    assert climbed(P, P, P, accelerator_required=True, accelerator=accelerator).label == expected


def test_verified_has_exactly_one_way() -> None:
    """Of all combinations for a CPU target, only three passes with real evidence verify."""
    ways = [
        combination
        for combination in itertools.product((P, F, N), (P, F, N), (P, F, N), (True, False), (True, False))
        if climbed(*combination[:3], vacuous=combination[3], self_made=combination[4]) is Status.VERIFIED
    ]
    assert ways == [(P, P, P, False, False)]
