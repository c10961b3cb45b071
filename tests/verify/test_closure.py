"""The static closure verdict over small made-up images."""

from __future__ import annotations

from nnenv.spec.elf import ElfFacts
from nnenv.verify.closure import Accelerated, ClosureReport, ImageElf, check_closure, default_directories

LIB = "usr/lib/x86_64-linux-gnu"
SITE = "opt/nnenv/lib/python3.11/site-packages"


def elf(
    path: str,
    *needed: str,
    owner: str = "some 1",
    soname: str = "",
    machine: str = "x86_64",
    runpath: tuple[str, ...] = (),
    needs: tuple[tuple[str, str], ...] = (),
    defines: tuple[str, ...] = (),
) -> ImageElf:
    """A library at its place."""
    facts = ElfFacts(
        path=path,
        machine=machine,
        soname=soname,
        needed=needed,
        runpath=runpath,
        version_needs=needs,
        version_definitions=defines,
    )
    return ImageElf(path=path, owner=owner, facts=facts)


LIBC = elf(f"{LIB}/libc.so.6", soname="libc.so.6", owner="libc6 2.36", defines=("GLIBC_2.2.5", "GLIBC_2.36"))


def check(*elves: ImageElf, links: dict[str, str] | None = None, directories: tuple[str, ...] = ()) -> ClosureReport:
    """The verdict."""
    return check_closure(elves, links or {}, machine="x86_64", directories=directories)


def test_a_closed_image() -> None:
    """Default directories, a symbolic link, and $ORIGIN in both spellings lead to every library."""
    report = check(
        LIBC,
        elf(f"{LIB}/libgomp.so.1.0.0", "libc.so.6", soname="libgomp.so.1"),
        elf(f"{SITE}/pkg/core.so", "libgomp.so.1", "libown.so", runpath=("$ORIGIN/../pkg.libs",)),
        elf(f"{SITE}/pkg/other.so", "libown.so", runpath=("${ORIGIN}/../pkg.libs",)),
        elf(f"{SITE}/pkg.libs/libown.so"),
        links={f"{LIB}/libgomp.so.1": "libgomp.so.1.0.0"},
    )
    assert report == ClosureReport(files=5, foreign=(), missing=(), by_load_order=())
    assert report.passed


def test_a_missing_library_is_named_with_who_needs_it() -> None:
    """One sentence for each library and file that needs it."""
    report = check(LIBC, elf(f"{SITE}/pkg/core.so", "libgone.so.1", "libc.so.6", owner="pkg 2"))
    assert report.missing == (
        f"libgone.so.1 is needed by {SITE}/pkg/core.so (pkg 2) and nothing in the image provides it",
    )
    assert not report.passed


def test_an_os_library_outside_of_the_search_path_is_missing() -> None:
    """ld.so does not look everywhere; a directory of ld.so.conf makes the difference."""
    library = elf(f"{LIB}/blas/libblas.so.3", soname="libblas.so.3")
    user = elf(f"{LIB}/liblapack.so.3", "libblas.so.3")
    assert not check(library, user).passed
    assert check(library, user, directories=(f"{LIB}/blas",)).passed


def test_a_library_of_another_wheel_counts_with_a_note() -> None:
    """Found by file name or soname below /opt, because Python loads it first."""
    torch = elf(f"{SITE}/torch/lib/libtorch-abc.so", soname="libtorch.so")
    report = check(torch, elf(f"{SITE}/ext/ext.so", "libtorch.so"))
    assert report.passed
    assert report.by_load_order == (
        f"libtorch.so for {SITE}/ext/ext.so comes from {torch.path}, which must be loaded first",
    )


def test_a_symbol_version_that_the_provider_lacks() -> None:
    """A wheel built for a newer glibc than the image's; a provider without versions is not held to any."""
    needs = (("libc.so.6", "GLIBC_2.2.5"), ("libc.so.6", "GLIBC_2.39"))
    report = check(LIBC, elf(f"{SITE}/pkg/core.so", "libc.so.6", owner="pkg 2", needs=needs))
    assert report.missing == (
        f"GLIBC_2.39 of libc.so.6 is needed by {SITE}/pkg/core.so (pkg 2); {LIBC.path} (libc6 2.36) lacks it",
    )
    assert check(elf(LIBC.path), elf(f"{SITE}/pkg/core.so", "libc.so.6", needs=needs)).passed


