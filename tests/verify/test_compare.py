"""Comparison: rounding passes, faults fail, and everything that is not a float must be equal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnenv.verify.compare import LIMITS, OutputVerdict, compare, verdict_json

NAN, INF = float("nan"), float("inf")


def one(expected: object, actual: object, dtype: str = "float32", **options: object) -> OutputVerdict:
    """The verdict on one output `y`."""
    wanted, found = (np.asarray(side, dtype) for side in (expected, actual))
    (verdict,) = compare({"y": wanted}, {"y": found}, **options)  # type: ignore[arg-type]
    return verdict


def test_the_error_is_normalised_by_the_largest_expected_value() -> None:
    """Next to a large value a small one may be off by much of itself: it is rounding at the tensor's scale."""
    verdict = one([100.0, 1e-3], [100.0, 2e-3])
    assert verdict.passed
    assert verdict.normalised_error == pytest.approx(1e-5, rel=1e-3)
    assert verdict.worst_index == (1,)
    assert (verdict.expected_value, verdict.actual_value) == (pytest.approx(1e-3), pytest.approx(2e-3))
    assert not verdict.bit_exact


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 1e-2), ("float32", 1e-4), ("float64", 1e-4)])
def test_each_precision_has_its_limit(dtype: str, limit: float) -> None:
    """Just below the limit of the class passes, just above fails."""
    assert one([1.0], [1.0 + 0.8 * limit], dtype).passed
    refused = one([1.0], [1.0 + 1.3 * limit], dtype)
    assert not refused.passed
    assert "above the limit" in refused.reason
    assert refused.limit == limit == LIMITS[refused.precision]


def test_float64_is_not_rounded_before_it_is_compared() -> None:
    """A difference that float32 cannot hold is still measured."""
    verdict = one([1.0], [1.0 + 1e-9], "float64")
    assert verdict.normalised_error == pytest.approx(1e-9, rel=1e-3)


def test_all_zero_expectations_accept_zeros_only() -> None:
    """Scale 0 has no rounding: the smallest difference fails."""
    assert one([0.0, 0.0], [0.0, -0.0]).passed
    assert not one([0.0, 0.0], [0.0, 1e-20]).passed


@pytest.mark.parametrize(
    ("expected", "actual", "passes"),
    [
        ([NAN, 1.0], [NAN, 1.0], True),
        ([INF, 1.0], [INF, 1.0], True),
        ([NAN, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [1.0, NAN], False),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [NAN, 1.0], False),
        ([INF, 1.0], [1e30, 1.0], False),
        ([INF, 1.0], [INF, 2.0], False),
        ([NAN, NAN], [NAN, NAN], True),
    ],
)
def test_nan_and_infinity_must_stand_in_the_same_places(expected: list, actual: list, passes: bool) -> None:
    """NaN, +Inf and -Inf positions are exact, and never hide a difference beside them."""
    assert one(expected, actual).passed is passes


def test_a_nan_actual_never_passes_as_a_small_error() -> None:
    """NaN compares false with everything: a gate written as `error > limit -> fail` would let it through."""
    assert not one([1.0, 2.0], [NAN, NAN], limit=1e9).passed


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "object"])
def test_integers_bools_and_strings_are_exact(dtype: str) -> None:
    """One different value fails, and the verdict says where and what."""
    same = ["a", "b"] if dtype == "object" else [0, 1]
    other = ["a", "c"] if dtype == "object" else [0, 0]
    assert one(same, same, dtype).passed
    verdict = one(same, other, dtype, limit=1.0)
    assert not verdict.passed
    assert verdict.worst_index == (1,)
    assert (verdict.expected_value, verdict.actual_value) == (np.array(same, dtype)[1], np.array(other, dtype)[1])
    assert verdict.precision == "exact"


def test_large_integers_are_not_compared_as_floats() -> None:
    """2^53 + 1 and 2^53 are the same float64 and different int64."""
    assert not one([2**53 + 1], [2**53], "int64").passed


