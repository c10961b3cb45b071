"""The sandbox: run a command in a root file system without any engine.

`compose_root` joins extracted layers to one root directory; `SandboxRunner` runs commands in it. What isolates a
command depends on what the host allows; `SandboxRunner.mode` says which, and reports state it:

| guard                  | namespaces           | rootless             | restricted                         |
|------------------------|----------------------|----------------------|------------------------------------|
| needs                  | CAP_SYS_ADMIN        | user namespaces      | root with CAP_SYS_CHROOT           |
| network                | own, only loopback   | own, only loopback   | call filter: only AF_UNIX sockets  |
| processes              | own id space         | own id space         | the host's, but no /proc to see it |
| root                   | mounted read-only    | mounted read-only    | files of root, program is not root |
| /tmp, /dev/shm         | tmpfs of bounded size| tmpfs of bounded size| directories, emptied for each run  |
| user                   | uid, gid             | the caller, as uid   | uid, gid                           |
| capabilities, new ones | none, never          | none, never          | none, never                        |

Known limits of `restricted`, which is for containers that allow nothing better, and whose own walls remain:
- sockets of AF_UNIX in the abstract name space and System V IPC are shared with the host;
- the program can signal processes of the same uid;
- if nnenv and the supervisor are killed with SIGKILL at the same moment, grandchildren of the supervisor stay;
- where no device can be made (no CAP_MKNOD, a file system mounted nodev), /dev/null is an empty file and the other
  devices are missing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from nnenv.adapters import live
from nnenv.adapters.host import find_emulator, machine, user_namespace_obstacles
from nnenv.adapters.sandbox_init import CPUINFO, Settings, descendants, process_table
from nnenv.errors import NnenvError
from nnenv.verify.protocols import Completed, Limits, Run

__all__ = ["MODES", "SandboxRunner", "available_modes", "compose_root", "find_emulator"]

MODES: Final = ("namespaces", "rootless", "restricted")
"""Strongest first."""

_EMULATOR: Final = ".nnenv-qemu"
_RESERVED: Final = (_EMULATOR, CPUINFO)
_MOUNT_POINTS: Final = ("proc", "tmp", "dev")
_CHUNK: Final = 1 << 16
_SAMPLE_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 10.0
_NO_LIMIT: Final = 1 << 50

_EMULATED_CPU: Final = {"aarch64": "cortex-a72", "x86_64": "Haswell"}
"""qemu's names of the models that `_CPUINFO_TEXT` describes: both sides must tell one story."""

_CPUINFO_TEXT: Final = {
    "aarch64": """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

""",
    "x86_64": """processor\t: {index}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 60
model name\t: Intel Core Processor (Haswell)
stepping\t: 4
physical id\t: 0
siblings\t: {count}
core id\t\t: {index}
cpu cores\t: {count}
apicid\t\t: {index}
flags\t\t: fpu cx8 cmov mmx fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes avx f16c rdrand \
lahf_lm abm bmi1 avx2 bmi2

""",
}
"""What /proc/cpuinfo says on such a machine. The host's own makes `import onnxruntime` crash: its cpuinfo library
parses a file of the wrong architecture."""


# --- composing -----------------------------------------------------------------------------------------------------


def compose_root(trees: Sequence[Path], destination: Path) -> None:
    """Make `destination` the union of `trees`, bottom to top, by hard links; a copy where no link can be made.

    A later tree's file replaces an earlier one's; directories merge; symbolic links are made again and never followed.
    Directories get mode 0755. The files are shared with the trees, so nobody may write to them.
    Raises NnenvError `layer-collision` where a path is a directory in one tree and something else in another,
    `store-corrupt` where a tree cannot be read or holds anything but files, directories and symbolic links,
    `disk-full` where the disk refuses.
    """
    try:
        destination.mkdir(mode=0o755, exist_ok=True)
        with _directory(destination) as target:
            os.fchmod(target, 0o755)
            for tree in trees:
                with _directory(tree) as source:
                    _merge(source, target, PurePosixPath("/"), tree)
    except OSError as error:
        raise _compose_error(error, destination) from error


def place_files(root: Path, files: Mapping[str, bytes | Path]) -> None:
    """Put files into a composed root, at paths without leading slash: text of ours, or a file that is linked or copied.

    Raises NnenvError `disk-full` where the disk refuses.
    """
    try:
        for path, content in files.items():
            place = root / path
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
                place.chmod(0o644)
            elif not place.exists():
                with _directory(content.parent) as source, _directory(place.parent) as target:
                    _place_named(content.name, place.name, source, target)
    except OSError as error:
        raise _compose_error(error, root) from error


