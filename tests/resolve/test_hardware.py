"""Hardware in the solve: a small world of wheels with outlines and libraries, shaped after the real one.

The real index is asked in tests/e2e/test_gpu_lock.py; here each rule stands alone and can fail alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, partialmethod

import pytest

from nnenv.errors import NnenvError
from nnenv.resolve.hardware import CpuRules, CudaRules, GpuTarget, allowed_majors
from nnenv.resolve.hardware_explain import explained, with_other_targets
from nnenv.resolve.hardware_result import Findings, contradictions, gpu_lock, notices
from nnenv.resolve.python import ChosenWheel, PythonPolicy, resolve_wheels
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.resolve.python_target import PythonTarget
from nnenv.resolve.variants import Variants
from nnenv.spec.elf import ElfFacts
from nnenv.spec.gpu import GpuCode, WheelFile, WheelOutline
from tests.resolve.catalog import TextCatalog

TAG = "tag py3-none-manylinux_2_27_x86_64"
PINS_OF_TORCH = " | ".join(
    f"requires nvidia-{pin}" for pin in ("cublas-cu12==12.4.5.8", "cuda-runtime-cu12==12.4.127", "cudnn-cu12==9.1.0.70")
)
WHEELS = f"""
onnxruntime 1.26.0
onnxruntime-gpu 1.26.0 | {TAG}
onnxruntime-gpu 1.28.0 | {TAG}
onnxruntime-gpu 1.31.1 | {TAG}
asks-for-the-cpu-name 1 | requires onnxruntime>=1.20
torch 2.6.0 | {TAG} | {PINS_OF_TORCH}
torch 2.15.0 | {TAG} | requires cuda-toolkit[cublas]==13.2.2 | requires nvidia-cudnn-cu13==9.26.0.51
cuda-toolkit 12.4.1 | requires nvidia-cublas-cu12==12.4.5.8.*; extra == 'cublas'
cuda-toolkit 12.8.1 | requires nvidia-cublas-cu12==12.8.4.1.*; extra == 'cublas'
cuda-toolkit 12.9.1 | requires nvidia-cublas-cu12==12.9.1.4.*; extra == 'cublas'
cuda-toolkit 13.2.2 | requires nvidia-cublas==13.4.0.1.*; extra == 'cublas'
nvidia-cublas-cu12 12.4.5.8 | {TAG}
nvidia-cublas-cu12 12.8.4.1 | {TAG}
nvidia-cublas-cu12 12.9.1.4 | {TAG}
nvidia-cublas 13.4.0.1 | {TAG}
nvidia-cudnn-cu12 9.1.0.70 | {TAG}
nvidia-cudnn-cu12 9.10.2.21 | {TAG}
nvidia-cudnn-cu12 9.28.0.42 | {TAG}
nvidia-cudnn-cu13 9.26.0.51 | {TAG}
nvidia-cuda-nvrtc 13.2.1 | {TAG}
nvidia-cuda-nvrtc-cu12 12.9.86 | {TAG}
nvidia-cufft 12.2.0 | {TAG}
nvidia-cuda-runtime 13.2.1 | {TAG}
nvidia-cuda-runtime-cu12 12.4.127 | {TAG}
nvidia-cuda-runtime-cu12 12.9.79 | {TAG}
"""

Code = Mapping[str, tuple[str, GpuCode]]
ALL = GpuCode(sass=("70", "75", "80", "90"), ptx=(("90", "8.7"),))
CODE: Code = {
    "onnxruntime-gpu 1.26.0": ("libonnxruntime_providers_cuda.so", ALL),
    "onnxruntime-gpu 1.28.0": ("libonnxruntime_providers_cuda.so", GpuCode(sass=("75", "80", "90", "100"))),
    "onnxruntime-gpu 1.31.1": ("libonnxruntime_providers_cuda.so", GpuCode(sass=("75", "80", "90", "120"))),
    "nvidia-cudnn-cu12 9.28.0.42": ("libcudnn_ops.so.9", GpuCode(sass=("75", "80", "90"), ptx=(("90", "8.7"),))),
    "nvidia-cudnn-cu12 9.10.2.21": ("libcudnn_ops.so.9", ALL),
}
OUTLINES = {
    "onnxruntime-gpu 1.26.0": ("12.8", ("libcublas.so.12", "libcudart.so.12", "libcudnn.so.9")),
    "onnxruntime-gpu 1.28.0": ("13.0", ("libcublas.so.13", "libcuda.so.1", "libcudart.so.13")),
    "onnxruntime-gpu 1.31.1": ("13.0", ("libcublas.so.13", "libcuda.so.1", "libcudart.so.13")),
    "torch 2.6.0": ("12.4", ()),
    "torch 2.15.0": ("13.2", ()),
}
SONAMES = {
    "nvidia-cublas-cu12": "libcublas.so.12",
    "nvidia-cublas": "libcublas.so.13",
    "nvidia-cuda-runtime-cu12": "libcudart.so.12",
    "nvidia-cudnn-cu12": "libcudnn.so.9",
    "nvidia-cudnn-cu13": "libcudnn.so.9",
}
NEW_LAYOUT = {"nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cufft"}
PYTHON = PythonTarget(name="gpu", python="3.11.2", machine="x86_64", glibc="2.36")


@dataclass
class World:
    """What the wheels of the world hold; satisfies `Knowledge`."""

    asked: list[str] = field(default_factory=list)
    """Wheels that were read whole."""

    def outline(self, wheel: WheelRecord) -> WheelOutline:
        """As a range read would give it."""
        cuda, needed = OUTLINES.get(f"{wheel.project} {wheel.version}", ("", ()))
        folder = "nvidia/cu13/lib" if wheel.project in NEW_LAYOUT else "x"
        return WheelOutline(
            files=(WheelFile(path=f"{folder}/a.so.1", size=1, crc32=1),),
            cuda=cuda,
            needed=(("x/libonnxruntime_providers_cuda.so", needed),) if needed else (),
        )

    def libraries(self, wheel: WheelRecord) -> Sequence[ElfFacts]:
        """As the whole wheel would give them."""
        self.asked.append(f"{wheel.project} {wheel.version}")
        return libraries(wheel.project, wheel.version)


def libraries(project: str, version: str, *, glibc: str = "2.27") -> list[ElfFacts]:
    """The one library of a wheel."""
    name, code = CODE.get(f"{project} {version}", ("libx.so", GpuCode()))
    return [
        ElfFacts(
            path=f"x/{name}",
            machine="x86_64",
            soname=SONAMES.get(project, name),
            needed=OUTLINES.get(f"{project} {version}", ("", ()))[1],
            runpath=(),
            version_needs=(("libc.so.6", f"GLIBC_{glibc}"),),
            version_definitions=(),
            gpu=code,
        )
    ]


def solve(
    requirements: Sequence[str], target: GpuTarget, *, named: Sequence[str] = (), coherent: bool = True
) -> tuple[ChosenWheel, ...]:
    """The wheels of the world for a target."""
    rules = CudaRules(target, Variants(named), World(), refused={}, missing={}, coherent=coherent)
    return resolve_wheels(requirements, TextCatalog(WHEELS), PYTHON, PythonPolicy(), pins={}, rules=rules)


def chosen(requirements: Sequence[str], **target: object) -> dict[str, str]:
    """Distribution -> version."""
    wheels = solve(requirements, GpuTarget(name="gpu", machine="x86_64", **target))  # type: ignore[arg-type]
    return {wheel.record.project: wheel.version for wheel in wheels}


def refused(requirements: Sequence[str], **target: object) -> NnenvError:
    """The explained refusal."""
    gpu = GpuTarget(name="gpu", machine="x86_64", **target)  # type: ignore[arg-type]
    with pytest.raises(NnenvError) as caught:
        solve(requirements, gpu)
    return explained(caught.value, requirements, gpu, partial(solve, coherent=False), lambda text: f"line of {text}")


def test_one_name_is_another_build_on_each_cuda() -> None:
    """With what its library needs and its metadata does not say, of one toolkit not older than its own."""
    assert chosen(["onnxruntime>=1.20"], cuda="==12.*") == {
        "cuda-toolkit": "12.9.1",
        "nvidia-cublas-cu12": "12.9.1.4",
        "nvidia-cudnn-cu12": "9.28.0.42",
        "onnxruntime-gpu": "1.26.0",
    }
    thirteen = chosen(["onnxruntime>=1.20"], cuda="==13.*")
    assert (thirteen["onnxruntime-gpu"], thirteen["nvidia-cublas"]) == ("1.31.1", "13.4.0.1")
    assert thirteen["nvidia-cudnn-cu13"] == "9.26.0.51"  # loaded by name: no DT_NEEDED says so


def test_a_dependency_that_asks_for_the_cpu_name_gets_the_right_build() -> None:
    """The name is logical wherever it stands."""
    assert "onnxruntime" not in chosen(["asks-for-the-cpu-name"], cuda="==12.*")
    assert chosen(["asks-for-the-cpu-name"], cuda="==12.*")["onnxruntime-gpu"] == "1.26.0"


def test_the_toolkit_follows_the_pins_of_a_framework() -> None:
    """torch pins cuBLAS of 12.4.1, and then everything is of 12.4.1."""
    found = chosen(["torch==2.6.0"], cuda="==12.*")
    assert (found["nvidia-cublas-cu12"], found["nvidia-cudnn-cu12"]) == ("12.4.5.8", "9.1.0.70")


def test_the_newest_major_that_the_driver_runs() -> None:
    """A target that leaves CUDA open."""
    assert chosen(["onnxruntime"], capabilities=("8.0",))["onnxruntime-gpu"] == "1.31.1"
    assert chosen(["onnxruntime"], driver="550")["onnxruntime-gpu"] == "1.26.0"


def test_a_version_without_code_for_the_gpu_is_gone_around() -> None:
    """1.31.1 has nothing for 10.0, 1.28.0 has; and cuDNN 9.28 nothing for 7.0."""
    assert chosen(["onnxruntime"], cuda="==13.*", capabilities=("10.0",))["onnxruntime-gpu"] == "1.28.0"
    assert chosen(["onnxruntime"], cuda="==12.*", capabilities=("7.0",))["nvidia-cudnn-cu12"] == "9.10.2.21"


def test_without_capabilities_no_wheel_is_read_whole() -> None:
    """Their outlines are enough."""
    world = World()
    target = GpuTarget(name="gpu", machine="x86_64", cuda="==12.*")
    rules = CudaRules(target, Variants(), world, refused={}, missing={})
    resolve_wheels(["onnxruntime"], TextCatalog(WHEELS), PYTHON, PythonPolicy(), pins={}, rules=rules)
    assert world.asked == []


def test_two_majors_are_explained_and_repaired() -> None:
    """Each package with its CUDA and its sign, and repairs that were solved."""
    error = refused(["torch==2.6.0", "onnxruntime>=1.27"], cuda=">=12")
    assert error.code == "cuda-major-conflict"
    assert error.what == "target gpu: two packages need different CUDA majors"
    assert any("torch 2.6.0" in line and "pins nvidia-cublas-cu12 12.4.5.8" in line for line in error.because)
    assert any("onnxruntime-gpu 1.31.1" in line and "CUDA 13" in line for line in error.because)
    assert len(error.fix) == 1  # onnxruntime 1.26.0 needs a toolkit of 12.8, and torch 2.6.0 pins one of 12.4
    assert "torch==2.15.0 instead of torch==2.6.0 (line of torch==2.6.0)" in error.fix[0]
    assert "driver >= 580.65.06" in error.fix[0]


def test_an_uncovered_gpu_is_explained_and_repaired() -> None:
    """With the library and what it has."""
    error = refused(["onnxruntime==1.31.1"], cuda="==13.*", capabilities=("10.0",))
    assert error.code == "compute-capability-uncovered"
    assert "libonnxruntime_providers_cuda.so has sm_75, sm_80, sm_90, sm_120" in "\n".join(error.because)
    assert error.fix[0].startswith("onnxruntime==1.28.0 instead of onnxruntime==1.31.1")


def test_ptx_needs_a_driver_that_knows_it() -> None:
    """12.0 has only PTX 8.7 in 1.26.0: CUDA 12.8, driver 570."""
    target = {"cuda": "==12.*", "capabilities": ("12.0",)}
    assert chosen(["onnxruntime"], driver="570", **target)["onnxruntime-gpu"] == "1.26.0"
    error = refused(["onnxruntime"], driver="550", **target)
    assert error.code == "driver-too-old"
    assert any("PTX 8.7" in line for line in error.because)
    assert any(line.startswith('driver = ">=') for line in error.fix)


def test_a_driver_that_runs_no_cuda_of_the_target() -> None:
    """Found before anything is searched, with the floor and another CUDA."""
    with pytest.raises(NnenvError) as caught:
        allowed_majors(GpuTarget(name="gpu", machine="x86_64", cuda="==12.*", driver="470"))
    assert caught.value.code == "driver-too-old"
    assert "525.60.13" in caught.value.what
    repaired = with_other_targets(
        caught.value,
        ["onnxruntime"],
        GpuTarget(name="gpu", machine="x86_64", cuda="==13.*", driver="550"),
        partial(solve, coherent=False),
    )
    assert repaired.code == "driver-too-old"
    assert [(one.key[-1], one.new) for one in repaired.repairs] == [("driver", '">=580.65.06"'), ("cuda", '"12"')]
    with pytest.raises(NnenvError) as caught:
        allowed_majors(GpuTarget(name="gpu", machine="x86_64", cuda="==99.*"))
    assert caught.value.code == "cuda-unknown"


def test_ranges_of_the_target_hold() -> None:
    """Toolkit and cuDNN outside of what the target asks for are no candidates."""
    assert chosen(["onnxruntime"], cuda="==12.8.*")["cuda-toolkit"] == "12.8.1"
    assert chosen(["onnxruntime"], cuda="==12.*", cudnn="<9.20")["nvidia-cudnn-cu12"] == "9.10.2.21"
    assert refused(["torch==2.6.0"], cuda="==12.*", cudnn=">=9.10").code == "cudnn-outside-range"


def test_a_cpu_target_contains_no_part_of_cuda() -> None:
    """torch of this index brings it: refused, with advice."""
    rules = CpuRules(Variants(), {})
    policy = PythonPolicy()
    with pytest.raises(NnenvError) as caught:
        resolve_wheels(["torch"], TextCatalog(WHEELS), PYTHON, policy, pins={}, rules=rules)
    assert caught.value.code == "cuda-on-cpu-target"
    assert any("[[index]]" in line for line in caught.value.fix)
    wheels = resolve_wheels(["onnxruntime"], TextCatalog(WHEELS), PYTHON, policy, pins={}, rules=rules)
    assert [wheel.record.project for wheel in wheels] == ["onnxruntime"]


def test_a_library_that_nobody_holds_sends_the_search_back() -> None:
    """The outline did not say it, the whole wheel does."""
    wheels = solve(["torch==2.6.0"], GpuTarget(name="gpu", machine="x86_64", cuda="==12.*"))
    facts = {wheel.record.project: libraries(wheel.record.project, wheel.version) for wheel in wheels}
    (library,) = facts["torch"]
    target = GpuTarget(name="gpu", machine="x86_64")
    assert not contradictions(wheels, facts, PYTHON, target).beyond(Findings())
    facts["torch"] = [replace(library, needed=("libcufft.so.11", "libcuda.so.1", "libz.so.1"))]
    found = contradictions(wheels, facts, PYTHON, target)
    assert [demand.name for demand in found.missing["torch"]] == ["nvidia-cufft-cu12"]
    assert found.beyond(Findings())
    assert not found.beyond(Findings().with_more(found))


def test_a_tag_that_lies_about_glibc_is_found_out() -> None:
    """The libraries' symbols say what they need."""
    wheels = solve(["torch==2.6.0"], GpuTarget(name="gpu", machine="x86_64", cuda="==12.*"))
    facts = {w.record.project: libraries(w.record.project, w.version, glibc="2.38") for w in wheels}
    found = contradictions(wheels, facts, PYTHON, None)
    assert {objection.code for objection in found.refused.values()} == {"glibc-too-new"}
    assert len(found.refused) == len(wheels)


