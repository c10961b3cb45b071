"""One tar for Docker and for OCI tools, and the same image as a directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnenv.adapters.oci_directory import write_oci_directory
from nnenv.errors import NnenvError
from nnenv.formats.oci import ConfigLayer, Execution, ManifestLayer, image_config, image_manifest
from nnenv.image.archive import ImageDocuments, hybrid_tar, oci_layout_files, tar_size
from nnenv.image.layers import Layer, plain_layer, read_layer
from nnenv.image.tree import Entry, compose
from nnenv.spec.artifact import Sha256
from tests.image.memory_objects import MemoryObjects


class Image:
    """A small real image of three layers, two of them with the same bytes."""

    def __init__(self) -> None:
        self.objects = MemoryObjects()
        self.reads: list[str] = []
        os_layer = self.layer("os", {"etc/hello": b"hello\n", "usr/bin/tool": b"x" * 3000})
        model = self.layer("model", {"opt/model.onnx": bytes(range(256)) * 40})
        self.layers = (os_layer, model, self.layer("os again", {"etc/hello": b"hello\n", "usr/bin/tool": b"x" * 3000}))
        config = image_config(
            architecture="amd64",
            created="1980-01-01T00:00:00Z",
            layers=[ConfigLayer(diff_id=layer.diff_id, title=layer.title) for layer in self.layers],
            execution=Execution(command=("/usr/bin/tool",), user="1000"),
        )
        manifest = image_manifest(
            config_digest=Sha256(hashlib.sha256(config).hexdigest()),
            config_size=len(config),
            layers=[
                ManifestLayer(media_type=one.media_type, digest=one.digest, size=one.size, title=one.title)
                for one in self.layers
            ],
        )
        self.documents = ImageDocuments(
            config=config, manifest=manifest, layers=self.layers, architecture="amd64", reference="small:1.0"
        )

    def layer(self, title: str, files: dict[str, bytes]) -> Layer:
        """An uncompressed layer of these files."""
        entries = [Entry(path=path, kind="file", mode=0o644, content=content) for path, content in files.items()]
        return plain_layer(title, compose(entries), self.objects)

    def read(self, layer: Layer) -> Iterator[bytes]:
        """The layer's blob; notes that it was read."""
        self.reads.append(layer.title)
        return read_layer(layer, self.objects)

    def tar(self, leave_out: frozenset[Sha256] = frozenset()) -> bytes:
        """The whole hybrid archive."""
        return b"".join(hybrid_tar(self.documents, self.read, leave_out=leave_out))


@pytest.fixture
def image() -> Image:
    """The small image."""
    return Image()


