"""The curated facts on CUDA: what is asked of them, and that the table agrees with itself and with the recorded."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nnenv import data
from nnenv.resolve import compat

NAMES = [table.name for table in compat.tables()]
"""Every table."""


# Drivers and PTX


def test_driver_floors() -> None:
    """Each CUDA major has the floor of NVIDIA's table; an unknown one has none."""
    assert tuple(map(compat.driver_floor, (11, 12, 13))) == ("450.80.02", "525.60.13", "580.65.06")
    assert compat.driver_floor(14) is None
    assert compat.cuda_majors() == (13, 12, 11)


@pytest.mark.parametrize(
    ("cuda", "driver"),
    [
        ("12.8", "570"),
        ("12.8.1", "570"),
        ("12.7", "570"),
        ("12.0", "525"),
        ("12", "525"),
        ("13.3", "610"),
        ("13.4", None),
        ("14.0", None),
    ],
)
def test_driver_for_cuda(cuda: str, driver: str | None) -> None:
    """The oldest branch of the table that supports a release whole; what only one source has counts for nothing."""
    assert driver == compat.driver_for_cuda(cuda)


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("535.104.05", "12.2"),
        ("535", "12.2"),
        ("534.99", "12.1"),
        ("999", "13.3"),
        ("449.99", None),
        ("450.80.02", "11.0"),
        ("1000.1", "13.3"),
    ],
)
def test_newest_cuda(driver: str, cuda: str | None) -> None:
    """Drivers compare number by number: 1000 is newer than 999."""
    assert cuda == compat.newest_cuda(driver)


def test_older_drivers() -> None:
    """A branch is its own first driver, and versions are no strings."""
    assert compat.older("525", "525.60.13")
    assert not compat.older("525.60.13", "525.60.13")
    assert compat.older("525.60.13", "525.105.17")
    assert compat.older("990", "1000")


def test_cuda_of_ptx() -> None:
    """Recorded versions of PTX, and one that nobody has written yet."""
    assert tuple(map(compat.cuda_of_ptx, ("7.8", "8.2", "8.6", "8.7", "9.0"))) == (
        "11.8",
        "12.2",
        "12.7",
        "12.8",
        "13.0",
    )
    assert compat.cuda_of_ptx("9.99") is None


def test_drivers_and_cuda_rise_together() -> None:
    """A newer branch supports a newer CUDA; none stands twice."""
    rows = [
        (compat.numbers(row["driver"]), compat.numbers(row["cuda"]))
        for row in data.table("compat")["driver-branches"]["rows"]
    ]
    assert all(old[0] < new[0] and old[1] < new[1] for old, new in pairwise(rows))


def test_ptx_and_cuda_rise_together() -> None:
    """A newer PTX needs a newer CUDA, and one of a major that nnenv knows."""
    rows = [(compat.numbers(row["isa"]), compat.numbers(row["cuda"])) for row in compat.rows("ptx-isa")]
    assert all(old[0] < new[0] and old[1] < new[1] for old, new in pairwise(rows))
    assert {cuda[0] for _, cuda in rows} == set(compat.cuda_majors())


def test_floors_and_branches_agree() -> None:
    """The first branch of a major is the one of its floor: a driver that old runs the major and supports no more."""
    for major in compat.cuda_majors():
        floor = compat.driver_floor(major)
        assert floor is not None
        assert f"{major}.0" == compat.newest_cuda(floor)
        assert floor.partition(".")[0] == compat.driver_for_cuda(f"{major}.0")


# GPUs


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("V100", "7.0"),
        ("NVIDIA T4", "7.5"),
        ("a100", "8.0"),
        ("L4", "8.9"),
        ("H100", "9.0"),
        ("B200", "10.0"),
        ("rtx 5090", "12.0"),
        ("K80", None),
        ("", None),
    ],
)
def test_names_of_gpus(name: str, capability: str | None) -> None:
    """In any case, with or without the maker's name."""
    assert capability == compat.capability_of_gpu(name)


def test_capabilities_of_the_tables() -> None:
    """Every capability is spelled right, and no GPU is in two rows; each Tegra chip of the GPUs is among the Tegras."""
    rows = compat.rows("gpus")
    names = [name.casefold() for row in rows for name in row["names"]]
    assert len(set(names)) == len(names)
    spelled = {*compat.tegra_capabilities(), *(row["capability"] for row in rows)}
    assert all(re.fullmatch(r"[1-9][0-9]*\.[0-9]", one) for one in spelled)
    jetsons = {row["capability"] for row in rows if any(name.startswith("Jetson") for name in row["names"])}
    assert jetsons <= compat.tegra_capabilities()


# Libraries