def test_what_the_lock_says_of_the_hardware() -> None:
    """Toolkit, cuDNN, driver floor with its reason, and how each capability is covered."""
    target = GpuTarget(name="gpu", machine="x86_64", cuda="==12.*", capabilities=("8.0", "12.0"))
    wheels = solve(["onnxruntime"], target)
    facts = {wheel.record.project: libraries(wheel.record.project, wheel.version) for wheel in wheels}
    lock = gpu_lock(target, {wheel.record.project: wheel.version for wheel in wheels}, facts)
    assert (lock.cuda, lock.cudnn, lock.driver) == ("12.9.1", "9.28.0.42", "570")
    assert "only PTX 8.7 for compute capability 12.0" in lock.driver_reason
    assert lock.capabilities == (("8.0", "sass"), ("12.0", "ptx 8.7"))


def test_ptx_that_no_known_driver_translates() -> None:
    """Newer than the table: a promise about the hosts cannot be held against it, so it is refused."""
    code = {"onnxruntime-gpu 1.31.1": ("libonnxruntime_providers_cuda.so", GpuCode(ptx=(("75", "99.0"),)))}
    target = GpuTarget(name="gpu", machine="x86_64", cuda="==13.*", capabilities=("9.0",), driver="600")
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODE, "onnxruntime-gpu 1.31.1", code["onnxruntime-gpu 1.31.1"])  # type: ignore[arg-type]
        rules = CudaRules(target, Variants(), world, refused={}, missing={})
        catalog = TextCatalog(WHEELS)
        (record,) = catalog.project("onnxruntime-gpu").wheels_of("1.31.1")
        judgement = rules.judge(record, catalog.metadata(record), [])
    assert judgement.objection is not None
    assert judgement.objection.code == "driver-too-old"
    assert "does not know" in judgement.objection.why


