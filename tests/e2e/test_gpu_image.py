"""The real image for CUDA 12: ONNX Runtime and the wheels of CUDA that it needs, about 2 GB."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
    (folder / "project" / "model.toml").write_text(manifest[: manifest.index("[targets.")] + TARGETS)
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