@pytest.mark.parametrize(
    ("soname", "major", "expected"),
    [
        ("libcublas.so.12", 12, ("nvidia-cublas-cu12", "cublas", "==12.*")),
        ("libcublasLt.so.13", 13, ("nvidia-cublas", "cublas", "==13.*")),
        ("libcudart.so.13", 13, ("nvidia-cuda-runtime", "cudart", "==13.*")),
        ("libcurand.so.10", 12, ("nvidia-curand-cu12", "curand", "==10.*")),
        ("libcurand.so.10", 13, ("nvidia-curand", "curand", "==10.*")),
        ("libcudnn.so.9", 12, ("nvidia-cudnn-cu12", "", "==9.*")),
        ("libcudnn.so.8", 12, ("nvidia-cudnn-cu12", "", "==8.*")),
        ("libcudnn.so.9", 13, ("nvidia-cudnn-cu13", "", "==9.*")),
        ("libnvToolsExt.so.1", 12, ("nvidia-nvtx-cu12", "nvtx", "==12.*,<12.9.19")),
        ("libnvtx3interop.so.1", 12, ("nvidia-nvtx-cu12", "nvtx", "==12.*,>=12.9.19")),
        ("libcublas.so.12", 13, None),
        ("libcublas.so.14", 13, None),
        ("libnvinfer.so.10", 12, None),
    ],
)
def test_provider_of_soname(soname: str, major: int, expected: tuple[str, str, str] | None) -> None:
    """Distribution, component of the toolkit and releases; None where nothing is known to hold it."""
    found = compat.provider_of_soname(soname, major)
    assert expected == (found and (found.distribution, found.component, found.specifier))


def test_cuda_majors_of_sonames() -> None:
    """A soname tells a major only if no other major has it."""
    told = {
        soname: compat.cuda_major_of_soname(soname)
        for soname in (
            "libcudart.so.12", "libcublas.so.13", "libcufft.so.11", "libcufft.so.12", "libnvrtc.so.11.2",
            "libcudnn.so.9", "libcurand.so.10", "libcusparse.so.12", "libcusolver.so.11", "libnccl.so.2", "libc.so.6",
        )
    }  # fmt: skip
    assert list(told.values()) == [12, 13, 12, 13, 11, None, None, None, None, None, None]


@pytest.mark.parametrize(
    ("distribution", "version", "expected"),
    [
        ("onnxruntime-gpu", "1.20.2", ()),
        ("onnxruntime-gpu", "1.26.0", ("libnvrtc.so.12",)),
        ("onnxruntime-gpu", "1.27.0", ()),
        ("onnxruntime-gpu", "1.28.0", ("libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13")),
        ("onnxruntime-gpu", "1.31.1", ("libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13")),
        ("onnxruntime", "1.31.1", ()),
    ],
)
def test_lazy_sonames(distribution: str, version: str, expected: tuple[str, ...]) -> None:
    """What ONNX Runtime loads by name, as the reference measured it."""
    assert expected == compat.lazy_sonames(distribution, version)


def test_lazy_sonames_of_a_release_candidate() -> None:
    """A pre-release is taken for what it leads to: TensorFlow 2.22.0rc0 states its CUDA nowhere else."""
    assert "libcudart.so.12" in compat.lazy_sonames("tensorflow", "2.22.0rc0")
    assert compat.lazy_sonames("tensorflow", "2.30.0") == ()


def test_lazy_sonames_have_a_provider() -> None:
    """Each is held by one distribution for the CUDA major that the others of its row tell; none tell two."""
    for row in compat.rows("lazy-sonames"):
        majors = {compat.cuda_major_of_soname(soname) for soname in row["sonames"]} - {None}
        assert len(majors) == 1, row["distribution"]
        for soname in row["sonames"]:
            assert compat.provider_of_soname(soname, majors.copy().pop()), soname


@pytest.mark.parametrize(
    ("distribution", "library", "expected"),
    [
        ("nvidia-cudnn-cu12", "libcudnn_ops.so.9", True),
        ("nvidia-cudnn-cu12", "libcudnn_cnn_infer.so.8", True),
        ("nvidia-cudnn-cu12", "libcudnn_engines_precompiled.so.9", False),
        ("nvidia-cublas", "libcublasLt.so.13", True),
        ("nvidia-cublas-cu12", "libnvblas.so.12", False),
        ("nvidia-cusparselt-cu12", "libcusparseLt.so.0", False),
        ("onnxruntime-gpu", "libonnxruntime_providers_cuda.so", True),
        ("onnxruntime-gpu", "libonnxruntime_providers_tensorrt.so", False),
        ("torch", "libtorch_cuda_linalg.so", True),
        ("torch", "libtorch_nvshmem.so", False),
        ("somebodys-kernels", "libkernels.so", True),
    ],
)
def test_always_loaded(distribution: str, library: str, expected: bool) -> None:
    """By row; a distribution without one is taken to load all that it has."""
    assert expected is compat.always_loaded(distribution, library)


