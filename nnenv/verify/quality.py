"""How good a model is on labelled data: metrics as pure functions of outputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nnenv.verify.report import ClassReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SMALLER_IS_BETTER: Final = frozenset({"rmse"})
DEFAULT_K: Final = 5


class QualityError(ValueError):
    """Outputs and labels that do not fit each other, in words for the user."""


def measure(metric: str, output: Array, labels: Array, *, k: int = DEFAULT_K) -> float:
    """The metric of one output, whose first axis counts the samples, against the labels.

    `accuracy`, `agreement`, `f1` (macro average) and `top-k` want scores [N, classes] (or classes [N]) and labels [N];
    `rmse` and `cosine` want labels of the output's shape. Raises QualityError if they do not fit.
    """
    if len(output) != len(labels) or not len(labels):
        raise QualityError(f"{len(output)} answers and {len(labels)} labels")
    value = _METRICS[metric](output, labels, k)
    if not np.isfinite(value):
        raise QualityError(f"{metric} is {value}")
    return float(value)


def classification_report(output: Array, labels: Array) -> tuple[ClassReport, ...]:
    """Precision, recall and F1 of each class that occurs, by class; empty for outputs that are no classes."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return ()
    predicted = classes(output)
    rows = []
    for label in sorted({*labels.tolist(), *predicted.tolist()}):
        hits = int(((predicted == label) & (labels == label)).sum())
        precision = _ratio(hits, int((predicted == label).sum()))
        recall = _ratio(hits, int((labels == label).sum()))
        rows.append(
            ClassReport(
                label=int(label),
                precision=precision,
                recall=recall,
                f1=_ratio(2 * precision * recall, precision + recall),
                support=int((labels == label).sum()),
            )
        )
    return tuple(rows)


def classes(output: Array) -> Array:
    """The class of each sample, int64 [N]: where [N, classes] is largest (further axes of size 1), or [N] itself."""
    flat = output.reshape(len(output), -1) if output.ndim > 1 else output
    if flat.ndim == 1:
        if flat.dtype.kind not in "iu":
            raise QualityError("the output has one number a sample, which is no class")
        return flat.astype(np.int64)
    best: Array = flat.argmax(axis=1).astype(np.int64)
    return best


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _labels(labels: Array) -> Array:
    flat = labels.reshape(-1) if labels.ndim > 1 and labels.size == len(labels) else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise QualityError(f"labels of shape {list(labels.shape)} and type {labels.dtype} are no classes")
    return flat


def _accuracy(output: Array, labels: Array, k: int) -> float:
    return float((classes(output) == _labels(labels)).mean())


def _top_k(output: Array, labels: Array, k: int) -> float:
    scores = output.reshape(len(output), -1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == _labels(labels)[:, None]).any(axis=1).mean())


def _f1(output: Array, labels: Array, k: int) -> float:
    rows = classification_report(output, _labels(labels))
    return float(np.mean([row.f1 for row in rows]))


def _same_shape(output: Array, labels: Array) -> tuple[Array, Array]:
    if output.size != labels.size:
        raise QualityError(f"the output has the shape {list(output.shape)}, the labels {list(labels.shape)}")
    return output.astype(np.float64).reshape(len(output), -1), labels.astype(np.float64).reshape(len(labels), -1)


def _rmse(output: Array, labels: Array, k: int) -> float:
    one, other = _same_shape(output, labels)
    return float(np.sqrt(((one - other) ** 2).mean()))


def _cosine(output: Array, labels: Array, k: int) -> float:
    one, other = _same_shape(output, labels)
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(scale, 1e-30)).mean())


_METRICS: Final[Mapping[str, Callable[[Array, Array, int], float]]] = {
    "accuracy": _accuracy,
    "agreement": _accuracy,
    "cosine": _cosine,
    "f1": _f1,
    "rmse": _rmse,
    "top-k": _top_k,
}
