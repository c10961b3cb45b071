"""What a target's keys and names mean, before anything is searched."""

from __future__ import annotations

import pytest

from nnenv.errors import NnenvError
from nnenv.resolve.python_target import PythonTarget
from nnenv.spec.manifest import TargetSpec
from nnenv.workflows.hardware import gpu_target, normal_version, variants_of

CPU = TargetSpec(name="cpu")
CUDA = TargetSpec(name="gpu", cuda="==12.*", driver=">=535.104.05", compute_capability=("8.0",))
PYTHON = PythonTarget(name="gpu", python="3.11.2", machine="x86_64", glibc="2.36")


def test_the_keys_of_a_target() -> None:
    """`driver` is a floor; a target without any key has no accelerator."""
    assert gpu_target(CPU, PYTHON) is None
    target = gpu_target(CUDA, PYTHON)
    assert target is not None
    assert (target.cuda, target.driver, target.capabilities) == ("==12.*", "535.104.05", ("8.0",))


@pytest.mark.parametrize("spec", [CPU, CUDA], ids=["cpu", "cuda"])
def test_two_variants_of_one_module_are_refused(spec: TargetSpec) -> None:
    """Their files would replace each other, on any target."""
    with pytest.raises(NnenvError) as caught:
        variants_of(["onnxruntime-gpu>=1.20", "onnxruntime-openvino"], spec)
    assert caught.value.code == "variant-collision"
    assert "onnxruntime-gpu and onnxruntime-openvino" in caught.value.what
    assert len(caught.value.fix) == 2


def test_the_name_that_nnenv_itself_asks_for_is_no_second_variant() -> None:
    """Images with models ask for onnxruntime; the one that the manifest names stands for it."""
    variants = variants_of(["onnxruntime-openvino", "onnxruntime"], CPU)
    assert variants.mapped("onnxruntime", (), None) == ("onnxruntime-openvino", ())
    assert variants_of(["onnxruntime"], CUDA).mapped("onnxruntime", (), 12) == ("onnxruntime-gpu", ())


def test_versions_have_one_spelling() -> None:
    """As locks hold them (PEP 440)."""
    assert normal_version("1.0.0-RC1") == "1.0.0rc1"
