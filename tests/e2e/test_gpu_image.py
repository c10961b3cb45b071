"""The real image for CUDA 12: ONNX Runtime and the wheels of CUDA that it needs, about 2 GB."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nnenv.adapters.here import HereFiles
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.sandbox import SandboxRunner, compose_root
from nnenv.adapters.store import Store
from nnenv.image.plan import plan_layers
from nnenv.spec.artifact import Artifact
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import artifact_order, digests_used
from nnenv.verify.evaluate import answer_of, evaluate, requests_for
from nnenv.verify.ladder import Verdict
from nnenv.verify.load_report import load_check
from nnenv.verify.protocols import Run
from nnenv.verify.report import Check
from nnenv.workflows.building import SELF_TEST
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session
from nnenv.workflows.verifying import closure_check, load_request
from nnenv.workflows.verifying_here import HereImage
from tests.e2e.world import Finished, User, users_environment

pytestmark = [pytest.mark.network, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
CONF = "etc/ld.so.conf.d/nnenv.conf"
TARGETS = """
[policy]
exclude-newer = "2026-11-20T00:00:00Z"

[targets.gpu-cuda12]
cuda = "12"
"""


@dataclass(frozen=True)
class Made:
    """An image as an OCI layout, and who made it."""

    user: User
    layout: Path
    built: Finished
    locked: bytes
    """The lock before the build."""

    def blob(self, digest: str) -> Path:
        """The blob of a digest."""
        return self.layout / "blobs" / digest.replace(":", "/")

    def manifest(self) -> Any:
        """The image's manifest."""
        index = json.loads((self.layout / "index.json").read_bytes())
        return json.loads(self.blob(index["manifests"][0]["digest"]).read_bytes())

    def config(self) -> Any:
        """The image's config."""
        return json.loads(self.blob(self.manifest()["config"]["digest"]).read_bytes())


