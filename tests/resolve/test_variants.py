"""Which distribution a name means on which machine, and which cannot be together."""

from __future__ import annotations

import pytest
from packaging.utils import canonicalize_name

from nnenv.resolve import compat
from nnenv.resolve.variants import (
    ANY_CUDA,
    Accelerator,
    Collision,
    Variants,
    colliding,
    group_of,
    groups,
    properties_of,
)
from nnenv.spec.gpu import GpuCode

CPU: Accelerator = None


@pytest.mark.parametrize(
    ("name", "accelerator", "expected"),
    [
        ("onnxruntime", CPU, "onnxruntime"),
        ("onnxruntime", 12, "onnxruntime-gpu"),
        ("onnxruntime", 13, "onnxruntime-gpu"),
        ("onnxruntime", ANY_CUDA, "onnxruntime-gpu"),
        ("torch", CPU, "torch"),
        ("torch", 13, "torch"),
        ("jax", CPU, "jax"),
        ("jax", 12, "jax[cuda12]"),
        ("jax", 13, "jax[cuda13]"),
        ("jax", ANY_CUDA, "jax[cuda13]"),
        ("jax", 11, "jax"),
        ("tensorflow", CPU, "tensorflow"),
        ("tensorflow", 12, "tensorflow[and-cuda]"),
        ("tensorflow", 13, "tensorflow"),
        ("cupy", 11, "cupy-cuda11x"),
        ("cupy", 12, "cupy-cuda12x"),
        ("cupy", 13, "cupy-cuda13x"),
        ("cupy", CPU, "cupy"),
        ("numpy", 12, "numpy"),
        ("opencv-python", 12, "opencv-python"),
        ("onnxruntime-openvino", 12, "onnxruntime-openvino"),
        ("onnxruntime-gpu", CPU, "onnxruntime-gpu"),
    ],
)
def test_what_a_name_means(name: str, accelerator: Accelerator, expected: str) -> None:
    """A group's name means a build by the machine; a build that is asked for by its own name stays."""
    distribution, extras = Variants().mapped(name, (), accelerator)
    assert expected == (f"{distribution}[{','.join(extras)}]" if extras else distribution)


def test_extras_stay() -> None:
    """What was asked for is kept, and the build's extra added, once and in order."""
    assert Variants().mapped("jax", ("k8s", "xprof"), 12) == ("jax", ("cuda12", "k8s", "xprof"))
    assert Variants().mapped("jax", ("cuda12",), 12) == ("jax", ("cuda12",))
    assert Variants().mapped("numpy", ("b", "a"), 12) == ("numpy", ("b", "a"))


def test_an_extra_that_asks_for_a_build_decides() -> None:
    """`jax[cuda12]` on a target that leaves the CUDA major open does not get the extra of CUDA 13 too."""
    assert Variants().mapped("jax", ("cuda12",), ANY_CUDA) == ("jax", ("cuda12",))


@pytest.mark.parametrize(
    ("named", "asked", "expected"),
    [
        (["onnxruntime-openvino"], "onnxruntime", "onnxruntime-openvino"),
        (["onnxruntime-gpu"], "onnxruntime", "onnxruntime-gpu"),
        (["onnxruntime", "onnxruntime-openvino"], "onnxruntime", "onnxruntime-openvino"),
        (["opencv-python-headless"], "opencv-python", "opencv-python-headless"),
        (["opencv-contrib-python-headless"], "opencv-python", "opencv-contrib-python-headless"),
        (["opencv-python-headless"], "opencv-contrib-python", "opencv-contrib-python"),
        (["cupy-cuda12x"], "cupy", "cupy-cuda12x"),
        (["numpy"], "onnxruntime", "onnxruntime"),
    ],
)
def test_a_named_variant_decides_for_its_group(named: list[str], asked: str, expected: str) -> None:
    """Also for what a dependency asks for, as far as the one can be taken for the other."""
    assert Variants(named).mapped(asked, ("x",), CPU) == (expected, ("x",))


