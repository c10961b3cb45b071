"""The image that this very process runs in: its files, and its harness as a child process.

For hosts where nobody may start containers, as in a pod of a cluster: nnenv itself is mounted into a container of the
image. What the container runtime mounts (the driver's libraries, nnenv) is on other file systems than the image.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from nnenv.adapters.examination import gpu_host
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import normal_name
from nnenv.verify.protocols import Completed, Run

_NOT_OF_THE_IMAGE: Final = frozenset({"dev", "proc", "run", "sys", "tmp"})
_RECORD: Final = re.compile(r"(?P<folder>.*/site-packages)/(?P<name>[^/]+)-(?P<version>[^/-]+)\.dist-info/RECORD")
_LINKER_FOLDER: Final = "etc/ld.so.conf.d"


@dataclass(frozen=True)
class HereFiles:
    """The files of the image below `root`; what is mounted into it does not count."""

    root: Path = field(default=Path("/"))

    def read(self, path: str) -> bytes:
        """A file by its absolute path in the image; NnenvError `file-unreadable`."""
        try:
            return (self.root / path.lstrip("/")).read_bytes()
        except OSError as error:
            raise NnenvError(
                "file-unreadable",
                f"{path} cannot be read: {error.strerror}",
                where=path,
                because=["--here is for the inside of an image that nnenv built, which holds this file"],
                fix=["run it in such an image, or `nnenv verify --target NAME` outside"],
            ) from None

    def exists(self, path: str) -> bool:
        """Whether the image has a file, by its absolute path."""
        return (self.root / path.lstrip("/")).is_file()

    @cached_property
    def _found(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """(regular files, symbolic links with their targets), all paths without leading slash."""
        device = self.root.stat().st_dev
        files: list[str] = []
        links: dict[str, str] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except PermissionError:
                continue  # private folders of another user hold no library of the image
            for entry in entries:
                path = posixpath.join(folder, entry.name)
                if path in _NOT_OF_THE_IMAGE or entry.stat(follow_symlinks=False).st_dev != device:
                    continue
                if entry.is_symlink():
                    links[path] = str(Path(entry.path).readlink())
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    files.append(path)
        return tuple(sorted(files)), links

    def links(self) -> Mapping[str, str]:
        """Path of each symbolic link -> target as written."""
        return self._found[1]

    def programs(self) -> Iterator[tuple[str, BinaryIO]]:
        """(path, open file) of every ELF file; the file is closed when the next is asked for."""
        for path in self._found[0]:
            try:
                with (self.root / path).open("rb") as stream:
                    if stream.read(4) == b"\x7fELF":
                        yield path, stream
            except PermissionError:
                continue

    def owners(self) -> dict[str, str]:
        """Path -> distribution that installed it, `numpy 2.4.6`, by their RECORD files."""
        owners: dict[str, str] = {}
        for path in self._found[0]:
            match = _RECORD.fullmatch(path)
            if match is None:
                continue
            name = f"{normal_name(match['name'])} {match['version']}"
            for line in self.read(path).decode("utf-8", "replace").splitlines():
                member = line.split(",", 1)[0].strip('"')
                owners[posixpath.normpath(posixpath.join(match["folder"], member))] = name
        return owners

    def linker_directories(self) -> tuple[str, ...]:
        """The directories that /etc/ld.so.conf.d names, without leading slashes, in ldconfig's order."""
        files = [path for path in self._found[0] if posixpath.dirname(path) == _LINKER_FOLDER]
        texts = [self.read(path).decode("utf-8", "replace") for path in files if path.endswith(".conf")]
        return tuple(
            stripped
            for text in texts
            for line in text.split("\n")
            if (stripped := line.strip("/ ")) and not line.startswith("#")
        )


class HereRunner:
    """Runs commands beside this process, with its rights and devices; satisfies `verify.protocols.Runner`.

    Nothing is isolated but what the container runtime isolates; time and output are limited, memory is not.
    """

    name = "here"
    emulated = False
    mode = "container"
    network = "the container's"

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` is that of the process: what the container runtime has set reaches the driver's libraries."""
        self._environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}

    def why_no_gpu(self) -> str:
        """See `verify.protocols.Runner`."""
        host = gpu_host(self._environment)
        return "" if host.gpus else f"the driver shows no GPU here ({host.problem or 'it counts none'})"

    def run(self, request: Run) -> Completed:
        """See `verify.protocols.Runner`."""
        started = time.monotonic()
        environment = {**self._environment, **request.environment}
        try:
            process = subprocess.Popen(
                list(request.argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
            )
        except OSError as error:
            raise NnenvError(
                "command-not-started",
                f"{request.argv[0]} cannot be started: {error.strerror}",
                fix=["run --here inside of an image that nnenv built"],
            ) from None
        hit = ""
        try:
            out, err = process.communicate(request.stdin, timeout=request.limits.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            hit = "time"
        if len(out) > request.limits.output_bytes:
            out, hit = b"", "output"
        return Completed(
            exit_code=process.returncode,
            stdout=out,
            stderr=err,
            seconds=time.monotonic() - started,
            limit_hit=hit,
        )
