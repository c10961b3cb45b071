"""A store of objects in memory, and wheels built by hand: the outside of `nnenv.image`, simulated."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from nnenv.image.tree import Slice
from nnenv.spec.artifact import Sha256


class MemoryWriter:
    """An object being written; it exists once `commit` was called."""

    def __init__(self, objects: dict[Sha256, bytes]) -> None:
        self._objects = objects
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def commit(self) -> tuple[Sha256, int]:
        sha256 = Sha256(hashlib.sha256(self._data).hexdigest())
        self._objects[sha256] = bytes(self._data)
        return sha256, len(self._data)


class MemoryObjects:
    """Satisfies `layers.Objects`; `opened` counts how often each object was opened."""

    def __init__(self) -> None:
        self.objects: dict[Sha256, bytes] = {}
        self.opened: dict[Sha256, int] = {}

    def open(self, sha256: Sha256) -> BinaryIO:
        self.opened[sha256] = self.opened.get(sha256, 0) + 1
        return io.BytesIO(self.objects[sha256])

    @contextmanager
    def reading(self, sha256: Sha256) -> Iterator[BinaryIO]:
        yield self.open(sha256)

    @contextmanager
    def writer(self) -> Iterator[MemoryWriter]:
        yield MemoryWriter(self.objects)

    def put(self, data: bytes) -> Sha256:
        """The digest of `data`, which is an object now."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()[0]

    def slice(self, data: bytes) -> Slice:
        """`data` as a slice from the middle of an object."""
        return Slice(sha256=self.put(b"before" + data + b"after"), offset=6, length=len(data))


def wheel_bytes(
    files: Mapping[str, bytes],
    *,
    name: str = "demo",
    version: str = "1.0",
    entry_points: str = "",
    executable: tuple[str, ...] = (),
    stored: tuple[str, ...] = (),
    record_lies: Mapping[str, bytes] | None = None,
) -> bytes:
    """A wheel whose RECORD is true, except for files in `record_lies`, which it hashes as if they held that."""
    dist_info = f"{name}-{version}.dist-info"
    content = dict(files)
    content[f"{dist_info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    content[f"{dist_info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if entry_points:
        content[f"{dist_info}/entry_points.txt"] = entry_points.encode()
    content[f"{dist_info}/RECORD"] = _record(content | dict(record_lies or {}), f"{dist_info}/RECORD", content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for path, data in content.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = (0o100755 if path in executable else 0o100644) << 16
            info.compress_type = zipfile.ZIP_STORED if path in stored else zipfile.ZIP_DEFLATED
            target.writestr(info, data)
    return archive.getvalue()


def _record(hashed: Mapping[str, bytes], own_path: str, content: Mapping[str, bytes]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for path in content:
        digest = base64.urlsafe_b64encode(hashlib.sha256(hashed[path]).digest()).rstrip(b"=").decode()
        writer.writerow((path, f"sha256={digest}", len(content[path])))
    writer.writerow((own_path, "", ""))
    return text.getvalue().encode()