def make(folder: Path, **variables: str) -> Made:
    """Lock and build in a folder, with a store of its own."""
    folder.mkdir()
    shutil.copytree(EXAMPLE, folder / "project")
    manifest = (folder / "project" / "model.toml").read_text()
    plain = manifest[: manifest.index("[[models.digits.adapt]]")]
    requires = manifest[manifest.index("[requires]") : manifest.index("[targets.")]
    (folder / "project" / "model.toml").write_text(plain + requires + TARGETS)
    environment = {**users_environment(), **variables}
    user = User(project=folder / "project", store=folder / "store", environment=environment)
    user.must("lock", timeout=900)
    locked = user.lock_path.read_bytes()
    built = user.must("build", "--output", f"dir:{folder / 'layout'}", timeout=1800)
    return Made(user=user, layout=folder / "layout", built=built, locked=locked)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The image, from nothing."""
    return make(tmp_path_factory.mktemp("gpu") / "first")


def test_twice_in_fresh_stores_gives_one_digest(image: Made, tmp_path: Path) -> None:
    """Another folder, store, time zone, language and hash seed."""
    again = make(tmp_path / "second", TZ="Pacific/Auckland", LANG="C", PYTHONHASHSEED="7")
    try:
        assert again.locked == image.locked
        assert again.manifest() == image.manifest()
        assert again.user.lock().targets[0].image == image.user.lock().targets[0].image
    finally:
        shutil.rmtree(tmp_path / "second")


def test_what_the_container_runtime_reads(image: Made) -> None:
    """Environment and label; no LD_LIBRARY_PATH."""
    config = image.config()["config"]
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert environment["NVIDIA_REQUIRE_CUDA"] == "cuda>=12.0"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "LD_LIBRARY_PATH" not in environment
    capabilities = config["Labels"]["io.nnenv.compute-capabilities"].split(",")
    assert {"8.6", "9.0"} < set(capabilities)
    assert "7.0" not in capabilities


def files_of(image: Made) -> Mapping[str, tarfile.TarInfo]:
    """Every path of every layer."""
    found = {}
    for layer in image.manifest()["layers"]:
        with tarfile.open(image.blob(layer["digest"]), "r:*") as tar:
            found.update({member.name: member for member in tar})
    return found


def test_what_is_in_it(image: Made) -> None:
    """CUDA's libraries, in directories that the linker's configuration and cache name; nothing to compile with."""
    paths = files_of(image)
    with tarfile.open(image.blob(image.manifest()["layers"][-1]["digest"])) as top:
        directories = top.extractfile(CONF).read().decode().split()  # type: ignore[union-attr]
        cache = top.extractfile("etc/ld.so.cache").read()  # type: ignore[union-attr]
    libraries = [path for path in paths if "/nvidia/" in path and ".so." in path]
    assert {f"/{path.rpartition('/')[0]}" for path in libraries} == set(directories)
    for path in libraries:
        assert f"/{path}".encode() + b"\0" in cache, path
    assert not [path for path in paths if "/nvidia/" in path and path.endswith((".h", ".hpp", ".a"))]
    assert "left out" in image.built.out


def verified(user: User, *arguments: str) -> Any:
    """The one report of `nnenv verify`, and the exit code."""
    finished = user.run("verify", "--runner", "sandbox", "--json", *arguments, timeout=900)
    assert "reports" in finished.json(), finished.all
    (report,) = finished.json()["reports"]
    return report, finished.code


def test_without_a_gpu_it_ends_model_valid(image: Made) -> None:
    """Everything up to the driver is proven, the accelerator is not, and exit code and text say so."""
    report, code = verified(image.user)
    verdicts = {name: check["verdict"] for name, check in report["checks"].items()}
    assert verdicts == {"closure": "passed", "load": "passed", "reference": "passed", "accelerator": "not-run"}
    assert report["status"] == "model-valid"
    assert code == 1
    assert "libcuda.so.1" in report["checks"]["closure"]["note"]
    assert "up to the driver" in report["checks"]["load"]["note"]
    assert "not proven" in report["checks"]["accelerator"]["note"]
    said = image.user.must("verify", "--runner", "sandbox", "--require", "model-valid", timeout=900).out
    assert "not proven" in said


def test_a_command_without_a_gpu_is_told_so(image: Made) -> None:
    """Nobody should believe that a slow program runs on a GPU."""
    line = ("run", "--runner", "sandbox", "--", "python3", "-c", "import onnxruntime; print('ready')")
    finished = image.user.must(*line, timeout=900)
    assert finished.out == "ready\n"
    assert "the command gets no GPU" in finished.err


def mutated(image: Made, folder: Path, **changed: Any) -> User:
    """The project with another target in its lock, well-formed as if nnenv had written it."""
    user = image.user.elsewhere(folder)
    lock = user.lock()
    artifacts = changed.pop("artifacts", ())
    target = replace(lock.targets[0], image=None, **changed)
    used = digests_used((target,), lock.models, lock.files)
    known = {one.sha256: one for one in (*lock.artifacts, *artifacts)}
    everything = tuple(sorted((known[sha256] for sha256 in used), key=artifact_order))
    user.lock_path.write_bytes(write_lock(replace(lock, targets=(target,), artifacts=everything)))
    return user


def wheel(image: Made, name: str) -> Artifact:
    """The locked wheel of a distribution."""
    lock = image.user.lock()
    return next(one for one in lock.wheels_of(lock.targets[0]) if one.name == name)


def from_index(image: Made, folder: Path, requirement: str, target: str) -> Artifact:
    """A wheel as it is locked where nothing but itself is required."""
    folder.mkdir()
    day = TARGETS.partition("[targets")[0]
    text = (
        f'[project]\nname = "x"\nversion = "1"\n[requires]\npackages = ["{requirement}"]\n{day}[targets.x]\n{target}\n'
    )
    (folder / "model.toml").write_text(text)
    user = User(project=folder, store=image.user.store, environment=image.user.environment)
    user.must("lock", timeout=900)
    name = requirement.partition("=")[0]
    return next(one for one in user.lock().wheels_of(user.lock().targets[0]) if one.name == name)


def codes(report: Any, check: str) -> set[str]:
    """Codes of what a check found."""
    return {finding["code"] for finding in report["checks"][check]["findings"]}


def test_cublas_removed_from_the_lock(image: Made, tmp_path: Path) -> None:
    """Its libraries are missing, statically and when the provider is opened."""
    gone = wheel(image, "nvidia-cublas-cu12").sha256
    kept = tuple(one for one in image.user.lock().targets[0].wheels if one != gone)
    report, code = verified(mutated(image, tmp_path / "project", wheels=kept), "--frozen")
    assert (report["status"], code) == ("assembled", 1)
    assert "soname-missing" in codes(report, "closure")
    assert "provider-library-missing" in codes(report, "load")


def test_the_cpu_variant_beside_the_other(image: Made, tmp_path: Path) -> None:
    """`onnxruntime` and `onnxruntime-gpu` own the same paths: there is no such image."""
    cpu = from_index(image, tmp_path / "cpu", "onnxruntime==1.26.0", "")
    wheels = tuple(sorted((*image.user.lock().targets[0].wheels, cpu.sha256)))
    user = mutated(image, tmp_path / "project", wheels=wheels, artifacts=(cpu,))
    errors = user.refused("verify", "--frozen", "--json", timeout=900).json()["errors"]
    assert {error["code"] for error in errors} == {"layer-collision"}


def test_another_minor_of_a_library(image: Made, tmp_path: Path) -> None:
    """cuFFT of CUDA 12.8 in the place of that of 12.9, though the locked toolkit has another."""
    other = from_index(image, tmp_path / "other", "nvidia-cufft-cu12==11.3.3.83", 'cuda = "12"')
    mine = wheel(image, "nvidia-cufft-cu12").sha256
    wheels = tuple(other.sha256 if one == mine else one for one in image.user.lock().targets[0].wheels)
    report, code = verified(mutated(image, tmp_path / "project", wheels=wheels, artifacts=(other,)), "--frozen")
    assert (report["status"], code) == ("assembled", 1)
    assert "toolkit-incoherent" in codes(report, "closure")


@pytest.fixture(scope="module")
def root(image: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as a folder, to change and to run; of files of its own."""
    folder = tmp_path_factory.mktemp("root")
    with session_of(image.user) as session:
        lock = session.lockfile()
        maker = LayerMaker(session, lock, lock.targets[0])
        trees = [maker.tree(maker.layer(plan)) for plan in plan_layers(lock, lock.targets[0])]
        compose_root(trees, folder / "root")
    return folder / "root"