def test_a_library_built_with_a_newer_compiler() -> None:
    """GLIBCXX and CXXABI against the GCC of the target's libstdc++; one that brings its own may need any."""
    wheels = solve(["torch==2.6.0"], GpuTarget(name="gpu", machine="x86_64", cuda="==12.*"))
    (plain,) = libraries("torch", "2.6.0")
    facts: dict[str, list[ElfFacts]] = {wheel.record.project: [] for wheel in wheels}
    target = replace(PYTHON, libstdcxx="12.2.0")
    for version, newest in (("GLIBCXX_3.4.31", "3.4.30"), ("CXXABI_1.3.14", "1.3.13")):
        facts["torch"] = [replace(plain, version_needs=(("libstdc++.so.6", version),))]
        (objection,) = contradictions(wheels, facts, target, None).refused.values()
        assert objection.code == "libstdcxx-too-new"
        assert objection.why.endswith(f"(GCC 12.2.0) ends at {newest}")
        assert objection.evidence == (f"x/libx.so needs {version}",)
        assert not contradictions(wheels, facts, replace(PYTHON, libstdcxx="14.2.0"), None).refused
        assert not contradictions(wheels, facts, PYTHON, None).refused  # nobody knows the compiler
    facts["torch"].append(replace(plain, soname="libstdc++.so.6"))
    assert not contradictions(wheels, facts, target, None).refused
    facts["torch"] = [replace(plain, version_needs=(("libstdc++.so.6", "GLIBCXX_3.4.30"), ("x", "CXXABI_TM_1")))]
    assert not contradictions(wheels, facts, target, None).refused


