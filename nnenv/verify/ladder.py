"""From verdicts to one status: how much was proven of an image."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Verdict(StrEnum):
    """The outcome of one check; `not-run` is never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not-run"


class Status(IntEnum):
    """What is proven, from least to most; a total order, so statuses can be compared.

    `smoke` stands below `model-valid`: there the models ran, but no case could have told a right one from a wrong one.
    """

    ASSEMBLED = 0
    """The image has the bytes of the lock; nothing else is known."""
    CLOSED = 1
    """Every shared library it needs is inside, or comes from the driver."""
    LOADABLE = 2
    """Its frameworks and libraries load."""
    SMOKE = 3
    """Its models run and pass, but on vacuous or self-made cases only."""
    MODEL_VALID = 4
    """Its models pass real cases on the CPU; the accelerator it is made for is unproven."""
    VERIFIED = 5
    """Everything its target asks for is proven."""

    @property
    def label(self) -> str:
        """As it is printed: `model-valid`."""
        return self.name.lower().replace("_", "-")


def status(
    closure: Verdict,
    load: Verdict,
    reference: Verdict,
    *,
    vacuous: bool,
    self_made: bool,
    accelerator_required: bool,
    accelerator: Verdict = Verdict.NOT_RUN,
) -> Status:
    """The highest rung whose checks all passed; a check that was not run stops the climb as a failed one does.

    `vacuous`: some model has only cases that tell nothing. `self_made`: some model has only cases that nnenv made up
    from the model itself. Without any case `reference` is not run.
    """
    rungs = (
        (closure is Verdict.PASSED, Status.ASSEMBLED),
        (load is Verdict.PASSED, Status.CLOSED),
        (reference is Verdict.PASSED, Status.LOADABLE),
        (not vacuous and not self_made, Status.SMOKE),
        (not accelerator_required or accelerator is Verdict.PASSED, Status.MODEL_VALID),
    )
    for climbed, below in rungs:
        if not climbed:
            return below
    return Status.VERIFIED