def test_an_artifact_for_another_machine_fails() -> None:
    """A wheel of which no library is for the target: mislabelled."""
    report = check(LIBC, elf(f"{SITE}/pkg/core.so", "libgone.so", machine="aarch64", owner="pkg 2"))
    assert report.foreign == (f"{SITE}/pkg/core.so",)
    assert report.files == 1
    assert not report.passed


def test_a_library_for_another_machine_beside_one_for_ours_is_let_be() -> None:
    """debugpy and others bring one for each machine; it provides nothing here and needs nothing."""
    ours = elf(f"{SITE}/dbg/attach_amd64.so", owner="dbg 1")
    theirs = elf(f"{SITE}/dbg/attach_x86.so", "libgone.so", owner="dbg 1", machine="em-3")
    assert check(ours, theirs).passed
    user = elf(f"{SITE}/dbg/user.so", "attach_x86.so", owner="dbg 1")
    assert not check(ours, theirs, user).passed


def test_links_in_circles_end() -> None:
    """A library that is only a circle of links is missing; an absolute link is one inside the image."""
    circle = {f"{LIB}/liba.so": "libb.so", f"{LIB}/libb.so": "liba.so", f"{LIB}/libc2.so": f"/{LIB}/libc.so.6"}
    assert not check(elf(f"{SITE}/x.so", "liba.so"), links=circle).passed
    assert check(LIBC, elf(f"{SITE}/x.so", "libc2.so"), links=circle).passed


def test_directories_of_both_machines() -> None:
    """Debian's multiarch names."""
    assert default_directories("aarch64")[0] == "usr/lib/aarch64-linux-gnu"
    assert default_directories("x86_64")[0] == LIB


CUBLAS = elf(f"{SITE}/nvidia/cublas/lib/libcublas.so.12", soname="libcublas.so.12", owner="nvidia-cublas-cu12 12.9")
PROVIDER = elf(f"{SITE}/ort/provider.so", "libcublas.so.12", "libcuda.so.1", "libnvinfer.so.10", owner="ort 1")
GPU = Accelerated(
    driver=frozenset({"libcuda.so.1"}),
    optional={"ort 1": frozenset({"libnvinfer.so.10"})},
    by_name=("libcublas.so.12",),
    own=frozenset({"libcublas.so.12"}),
)
CONFIGURED = (f"{SITE}/nvidia/cublas/lib",)


def accelerated(
    *elves: ImageElf, directories: tuple[str, ...] = CONFIGURED, expected: Accelerated = GPU
) -> ClosureReport:
    """The verdict on an image for an accelerator."""
    return check_closure(elves, {}, machine="x86_64", directories=directories, accelerated=expected)


def test_the_driver_and_optional_libraries_may_be_missing() -> None:
    """The host brings the one, and nothing has to bring the others."""
    assert accelerated(PROVIDER, CUBLAS).passed
    report = accelerated(PROVIDER, CUBLAS, expected=Accelerated(by_name=GPU.by_name, own=GPU.own))
    assert len(report.missing) == 2


def test_optional_is_meant_of_one_distribution() -> None:
    """What ONNX Runtime can do without, another library cannot."""
    other = elf(f"{SITE}/other.so", "libnvinfer.so.10", owner="other 1")
    assert [text for text in accelerated(other, CUBLAS).missing if "libnvinfer.so.10" in text]


def test_a_missing_cuda_library_is_found() -> None:
    """It is neither optional nor the driver's; and nothing can load it by name."""
    report = accelerated(PROVIDER)
    assert [text for text in report.missing if text.startswith("libcublas.so.12 is needed by")]
    assert [text for text in report.unreachable if "loaded by name" in text]


def test_the_linkers_configuration_is_dropped() -> None:
    """The library is in the image, and the linker does not look there: nobody may rely on who loads it first."""
    report = accelerated(PROVIDER, CUBLAS, directories=())
    assert not report.missing
    assert len(report.unreachable) == 2
    assert not report.passed


def test_a_library_of_the_driver_in_the_image() -> None:
    """A stub that the linker would find before the real one."""
    stub = elf(f"{LIB}/libcuda.so.1", soname="libcuda.so.1", owner="some-stub 1")
    report = accelerated(PROVIDER, CUBLAS, stub)
    assert [text for text in report.stray if "libcuda.so.1 belongs to the driver" in text]
    elsewhere = elf(f"{SITE}/stubs/libcuda.so.1", soname="libcuda.so.1", owner="some-stub 1")
    assert accelerated(PROVIDER, CUBLAS, elsewhere).passed
