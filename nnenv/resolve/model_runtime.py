"""Which releases of a runtime load a model at all, by the operator sets and the file format that the model states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nnenv import data
from nnenv.resolve.compat import numbers
from nnenv.resolve.variants import group_of
from nnenv.resolve.wheel_rules import Objection

_DOMAINS: Final = {"ai.onnx": "opset", "ai.onnx.ml": "ml"}
"""Domain -> what the table calls its operator set."""
_WORDS: Final = {"opset": "operator sets of ai.onnx", "ml": "operator sets of ai.onnx.ml", "ir": "IR versions"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNeeds:
    """What an ONNX model needs of the runtime that loads it."""

    name: str
    opsets: tuple[tuple[str, int], ...]
    """(domain, version)."""
    ir: int
    """Version of the file format; 0 if it is not known."""

    @property
    def _stated(self) -> dict[str, int]:
        known = {_DOMAINS[domain]: version for domain, version in self.opsets if domain in _DOMAINS}
        return {**known, "ir": self.ir}


def runtime_objection(distribution: str, version: str, models: Sequence[ModelNeeds]) -> Objection | None:
    """Why a release of onnxruntime, in any of its builds, is no runtime for one of the models; None if it may be.

    `version` is a PEP 440 release, perhaps with more behind it. A release newer than all that were measured may load
    anything; what is not in the table's domains is not judged.
    """
    group = group_of(distribution)
    if group is None or group.imports != "onnxruntime" or not models:
        return None
    release = numbers(".".join(part for part in version.split(".")[:2] if part.isdigit()) or "0")
    rows = _releases()
    if release > rows[-1][0]:
        return None
    loads = next((row for since, row in reversed(rows) if since <= release), None)
    if loads is None:
        return None  # older than what was measured
    for model in models:
        for what, needed in model._stated.items():
            if needed > loads[what]:
                enough = next((since for since, row in rows if row[what] >= needed), None)
                from_when = f"the first release with it is {'.'.join(map(str, enough))}" if enough else "none is known"
                return Objection(
                    code="opset-unsupported",
                    why=f"loads {_WORDS[what]} up to {loads[what]}, and model {model.name} has {needed}",
                    evidence=(f"measured with released wheels; {from_when}",),
                )
    return None


def first_release(model: ModelNeeds) -> str | None:
    """The oldest release of onnxruntime, as `1.23`, that was measured to load such a model; None if none was."""
    needed = model._stated
    found = (since for since, row in _releases() if all(row[what] >= least for what, least in needed.items()))
    release = next(found, None)
    return None if release is None else ".".join(map(str, release))


def measured_releases() -> tuple[str, ...]:
    """The releases at which what onnxruntime loads changed, oldest first: `1.15`, ..., `1.32`."""
    return tuple(".".join(map(str, since)) for since, _ in _releases())


@lru_cache(maxsize=1)
def _releases() -> tuple[tuple[tuple[int, ...], dict[str, int]], ...]:
    """(first release, what it loads), oldest first."""
    rows = data.table("onnxruntime")["releases"]
    return tuple((numbers(row["version"]), {what: row[what] for what in _WORDS}) for row in rows)