def files_of(archive: bytes) -> dict[str, bytes]:
    """Every file of a tar."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def check_layout(files: dict[str, bytes], image: Image) -> None:
    """Follow the OCI layout from its marker to the last layer, as image-layout.md prescribes."""
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (descriptor,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(blob(files, descriptor))
    assert blob(files, manifest["config"]) == image.documents.config
    diff_ids = json.loads(image.documents.config)["rootfs"]["diff_ids"]
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        assert "sha256:" + hashlib.sha256(blob(files, layer)).hexdigest() == diff_id


def blob(files: dict[str, bytes], descriptor: dict[str, object]) -> bytes:
    """The blob that a descriptor names, checked against its digest and size."""
    content = files["blobs/" + str(descriptor["digest"]).replace(":", "/")]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
    assert len(content) == descriptor["size"]
    return content


def test_the_tar_is_an_oci_layout(image: Image) -> None:
    """Every descriptor leads to a blob of its digest and size."""
    check_layout(files_of(image.tar()), image)


def test_the_tar_is_a_docker_archive(image: Image) -> None:
    """manifest.json names config, tag and all layers, the doubled one twice, inside the same tar."""
    files = files_of(image.tar())
    (entry,) = json.loads(files["manifest.json"])
    assert files[entry["Config"]] == image.documents.config
    assert entry["RepoTags"] == ["small:1.0"]
    assert entry["Layers"] == [f"blobs/sha256/{layer.digest}" for layer in image.layers]
    assert all(name in files for name in entry["Layers"])


def test_order_and_bytes_are_fixed(image: Image) -> None:
    """Small documents come first, sorted, then each blob once, bottom to top; a second archive is the same."""
    with tarfile.open(fileobj=io.BytesIO(image.tar())) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    small = sorted(name for name, _ in oci_layout_files(image.documents))
    assert names == ["blobs", "blobs/sha256", *small[:3], "manifest.json", small[3]] + [
        f"blobs/sha256/{layer.digest}" for layer in image.layers[:2]
    ]
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 315532800)}
    assert image.tar() == Image().tar()


def test_the_size_is_known_before(image: Image) -> None:
    """The announced size is that of the stream, whole or with layers left out."""
    leave_out = frozenset({image.layers[0].diff_id})
    assert tar_size(image.documents) == len(image.tar())
    assert tar_size(image.documents, leave_out) == len(image.tar(leave_out)) < len(image.tar())


def test_layers_that_the_engine_has_are_not_read(image: Image) -> None:
    """A layer left out stays named in both manifests, but its blob is neither read nor sent."""
    files = files_of(image.tar(frozenset({image.layers[0].diff_id})))
    assert image.reads == ["model"]
    assert f"blobs/sha256/{image.layers[0].digest}" not in files
    assert len(json.loads(files["manifest.json"])[0]["Layers"]) == 3


@pytest.mark.parametrize("change", [b"", b"longer"])
def test_a_blob_of_another_size_stops_the_archive(image: Image, change: bytes) -> None:
    """A short or long blob would shift everything behind it, so it is an error at once."""

    def read(layer: Layer) -> Iterator[bytes]:
        content = b"".join(read_layer(layer, image.objects))
        yield content + change if change else content[:-1]

    with pytest.raises(NnenvError) as caught:
        list(hybrid_tar(image.documents, read))
    assert caught.value.code == "store-corrupt"


def test_the_directory_is_an_oci_layout(image: Image, tmp_path: Path) -> None:
    """The directory holds the layout, nothing else, with plain modes whatever the umask."""
    before = os.umask(0o077)
    try:
        write_oci_directory(tmp_path / "layout", image.documents, image.read)
    finally:
        os.umask(before)
    files = files_below(tmp_path / "layout")
    check_layout(files, image)
    assert len(files) == 2 + 2 + 2
    modes = {oct(path.stat().st_mode & 0o7777) for path in (tmp_path / "layout").rglob("*") if path.is_file()}
    assert modes == {"0o644"}
    assert oct((tmp_path / "layout").stat().st_mode & 0o7777) == "0o755"
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_good_blobs_are_reused_and_damaged_ones_are_not(image: Image, tmp_path: Path) -> None:
    """A second write reads only the blob whose bytes were changed behind our back, and repairs it."""
    target = tmp_path / "layout"
    write_oci_directory(target, image.documents, image.read)
    image.reads.clear()
    write_oci_directory(target, image.documents, image.read)
    assert image.reads == []
    damaged = target / "blobs" / "sha256" / image.layers[1].digest
    damaged.write_bytes(bytes(image.layers[1].size))
    write_oci_directory(target, image.documents, image.read)
    assert image.reads == ["model"]
    check_layout(files_below(target), image)


def test_an_interrupted_write_leaves_nothing(image: Image, tmp_path: Path) -> None:
    """When reading a layer fails, an old layout stays as it was and no temporary file is left."""
    target = tmp_path / "layout"
    write_oci_directory(target, image.documents, image.read)
    shutil.rmtree(target / "blobs")
    kept = files_below(target)

    def read(layer: Layer) -> Iterator[bytes]:
        yield b"x" * layer.size

    with pytest.raises(NnenvError) as caught:
        write_oci_directory(target, image.documents, read)
    assert caught.value.code == "store-corrupt"
    assert files_below(target) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_other_directories_are_not_replaced(image: Image, tmp_path: Path) -> None:
    """A directory with somebody's files, a file and a link are refused; an empty directory is fine."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "model.toml").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "project")
    for name in ("project", "file", "link"):
        with pytest.raises(NnenvError) as caught:
            write_oci_directory(tmp_path / name, image.documents, image.read)
        assert caught.value.code == "path-refused"
    assert (tmp_path / "project" / "model.toml").exists()
    (tmp_path / "empty").mkdir()
    write_oci_directory(tmp_path / "empty", image.documents, image.read)
    check_layout(files_below(tmp_path / "empty"), image)


def test_skopeo_and_umoci_read_both_forms(image: Image, tmp_path: Path) -> None:
    """Two independent readers agree on the digest, the tag and the files; where absent, the layout check stands."""
    archive, layout = tmp_path / "image.tar", tmp_path / "layout"
    archive.write_bytes(image.tar())
    write_oci_directory(layout, image.documents, image.read)
    check_layout(files_below(layout), image)
    if skopeo := shutil.which("skopeo"):
        for source in (f"oci-archive:{archive}:1.0", f"oci:{layout}:1.0"):
            assert f"sha256:{image.documents.manifest_digest}" == run(skopeo, "inspect", "--format={{.Digest}}", source)
        # The loader that Docker's own format goes through names the image by its config digest.
        run(skopeo, "copy", "--quiet", f"docker-archive:{archive}:small:1.0", f"oci:{tmp_path / 'copy'}:1.0")
        config = run(skopeo, "inspect", "--config", "--raw", f"oci:{tmp_path / 'copy'}:1.0")
        assert json.loads(config) == json.loads(image.documents.config)
    if umoci := shutil.which("umoci"):
        assert run(umoci, "ls", "--layout", str(layout)) == "1.0"
        run(umoci, "unpack", "--rootless", "--image", f"{layout}:1.0", str(tmp_path / "bundle"))
        assert (tmp_path / "bundle" / "rootfs" / "etc" / "hello").read_bytes() == b"hello\n"


def run(*command: str) -> str:
    """What the command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