def _place_named(name: str, new: str, source: int, target: int) -> None:
    try:
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
            raise
        with (
            os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source), "rb") as original,
            os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=target), "wb"
            ) as copy,
        ):
            shutil.copyfileobj(original, copy, 1 << 20)


@contextlib.contextmanager
def _directory(path: str | Path, parent: int | None = None) -> Iterator[int]:
    """A descriptor of the directory; OSError if it is a symbolic link or no directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _merge(source: int, target: int, where: PurePosixPath, tree: Path) -> None:
    """Bring everything below `source` into `target`; both are directory descriptors, `where` is for errors."""
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _make_directory(entry.name, target, where, tree)
                with _directory(entry.name, source) as below, _directory(entry.name, target) as into:
                    _merge(below, into, where / entry.name, tree)
            elif entry.is_symlink():
                link = os.readlink(entry.name, dir_fd=source)
                _clear(entry.name, target, where, tree)
                os.symlink(link, entry.name, dir_fd=target)
            elif entry.is_file(follow_symlinks=False):
                _place_file(entry.name, source, target, where, tree)
            else:
                raise _not_a_tree(where / entry.name, tree)


def _make_directory(name: str, target: int, where: PurePosixPath, tree: Path) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
            raise _collision(where / name, tree) from None
        return
    os.chmod(name, 0o755, dir_fd=target)  # mkdir's own mode is subject to umask


def _clear(name: str, target: int, where: PurePosixPath, tree: Path) -> None:
    """Remove what an earlier tree put at `name`, unless it is a directory."""
    try:
        os.unlink(name, dir_fd=target)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        raise _collision(where / name, tree) from None


def _place_file(name: str, source: int, target: int, where: PurePosixPath, tree: Path) -> None:
    for _ in range(2):
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            return
        except FileExistsError:
            _clear(name, target, where, tree)
        except OSError as error:
            # another file system, too many links, a file system or a kernel setting that permits none
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
            break
    _clear(name, target, where, tree)
    _copy_file(name, source, target)


def _copy_file(name: str, source: int, target: int) -> None:
    """A copy with mode 0755 or 0644 and the original's time of change."""
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    with os.fdopen(reading, "rb") as original:
        facts = os.fstat(reading)
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        with os.fdopen(writing, "wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            os.fchmod(writing, 0o755 if facts.st_mode & 0o100 else 0o644)
            os.utime(writing, ns=(facts.st_mtime_ns, facts.st_mtime_ns))


def _collision(path: PurePosixPath, tree: Path) -> NnenvError:
    return NnenvError(
        "layer-collision",
        f"{path} is a directory in one layer and something else in another",
        where=str(path),
        because=[f"the layer in {tree} disagrees with one below it"],
        fix=["remove one of the two packages from the target"],
    )


def _not_a_tree(path: PurePosixPath, tree: Path) -> NnenvError:
    return NnenvError(
        "store-corrupt",
        f"{path} is neither a file, a directory nor a symbolic link",
        where=str(tree / path.relative_to("/")),
        because=["an extracted layer holds nothing else"],
        fix=["delete the extracted layer; nnenv makes it again"],
    )


def _compose_error(error: OSError, destination: Path) -> NnenvError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return NnenvError(
            "disk-full",
            f"the root file system could not be composed: {error.strerror}",
            where=str(destination),
            fix=["free some space, or choose another place with --store"],
        )
    return NnenvError(
        "store-corrupt",
        f"an extracted layer could not be read: {error.strerror}",
        where=str(error.filename or destination),
        fix=["delete the extracted layer; nnenv makes it again"],
    )


# --- which isolation this host allows ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    """What came of trying one mode with an empty root."""

    works: bool
    has_proc: bool = False
    reason: str = ""


def available_modes() -> tuple[str, ...]:
    """The modes that really work here, strongest first; each is tried once a process, at some 50 ms."""
    return tuple(mode for mode in MODES if _probe(mode).works)


def obstacles() -> dict[str, str]:
    """Mode -> why it does not work here, "" if it does, strongest first; each is tried once a process."""
    return {mode: _probe(mode).reason for mode in MODES}


@functools.cache
def _probe(mode: str) -> _Probe:
    """Set up `mode` around an empty directory and see."""
    if not sys.platform.startswith("linux"):
        return _Probe(works=False, reason="this is not Linux")
    if mode == "rootless" and os.geteuid() == 0:
        return _Probe(works=False, reason="the caller is root, and would be root inside")
    if mode == "restricted" and os.geteuid() != 0:
        return _Probe(works=False, reason="the caller is not root")
    try:
        attempt = _attempt_nothing(mode)
    except NnenvError as error:
        return _Probe(works=False, reason=error.what)
    except OSError as error:  # the temporary directory cannot be made, or not be removed
        return _Probe(works=False, reason=f"temporary directory: {error.strerror}")
    if attempt.events.get("ended") is None:
        return _Probe(works=False, reason=_failure(attempt.events.get("failed")))
    return _Probe(works=True, has_proc=attempt.events["started"]["proc"] is True)


def _attempt_nothing(mode: str) -> _Attempt:
    """A run without program in an empty root, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="nnenv-probe-") as directory:
        root = Path(directory, "root")
        compose_root((), root)
        _prepare_root(root)
        _empty_scratch(root)
        nothing = Run(argv=(), limits=Limits(seconds=20.0))
        place = _Place(emulator=(), environment={}, workdir="/")
        attempt = _Attempt(_settings(mode, root, nothing, place), nothing, memory=None)
        attempt.run()
    return attempt


def _failure(event: Mapping[str, Any] | None) -> str:
    """One line on what the inside half could not do."""
    if event is None:
        return "the set-up ended without a word"
    why = f": {os.strerror(event['errno'])}" if event["errno"] else ""
    return f"{event['step']}{why}"


def strongest_mode() -> str:
    """The mode that a runner gets unless it is given one; NnenvError `sandbox-unavailable` if none works here."""
    return _choose_mode(None)


def _choose_mode(wanted: str | None) -> str:
    """`wanted` if it works, else the strongest that does; raises NnenvError `sandbox-unavailable`."""
    candidates = MODES if wanted is None else (wanted,)
    for mode in candidates:
        if _probe(mode).works:
            return mode
    raise NnenvError(
        "sandbox-unavailable",
        "this host offers no way to isolate a process",
        because=[f"{mode}: {_probe(mode).reason}" for mode in candidates] + list(user_namespace_obstacles()),
        fix=[
            "use a Docker engine: --runner docker",
            "or allow user namespaces: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1",
            "or, inside a container, give it CAP_SYS_ADMIN or CAP_SYS_CHROOT, CAP_SETUID and CAP_SETGID",
        ],
    )


# --- the runner ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """What is the same for all commands of one runner."""

    emulator: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str


class SandboxRunner:
    """Runs commands in a root directory made by `compose_root`; satisfies `verify.protocols.Runner`.

    The directory gets the mount points /proc, /tmp and /dev, and with an emulator two files named /.nnenv-*.
    Commands may run at the same time, except in `restricted` mode, where they would share /tmp.
    """

    name = "sandbox"

    def __init__(
        self,
        root: Path,
        *,
        machine: str = "x86_64",
        uid: int = 65532,
        gid: int = 65532,
        environment: Mapping[str, str],
        workdir: str = "/",
        emulator: Path | None = None,
        mode: str | None = None,
    ) -> None:
        """A runner of `machine`'s programs in `root`, in the strongest mode that works here or in the given one.

        Raises NnenvError `sandbox-unavailable` if nothing isolates here, `emulator-missing` if `machine` is not this
        host's and there is no emulator, `layer-collision` if the image owns a path that the sandbox needs.
        """
        _check_machine(machine, emulator)
        self.mode = _choose_mode(mode)
        """`namespaces`, `rootless` or `restricted`."""
        self.has_proc = _probe(self.mode).has_proc
        """False where the kernel refused a fresh /proc, and in `restricted` mode."""
        self.emulated = emulator is not None
        self.root = root.resolve()
        self._uid, self._gid = uid, gid
        _prepare_root(self.root)
        command: tuple[str, ...] = ()
        if emulator is not None:
            _place_emulator(self.root, emulator, machine)
            command = (f"/{_EMULATOR}", "-cpu", _EMULATED_CPU[machine])
        self._place = _Place(emulator=command, environment=dict(environment), workdir=workdir)

    def why_no_gpu(self) -> str:
        """See `verify.protocols.Runner`."""
        return "the sandbox passes no GPU into an image; a Docker engine with NVIDIA's runtime does"

    def run(self, request: Run) -> Completed:
        """Run to the end, or to a limit; nothing the command started is left.

        Raises NnenvError `command-not-started` if the program cannot be executed, `sandbox-unavailable` if the
        isolation that worked before does not any more.
        """
        kept = bytearray()
        completed = self.stream(request, iter((request.stdin,)), kept.extend)
        return replace(completed, stdout=bytes(kept[: request.limits.output_bytes]))

    def stream(
        self,
        request: Run,
        feed: Iterator[bytes],
        take: Callable[[bytes], object],
        watch: Callable[[], object] = lambda: None,
    ) -> Completed:
        """As `run`, for more than fits into memory: the program reads `feed` instead of the request's stdin, and
        `take` gets what it writes to standard output, which is empty in the answer.

        `watch` is called at least every 50 ms while the program runs. What any of the three raises ends the run.
        """
        if self.mode == "restricted":
            _empty_scratch(self.root)
        memory = _memory_group(request.limits.memory_bytes)
        settings = _settings(self.mode, self.root, request, self._place, uid=self._uid, gid=self._gid)
        attempt = _Attempt(settings, request, memory, feed=feed, take=take, watch=watch)
        started = time.monotonic()
        try:
            attempt.run()
        finally:
            exhausted = memory.remove() if memory else False
        seconds = time.monotonic() - started
        return attempt.completed(seconds, exhausted=exhausted)

    def live(self, run: live.LiveRun, streams: live.Streams) -> live.Ended:
        """Run with the caller's streams to the end, or to a limit; signals that nnenv gets go to the command.

        Main thread only. With `network` it shares the host's, loopback and abstract sockets included.
        Raises NnenvError as `run` does; `path-refused` if a volume cannot be put where it is to go, `disk-full` if
        the caller's files take no more output.
        """
        if self.mode == "restricted":
            _refuse_volumes(run.volumes)
            _empty_scratch(self.root)
        volumes = [_mount_point(self.root, volume) for volume in run.volumes]
        if run.network:
            _lend_resolver(self.root)
        request = Run(
            argv=run.argv,
            environment={"HOME": _home(self.root, run.uid), **run.environment},
            limits=Limits(memory_bytes=run.memory_bytes or _NO_LIMIT, processes=live.PROCESSES),
        )
        place = replace(self._place, workdir=run.workdir)
        settings = _settings(self.mode, self.root, request, place, uid=run.uid, gid=run.gid)
        settings["scratch_bytes"] = live.scratch_bytes(run)
        settings["file_bytes"] = 0
        settings["network"] = run.network
        settings["volumes"] = volumes
        settings["terminal"] = run.terminal
        memory = _memory_group(run.memory_bytes) if run.memory_bytes else None
        attempt = _LiveAttempt(settings, request, memory, asked=run, streams=streams)
        try:
            attempt.run()
        finally:
            exhausted = memory.remove() if memory else False
        completed = attempt.completed(0.0, exhausted=exhausted)
        return live.Ended(code=live.shell_code(completed.exit_code), limit_hit=completed.limit_hit)


def _refuse_volumes(volumes: Sequence[live.Volume]) -> None:
    if volumes:
        raise NnenvError(
            "sandbox-unavailable",
            "this host's sandbox cannot show a folder of the host to a command",
            where=str(volumes[0].source),
            because=["its mode is `restricted`: nothing can be mounted"],
            fix=["use a Docker engine: --runner docker"],
        )


def _mount_point(root: Path, volume: live.Volume) -> tuple[str, str, bool]:
    """Make what the volume is mounted on, unless that is below /tmp; no link of the image is followed."""
    parts = volume.destination.parts[1:]
    if not parts or parts[0] in ("proc", "dev") or parts == ("tmp",):
        raise _no_mount_point(volume, "this place is the sandbox's own")
    folder = volume.source.is_dir()
    if parts[0] != "tmp":
        place = root
        for number, name in enumerate(parts, start=1):
            place /= name
            if place.is_symlink():
                raise _no_mount_point(volume, f"/{place.relative_to(root)} is a symbolic link in the image")
            if not place.exists():
                if folder or number < len(parts):
                    place.mkdir(mode=0o755)
                else:
                    place.touch(mode=0o644)
        if place.is_dir() != folder:
            raise _no_mount_point(volume, "one is a folder and the other is none")
    return str(volume.source), str(volume.destination), volume.read_only


def _no_mount_point(volume: live.Volume, why: str) -> NnenvError:
    return NnenvError(
        "path-refused",
        f"{volume.source} cannot be mounted at {volume.destination}",
        where="--volume",
        because=[why],
        fix=["choose another place in the image, such as /data"],
    )


def _lend_resolver(root: Path) -> None:
    """Put copies of the host's name resolution into the root directory; the image's own are links, not to be written
    through."""
    for name in ("resolv.conf", "hosts"):
        copy = root / "etc" / name
        try:
            text = Path("/etc", name).read_bytes()
            copy.parent.mkdir(mode=0o755, exist_ok=True)
            copy.unlink(missing_ok=True)
            copy.write_bytes(text)
            copy.chmod(0o644)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _compose_error(error, copy) from error


def _home(root: Path, uid: int) -> str:
    """The home directory that the image's accounts give a user, "/" without one, as a Docker engine has it."""
    try:
        accounts = (root / "etc/passwd").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "/"
    rows = [account.split(":") for account in accounts]
    return next((row[5] for row in rows if len(row) == 7 and row[2] == str(uid)), "/")


def _check_machine(wanted: str, emulator: Path | None) -> None:
    if emulator is None and wanted != machine():
        raise NnenvError(
            "emulator-missing",
            f"programs for {wanted} cannot run on this {machine()} host",
            fix=["apt-get install qemu-user-static"],
        )
    if emulator is not None and wanted not in _EMULATED_CPU:
        raise NnenvError(
            "emulator-missing",
            f"nnenv does not know how to emulate {wanted}",
            where=str(emulator),
            because=[f"known are {', '.join(sorted(_EMULATED_CPU))}"],
            fix=[f"verify on a {wanted} host"],
        )


def _prepare_root(root: Path) -> None:
    """Make the mount points, as real directories; raises NnenvError if the image has something else there."""
    for name in _MOUNT_POINTS:
        place = root / name
        try:
            place.mkdir(mode=0o755)
        except FileExistsError:
            if place.is_symlink() or not place.is_dir():
                raise _collision(PurePosixPath("/", name), root) from None
        except OSError as error:
            raise _compose_error(error, place) from error
    static = root / "proc" / "cpuinfo"
    if not static.exists() and not static.is_symlink():
        # seen where no /proc can be mounted: numeric libraries ask it for the instruction set
        with contextlib.suppress(OSError):
            static.write_bytes(Path("/proc/cpuinfo").read_bytes())
            static.chmod(0o644)


def _place_emulator(root: Path, emulator: Path, target_machine: str) -> None:
    """Put the emulator and its /proc/cpuinfo into the root directory, anew for each runner."""
    count = os.cpu_count() or 1
    text = "".join(_CPUINFO_TEXT[target_machine].format(index=index, count=count) for index in range(count))
    try:
        for name in _RESERVED:
            (root / name).unlink(missing_ok=True)
        shutil.copyfile(emulator, root / _EMULATOR, follow_symlinks=True)
        (root / _EMULATOR).chmod(0o755)
        static = root / "proc" / "cpuinfo"
        static.unlink(missing_ok=True)
        for place in (root / CPUINFO, static):
            place.write_text(text, encoding="ascii")
            place.chmod(0o644)
    except OSError as error:
        raise _compose_error(error, root) from error


def _empty_scratch(root: Path) -> None:
    """Give a `restricted` run fresh /tmp and /dev/shm; links that an image or a run left are removed, not followed."""
    for name in ("tmp", "dev/shm"):
        place = root / name
        try:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            place.mkdir(mode=0o755)
        except OSError as error:
            raise _compose_error(error, place) from error


def _settings(mode: str, root: Path, request: Run, place: _Place, *, uid: int = 65532, gid: int = 65532) -> Settings:
    limits = request.limits
    counts_by_user = mode == "rootless" and _kernel_release() < (5, 14)
    return Settings(
        mode=mode,
        parent=os.getpid(),
        root=str(root),
        argv=list(request.argv),
        emulator=list(place.emulator),
        environment={**place.environment, **request.environment},
        workdir=place.workdir,
        uid=uid,
        gid=gid,
        scratch_bytes=limits.memory_bytes // 4,
        # before Linux 5.14 the limit counts the caller's processes outside too
        processes=0 if counts_by_user else limits.processes,
        data_bytes=0,
        file_bytes=limits.memory_bytes // 4,
        network=False,
        volumes=[],
        terminal=False,
        control=-1,
    )


def _kernel_release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(character for character in minor if character.isdigit()) or 0)


