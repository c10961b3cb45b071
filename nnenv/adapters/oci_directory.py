"""An OCI layout as a directory on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from nnenv.errors import NnenvError
from nnenv.image.archive import ImageDocuments, ReadBlob, exact_blob, layer_blobs, oci_layout_files
from nnenv.image.layers import Layer
from nnenv.spec.artifact import Sha256

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


def write_oci_directory(path: Path, documents: ImageDocuments, read_blob: ReadBlob) -> None:
    """Make `path` the OCI layout of the image; it appears whole or not at all.

    Everything is written beside `path` and then renamed. A layout that is already there is replaced; its layer
    blobs are linked into the new one when their bytes hash to their names. Raises `path-refused` if `path` is
    something else than a layout or an empty directory, `store-corrupt` if a blob is not what its layer says, and
    `disk-full` if the disk refuses a write.
    """
    _check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            _write_layout(beside, path, documents, read_blob)
            _replace(path, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise NnenvError(
            "disk-full",
            f"the OCI layout could not be written: {error.strerror or error}",
            where=str(path),
            fix=["free disk space or choose another directory, then run again"],
        ) from error


def _check_replaceable(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        rule = "it is not a directory"
    elif path.is_dir() and any(path.iterdir()) and not (path / "oci-layout").is_file():
        rule = "it holds files and is not an OCI layout"
    else:
        return
    raise NnenvError(
        "path-refused",
        f"{path} is not replaced by an OCI layout: {rule}",
        where=str(path),
        fix=["name a new directory, an empty one, or one that an earlier build wrote"],
    )


def _write_layout(beside: Path, old: Path, documents: ImageDocuments, read_blob: ReadBlob) -> None:
    _make_directory(beside / "blobs")
    _make_directory(beside / "blobs" / "sha256")
    for name, layer in layer_blobs(documents):
        if not _reuse(old / name, beside / name, layer):
            _write_blob(beside / name, layer, read_blob)
    for name, content in oci_layout_files(documents):
        _write_file(beside / name, [content])
    beside.chmod(_DIRECTORY_MODE)
    for directory in (beside / "blobs" / "sha256", beside / "blobs", beside):
        _sync_directory(directory)


def _make_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(_DIRECTORY_MODE)


def _reuse(old: Path, new: Path, layer: Layer) -> bool:
    """Link an existing blob into the new layout, if it is exactly the layer's."""
    if old.is_symlink() or not old.is_file() or old.stat().st_size != layer.size:
        return False
    with old.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != layer.digest:
            return False
    try:
        new.hardlink_to(old)
    except OSError:
        # Some file systems have no hard links; the blob is then written again.
        return False
    return True


def _write_blob(path: Path, layer: Layer, read_blob: ReadBlob) -> None:
    found = _write_file(path, exact_blob(layer, read_blob))
    if found != layer.digest:
        raise NnenvError(
            "store-corrupt",
            f"the layer {layer.title} does not hash to its recorded digest",
            where=f"sha256:{layer.digest}",
            because=[f"its bytes hash to sha256:{found}"],
            fix=["build the image again; its layers are made anew from the locked artifacts"],
        )


def _write_file(path: Path, chunks: Iterable[bytes]) -> Sha256:
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        for chunk in chunks:
            digest.update(chunk)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(_FILE_MODE)
    return Sha256(digest.hexdigest())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, beside: Path) -> None:
    """Rename `beside` to `path`; an old layout steps aside first, because rename(2) replaces empty directories only."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        if path.exists():
            path.rename(aside / "layout")
        beside.rename(path)
        _sync_directory(path.parent)
    except OSError:
        if (aside / "layout").exists() and not path.exists():
            (aside / "layout").rename(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