def test_names_shapes_and_types_are_exact() -> None:
    """A missing and an unexpected output, another shape, another type: each fails with its reason."""
    x = np.ones(2, np.float32)
    verdicts = compare({"a": x, "b": x, "c": x}, {"b": x[:1], "c": x.astype(np.float64), "d": x})
    assert [(verdict.name, verdict.passed, verdict.reason) for verdict in verdicts] == [
        ("a", False, "the model has no such output"),
        ("b", False, "the shape is [1], expected [2]"),
        ("c", False, "the type is float64, expected float32"),
        ("d", False, "the case does not expect this output"),
    ]


def test_broadcastable_shapes_are_different_shapes() -> None:
    """numpy would broadcast [1] against [3]; the comparison must not."""
    assert not one([1.0], [1.0, 1.0, 1.0]).passed
    assert not one(1.0, [1.0]).passed


def test_row_axis_sees_what_the_tensor_hides() -> None:
    """A fault in a row of small values passes by tensor and fails by row."""
    expected, actual = [[100.0, 1.0], [0.001, 0.002]], [[100.0, 1.0], [0.001, 0.003]]
    assert one(expected, actual).passed
    verdict = one(expected, actual, axes={"y": "row"})
    assert not verdict.passed
    assert verdict.worst_index == (1, 1)


def test_loosened_limits_are_flagged() -> None:
    """A limit above the policy's is relaxed, a tighter one is not; both count."""
    loose = one([1.0], [1.001], limits={"fp32": 1e-2})
    assert (loose.passed, loose.relaxed, loose.limit) == (True, True, 1e-2)
    tight = one([1.0], [1.00005], limits={"fp32": 1e-6})
    assert (tight.passed, tight.relaxed) == (False, False)
    assert one([1.0], [1.001], limit=1e-2).relaxed


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_compare_by_component(dtype: str) -> None:
    """Real and imaginary part each count; the index names the element."""
    assert one([1 + 1j, 2j], [1 + 1j, 2j], dtype).passed
    verdict = one([1 + 1j, 2j], [1 + 1j, 2.1j], dtype)
    assert (verdict.passed, verdict.worst_index, verdict.expected_value) == (False, (1,), 2.0)
    assert one([[1 + 1j, 2j]], [[1 + 1j, 2j]], dtype, axes={"y": "row"}).passed


def test_empty_and_scalar_outputs() -> None:
    """No values: nothing differs. One value without a shape: its index is ()."""
    assert one([], []).passed
    assert one(2.0, 2.0).worst_index == ()


def test_huge_values_do_not_overflow_into_a_pass() -> None:
    """A difference beyond float64 is infinite, and infinite is above every limit."""
    assert not one([1.7e308], [-1.7e308], "float64", limit=1.9).passed


def test_evidence_bit_exactness_and_cosine() -> None:
    """Equal bytes are bit-exact; -0.0 is not 0.0; cosine is 1 for equal direction and None for zeros."""
    assert one([1.0, 2.0], [1.0, 2.0]).bit_exact
    assert not one([0.0, 1.0], [-0.0, 1.0]).bit_exact
    assert one([1.0, 2.0], [2.0, 4.0]).cosine == pytest.approx(1.0)
    assert one([0.0], [0.0]).cosine is None


def test_a_verdict_is_plain_json() -> None:
    """Every number can be written as strict JSON, NaN and infinities as strings."""
    for verdict in (one([NAN], [1.0]), one([1.0], [INF]), one([1], [2], "int64"), one(["a"], ["b"], "object")):
        assert json.loads(json.dumps(verdict_json(verdict), allow_nan=False))["passed"] is False
    assert verdict_json(one([NAN], [1.0]))["expected_value"] == "NaN"
    assert verdict_json(one([1.0], [-INF]))["actual_value"] == "-Infinity"