# --- memory --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _MemoryGroup:
    """A control group that holds the memory of one run."""

    path: Path
    version: int

    def admit(self, process: int) -> None:
        """Move a process in; what it starts from now on is in too."""
        (self.path / "cgroup.procs").write_text(str(process), encoding="ascii")

    def remove(self) -> bool:
        """Remove the group; True if the kernel killed a process in it for want of memory."""
        log = self.path / ("memory.events" if self.version == 2 else "memory.oom_control")
        killed = 0
        with contextlib.suppress(OSError):
            fields = dict(line.split() for line in log.read_text(encoding="ascii").splitlines())
            killed = int(fields.get("oom_kill", 0))
        for _ in range(100):  # the kernel counts an ended process a little longer
            try:
                self.path.rmdir()
                break
            except OSError:
                time.sleep(0.01)
        return killed > 0


def _memory_group(limit: int) -> _MemoryGroup | None:
    """A fresh group with that limit; None where control groups cannot be used by us."""
    name = f"nnenv-{os.getpid()}-{time.monotonic_ns()}"
    for version, parent in _memory_parents():
        path = parent / name
        try:
            _remove_abandoned(parent)
            path.mkdir()
        except OSError:
            continue
        try:
            if version == 2:
                (path / "memory.max").write_text(str(limit), encoding="ascii")
                (path / "memory.oom.group").write_text("1", encoding="ascii")
            else:
                (path / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")
        except OSError:
            path.rmdir()
            continue
        with contextlib.suppress(OSError):  # swapped-out memory would not count; there may be no swap to limit
            swap, value = ("memory.swap.max", 0) if version == 2 else ("memory.memsw.limit_in_bytes", limit)
            (path / swap).write_text(str(value), encoding="ascii")
        return _MemoryGroup(path=path, version=version)
    return None


def _remove_abandoned(parent: Path) -> None:
    """Remove the groups of nnenv processes that were killed; the kernel refuses while anything runs in one."""
    for path in parent.glob("nnenv-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                path.rmdir()


def _memory_parents() -> Iterator[tuple[int, Path]]:
    """(version, directory) where a group may be made that holds memory: cgroups(7).

    Of version 2 only a directory without processes of its own may have groups below ("no internal processes").
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield 1, Path("/sys/fs/cgroup/memory", own.lstrip("/"))
        if controllers == "":
            base = Path("/sys/fs/cgroup")
            for parent in (base / own.lstrip("/")).parents:
                if base != parent and base not in parent.parents:
                    break
                if "memory" in _words(parent / "cgroup.subtree_control"):
                    yield 2, parent


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """One run in progress: feeds and drains the pipes, and watches the limits."""

    settings: Settings
    request: Run
    memory: _MemoryGroup | None
    feed: Iterator[bytes] = field(default_factory=lambda: iter(()))
    take: Callable[[bytes], object] = len
    watch: Callable[[], object] = lambda: None
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the inside half reported, by event."""
    limit_hit: str = ""
    taken: int = 0
    """Bytes of standard output so far."""
    stderr: bytearray = field(default_factory=bytearray)

    def run(self) -> None:
        """Run to the end or to a limit; whatever happens, no process is left behind."""
        with contextlib.ExitStack() as ends:
            status_out, status_in = _pipe(ends)
            settings_out, settings_in = _pipe(ends)
            process = _start(status_in.fileno(), settings_out.fileno())
            ends.callback(_stop, process)
            status_in.close()
            settings_out.close()
            with contextlib.suppress(BrokenPipeError), settings_in:
                self._hand_over(process.pid, settings_in)
            told = self._attend(process, status_out)
        for line in told.splitlines():
            event = json.loads(line)
            self.events.setdefault(event["event"], event)

    def completed(self, seconds: float, *, exhausted: bool) -> Completed:
        """How the run ended; raises NnenvError if the program never started. `exhausted` is the kernel's verdict."""
        failed, ended = self.events.get("failed"), self.events.get("ended")
        code: int = -signal.SIGKILL if ended is None or self.limit_hit else ended["code"]
        limit_hit = self.limit_hit or ("memory" if exhausted and code != 0 else "")
        if failed is not None or (ended is None and not limit_hit):
            raise self._refusal(failed)
        return Completed(
            exit_code=code,
            stdout=b"",
            stderr=bytes(self.stderr),
            seconds=seconds,
            limit_hit=limit_hit,
        )

    def _refusal(self, failed: Mapping[str, Any] | None) -> NnenvError:
        if failed is not None and failed["program"]:
            return NnenvError(
                "command-not-started",
                f"the image cannot run {' '.join(self.request.argv)}",
                where=self.settings["root"],
                because=[_failure(failed), *_noexec(Path(self.settings["root"]))],
                fix=["see that the target holds this program and its loader, for this architecture"],
            )
        last_words = self.stderr.decode("utf-8", "replace").splitlines()[-3:]
        return NnenvError(
            "sandbox-unavailable",
            f"the sandbox ({self.settings['mode']}) could not be set up",
            because=[_failure(failed), *last_words],
            fix=["use a Docker engine: --runner docker"],
        )

    def _hand_over(self, supervisor: int, settings_in: FileIO) -> None:
        """Put the supervisor, which waits for its settings, into the memory group; then send them."""
        limit = self.request.limits.memory_bytes
        try:
            if self.memory is not None:
                self.memory.admit(supervisor)
        except OSError:
            self.memory = None
        # Without a group the samples are the limit; this one bounds what a process gets between two of them.
        self.settings["data_bytes"] = 0 if self.memory else 2 * limit
        unsent = memoryview(json.dumps(self.settings).encode())
        while unsent:
            unsent = unsent[settings_in.write(unsent) :]

    def _attend(self, process: subprocess.Popen[bytes], status: FileIO) -> bytes:
        """Move bytes until all pipes are at their end or a limit is hit; returns what came by the status pipe."""
        assert process.stdin and process.stdout and process.stderr
        told = bytearray()
        readers: dict[int, Callable[[bytes], object]] = {
            process.stdout.fileno(): self._take,
            process.stderr.fileno(): self.stderr.extend,
            status.fileno(): told.extend,
        }
        deadline = time.monotonic() + self.request.limits.seconds
        next_sample = 0.0
        with selectors.DefaultSelector() as selector:
            for descriptor, take in readers.items():
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ, functools.partial(_drain, descriptor, take))
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, _Feed(process.stdin, self.feed))
            while readers and not self.limit_hit:
                for key, _ in selector.select(_SAMPLE_SECONDS):
                    if not key.data():
                        selector.unregister(key.fileobj)
                        readers.pop(key.fd, None)
                self.watch()
                now = time.monotonic()
                self._check_output()
                if now >= deadline:
                    self.limit_hit = self.limit_hit or "time"
                if self.memory is None and now >= next_sample:
                    self._check_memory(process.pid)
                    next_sample = now + _SAMPLE_SECONDS
        if not self.limit_hit:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        return bytes(told)

    def _take(self, chunk: bytes) -> None:
        self.taken += len(chunk)
        self.take(chunk)

    def _check_output(self) -> None:
        """Both streams count; what is too much of the second is cut off."""
        limit = self.request.limits.output_bytes
        if self.taken + len(self.stderr) > limit:
            self.limit_hit = "output"
            del self.stderr[max(0, limit - self.taken) :]

    def _check_memory(self, supervisor: int) -> None:
        """Add up what the processes of the run have resident."""
        table = process_table()
        used = sum(table[process][1] for process in descendants(supervisor, table))
        if used > self.request.limits.memory_bytes:
            self.limit_hit = self.limit_hit or "memory"


