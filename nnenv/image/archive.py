"""An image as one tar that is an OCI layout and a docker-archive at once, or as the files of an OCI layout.

Docker 20.10 loads no OCI-only tar, and OCI tools read no docker-archive: `manifest.json` may point into
`blobs/sha256`, so one tar serves both without a byte twice (reference/hermetic.md, 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nnenv.errors import NnenvError
from nnenv.formats.oci import OCI_LAYOUT, canonical_json, document_digest, image_index, split_reference
from nnenv.formats.tar_writer import END_OF_ARCHIVE, header, padding
from nnenv.image.layers import EPOCH, Layer
from nnenv.spec.artifact import Sha256

BLOBS = "blobs/sha256"

ReadBlob = Callable[[Layer], Iterator[bytes]]
"""The bytes of one layer's blob, in chunks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDocuments:
    """A whole image: its two documents and the layers that they name."""

    config: bytes
    manifest: bytes
    layers: tuple[Layer, ...]
    """Bottom to top, as the manifest lists them."""
    architecture: str
    """As OCI says it: `amd64` or `arm64`."""
    reference: str
    """`name:tag`."""

    @property
    def config_digest(self) -> Sha256:
        """What Docker calls the image ID."""
        return document_digest(self.config)

    @property
    def manifest_digest(self) -> Sha256:
        """What registries call the image's digest."""
        return document_digest(self.manifest)


def oci_layout_files(documents: ImageDocuments) -> tuple[tuple[str, bytes], ...]:
    """(path, content) of every file of the OCI layout but the layers' blobs, sorted by path."""
    index = image_index(
        manifest_digest=documents.manifest_digest,
        manifest_size=len(documents.manifest),
        architecture=documents.architecture,
        reference=documents.reference,
    )
    files = {
        f"{BLOBS}/{documents.config_digest}": documents.config,
        f"{BLOBS}/{documents.manifest_digest}": documents.manifest,
        "index.json": index,
        "oci-layout": OCI_LAYOUT,
    }
    return tuple(sorted(files.items()))


def layer_blobs(documents: ImageDocuments) -> tuple[tuple[str, Layer], ...]:
    """(path, layer) of each blob once, bottom to top: two layers may have the same bytes."""
    return tuple({f"{BLOBS}/{layer.digest}": layer for layer in documents.layers}.items())


def hybrid_tar(
    documents: ImageDocuments, read_blob: ReadBlob, *, leave_out: frozenset[Sha256] = frozenset()
) -> Iterator[bytes]:
    """The tar, in chunks: the small documents sorted by path, then the layers bottom to top.

    Layers whose diff_id is in `leave_out` are named but not sent: a Docker engine that has the same chain of layers
    does not look at them. Raises `store-corrupt` when a blob has not the size its layer states.
    """
    yield header("blobs", "dir", mode=0o755, mtime=EPOCH)
    yield header(BLOBS, "dir", mode=0o755, mtime=EPOCH)
    for path, content in _small_files(documents):
        yield header(path, "file", size=len(content), mode=0o644, mtime=EPOCH)
        yield content + padding(len(content))
    for path, layer in _sent(documents, leave_out):
        yield header(path, "file", size=layer.size, mode=0o644, mtime=EPOCH)
        yield from exact_blob(layer, read_blob)
        yield padding(layer.size)
    yield END_OF_ARCHIVE


def tar_size(documents: ImageDocuments, leave_out: frozenset[Sha256] = frozenset()) -> int:
    """Bytes of `hybrid_tar`, without reading a layer."""
    sizes = [("blobs", "dir", 0), (BLOBS, "dir", 0)]
    sizes += [(path, "file", len(content)) for path, content in _small_files(documents)]
    sizes += [(path, "file", layer.size) for path, layer in _sent(documents, leave_out)]
    total = len(END_OF_ARCHIVE)
    for path, kind, size in sizes:
        entry = header(path, "dir" if kind == "dir" else "file", size=size, mode=0o644, mtime=EPOCH)
        total += len(entry) + size + len(padding(size))
    return total


def exact_blob(layer: Layer, read_blob: ReadBlob) -> Iterator[bytes]:
    """The layer's blob; raises `store-corrupt` as soon as it is longer, or at its end if shorter, than stated."""
    left = layer.size
    for chunk in read_blob(layer):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise NnenvError(
            "store-corrupt",
            f"the layer {layer.title} has not the {layer.size} bytes it was recorded with",
            where=f"sha256:{layer.digest}",
            fix=["build the image again; its layers are made anew from the locked artifacts"],
        )


def _small_files(documents: ImageDocuments) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted([*oci_layout_files(documents), ("manifest.json", _docker_manifest(documents))]))


def _docker_manifest(documents: ImageDocuments) -> bytes:
    """What `docker load` reads (Docker image spec 1.2, "Combined Image JSON + Filesystem Changeset Format")."""
    name, tag = split_reference(documents.reference)
    return canonical_json(
        [
            {
                "Config": f"{BLOBS}/{documents.config_digest}",
                "RepoTags": [f"{name}:{tag}"],
                "Layers": [f"{BLOBS}/{layer.digest}" for layer in documents.layers],
            }
        ]
    )


def _sent(documents: ImageDocuments, leave_out: frozenset[Sha256]) -> tuple[tuple[str, Layer], ...]:
    return tuple((path, layer) for path, layer in layer_blobs(documents) if layer.diff_id not in leave_out)
