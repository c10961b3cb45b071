"""`nnenv build` from end to end: the same image everywhere, readable by others, nothing in it that should not be."""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from docker.errors import ImageNotFound

from nnenv.adapters.docker_engine import connect
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.formats.debian_version import upstream
from nnenv.resolve.compat import numbers
from nnenv.resolve.debian_facts import libstdcxx_symbols
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import ImageLock
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session
from tests.e2e.world import ROOT, User, World, linked_copy, local_sources

pytestmark = pytest.mark.network
"""The debs and wheels of every image here come from the configured archive and index."""

AARCH64, X86_64 = 183, 62
"""e_machine (ELF gABI, chapter 4)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An OCI layout on disk."""

    folder: Path

    def blob(self, digest: str) -> bytes:
        """A blob, which must hash to its name."""
        data = (self.folder / "blobs" / digest.replace(":", "/")).read_bytes()
        assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        return data

    @property
    def manifest_digest(self) -> str:
        """Of the one image."""
        (entry,) = json.loads((self.folder / "index.json").read_text())["manifests"]
        return str(entry["digest"])

    @property
    def manifest(self) -> Any:
        """Of the one image."""
        return json.loads(self.blob(self.manifest_digest))

    @property
    def config(self) -> Any:
        """Of the one image."""
        return json.loads(self.blob(self.manifest["config"]["digest"]))

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Every member of every layer, with the first bytes of files."""
        for layer in self.manifest["layers"]:
            data = self.blob(layer["digest"])
            plain = gzip.decompress(data) if layer["mediaType"].endswith("gzip") else data
            with tarfile.open(fileobj=_stream(plain), mode="r:") as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.isfile() else None
                    yield member, stream.read(64) if stream else b""


def _stream(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def expected_image(user: User, target: str) -> ImageLock:
    """What the lock says."""
    locked = user.lock().target(target)
    assert locked is not None
    assert locked.image is not None
    return locked.image


@pytest.fixture(scope="session")
def cpu(toy: User, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The amd64 image, as the tar unpacks."""
    folder = tmp_path_factory.mktemp("cpu") / "layout"
    with tarfile.open(toy.project.parent / "cpu.tar") as archive:
        archive.extractall(folder)  # `filter` is unknown to Debian 12's Python 3.11.2, and the tar is ours
    return Layout(folder=folder)


@pytest.fixture(scope="session")
def arm64(toy: User) -> Layout:
    """The arm64 image, built as a folder."""
    return Layout(folder=toy.project.parent / "cpu-arm64")


