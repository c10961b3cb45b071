"""What a step of adaptation comes to for a target, decided before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nnenv.errors import NnenvError
from nnenv.formats.oci import canonical_json
from nnenv.spec.artifact import Sha256
from nnenv.spec.manifest import AdaptSpec, TargetSpec

_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {"simplify": ("onnxslim",)}
"""Step -> what it needs beside onnx, onnxruntime and numpy."""

_EXACT: Final = frozenset({"convert-opset", "simplify", "fix-shapes"})
"""Steps that leave the function as it is: measured 0 difference (reference/inference_test.md, 4.1)."""

EXACT_DRIFT: Final = 1e-4
"""What may differ after such a step, as the fp32 limit of a test case (reference/inference_test.md, 6.3)."""

_SATURATES: Final = (
    "x86-64 processors without VNNI add pairs of 8-bit products in 16 bits, which overflow: outputs differed by 2 to 15"
    " % of their largest value"
)
"""Measured with two models, native and emulated (reference/inference_test.md, 4.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step with every option decided."""

    spec: AdaptSpec
    options: Mapping[str, object]
    """By their names in model.toml; what the step's program gets."""
    notice: str = ""
    """What a person should know about a choice that was made; empty if none was."""

    @property
    def max_drift(self) -> float | None:
        """Largest difference to the model before; None if any is allowed."""
        if self.spec.max_drift is not None:
            return self.spec.max_drift
        return EXACT_DRIFT if self.spec.step in _EXACT else None

    @property
    def keeps_ports(self) -> bool:
        """Whether inputs and outputs must stay as they are, sizes aside where the step fixes them."""
        return not self.spec.changes_ports

    def key(self, model: Sha256, files: Mapping[str, Sequence[Sha256]], toolchain: str, program: str) -> Sha256:
        """Digest of all that decides the output: the model, other files by option, the tools' digests and ours."""
        parts = {
            "step": self.spec.step,
            "model": model,
            "options": self.options,
            "files": {name: list(digests) for name, digests in files.items()},
            "toolchain": toolchain,
            "program": program,
        }
        return Sha256(hashlib.sha256(canonical_json(parts)).hexdigest())


def decided(spec: AdaptSpec, target: TargetSpec, where: str) -> Step:
    """The step as it is done for a target; `where` is its place in model.toml.

    Raises NnenvError `quantisation-saturates` for integers that the target's processors cannot multiply exactly.
    """
    if spec.step not in {"quantize-dynamic", "quantize-static"}:
        given = {
            "opset": spec.opset,
            "amount": spec.amount,
            "shapes": dict(spec.shapes) or None,
            "exclude": list(spec.exclude) or None,
        }
        return Step(spec=spec, options={name: value for name, value in given.items() if value is not None})
    native = _native(target)
    preset = spec.preset or native
    static = spec.step == "quantize-static"
    weights = spec.weights or "int8"
    reduce_range = spec.reduce_range
    if reduce_range is None:
        reduce_range = preset == "no-vnni" and weights == "int8"
    if native == "no-vnni" and weights == "int8" and not reduce_range:
        raise _saturating(spec, target, where)
    options: dict[str, object] = {
        "weights": weights,
        "per-channel": static if spec.per_channel is None else spec.per_channel,
        "reduce-range": reduce_range,
        "exclude": list(spec.exclude),
    }
    if static:
        options["activations"] = spec.activations or ("int8" if preset == "arm64" else "uint8")
        options["method"] = spec.method or "minmax"
    chosen = native == "no-vnni" and reduce_range and spec.reduce_range is None
    notice = f"{spec.step} uses 7 bits for weights (reduce-range), since {_SATURATES}" if chosen else ""
    return Step(spec=spec, options=options, notice=notice)


def _native(target: TargetSpec) -> str:
    """The preset of a target's processors (onnxruntime/quantization/quantize.py, StaticQuantConfig)."""
    if target.platform == "linux/arm64":
        return "arm64"
    return "vnni" if target.cpu_features else "no-vnni"


def _saturating(spec: AdaptSpec, target: TargetSpec, where: str) -> NnenvError:
    return NnenvError(
        "quantisation-saturates",
        f"target {target.name} may run where 8-bit weights overflow",
        where=where,
        because=[_SATURATES, f"[targets.{target.name}] promises no cpu-features"],
        fix=[
            'leave out reduce-range and preset, or write weights = "uint8"',
            f'promise cpu-features = ["avx512_vnni"] in [targets.{target.name}], if all its hosts have it',
        ],
    )


def tools_for(steps: Sequence[AdaptSpec], onnxruntime: str) -> tuple[str, ...]:
    """Requirements of the toolchain that does these steps and measures the result, sorted.

    `onnxruntime` is the version that the target has: what a quantised model answers is its runtime's, too. Empty for a
    target without one. What a step asks for itself comes first.
    """
    from packaging.requirements import Requirement

    asked = {requirement for step in steps for requirement in step.tools}
    named = {Requirement(requirement).name for requirement in asked}
    runtime = f"onnxruntime=={onnxruntime}" if onnxruntime else "onnxruntime"
    wanted = {"onnx", "numpy", runtime, *(tool for step in steps for tool in _TOOLS.get(step.step, ()))}
    return tuple(sorted(asked | {text for text in wanted if Requirement(text).name not in named}))