@contextmanager
def session_of(user: User) -> Iterator[Session]:
    """nnenv's view of the user's project."""
    store = Store(user.store)
    try:
        yield Session(
            project=user.project,
            store=store,
            progress=SilentProgress(),
            environment={},
            home=user.project,
            offline=True,
        )
    finally:
        store.close()


def loaded(image: Made, root: Path) -> Check:
    """The load check of a root as it is now."""
    with session_of(image.user) as session:
        lock = session.lockfile()
        request = load_request(LayerMaker(session, lock, lock.targets[0]))
    runner = SandboxRunner(root, environment={})
    run = Run(argv=(*SELF_TEST, "serve-request"), environment={}, stdin=requests_for((), load=request))
    answer = evaluate((), answer_of(runner.run(run)), load=True)
    assert answer.loaded is not None
    return load_check(request, answer.loaded, {one.name: one.version for one in lock.wheels_of(lock.targets[0])})


@contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """A file with other bytes, or absent, for a while; the store's own file, which it is a link to, stays."""
    kept = path.with_name(path.name + ".kept")
    if path.exists():
        path.rename(kept)
    try:
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o755)
        yield
    finally:
        path.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(path)


def stub_driver(libraries: list[Path], error: int) -> bytes:
    """A libcuda.so.1 that has no device: every function that these libraries look for reports `error`."""
    command = ["strings", "-n", "5", *libraries]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() if libraries else []
    functions = sorted({name for name in names if re.fullmatch(r"cu[A-Z][A-Za-z0-9]+(?:_v[0-9]+)?", name)})
    source = "".join(f"int {name}(void) {{ return {error}; }}\n" for name in functions if name != "cuDriverGetVersion")
    source += "int cuDriverGetVersion(int *v) { *v = 12090; return 0; }\n"
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "libcuda.so.1"
        command = ["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o", made]
        subprocess.run(command, input=source.encode(), check=True)
        return made.read_bytes()


def test_driver_absent_and_library_missing_are_told_apart(image: Made, root: Path) -> None:
    """Without a driver, with one that has no device, without cuFFT, the linker's cache, a part of cuDNN."""
    nvidia = next(root.glob("opt/nnenv/lib/python3*/site-packages/nvidia"))
    cufft = next(nvidia.glob("cufft/lib/libcufft.so.*"))
    cudart = next(nvidia.glob("cuda_runtime/lib/libcudart.so.*"))
    engines = next(nvidia.glob("cudnn/lib/libcudnn_engines_runtime_compiled.so.*"))
    assert loaded(image, root).verdict is Verdict.PASSED
    with replaced(root / "usr/lib/x86_64-linux-gnu/libcuda.so.1", stub_driver([cudart, engines], 100)):
        check = loaded(image, root)
        assert check.verdict is Verdict.PASSED, check
    with replaced(cufft, None):
        found = {finding.code for finding in loaded(image, root).findings}
        assert {"cuda-library-failed", "provider-library-missing"} <= found
    with replaced(root / "etc/ld.so.cache", None):
        found = {finding.code for finding in loaded(image, root).findings}
        assert {"cuda-library-failed", "provider-library-missing"} <= found
    with replaced(next(nvidia.glob("cudnn/lib/libcudnn_ops.so.*")), None):
        assert "cuda-library-failed" in {finding.code for finding in loaded(image, root).findings}


def test_the_driver_may_be_inside_of_the_image_around_us(image: Made, root: Path) -> None:
    """The container runtime puts it there; in an image as it is stored it would hide the host's."""
    with session_of(image.user) as session:
        lock = session.lockfile().for_image("gpu-cuda12")
    with replaced(root / "usr/lib/x86_64-linux-gnu/libcuda.so.1", stub_driver([], 100)):
        contents = HereImage(HereFiles(root), lock, lock.targets[0])
        around = closure_check(contents, has_driver=True)
        assert around.verdict is Verdict.PASSED, around
        assert {finding.code for finding in closure_check(contents).findings} == {"driver-library-inside"}