def test_names_of_placeholders_are_taken_for_the_real_ones() -> None:
    """From CUDA 13 on nothing but placeholders has the major in its name; cuDNN still has."""
    rules = CudaRules(GpuTarget(name="gpu", machine="x86_64"), Variants(), World(), refused={}, missing={})
    assert rules.renamed("nvidia-cublas-cu13", ()) == ("nvidia-cublas", ())
    assert rules.renamed("nvidia-cublas-cu12", ()) == ("nvidia-cublas-cu12", ())
    assert rules.renamed("nvidia-cudnn-cu13", ()) == ("nvidia-cudnn-cu13", ())


def judged(project: str, version: str, *required: tuple[str, str]) -> dict[str, str]:
    """Demand -> range that the rules add to a wheel of the world."""
    rules = CudaRules(GpuTarget(name="gpu", machine="x86_64"), Variants(), World(), refused={}, missing={})
    catalog = TextCatalog(WHEELS)
    (record,) = catalog.project(project).wheels_of(version)
    demands = rules.judge(record, catalog.metadata(record), required).demands
    return {f"{demand.name}[{','.join(demand.extras)}]": demand.specifier for demand in demands}


def test_a_part_that_needs_another_is_of_its_release() -> None:
    """cuFFT beside nvJitLink: both by the toolkit; cuFFT alone by nobody."""
    beside = judged("nvidia-cublas-cu12", "12.4.5.8", ("nvidia-nvjitlink-cu12", ""))
    assert {"cuda-toolkit[cublas]", "cuda-toolkit[nvjitlink]"} <= beside.keys()
    assert not [name for name in judged("nvidia-cublas-cu12", "12.4.5.8") if name.startswith("cuda-toolkit")]