def test_opaque_libraries() -> None:
    """cuFFT's list says nothing; cuBLAS's does."""
    assert compat.is_opaque("libcufft.so.11")
    assert compat.is_opaque("xla_cuda_plugin.so")
    assert not compat.is_opaque("libcublasLt.so.12")


def test_driver_sonames() -> None:
    """What the driver brings is provided by no wheel, and needs one of the runtime's capabilities."""
    assert {"libcuda.so.1", "libnvidia-ml.so.1"} <= compat.driver_sonames()
    assert [compat.provider_of_soname(soname, 13) for soname in compat.driver_sonames()] == [None] * len(
        compat.driver_sonames()
    )
    assert tuple(map(compat.driver_capability, ("libcuda.so.1", "libnvcuvid.so.1", "libc.so.6"))) == (
        "compute",
        "video",
        None,
    )


def test_optional_sonames() -> None:
    """The TensorRT provider may miss its libraries; the CUDA provider may not."""
    assert "libnvinfer.so.10" in compat.optional_sonames("onnxruntime-gpu")
    assert "libcublas.so.12" not in compat.optional_sonames("onnxruntime-gpu")
    assert compat.optional_sonames("numpy") == frozenset()


def test_nothing_is_optional_and_loaded_by_name() -> None:
    """No library of a distribution must be there and need not be."""
    for row in compat.rows("lazy-sonames"):
        assert not compat.optional_sonames(row["distribution"]) & set(row["sonames"]), row["distribution"]


# Distributions


@pytest.mark.parametrize(
    ("distribution", "part", "framework"),
    [
        ("nvidia-cublas", True, False),
        ("nvidia-cublas-cu12", True, False),
        ("nvidia-cudnn-cu13", True, False),
        ("nvidia-cuda-nvcc-cu12", True, False),
        ("nvidia-nvimgcodec-cu12", True, False),
        ("cuda-toolkit", True, False),
        ("nvidia-ml-py", False, False),
        ("nvidia", False, False),
        ("torch", False, True),
        ("cupy-cuda13x", False, True),
        ("onnxruntime-gpu", False, True),
        ("onnxruntime", False, False),
    ],
)
def test_parts_of_cuda_and_frameworks(distribution: str, part: bool, framework: bool) -> None:
    """NVIDIA's libraries and tools; what uses them; and Python packages of NVIDIA's that are neither."""
    assert (part, framework) == (compat.is_part_of_cuda(distribution), compat.is_framework(distribution))


def test_components_of_the_toolkit() -> None:
    """Names with the major up to CUDA 12, without it from 13 on; cuDNN is no component."""
    assert compat.toolkit_component("nvidia-cublas-cu12", 12) == "cublas"
    assert compat.toolkit_component("nvidia-cuda-runtime", 13) == "cudart"
    assert compat.toolkit_component("nvidia-cublas", 12) is None
    assert compat.toolkit_component("nvidia-cublas-cu13", 13) is None
    assert compat.toolkit_component("nvidia-cudnn-cu12", 12) is None


def test_source_packages() -> None:
    """TensorRT is refused with advice; its bindings, which have wheels, are not."""
    assert "[[index]]" in (compat.sdist_only("tensorrt-cu12") or "")
    assert compat.sdist_only("tensorrt-cu12-bindings") is None
    assert compat.sdist_only("numpy") is None


# Advisories

RECORDED = {
    "component-minor": (["13.1.0.3", "13.10.0.20"], []),
    "ctk-12.5.1": (["12.5.1"], ["12.5.0", "12.6.0"]),
    "cudnn-9.11-volta": (["9.11.0.98", "9.28.0.42"], ["9.10.2.21", "8.9.7.29"]),
    "ort-1.23.0-blackwell": (["1.23.0"], ["1.23.2", "1.22.0"]),
    "ort-1.27.0-extra": (["1.27.0"], ["1.26.0", "1.28.0"]),
    "ort-1.27.0-import": (["1.27.0"], ["1.26.0", "1.28.0"]),
    "ort-1.29-no-b200": (["1.29.0", "1.30.0", "1.31.1"], ["1.28.0", "1.32.0"]),
    "ort-vanished-1.16": (["1.16.1", "1.16.2"], ["1.16.0", "1.16.3"]),
    "ort-vanished-1.20": (["1.20.1"], ["1.20.0", "1.20.2"]),
    "providers-list": (["1.26.0", "1.31.1"], []),
    "tf-classifier": (["2.15.1", "2.21.0"], []),
    "two-cuda-majors": (["2.10.0", "2.10.0+cu128"], ["2.9.1", "2.11.0"]),
}
"""Advisory -> releases that it is about, and some that it is not."""


