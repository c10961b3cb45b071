"""Expected against actual outputs: one verdict an output, scale-aware for floats, exact for the rest.

`max|a-e| <= limit * max|e|` per tensor separates rounding from faults where elementwise tolerances do not:
0 of 208 legitimate variants refused, 0 of 93 faults missed on 8 architectures (docs: verification).

Stand-alone: copied into images beside `harness.py`; imports nothing of nnenv and runs on Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Optional, Union

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

TOLERANCE_POLICY: Final = "tol/1"
"""Version of LIMITS; a report names it."""

LIMITS: Final[dict[str, float]] = {"fp16": 1e-2, "fp32": 1e-4, "fp64": 1e-4}
"""Precision class of an output -> the largest normalised error that passes."""

_CLASSES: Final[dict[str, str]] = {
    "float16": "fp16",
    "float32": "fp32",
    "complex64": "fp32",
    "float64": "fp64",
    "complex128": "fp64",
}
"""dtype -> precision class; any other dtype is `exact`."""

AXES: Final = ("tensor", "row")
"""What `max|e|` is taken over: the whole output, or each row along its last axis."""

SMALLEST_SCALE: Final = 1e-30
"""The least denominator, so that an all-zero expectation has a meaning: nothing but zeros passes."""

# Optional and Union, not `|`: the alias is evaluated when the file is imported, on Python 3.9 too.
Value = Optional[Union[float, int, str, bool]]  # noqa: UP007, UP045


@dataclass(frozen=True)
class OutputVerdict:
    """What the comparison of one output found."""

    name: str
    passed: bool
    reason: str
    """Why it failed, in one sentence; empty if it passed."""
    precision: str
    """`fp16`, `fp32`, `fp64`, or `exact`."""
    limit: float
    """Largest normalised error that passes; 0 where values must be equal."""
    relaxed: bool
    """True if the limit is looser than the policy's."""
    normalised_error: float | None
    """max|actual-expected| / max|expected| over the finite values, in float64; None if not comparable."""
    worst_index: tuple[int, ...] | None
    """Where the error is largest (or the first difference is); None without values or comparison."""
    expected_value: Value
    """The expected value there; the real part or the imaginary part of a complex one."""
    actual_value: Value
    bit_exact: bool
    """True if every byte agrees."""
    cosine: float | None
    """Cosine similarity of the finite values; None if undefined. Evidence, never a gate."""


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    *,
    limit: float | None = None,
    limits: Mapping[str, float] | None = None,
    axes: Mapping[str, str] | None = None,
) -> tuple[OutputVerdict, ...]:
    """One verdict for each expected output, in order, then one failed verdict for each output nobody expected.

    Names, shapes, dtypes, the places of NaN and of either infinity, integers, bools and strings must agree exactly.
    `limit` replaces the policy's for every float output, `limits` (precision class -> limit) for some of them;
    `axes` (output -> `tensor` or `row`) says what the error is normalised by. Passing nothing proves nothing:
    the caller refuses an empty `expected`.
    """
    verdicts = []
    for name, wanted in expected.items():
        precision = _CLASSES.get(wanted.dtype.name, "exact")
        allowed = _limit(precision, limit, limits or {})
        gate = _Gate(name=name, precision=precision, limit=allowed, axis=(axes or {}).get(name, "tensor"))
        if name in actual:
            verdicts.append(_compared(gate, wanted, actual[name]))
        else:
            verdicts.append(_verdict(gate, reason="the model has no such output"))
    for name in actual:
        if name not in expected:
            gate = _Gate(name=name, precision="exact", limit=0.0, axis="tensor")
            verdicts.append(_verdict(gate, reason="the case does not expect this output"))
    return tuple(verdicts)


def verdict_json(verdict: OutputVerdict) -> dict[str, object]:
    """`verdict` as JSON values; numbers that JSON cannot write become the strings NaN, Infinity, -Infinity."""
    return {
        "name": verdict.name,
        "passed": verdict.passed,
        "reason": verdict.reason,
        "class": verdict.precision,
        "limit": verdict.limit,
        "relaxed": verdict.relaxed,
        "normalised_error": json_number(verdict.normalised_error),
        "worst_index": None if verdict.worst_index is None else list(verdict.worst_index),
        "expected_value": json_number(verdict.expected_value),
        "actual_value": json_number(verdict.actual_value),
        "bit_exact": verdict.bit_exact,
        "cosine": json_number(verdict.cosine),
    }


def json_number(value: Value) -> Value:
    """`value` itself, or a string for a float that JSON cannot write."""
    if not isinstance(value, float) or abs(value) < float("inf"):
        return value
    if value > 0:
        return "Infinity"
    return "-Infinity" if value < 0 else "NaN"


def _limit(precision: str, limit: float | None, limits: Mapping[str, float]) -> float:
    if precision == "exact":
        return 0.0
    return limit if limit is not None else limits.get(precision, LIMITS[precision])


@dataclass(frozen=True)
class _Gate:
    """What one output is held to."""

    name: str
    precision: str
    limit: float
    axis: str


