"""What an image for an accelerator says to the linker and to NVIDIA's container runtime."""

from __future__ import annotations

import pytest

from nnenv.image.accelerator import linked_libraries, linker_configuration, runtime_environment

DRIVER = frozenset({"libcuda.so.1"})


def test_libraries_are_found_by_name() -> None:
    """All with a name of their own, by path."""
    sonames = {"nvidia/cufft/lib/b.so": "libcufft.so.11", "nvidia/cublas/lib/a.so": "libcublas.so.12"}
    assert list(linked_libraries(sonames, DRIVER).items()) == sorted(sonames.items())


def test_what_has_no_name_is_not_found_by_name() -> None:
    """A plugin without a soname, which is opened by its path."""
    assert linked_libraries({"nvidia/x/lib/plugin.so": ""}, DRIVER) == {}


def test_stubs_of_the_driver_are_not_found() -> None:
    """Their whole directory stays out: ldconfig would find the stub there when the runtime calls it."""
    sonames = {
        "nvidia/x/lib/stubs/libcuda.so": "libcuda.so.1",
        "nvidia/x/lib/stubs/libother.so": "libother.so.1",
        "nvidia/x/lib/libx.so.1": "libx.so.1",
    }
    found = linked_libraries(sonames, DRIVER)
    assert list(found) == ["nvidia/x/lib/libx.so.1"]
    assert linker_configuration(found) == b"/nvidia/x/lib\n"


def test_each_directory_is_named_once() -> None:
    """Sorted, absolute, one a line."""
    assert linker_configuration(["b/lib/y.so", "a/lib/x.so", "b/lib/x.so"]) == b"/a/lib\n/b/lib\n"


@pytest.mark.parametrize(
    ("cuda", "capabilities", "expected"),
    [
        ("12.0", (), {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_REQUIRE_CUDA": "cuda>=12.0"}),
        ("", ("compute",), {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}),
        ("", ("video", "video", "utility"), {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video"}),
    ],
)
def test_the_runtimes_variables(cuda: str, capabilities: tuple[str, ...], expected: dict[str, str]) -> None:
    """The driver's floor and capabilities; GPUs always."""
    assert runtime_environment(cuda, capabilities) == {**expected, "NVIDIA_VISIBLE_DEVICES": "all"}