@pytest.mark.parametrize("advisory", compat.all_advisories(), ids=lambda advisory: advisory.id)
def test_advisories_match_recorded_releases(advisory: compat.Advisory) -> None:
    """Each says of which releases it is, and of no others."""
    affected, others = RECORDED[advisory.id]
    for version in affected:
        assert advisory in compat.advisories(advisory.distribution, version)
    for version in others:
        assert advisory not in compat.advisories(advisory.distribution, version)
    assert not advisory.beside or Requirement(advisory.beside).name != advisory.distribution


def test_every_advisory_is_recorded() -> None:
    """The list above has each one, in the order of the table."""
    assert list(RECORDED) == [advisory.id for advisory in compat.all_advisories()]


def test_advisories_of_others() -> None:
    """Nothing is said of what is not in the table."""
    assert compat.advisories("numpy", "2.0.0") == ()


# The table as a whole


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_source_and_date(name: str) -> None:
    """Each block says where it comes from and when that was read; a row that says so itself says it well."""
    body = data.table("compat")[name]
    for one in (body, *body["rows"]):
        assert one is not body or {"about", "source", "date", "rows"} <= set(one)
        assert one.get("source", "x").strip()
        assert isinstance(one.get("date", body["date"]), date)
    assert set(body) <= {"about", "source", "date", "derivable", "rows"}
    assert body["rows"]


ORDER = {
    "driver-floors": "cuda", "opaque-libraries": "library", "driver-sonames": "soname", "advisories": "id",
    "always-loaded": "distribution", "frameworks": "distribution", "sdist-only": "distribution",
    "optional-sonames": "distribution", "toolkit-components": "component",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), ORDER.items())
def test_rows_are_sorted(name: str, key: str) -> None:
    """By their first column, each once."""
    values = [row[key] for row in compat.rows(name)]
    assert sorted(set(values)) == values


def test_lists_are_sorted() -> None:
    """Sonames and names within a row, each once; a soname's number by its value."""
    for table in compat.tables():
        for row in table.rows:
            for key in ("sonames", "names", "libraries", "cuda"):
                value = row.get(key)
                if isinstance(value, list):
                    assert sorted(set(value), key=in_order) == value, (table.name, value)


def in_order(value: object) -> tuple[str, int]:
    """`libx.so.10` after `libx.so.8`."""
    text, _, number = str(value).rpartition(".so.")
    return (text, int(number)) if text and number.isdigit() else (str(value), 0)


def test_distributions_are_normalised() -> None:
    """Names are those of PEP 503, or patterns of such."""
    for table in compat.tables():
        for row in table.rows:
            name = row.get("distribution", "x").replace("?", "0")
            assert canonicalize_name(name) == name


def test_providers_are_named_after_their_cuda() -> None:
    """-cu11 and -cu12 end names up to CUDA 12; from 13 on only what is no component ends in -cu13."""
    for row in compat.rows("soname-providers"):
        name, major = row["distribution"], row["cuda"]
        suffixed = name.endswith(f"-cu{major}")
        component = compat.toolkit_component(name, major)
        assert suffixed if major <= 12 else suffixed is (component is None), name
        SpecifierSet(row["versions"])


def test_one_provider_of_each_soname() -> None:
    """For one CUDA major no library is in two distributions."""
    keys = [(row["cuda"], row["soname"]) for row in compat.rows("soname-providers")]
    assert sorted(set(keys)) == keys


def test_ranges_can_be_read() -> None:
    """Every range of releases is one of PEP 440."""
    for table in compat.tables():
        for row in table.rows:
            SpecifierSet(row.get("versions", ""))


def test_recorded_providers() -> None:
    """What was recorded of file lists the day before: one library of each kind for each major."""
    recorded = {
        11: {
            "libcublas.so.11": "nvidia-cublas-cu11",
            "libcudnn_ops_infer.so.8": "nvidia-cudnn-cu11",
            "libnvrtc.so.11.2": "nvidia-cuda-nvrtc-cu11",
        },
        12: {
            "libcusolver.so.11": "nvidia-cusolver-cu12",
            "libcusparse.so.12": "nvidia-cusparse-cu12",
            "libnccl.so.2": "nvidia-nccl-cu12",
            "libnvJitLink.so.12": "nvidia-nvjitlink-cu12",
        },
        13: {
            "libcusolver.so.12": "nvidia-cusolver",
            "libcusparse.so.12": "nvidia-cusparse",
            "libcusparseLt.so.0": "nvidia-cusparselt-cu13",
            "libnvshmem_host.so.3": "nvidia-nvshmem-cu13",
        },
    }
    for major, sonames in recorded.items():
        for soname, distribution in sonames.items():
            found = compat.provider_of_soname(soname, major)
            assert found is not None
            assert distribution == found.distribution
