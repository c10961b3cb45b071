"""Which releases of onnxruntime are refused for which models, by what was measured of them."""

from __future__ import annotations

import pytest

from nnenv.resolve.model_runtime import ModelNeeds, runtime_objection


def needs(opset: int = 17, ir: int = 8, ml: int = 0) -> list[ModelNeeds]:
    """One model."""
    opsets = (("ai.onnx", opset), *((("ai.onnx.ml", ml),) if ml else ()), ("com.example", 99))
    return [ModelNeeds(name="net", opsets=opsets, ir=ir)]


@pytest.mark.parametrize(
    ("version", "models", "why"),
    [
        ("1.20.1", needs(opset=22), "loads operator sets of ai.onnx up to 21, and model net has 22"),
        ("1.22.0", needs(opset=22, ir=11), "loads IR versions up to 10, and model net has 11"),
        ("1.17.3", needs(ml=5), "loads operator sets of ai.onnx.ml up to 4, and model net has 5"),
        ("1.32.0", needs(opset=29), "loads operator sets of ai.onnx up to 28, and model net has 29"),
    ],
)
def test_too_new_a_model(version: str, models: list[ModelNeeds], why: str) -> None:
    """With what the release loads, and which is the first that is enough."""
    objection = runtime_objection("onnxruntime", version, models)
    assert objection is not None
    assert (objection.code, objection.why) == ("opset-unsupported", why)
    assert runtime_objection("onnxruntime-gpu", version, models) is not None


def test_the_first_release_that_is_enough_is_told() -> None:
    """Or that none is known."""
    enough = runtime_objection("onnxruntime", "1.20", needs(opset=23))
    none = runtime_objection("onnxruntime", "1.20", needs(opset=99))
    assert enough is not None
    assert none is not None
    assert enough.evidence[0].endswith("the first release with it is 1.23")
    assert none.evidence[0].endswith("none is known")


@pytest.mark.parametrize(
    ("distribution", "version", "models"),
    [
        ("onnxruntime", "1.21.0", needs(opset=22)),
        ("onnxruntime", "1.33.0", needs(opset=99)),
        ("onnxruntime", "1.14.1", needs(opset=99)),
        ("onnxruntime", "1.20.0", []),
        ("numpy", "1.20.0", needs(opset=99)),
    ],
)
def test_what_is_not_refused(distribution: str, version: str, models: list[ModelNeeds]) -> None:
    """Enough; newer or older than what was measured; no model; no runtime."""
    assert runtime_objection(distribution, version, models) is None