@dataclass(slots=True, kw_only=True)
class _LiveAttempt(_Attempt):
    """One run in progress whose streams are the caller's: through pipes of ours, or through a terminal of its own.

    Never the caller's descriptors themselves: with a folder as its input, a program could leave the root directory.
    """

    asked: live.LiveRun
    streams: live.Streams

    def run(self) -> None:
        """Run to the end or to a limit; whatever happens, no process is left behind."""
        with contextlib.ExitStack() as ends:
            told = (self._in_terminal if self.asked.terminal else self._in_pipes)(ends)
        for line in told.splitlines():
            event = json.loads(line)
            self.events.setdefault(event["event"], event)

    def _in_pipes(self, ends: contextlib.ExitStack) -> bytes:
        with live.caught_signals() as arrived:
            process, status, control = self._started(ends, (subprocess.PIPE,) * 3)
            assert process.stdin and process.stdout and process.stderr
            feed = process.stdin
            live.Inflow(self.streams.stdin, lambda chunk: live.write_patiently(feed.fileno(), chunk), feed.close)
            outflows = [
                live.Outflow(os.dup(process.stdout.fileno()), self.streams.stdout),
                live.Outflow(os.dup(process.stderr.fileno()), self.streams.stderr),
            ]
            process.stdout.close()
            process.stderr.close()
            told = self._follow(process, status, arrived, lambda number: control.write(bytes([number])))
            for outflow in outflows:
                outflow.wait()
        live.refuse_lost_output([outflow.refused for outflow in outflows])
        return told

    def _in_terminal(self, ends: contextlib.ExitStack) -> bytes:
        outer, theirs = os.openpty()
        ours = ends.enter_context(FileIO(outer, "r+"))
        outside = self.streams.stdin

        def fit(*_: object) -> None:
            termios.tcsetwinsize(ours.fileno(), live.window_size(outside))

        def forward(number: int) -> None:
            if number == signal.SIGWINCH:
                fit()
            else:  # a shell ignores most others; this one says that the terminal is gone, which ours soon is
                control.write(bytes([signal.SIGHUP, signal.SIGCONT]))

        try:
            fit()
            with live.caught_signals(signal.SIGWINCH) as arrived, live.raw_terminal(outside):
                process, status, control = self._started(ends, (theirs,) * 3)
                os.close(theirs)
                theirs = -1
                live.Inflow(outside, lambda chunk: live.write_patiently(ours.fileno(), chunk), lambda: None)
                outflow = live.Outflow(os.dup(ours.fileno()), self.streams.stdout)
                told = self._follow(process, status, arrived, forward)
                outflow.wait()
        finally:
            if theirs >= 0:
                os.close(theirs)
        return told

    def _started(
        self, ends: contextlib.ExitStack, streams: Sequence[int]
    ) -> tuple[subprocess.Popen[bytes], FileIO, FileIO]:
        """(supervisor, where events come from, where numbers of signals go), the settings handed over."""
        status_out, status_in = _pipe(ends)
        settings_out, settings_in = _pipe(ends)
        control_out, control_in = _pipe(ends)
        os.set_blocking(control_in.fileno(), False)
        self.settings["control"] = control_out.fileno()
        process = _start(status_in.fileno(), settings_out.fileno(), control_out.fileno(), streams=streams)
        ends.callback(_stop, process)
        for inner in (status_in, settings_out, control_out):
            inner.close()
        with contextlib.suppress(BrokenPipeError), settings_in:
            self._hand_over(process.pid, settings_in)
        return process, status_out, control_in

    def _follow(
        self, process: subprocess.Popen[bytes], status: FileIO, arrived: int, forward: Callable[[int], object]
    ) -> bytes:
        """Wait for the end, or for a limit and then make it; what came by the status pipe."""

        def patient(number: int) -> None:
            if number == signal.SIGKILL:
                self.events["ended"] = {"code": -number}
                process.terminate()  # the supervisor ends all below it
                return
            with contextlib.suppress(BrokenPipeError):
                forward(number)

        def exhausted() -> bool:
            self._check_memory(process.pid)
            return bool(self.limit_hit)

        sampled = self.asked.memory_bytes is not None and self.memory is None
        told, self.limit_hit = live.attend(
            status.fileno(),
            arrived,
            patient,
            seconds=self.asked.seconds,
            exhausted=exhausted if sampled else None,
        )
        if self.limit_hit:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        return told