@pytest.fixture(scope="session")
def sources(toy: User, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Variables that name a folder with all that the lock needs: builds in empty stores, without network."""
    return local_sources([toy.lock()], Store(toy.store), tmp_path_factory.mktemp("sources"))


def rebuilt(toy: User, folder: Path, sources: Mapping[str, str], python: str = sys.executable, **run: Any) -> str:
    """The manifest digest of the cpu image, built from the lock alone in a store of its own; the lock's expectation
    is removed first, so that the digest comes from the bytes."""
    user = toy.elsewhere(folder / "project", store=folder / "store").with_environment(**sources)
    user = replace(user, python=python)
    bare = replace(toy.lock(), targets=tuple(replace(target, image=None) for target in toy.lock().targets))
    user.lock_path.write_bytes(write_lock(bare))
    printed = user.must("build", "--target", "cpu", "-o", f"dir:{folder / 'layout'}", "--json", **run).json()
    assert printed["images"][0]["manifest"] == Layout(folder=folder / "layout").manifest_digest
    return str(printed["images"][0]["manifest"])


@pytest.mark.slow
def test_an_empty_store_under_other_settings_gives_the_same_image(
    toy: User, tmp_path: Path, sources: Mapping[str, str]
) -> None:
    """Another time zone, locale, umask, hash seed, folder and number of workers: the digest that the lock has."""
    found = rebuilt(
        toy,
        tmp_path / "far",
        sources,
        before=["sh", "-c", 'umask 077; exec "$@"', "sh"],
        TZ="Pacific/Kiritimati",
        LC_ALL="C",
        PYTHONHASHSEED="1",
        NNENV_WORKERS="1",
        SOURCE_DATE_EPOCH="1",
    )
    assert found == f"sha256:{expected_image(toy, 'cpu').manifest}"


def other_pythons() -> list[str]:
    """Interpreters of other versions on this machine that nnenv supports, one a version."""
    found: dict[str, str] = {}
    candidates = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[1-9]*/bin/python"), reverse=True)
    names = [str(path) for path in candidates] + [w for n in range(11, 16) if (w := shutil.which(f"python3.{n}"))]
    for name in names:
        told = subprocess.run([name, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if told.returncode == 0:
            found.setdefault(told.stdout.strip(), name)
    found.pop(f"{sys.version_info[0]} {sys.version_info[1]}", None)
    return [found[version] for version in sorted(found, key=lambda text: int(text.split()[1]), reverse=True)]


@pytest.mark.slow
def test_another_python_on_the_host_gives_the_same_image(toy: User, tmp_path: Path, sources: Mapping[str, str]) -> None:
    """nnenv run by the newest other Python of this machine, with its own libraries: the digest that the lock has.

    On a machine with one Python only there is nothing to compare, and nothing is shown.
    """
    for python in other_pythons()[:1]:
        subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
        own = str(tmp_path / "venv" / "bin" / "python")
        subprocess.run([own, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, cwd=tmp_path)
        found = rebuilt(toy, tmp_path / "far", sources, python=own, PYTHONPATH="")
        assert found == f"sha256:{expected_image(toy, 'cpu').manifest}"


def test_tar_and_folder_hold_the_locked_image(toy: User, cpu: Layout, arm64: Layout) -> None:
    """Manifest, config and layers of both outputs are those that the lock expects; blobs hash to their names."""
    for layout, target in ((cpu, "cpu"), (arm64, "cpu-arm64")):
        expected = expected_image(toy, target)
        assert layout.manifest_digest == f"sha256:{expected.manifest}"
        assert layout.manifest["config"]["digest"] == f"sha256:{expected.config}"
        digests = [layer["digest"] for layer in layout.manifest["layers"]]
        assert digests == [f"sha256:{layer.digest}" for layer in expected.layers]
        assert layout.config["rootfs"]["diff_ids"] == [f"sha256:{layer.diff_id}" for layer in expected.layers]


def test_a_build_of_a_built_lock_changes_nothing(toy: User, tmp_path: Path) -> None:
    """The second build says `as locked`, and leaves the lock as it is."""
    user = toy.elsewhere(tmp_path / "project")
    before = user.lock_path.read_bytes()
    printed = user.must("build", "--target", "cpu", "-o", f"oci:{tmp_path / 'again.tar'}")
    assert "as locked" in printed.out
    assert user.lock_path.read_bytes() == before
    assert (tmp_path / "again.tar").read_bytes() == (toy.project.parent / "cpu.tar").read_bytes()


def test_an_unchanged_image_is_known_until_a_part_of_it_is_gone(tiny: User, tmp_path: Path) -> None:
    """A second build looks for the objects of the expected image and makes nothing; without one of them, or of the
    locked files, it is made anew."""
    user = tiny.elsewhere(tmp_path / "project", store=linked_copy(tiny.store, tmp_path / "store"))
    offline = {"DOCKER_HOST": f"unix://{tmp_path / 'nobody'}"}
    user.must("build", **offline)
    for kind in ("layer", "deb"):
        shutil.rmtree(user.store / "derived" / kind)
    assert "as locked" in user.must("build", **offline).out
    assert not (user.store / "derived" / "layer").exists(), "it should have made nothing"
    for sha256 in (user.lock().model("toy").file, user.lock().targets[0].debs[0]):
        place = user.store / "objects" / "sha256" / sha256[:2] / sha256
        place.unlink()
        assert "as locked" in user.must("build", **offline).out
        assert place.exists()
    glue = max((user.store / "derived" / "image-2").rglob("*"), key=lambda path: path.is_file())
    names = glue.read_bytes().split(b"\n")[1].decode().split()[1:]
    locked = {artifact.sha256 for artifact in user.lock().artifacts}
    made = next(name for name in names if name not in locked)
    place = user.store / "objects" / "sha256" / made[:2] / made
    place.unlink()
    assert "as locked" in user.must("build", **offline).out
    assert place.exists()


def test_the_table_of_libstdcxx_is_that_of_the_library(toy: User) -> None:
    """Debian's GCC and its newest symbol versions, read from the bytes."""
    store = Store(toy.store)
    session = Session(project=toy.project, store=store, progress=SilentProgress(), environment={}, home=toy.project)
    try:
        target = toy.lock().target("cpu")
        assert target is not None
        (library,) = (
            elf.facts
            for elf in LayerMaker(session, toy.lock(), target).elves()
            if elf.facts.soname == "libstdc++.so.6" and elf.path.startswith("usr/")
        )
    finally:
        store.close()
    (gcc,) = (upstream(deb.version) for deb in toy.lock().debs_of(target) if deb.name == "libstdc++6")

    def newest(prefix: str) -> str:
        names = (name for name in library.version_definitions if re.fullmatch(f"{prefix}[0-9.]+", name))
        return max((name.removeprefix(prefix) for name in names), key=numbers)

    assert (newest("GLIBCXX_"), newest("CXXABI_")) == libstdcxx_symbols(gcc)


def test_wheels_that_share_a_source(tiny_world: World, tiny: User, tmp_path: Path) -> None:
    """As older wheels of CUDA share `nvidia/__init__.py`: one file, one bytecode of it, one image; with other bytes in
    one of them the lock is refused."""
    for name, version, shared in (
        ("part_a", "1", b"X = 1\n"),
        ("part_b", "1", b"X = 1\n"),
        ("part_b", "2", b"X = 2\n"),
    ):
        files = {"shared/__init__.py": shared, f"shared/{name}.py": b"Y = 1\n"}
        tiny_world.offer(name, version, files=files)
    digests = set()
    for number in (1, 2):
        user = tiny_world.user(tmp_path / f"project{number}", tmp_path / f"store{number}")
        shutil.copytree(tiny.project, user.project)
        user.lock_path.unlink()
        manifest = user.project / "model.toml"
        manifest.write_text(manifest.read_text() + '[requires]\npackages = ["part-a", "part-b<2"]\n')
        user.must("lock")
        user.must("build", "-o", f"dir:{tmp_path / str(number)}")
        layout = Layout(folder=tmp_path / str(number))
        digests.add(layout.manifest_digest)
        names = {member.name.rpartition("/shared/")[2] for member, _ in layout.members() if "/shared/" in member.name}
        assert {"__init__.py", "__pycache__/__init__.cpython-311.pyc", "part_a.py", "part_b.py"} <= names
    assert len(digests) == 1
    manifest.write_text(manifest.read_text().replace("part-b<2", "part-b==2"))
    error = user.refused("lock", "--json").json()["errors"][0]
    assert error["code"] == "layer-collision"
    assert "part-a 1 and part-b 2 both bring shared/__init__.py, with different bytes" in error["message"]


def test_a_lock_that_moves_during_the_build_is_left_alone(tiny: User, tmp_path: Path) -> None:
    """The image of one lock is not noted in another: the build says so, and the newer lock stays."""
    user = tiny.elsewhere(tmp_path / "project", store=linked_copy(tiny.store, tmp_path / "store"))
    first = user.lock()
    target = replace(first.targets[0], image=None)
    user.lock_path.write_bytes(write_lock(replace(first, targets=(target,))))
    newer = write_lock(replace(first, targets=(replace(target, moment="2026-02-01T00:00:00Z"),)))
    # A command that changes the lock while the engine is asked would be a race; a build that reads one lock and notes
    # its image in another is the same without one.
    program = (
        "import sys; from pathlib import Path; import nnenv.workflows.building as building\n"
        "note = building._note\n"
        "def late(*arguments):\n"
        "    Path('model.lock').write_bytes(bytes.fromhex(sys.argv[1]))\n"
        "    return note(*arguments)\n"
        "building._note = late\n"
        "from nnenv.cli.main import main; sys.exit(main(sys.argv[2:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, newer.hex(), "build", "--frozen", "--json", "--store", str(user.store)],
        cwd=user.project,
        env={**user.environment, "DOCKER_HOST": "unix:///nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["errors"][0]["code"]) == (1, "changed-meanwhile"), done
    assert user.lock_path.read_bytes() == newer


def test_building_offline_from_a_warm_store(toy: User, tmp_path: Path) -> None:
    """With everything in the store `--offline` builds, and so it does where no index and no archive answer."""
    user = toy.elsewhere(tmp_path / "project")
    nowhere = {"NNENV_INDEX_URL": "http://127.0.0.1:9/simple", "NNENV_DEBIAN_MIRROR": "http://127.0.0.1:9/debian"}
    user.must("build", "--target", "cpu", "--offline", "-o", f"dir:{tmp_path / 'out'}", **nowhere)
    assert Layout(folder=tmp_path / "out").manifest_digest == f"sha256:{expected_image(toy, 'cpu').manifest}"


def test_the_image_is_bare_and_contained(cpu: Layout) -> None:
    """No shell, no package manager, no perl; nothing setuid; no link that leads out; a numeric user who is not root."""
    names = {"sh", "bash", "dash", "ash", "busybox", "apt", "apt-get", "dpkg", "perl", "su", "sudo", "mount"}
    for member, _ in cpu.members():
        path = member.name.rstrip("/")
        assert ".." not in path.split("/"), path
        assert not path.startswith("/"), path
        # The sticky bit of /tmp is the only special bit there is.
        assert member.mode & 0o7000 == (0o1000 if path in {"tmp", "var/tmp"} else 0), path
        assert not (posixpath.basename(path) in names and "bin/" in path), path
        owner = 65532 if path == "home/nnenv" else 0
        assert (member.uid, member.gid, member.uname, member.gname) == (owner, owner, "", ""), path
        assert member.isfile() or member.isdir() or member.issym() or member.islnk(), path
        if member.issym() and not member.linkname.startswith("/"):
            leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            assert not leads_to.startswith(".."), f"{path} -> {member.linkname}"
    assert cpu.config["config"]["User"] == "65532:65532"


def test_an_arm64_image_is_made_of_aarch64_files(arm64: Layout, cpu: Layout) -> None:
    """Built on this machine without emulation: the config says arm64, and every ELF file is for that CPU."""
    for layout, architecture, machine in ((arm64, "arm64", AARCH64), (cpu, "amd64", X86_64)):
        heads = {member.name: head for member, head in layout.members()}
        elves = {path: int.from_bytes(head[18:20], "little") for path, head in heads.items() if head[:4] == b"\x7fELF"}
        assert layout.config["architecture"] == architecture
        assert len(elves) > 100
        assert {path for path, found in elves.items() if found != machine} == set()


def test_a_lock_that_expects_another_layer_is_a_mismatch(toy: User, tmp_path: Path) -> None:
    """Another digest in the lock fails the build, which names the layer and both digests; the lock stays."""
    user = toy.elsewhere(tmp_path / "project")
    image = expected_image(toy, "cpu")
    wrong = replace(image.layers[4], digest=image.layers[3].digest)
    layers = (*image.layers[:4], wrong, *image.layers[5:])
    tampered = write_lock(toy.lock().with_image("cpu", replace(image, manifest=image.config, layers=layers)))
    user.lock_path.write_bytes(tampered)
    refusal = user.refused("build", "--target", "cpu", "-o", f"oci:{tmp_path / 'cpu.tar'}", "--json").json()
    (error,) = refusal["errors"]
    assert error["code"] == "image-mismatch"
    assert error["where"] == "targets.cpu"
    assert error["because"] == [f"layer 4 ({wrong.title}): expected {wrong.digest}, built {image.layers[4].digest}"]
    assert not (tmp_path / "cpu.tar").exists()
    assert user.lock_path.read_bytes() == tampered
    user.must("build", "--target", "cpu", "--accept-new-image", "-o", f"oci:{tmp_path / 'cpu.tar'}")
    assert user.lock_path.read_bytes() == toy.lock_path.read_bytes()


def test_a_stale_lock_is_not_built(toy: User, tmp_path: Path) -> None:
    """`build` never resolves: a changed manifest is an error with a hint, unless --frozen."""
    user = toy.elsewhere(tmp_path / "project")
    with (user.project / "model.toml").open("a") as stream:
        stream.write('\n[image]\nlabels = { "x" = "y" }\n')
    refusal = user.refused("build", "--target", "cpu", "-o", f"dir:{tmp_path / 'out'}")
    assert "[image] of model.toml has changed" in refusal.err
    user.must("build", "--target", "cpu", "--frozen", "-o", f"dir:{tmp_path / 'out'}")


def test_skopeo_and_umoci_read_both_outputs(toy: User, cpu: Layout, tmp_path: Path) -> None:
    """Other OCI tools find the same digests in the folder and in the tar (where they are installed)."""
    layout = tmp_path / "layout"
    shutil.copytree(cpu.folder, layout)
    (described,) = json.loads((layout / "index.json").read_text())["manifests"]
    tag = described["annotations"]["org.opencontainers.image.ref.name"]
    if shutil.which("skopeo"):
        for transport in (f"oci:{layout}:{tag}", f"oci-archive:{toy.project.parent / 'cpu.tar'}:{tag}"):
            told = json.loads(subprocess.run(["skopeo", "inspect", transport], check=True, capture_output=True).stdout)
            assert told["Digest"] == cpu.manifest_digest
            assert told["Architecture"] == "amd64"
    if shutil.which("umoci"):
        told = json.loads(
            subprocess.run(
                ["umoci", "stat", "--json", "--image", f"{layout}:{tag}"], check=True, capture_output=True
            ).stdout
        )
        assert len([row for row in told["history"] if not row.get("empty_layer")]) == len(cpu.manifest["layers"])


@pytest.mark.docker
@pytest.mark.slow
def test_docker_load_gives_the_image_id_of_the_lock(toy: User) -> None:
    """`docker load` of the tar, then `docker image inspect`: the ID is the config digest that the lock predicts."""
    client = connect().client
    expected = f"sha256:{expected_image(toy, 'cpu').config}"
    with (toy.project.parent / "cpu.tar").open("rb") as stream:
        (image,) = client.images.load(stream)
    assert image.id == expected
    assert client.images.get("toy:1.0.0-cpu").id == expected
    assert client.images.get(expected).attrs["Architecture"] == "amd64"


@pytest.mark.docker
@pytest.mark.slow
def test_an_engine_is_sent_only_what_it_lacks(toy: User, tmp_path: Path) -> None:
    """A second build sends nothing; one with another model sends a small part of the image, for the rest is known."""
    user = toy.elsewhere(tmp_path / "project", store=linked_copy(toy.store, tmp_path / "store"))
    user.must("build", "--target", "cpu", "-o", "docker")
    engine = connect().client
    assert "Docker engine: toy:1.0.0-cpu (already there)" in user.must("build", "--target", "cpu", "-o", "docker").out

    manifest = user.project / "model.toml"
    manifest.write_text(manifest.read_text() + '\n[image]\nlabels = { "changed" = "yes" }\n')
    user.must("lock")
    user.must("build", "--target", "cpu", "-o", f"oci:{tmp_path / 'changed.tar'}")
    image = expected_image(user, "cpu")
    with suppress(ImageNotFound):  # of an earlier run of this test
        engine.images.remove(f"sha256:{image.config}", force=True)
    printed = user.must("build", "--target", "cpu", "-o", "docker").out
    sent = printed.partition("toy:1.0.0-cpu (")[2].partition(" sent)")[0]
    amount, unit = sent.split()
    assert unit == "KiB" or (unit == "B" and float(amount) > 0), printed
    assert engine.images.get(f"sha256:{image.config}").labels["changed"] == "yes"