@dataclass(frozen=True)
class _Place:
    """One element, and what both sides have there."""

    index: tuple[int, ...] | None = None
    expected: Value = None
    actual: Value = None


_NOWHERE: Final = _Place()


def _verdict(
    gate: _Gate,
    *,
    reason: str,
    error: float | None = None,
    at: _Place = _NOWHERE,
    bit_exact: bool = False,
    cosine: float | None = None,
) -> OutputVerdict:
    return OutputVerdict(
        name=gate.name,
        passed=not reason,
        reason=reason,
        precision=gate.precision,
        limit=gate.limit,
        relaxed=gate.precision != "exact" and gate.limit > LIMITS[gate.precision],
        normalised_error=error,
        worst_index=at.index,
        expected_value=at.expected,
        actual_value=at.actual,
        bit_exact=bit_exact,
        cosine=cosine,
    )


def _compared(gate: _Gate, expected: Array, actual: Array) -> OutputVerdict:
    if _type_name(expected) != _type_name(actual):
        return _verdict(gate, reason=f"the type is {_type_name(actual)}, expected {_type_name(expected)}")
    if expected.shape != actual.shape:
        return _verdict(gate, reason=f"the shape is {list(actual.shape)}, expected {list(expected.shape)}")
    return _exact(gate, expected, actual) if gate.precision == "exact" else _close(gate, expected, actual)


def _type_name(array: Array) -> str:
    return "string" if array.dtype.kind in "OU" else str(array.dtype.name)


def _exact(gate: _Gate, expected: Array, actual: Array) -> OutputVerdict:
    import numpy as np

    different = np.asarray(expected != actual)
    if not different.any():
        return _verdict(gate, reason="", error=0.0, bit_exact=True)
    index = _index(different.ravel(), expected.shape)
    at = _Place(index=index, expected=_plain(expected[index]), actual=_plain(actual[index]))
    reason = f"{int(different.sum())} of {different.size} values differ; they must be equal"
    return _verdict(gate, reason=reason, at=at)


def _close(gate: _Gate, expected: Array, actual: Array) -> OutputVerdict:
    import numpy as np

    wanted, found = _components(expected), _components(actual)
    misplaced = _misplaced(wanted, found)
    if misplaced.any():
        reason = f"{int(misplaced.sum())} of {misplaced.size} values are NaN or infinite in one of the two only"
        return _verdict(gate, reason=reason, at=_place(misplaced.ravel(), wanted, found, expected.ndim))
    finite = np.isfinite(wanted)
    e, a = np.where(finite, wanted, 0.0), np.where(finite, found, 0.0)
    with np.errstate(over="ignore"):
        errors = np.abs(a - e) / _scale(e, gate.axis, row_axes=1 + wanted.ndim - expected.ndim)
    worst = float(errors.max(initial=0.0))
    return _verdict(
        gate,
        reason="" if worst <= gate.limit else f"the normalised error {worst:.3g} is above the limit {gate.limit:g}",
        error=worst,
        at=_place(errors.ravel(), wanted, found, expected.ndim) if errors.size else _NOWHERE,
        bit_exact=expected.tobytes() == actual.tobytes(),
        cosine=_cosine(e, a),
    )


def _components(array: Array) -> Array:
    """As float64; complex values get a last axis (real, imaginary)."""
    import numpy as np

    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(np.float64)
    return array.astype(np.float64)


def _misplaced(expected: Array, actual: Array) -> Array:
    import numpy as np

    nan = np.isnan(expected) != np.isnan(actual)
    infinite = (np.isinf(expected) | np.isinf(actual)) & (expected != actual)
    return np.asarray(nan | infinite)


def _scale(expected: Array, axis: str, row_axes: int) -> Array:
    """max|expected| over the tensor, or over each row; a complex row also spans the axis of its components."""
    import numpy as np

    magnitude = np.abs(expected)
    if axis == "row" and expected.ndim >= row_axes:
        over = tuple(range(expected.ndim - row_axes, expected.ndim))
        largest = magnitude.max(axis=over, keepdims=True, initial=0.0)
    else:
        largest = np.asarray(magnitude.max(initial=0.0))
    return np.asarray(np.maximum(largest, SMALLEST_SCALE))


def _place(weights: Array, expected: Array, actual: Array, rank: int) -> _Place:
    """Where the weight is largest; the index leaves out the axis of complex components."""
    index = _index(weights, expected.shape)
    return _Place(index=index[:rank], expected=float(expected[index]), actual=float(actual[index]))


def _index(weights: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(i) for i in np.unravel_index(int(weights.argmax()), shape))


def _plain(value: Any) -> Value:
    plain: Value = value.item() if hasattr(value, "item") else value
    return plain


def _cosine(expected: Array, actual: Array) -> float | None:
    import numpy as np

    largest_e, largest_a = float(np.abs(expected).max(initial=0.0)), float(np.abs(actual).max(initial=0.0))
    if largest_e == 0.0 or largest_a == 0.0:
        return None
    # Scaled first: squares of large float64 values overflow.
    e, a = expected.ravel() / largest_e, actual.ravel() / largest_a
    return float(np.sum(e * a) / np.sqrt(np.sum(e * e) * np.sum(a * a)))