class _Feed:
    """Writes `chunks` to a pipe, as much at a call as it takes, and closes it after the last byte."""

    def __init__(self, stream: IO[bytes], chunks: Iterator[bytes]) -> None:
        self._stream = stream
        self._chunks = chunks
        self._unsent = memoryview(b"")

    def __call__(self) -> bool:
        """True while there is more to send."""
        if not self._unsent and not self._refill():
            self._stream.close()
            return False
        try:
            self._unsent = self._unsent[os.write(self._stream.fileno(), self._unsent[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # the program does not want to read on
            self._stream.close()
            return False
        return True

    def _refill(self) -> bool:
        """Gather enough for a write, since some chunks are small; False at the end."""
        gathered = bytearray()
        for chunk in self._chunks:
            gathered += chunk
            if len(gathered) >= _CHUNK:
                break
        self._unsent = memoryview(gathered)
        return bool(gathered)


def _drain(descriptor: int, take: Callable[[bytes], object]) -> bool:
    """Take one chunk; True unless the pipe is at its end."""
    try:
        chunk = os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return True
    if chunk:
        take(chunk)
    return bool(chunk)


def _pipe(ends: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Both ends of a new pipe, unbuffered, closed with `ends`."""
    out, into = os.pipe()
    return ends.enter_context(FileIO(out, "r")), ends.enter_context(FileIO(into, "w"))


def _start(
    status: int, settings: int, *more: int, streams: Sequence[int] = (subprocess.PIPE,) * 3
) -> subprocess.Popen[bytes]:
    """Start the inside half; in a session of its own, so that the terminal's Ctrl-C reaches only us."""
    script = Path(__file__).with_name("sandbox_init.py")
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(script), str(status), str(settings)],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            bufsize=0,
            pass_fds=(status, settings, *more),
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise NnenvError(
            "sandbox-unavailable",
            f"Python could not be started again: {error.strerror}",
            where=sys.executable,
            fix=["run nnenv with an interpreter that this user may execute"],
        ) from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the supervisor, which ends all below it first; does nothing if it has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _noexec(root: Path) -> list[str]:
    """The likeliest reason for a refused execution, where it applies."""
    if os.statvfs(root).f_flag & os.ST_NOEXEC:
        return [f"{root} is on a file system mounted noexec; choose another place with --store"]
    return []
