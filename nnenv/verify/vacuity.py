"""Can a case tell a right model from a wrong one? Two probe runs say how much the outputs depend on the inputs.

The light_* models of the onnx wheel have constant weights and answer 0.001 everywhere: their cases still pass after
every ReLU became a Sigmoid. Such a case proves that the model loads, and nothing numeric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

LEAST_SENSITIVITY: Final = 1e-3
"""Below this relative change between different inputs an output says nothing about its input."""

LEAST_DISTINCT: Final = 2
"""An output with fewer different values is a constant."""

SMALLEST_SPREAD: Final = 0.1
"""Least standard deviation of a probe, relative to the mean of the case's input; 1 where that is all zero."""

_SEEDS: Final = (20240901, 20240902)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vacuity:
    """What the probe runs said of one case."""

    vacuous: bool
    reason: str
    """Why it is vacuous; empty if it is not."""
    sensitivity: float
    """Largest relative change of an output between the runs; 0 if nothing changed."""
    distinct_values: int
    """Different values in the most varied output."""


def probe_inputs(inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Two other inputs of the same names, types and shapes; the same every time.

    Floats become seeded normals with the mean and spread of the case's input. Integers, bools and strings are
    permuted, so that no value appears that the model was not asked for (an index stays in its vocabulary);
    where all of them are equal, nothing changes.
    """
    first, second = (_probe(inputs, seed) for seed in _SEEDS)
    return first, second


def assess(case: Mapping[str, Array], probe1: Mapping[str, Array], probe2: Mapping[str, Array]) -> Vacuity:
    """Whether the outputs of the case and of its two probes differ as the outputs of a working model do.

    An output is vacuous if its sensitivity is below LEAST_SENSITIVITY or it has fewer than LEAST_DISTINCT values;
    the case is, if all its outputs are. Sensitivity is the largest `max|y1-y2| / max(|y1|,|y2|)` between two of the
    three runs. An output of one element counts its values over the three runs.
    """
    runs = (case, probe1, probe2)
    found = [_of_output([run[name] for run in runs if name in run]) for name in case]
    sensitivity = max((one[0] for one in found), default=0.0)
    distinct = max((one[1] for one in found), default=0)
    if any(one[0] >= LEAST_SENSITIVITY and one[1] >= LEAST_DISTINCT for one in found):
        return Vacuity(vacuous=False, reason="", sensitivity=sensitivity, distinct_values=distinct)
    if distinct < LEAST_DISTINCT:
        reason = "every value of every output is the same"
    elif sensitivity < LEAST_SENSITIVITY:
        reason = f"other inputs change the outputs by {sensitivity:.1e} of their size, less than {LEAST_SENSITIVITY:g}"
    else:
        reason = "each output is either constant or does not depend on the inputs"
    return Vacuity(vacuous=True, reason=reason, sensitivity=sensitivity, distinct_values=distinct)


def _probe(inputs: Mapping[str, Array], seed: int) -> dict[str, Array]:
    import numpy as np

    probe: dict[str, Array] = {}
    for position, name in enumerate(sorted(inputs)):
        array = inputs[name]
        generator = np.random.Generator(np.random.PCG64([seed, position]))
        probe[name] = _normals(array, generator) if array.dtype.kind in "fc" else _permuted(array, generator)
    return {name: probe[name] for name in inputs}


def _normals(array: Array, generator: np.random.Generator) -> Array:
    import numpy as np

    real = np.stack([array.real, array.imag]) if array.dtype.kind == "c" else array
    values = real[np.isfinite(real)].astype(np.float64)
    largest = float(np.finfo(array.dtype).max)
    # Masks hold the most negative number of their type: in units of that, nothing overflows.
    unit = max(1.0, float(np.abs(values).max(initial=0.0)))
    mean, deviation = (float((values / unit).mean()), float((values / unit).std())) if values.size else (0.0, 0.0)
    spread = max(deviation, SMALLEST_SPREAD * abs(mean)) or 1.0
    drawn = np.clip(mean + spread * generator.standard_normal(real.shape), -largest / unit, largest / unit) * unit
    if array.dtype.kind == "c":
        drawn = drawn[0] + 1j * drawn[1]
    return np.asarray(drawn).astype(array.dtype)


def _permuted(array: Array, generator: np.random.Generator) -> Array:
    flat = array.ravel()
    permuted = flat[generator.permutation(flat.size)]
    if flat.size and (permuted == flat).all():
        # A short permutation is often the identity; some rotation is not, unless all values are equal.
        permuted = _rotated(flat)
    return permuted.reshape(array.shape)


def _rotated(flat: Array) -> Array:
    import numpy as np

    different = np.flatnonzero(np.asarray(flat != flat[0]))
    return np.roll(flat, -int(different[0])) if different.size else flat.copy()


def _of_output(runs: list[Array]) -> tuple[float, int]:
    """Sensitivity and number of distinct values of one output."""
    pairs = [(runs[i], runs[j]) for i in range(len(runs)) for j in range(i + 1, len(runs))]
    sensitivity = max((_change(one, other) for one, other in pairs), default=0.0)
    counted = runs if runs[0].size == 1 else runs[:1]
    values: set[object] = set()
    for run in counted:
        values.update(_finite(run).ravel().tolist())
    return sensitivity, len(values)


def _finite(array: Array) -> Array:
    import numpy as np

    return array[np.isfinite(array)] if array.dtype.kind in "fc" else array


def _change(one: Array, other: Array) -> float:
    """`max|one-other|` relative to the larger, where both are finite; 1 if shapes or strings differ."""
    import numpy as np

    if one.shape != other.shape:
        return 1.0
    if one.dtype.kind in "OU":
        return float(np.asarray(one != other).any())
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    a, b = one.astype(wide), other.astype(wide)
    both = np.isfinite(a) & np.isfinite(b)
    with np.errstate(over="ignore"):
        difference = float(np.abs(a[both] - b[both]).max(initial=0.0))
    scale = max(float(np.abs(a[both]).max(initial=0.0)), float(np.abs(b[both]).max(initial=0.0)))
    if not difference:
        return 0.0
    return min(difference, np.finfo(np.float64).max) / scale