def test_a_named_variant_decides_against_the_accelerator() -> None:
    """OpenVINO's build was named: a CUDA target does not get the CUDA build beside it."""
    assert Variants(["onnxruntime-openvino"]).mapped("onnxruntime", (), 13) == ("onnxruntime-openvino", ())


def test_two_named_variants_decide_nothing() -> None:
    """Which one a dependency means is nobody's guess; that they collide is said elsewhere."""
    named = ["onnxruntime-openvino", "onnxruntime-gpu"]
    assert Variants(named).mapped("onnxruntime", (), CPU) == ("onnxruntime", ())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["onnxruntime", "onnxruntime-gpu"], [("onnxruntime", "onnxruntime", "onnxruntime-gpu")]),
        (
            ["opencv-python-headless", "numpy", "opencv-python"],
            [("cv2", "opencv-python", "opencv-python-headless")],
        ),
        (
            ["cupy-cuda13x", "tensorflow", "tensorflow-cpu", "cupy-cuda12x"],
            [("cupy", "cupy-cuda12x", "cupy-cuda13x"), ("tensorflow", "tensorflow", "tensorflow-cpu")],
        ),
        (["onnxruntime", "onnxruntime-qnn", "onnxruntime-genai"], []),
        (["onnxruntime", "onnxruntime"], []),
        ([], []),
    ],
)
def test_collisions(names: list[str], expected: list[tuple[str, ...]]) -> None:
    """Two that bring one import; a plugin beside its host, or one name twice, is none."""
    assert [Collision(imports=one[0], distributions=one[1:]) for one in expected] == list(colliding(names))


def test_builds_of_other_indexes() -> None:
    """torch for a CPU is on an index of its own; a named variant needs what it needs."""
    assert "PyTorch" in Variants().needs_index("torch", CPU)
    assert Variants().needs_index("torch", 13) == ""
    assert Variants().needs_index("onnxruntime", CPU) == ""
    assert "CUDA 12" in Variants().needs_index("paddlepaddle", 12)
    assert Variants(["paddlepaddle-gpu"]).needs_index("paddlepaddle", 12) == ""
    assert Variants().needs_index("numpy", 12) == ""


# The table


def test_nobody_is_in_two_groups() -> None:
    """Each member has one group, and is found by its name."""
    members = [member for group in groups() for member in group.members]
    assert len(set(members)) == len(members)
    for group in groups():
        for member in group.members:
            assert group_of(member) is group
            assert canonicalize_name(member) == member


def test_builds_are_members() -> None:
    """What a name means, what stands for what, and the name itself are of the group."""
    for group in groups():
        builds = [*([group.cpu] if group.cpu else []), *group.cuda.values()]
        assert {build.distribution for build in builds} <= set(group.members), group.imports
        assert (group.name in group.members) if group.name else not builds, group.imports
        for member, others in group.stands_for.items():
            assert {member, *others} <= set(group.members), group.imports
            assert member not in others, group.imports


def test_builds_are_of_known_cuda_majors() -> None:
    """A build for a CUDA major is for one that has a driver, and its libraries are worth a look."""
    for group in groups():
        assert set(group.cuda) - {ANY_CUDA} <= set(compat.cuda_majors()), group.imports
    for name, major in (("onnxruntime", 12), ("cupy", 13), ("torch", 13), ("tensorflow", 12)):
        assert compat.is_framework(Variants().mapped(name, (), major)[0])


def test_properties_of_wheel_variants() -> None:
    """The words of PEP 825: machine code is real, PTX is virtual."""
    code = GpuCode(sass=("80", "90a"), ptx=(("90", "8.4"), ("90", "8.7")))
    assert properties_of(cuda="12.8", code=code) == (
        "nvidia :: cuda_version_lower_bound :: 12.8",
        "nvidia :: sm_arch :: 80_real",
        "nvidia :: sm_arch :: 90a_real",
        "nvidia :: sm_arch :: 90_virtual",
    )
    assert properties_of(cuda="", code=GpuCode()) == ()
