"""Debian packages built in memory: the values that unpacking real ones gives."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from nnenv.formats.tar_reader import read_tar
from nnenv.image.os_root import UnpackedDeb, unpacked_deb
from nnenv.image.tree import Content, Slice
from tests.image.memory_objects import MemoryObjects

DIRECTORY = None
"""Stands for a directory in the files of `package`."""


class Archive:
    """Packages whose data.tar are objects in memory."""

    def __init__(self) -> None:
        self.objects = MemoryObjects()

    def package(
        self,
        name: str,
        files: Mapping[str, bytes | str | None],
        *,
        version: str = "1.0-1",
        architecture: str = "amd64",
        scripts: Mapping[str, str] | None = None,
        fields: str = "",
        modes: Mapping[str, int] | None = None,
        hardlinks: Mapping[str, str] | None = None,
    ) -> UnpackedDeb:
        """One package: bytes are a file, text is a symbolic link's target, None a directory."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path, content in files.items():
                header = tarfile.TarInfo(f"./{path}")
                header.mode = (modes or {}).get(path, 0o755 if content is None else 0o644)
                if content is None:
                    header.type = tarfile.DIRTYPE
                elif isinstance(content, str):
                    header.type, header.linkname = tarfile.SYMTYPE, content
                else:
                    header.size = len(content)
                tar.addfile(header, io.BytesIO(content) if isinstance(content, bytes) else None)
            for path, target in (hardlinks or {}).items():
                header = tarfile.TarInfo(f"./{path}")
                header.type, header.linkname = tarfile.LNKTYPE, f"./{target}"
                tar.addfile(header)
        data = stream.getvalue()
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{fields}Description: {name}\n"
        return unpacked_deb(control, scripts or {}, self.objects.put(data), read_tar(io.BytesIO(data), name))

    def read(self, content: Content) -> bytes:
        """The bytes of an entry's content."""
        if isinstance(content, bytes):
            return content
        assert isinstance(content, Slice)
        return self.objects.objects[content.sha256][content.offset : content.offset + content.length]