def stating_cudnn(
    world: World, outline: Callable[[World, WheelRecord], WheelOutline], wheel: WheelRecord
) -> WheelOutline:
    """The outline of a wheel that states cuDNN 9.8 as well."""
    return replace(outline(world, wheel), cudnn="9.8")


def test_cudnn_is_not_older_than_what_a_framework_was_built_with() -> None:
    """Where it states that, and leaves cuDNN open."""
    stated = ("12.4", ("libcudnn.so.9",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTLINES, "torch 2.6.0", stated)
        assert ">=9.8" not in judged("torch", "2.6.0")["nvidia-cudnn-cu12[]"].split(",")
        patch.setattr(World, "outline", partialmethod(stating_cudnn, World.outline))
        assert ">=9.8" in judged("torch", "2.6.0")["nvidia-cudnn-cu12[]"].split(",")
        open_range = judged("torch", "2.6.0", ("nvidia-cudnn-cu12", ">=9,<10"))
        assert open_range["nvidia-cudnn-cu12[]"] == ">=9.8"
        assert "nvidia-cudnn-cu12[]" not in judged("torch", "2.6.0", ("nvidia-cudnn-cu12", "==9.1.0.70"))


def test_what_whoever_locks_should_know() -> None:
    """What is added although nobody asks for it, placeholders, variants, and known trouble."""
    target = GpuTarget(name="gpu", machine="x86_64", cuda="==12.*")
    wheels = solve(["onnxruntime"], target)
    assert notices(wheels, target) == (
        "onnxruntime-gpu 1.26.0 needs nvidia-cublas-cu12, nvidia-cuda-nvrtc-cu12, nvidia-cuda-runtime-cu12,"
        " nvidia-cudnn-cu12 and does not"
        " ask for it: added",
    )
    names = ("nvidia-cublas-cu12; extra == 'cuda'", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12")
    asking = tuple(replace(wheel, requires=(*names, "nvidia-cudnn-cu12")) for wheel in wheels)
    assert notices(asking, target) == ()
    assert notices(wheels, None) == ()
    (toolkit,) = (wheel for wheel in wheels if wheel.record.project == "cuda-toolkit")
    assert "pins the components of 12.5.0" in notices([replace(toolkit, version="12.5.1")], None)[0]
    assert "2 wheels of variants were skipped" in notices([replace(toolkit, unread=2)], None)[0]


def test_an_open_major_tries_the_builds_for_older_ones() -> None:
    """`jax` means one extra for each CUDA; beside a framework of CUDA 12 it is that of 12."""
    rules = CudaRules(GpuTarget(name="gpu", machine="x86_64"), Variants(), World(), refused={}, missing={})
    assert not rules.has_guessed
    assert rules.renamed("jax", ()) == ("jax", ("cuda13",))
    assert rules.has_guessed
    named = CudaRules(GpuTarget(name="gpu", machine="x86_64"), Variants(), World(), refused={}, missing={})
    named.renamed("onnxruntime", ())
    assert not named.has_guessed


def test_two_packages_are_moved_where_one_does_not_help() -> None:
    """Each of old and left pins another cuDNN, and only their newest agree."""
    world = "\n".join(
        f"{name} {version} | requires nvidia-cudnn-cu12=={cudnn}"
        for name, version, cudnn in (
            ("left", 1, "9.1.0.70"), ("right", 1, "9.10.2.21"), ("left", 2, "9.28.0.42"), ("right", 2, "9.28.0.42"),
        )
    )  # fmt: skip

    def solved(requirements: Sequence[str], target: GpuTarget) -> tuple[ChosenWheel, ...]:
        rules = CudaRules(target, Variants(), World(), refused={}, missing={})
        catalog = TextCatalog(WHEELS + world)
        return resolve_wheels(requirements, catalog, PYTHON, PythonPolicy(), pins={}, rules=rules)

    target = GpuTarget(name="gpu", machine="x86_64", cuda="==12.*")
    clash = ["left==1", "right==1"]
    with pytest.raises(NnenvError) as caught:
        solved(clash, target)
    error = explained(caught.value, clash, target, solved, lambda text: "")
    (repair,) = error.repairs
    assert ((repair.old, repair.new), *repair.more) == (("left==1", "left==2"), ("right==1", "right==2"))
    assert repair.what.startswith("left==2 instead of left==1 and right==2 instead of right==1")


def test_a_release_without_its_build_for_the_accelerator_is_gone_around() -> None:
    """jax got its extra for CUDA 13 with 0.7.2: an older one would silently run on the CPU."""
    catalog = TextCatalog(
        "jax 0.6.2 | extra cuda12\njax 0.7.2 | extra cuda12 | extra cuda13\nneeds-old 1 | requires jax<0.7"
    )

    def found(requirements: Sequence[str], cuda: str) -> dict[str, str]:
        target = GpuTarget(name="gpu", machine="x86_64", cuda=cuda)
        rules = CudaRules(target, Variants(), World(), refused={}, missing={})
        wheels = resolve_wheels(requirements, catalog, PYTHON, PythonPolicy(), pins={}, rules=rules)
        return {wheel.record.project: wheel.version for wheel in wheels}

    assert found(["jax"], "==13.*") == {"jax": "0.7.2"}
    assert found(["needs-old"], "==12.*")["jax"] == "0.6.2"
    with pytest.raises(NnenvError) as caught:
        found(["jax<0.7"], "==13.*")
    assert "jax 0.6.2 has no extra cuda13, by which it runs on the accelerator" in caught.value.because
