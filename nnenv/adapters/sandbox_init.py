"""The inside half of the sandbox: isolates itself, then becomes the wanted program.

Stand-alone, standard library only, run by `sandbox.py` as `python -I -S sandbox_init.py STATUS_FD SETTINGS_FD`.
Standard input, output and error are the program's own; all talk with the host side goes through two pipes:
settings (one JSON object) come in, events (one JSON object a line) go out.

    {"event": "started", "proc": true}
    {"event": "ended", "code": 0}                              # negative: minus the signal number
    {"event": "failed", "step": "...", "errno": 1, "program": false}

Processes, by mode:

    namespaces, rootless:  supervisor -> init (process 1 of the new process namespace) -> program
    restricted:            supervisor -> program

`init` is separate from the program because the kernel ignores default-action signals sent to process 1,
which would change how an abort ends. When `init` goes, the kernel kills all that is left in its namespace.
"""

# Importing pathlib would lengthen the start-up of every run:
# ruff: noqa: PTH101, PTH102, PTH103, PTH108, PTH110, PTH112, PTH116, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, TypedDict

# linux/mount.h
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

# linux/sched.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_NEW_ANY: Final = 0x7E020000
"""Every namespace flag that clone(2) takes."""

# linux/prctl.h
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# linux/capability.h
CAP_KILL: Final = 1 << 5

HIGHEST_DESCRIPTOR: Final = 65536
SHARED_MEMORY_BYTES: Final = 64 << 20
"""/dev/shm, as large as Docker's."""

TERMINAL: Final = (("tty", 5, 0),)
"""What a program with a terminal has besides: the terminal that it controls, whichever that is."""

DEVICES: Final = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9))
"""Name, major, minor: Documentation/admin-guide/devices.txt of the kernel."""

CPUINFO: Final = ".nnenv-cpuinfo"
"""In the root directory: what an emulated program sees as /proc/cpuinfo."""


class Settings(TypedDict):
    """What the host side asks for."""

    mode: str
    parent: int
    """Process id of the host side, 0 if unknown."""
    root: str
    argv: list[str]
    """Empty: set everything up, then end with 0 instead of starting a program (a probe)."""
    emulator: list[str]
    """The emulator's command line up to the program's path; empty for a native program."""
    environment: dict[str, str]
    workdir: str
    uid: int
    gid: int
    scratch_bytes: int
    processes: int
    """0: no limit by RLIMIT_NPROC."""
    data_bytes: int
    """RLIMIT_DATA; 0: no limit, because a control group holds the memory."""
    file_bytes: int
    """RLIMIT_FSIZE; 0: no limit."""
    network: bool
    """Whether the program shares the host's network."""
    volumes: list[tuple[str, str, bool]]
    """Path on the host, path in the root (its mount point is there, unless below /tmp), whether it is read-only."""
    terminal: bool
    """Whether standard input is a terminal that the program is to control."""
    control: int
    """Descriptor that gives the numbers of signals for the program, a byte each; -1: there is none."""


class SetupError(Exception):
    """One step could not be done; `program` is true when the program rather than the isolation is at fault."""

    def __init__(self, step: str, number: int, *, program: bool = False) -> None:
        super().__init__(step)
        self.step = step
        self.number = number
        self.program = program


@contextlib.contextmanager
def step(name: str, *, program: bool = False) -> Iterator[None]:
    """Turn an OSError inside into SetupError that names the step."""
    try:
        yield
    except OSError as error:
        raise SetupError(name, error.errno or 0, program=program) from error


# --- system calls that the os module does not have -----------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def prctl(option: int, *arguments: int) -> None:
    """prctl(2); OSError if the kernel refuses."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(ctypes.c_int(option), *padded))


def unshare(flags: int) -> None:
    """unshare(2); OSError if the kernel refuses."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2); OSError if the kernel refuses."""
    names = [os.fsencode(name) for name in (source, target, kind)]
    _checked(_libc.mount(*names, ctypes.c_ulong(flags), os.fsencode(options) if options else None))


# --- the root file system ------------------------------------------------------------------------------------------


def keep_mounts_private(root: str) -> None:
    """See to it that no mount made from here on is seen outside this mount namespace."""
    try:
        mount("none", "/", "", MS_REC | MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _keep_private_from_namespace_root(root)


def _keep_private_from_namespace_root(root: str) -> None:
    """The same from inside a chroot, whose "/" is no mount point: climb to the real root, and come back.

    A working directory outside the root directory is not stopped by ".." (chroot(2), Notes), so make `root` the root
    directory for a moment.
    """
    own_root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chroot(root)
        os.fchdir(own_root)
        while not os.path.samestat(os.stat("."), os.stat("..")):
            os.chdir("..")
        mount("none", ".", "", MS_REC | MS_PRIVATE)
        os.fchdir(own_root)
        os.chroot(".")
    finally:
        os.close(own_root)


def mount_root(settings: Settings) -> bool:
    """Mount everything the program will see below the root; True if there is a /proc."""
    root, scratch_bytes = settings["root"], settings["scratch_bytes"]
    with step("make mounts private"):
        keep_mounts_private(root)
    with step("mount the root read-only"):
        mount(root, root, "", MS_BIND)
        _remount(root, MS_RDONLY | MS_NOSUID | MS_NODEV)
    with step("mount /tmp"):
        options = f"mode=1777,size={scratch_bytes}"
        mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
    with step("mount /dev"):
        mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=65536")
        make_devices(root, (*DEVICES, *TERMINAL) if settings["terminal"] else DEVICES)
        mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={SHARED_MEMORY_BYTES}")
        mount("none", f"{root}/dev", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    has_proc = _mount_proc(root)
    if has_proc and os.path.exists(f"{root}/{CPUINFO}"):
        with step("replace /proc/cpuinfo"):
            mount(f"{root}/{CPUINFO}", f"{root}/proc/cpuinfo", "", MS_BIND)
            _remount(f"{root}/proc/cpuinfo", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for source, destination, read_only in settings["volumes"]:
        with step(f"mount {source} at {destination}", program=True):
            mount_volume(source, f"{root}{destination}", read_only=read_only)
    return has_proc


def mount_volume(source: str, target: str, *, read_only: bool) -> None:
    """Show a file or folder of the host at `target`, without what is mounted below it, set-uid and devices."""
    if not os.path.exists(target):  # below /tmp, which is fresh
        folder = target if os.path.isdir(source) else os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        if folder != target:
            make_empty_file(target)
    mount(source, target, "", MS_BIND)
    _remount(target, MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0))


def _remount(target: str, flags: int) -> None:
    """Change a bind mount's flags; "noexec" and "ro" that are there must stay, a user namespace may not lift them."""
    there = os.statvfs(target).f_flag
    kept = (MS_NOEXEC if there & os.ST_NOEXEC else 0) | (MS_RDONLY if there & os.ST_RDONLY else 0)
    mount("none", target, "", MS_REMOUNT | MS_BIND | flags | kept)


def _mount_proc(root: str) -> bool:
    """Mount a fresh /proc; False where the kernel refuses, as it does where the only /proc has parts hidden."""
    try:
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError:
        return False
    return True


def make_devices(root: str, devices: tuple[tuple[str, int, int], ...]) -> None:
    """Fill a fresh /dev with harmless devices; what may not be made is bound from the host's /dev."""
    for name, major, minor in devices:
        path = f"{root}/dev/{name}"
        try:
            make_device(path, major, minor)
        except PermissionError:
            make_empty_file(path)
            mount(f"/dev/{name}", path, "", MS_BIND)
    make_device_links(root)


def make_devices_without_mount(root: str) -> None:
    """Make the devices in the image's own /dev, anew for each run.

    Without the right to make any, or on a file system mounted "nodev", null is an empty file and the others are left
    out: programs open null just to have something open, and take a missing random device for what it is.
    """
    for name, major, minor in DEVICES:
        path = f"{root}/dev/{name}"
        remove(path)
        try:
            make_device(path, major, minor)
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:
            remove(path)
            if name == "null":
                make_empty_file(path)
    make_device_links(root)


def make_device(path: str, major: int, minor: int) -> None:
    """A character device that everybody may read and write; PermissionError where that is not allowed."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.chmod(path, 0o666)


def make_empty_file(path: str) -> None:
    """A new empty file that everybody may read and write."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    os.fchmod(descriptor, 0o666)
    os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file if there is one: a present one may be shared with a layer, so nothing may write to it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_device_links(root: str) -> None:
    """The links and the directory in /dev that every program expects."""
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{root}/dev/shm")


# --- privileges ----------------------------------------------------------------------------------------------------


def drop_bounding_set(*, required: bool) -> None:
    """Take every capability out of the bounding and ambient sets, for good."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # one past the last capability of this kernel
            if required:
                raise
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def drop_capabilities(kept: int = 0) -> None:
    """Empty the effective, permitted and inheritable sets (capset(2), version 3: two sets of 32 bits).

    `kept` is a bit mask of those that stay effective and permitted, if they are.
    """
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    sets = ctypes.create_string_buffer(struct.pack("=6I", kept, kept, 0, 0, 0, 0), 24)
    _checked(_libc.capset(header, sets))


def change_user(uid: int, gid: int, *, in_user_namespace: bool) -> None:
    """Become `uid` and `gid` without supplementary groups; irrevocable."""
    if not in_user_namespace:  # there setgroups is denied, and the old groups are of no name inside
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


# --- system-call filter --------------------------------------------------------------------------------------------

AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""linux/audit.h"""

FORBIDDEN_CALLS: Final[dict[str, tuple[int, int]]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Name -> number on (x86_64, aarch64): asm/unistd_64.h and asm-generic/unistd.h.

io_uring is here because it opens sockets without the socket call.
"""

SOCKET: Final = (41, 198)
CLONE: Final = (56, 220)
CLONE3: Final = (435, 435)

AF_VISIBLE_IN_NAMESPACE: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Families that a network namespace confines. AF_VSOCK reaches the hypervisor from any of them."""

AF_WITHOUT_NAMESPACE: Final = (socket.AF_UNIX,)

# linux/bpf_common.h, linux/seccomp.h
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_X32_BIT: Final = 0x40000000

_AT_NUMBER: Final = 0
_AT_ARCHITECTURE: Final = 4
_AT_FIRST_ARGUMENT: Final = 16
"""Offsets in struct seccomp_data; both machines are little-endian, so this is the low half."""


def system_call_filter(machine: str, families: tuple[int, ...]) -> bytes:
    """A classic BPF program (array of struct sock_filter) for seccomp; KeyError for a machine without a table.

    It refuses what an inference never needs, sockets of any family but `families`, and new namespaces.
    Anything called through another ABI of the same kernel (i386, x32) is refused as a whole.
    """
    column = list(AUDIT_ARCHITECTURE).index(machine)
    program = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for numbers in FORBIDDEN_CALLS.values():
        program += [(_JUMP_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    # libc falls back to clone, whose flags a filter can read
    program += [(_JUMP_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [
        (_JUMP_EQUAL, 0, 4, CLONE[column]),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, CLONE_NEW_ANY),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program += [(_JUMP_EQUAL, 0, len(families) + 2, SOCKET[column]), (_LOAD, 0, 0, _AT_FIRST_ARGUMENT)]
    for index, family in enumerate(families):
        program.append((_JUMP_EQUAL, len(families) - index, 0, family))
    program += [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install_filter(program: bytes) -> None:
    """Put this process and all it will start under `program`; needs no_new_privs."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    description = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(description))


# --- the processes -------------------------------------------------------------------------------------------------


def process_table() -> dict[int, tuple[int, int]]:
    """Process id -> (parent's id, resident bytes) of all processes that /proc shows; empty without a /proc."""
    page = resource.getpagesize()
    table = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as stream:
                # proc(5): the command may hold spaces and parentheses, so count from its last one
                fields = stream.read().rpartition(b")")[2].split()
                table[int(name)] = (int(fields[1]), int(fields[21]) * page)
    return table


def descendants(ancestor: int, table: dict[int, tuple[int, int]]) -> list[int]:
    """Process ids below `ancestor`, parents first."""
    children: dict[int, list[int]] = {}
    for process, (parent, _) in table.items():
        children.setdefault(parent, []).append(process)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_descendants(group: int) -> None:
    """Kill all that is left below this process, which adopts orphans; without a /proc only `group` is found."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    while alive := descendants(os.getpid(), process_table()):
        for process in alive:  # stopped first, so that none forks while the others are killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _reap_finished()


def _reap_finished() -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def report(status: int, event: str, **values: Any) -> None:
    """Send one event to the host side."""
    line = json.dumps({"event": event, **values}) + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(status, line.encode())


def in_child(body: Callable[[], int], status: int) -> int:
    """Fork; the child ends with what `body` returns, and reports what it raises. Returns the child's id."""
    child = os.fork()
    if child:
        return child
    code = 70  # sysexits.h, EX_SOFTWARE
    try:
        code = body()
    except SetupError as failure:
        report(status, "failed", step=failure.step, errno=failure.number, program=failure.program)
    except BaseException as error:  # nothing may return into the parent's code
        report(status, "failed", step=f"{type(error).__name__}: {error}", errno=0, program=False)
    finally:
        os._exit(code)


def start_program(settings: Settings) -> int:
    """Fork the process that becomes the program; returns its id once it runs, or raises SetupError."""
    failure_out, failure_in = os.pipe()
    supervisor = os.getpid()

    def body() -> int:
        if settings["mode"] == "restricted":
            confine_root(settings["root"])
        return become_program(settings, keep=failure_in, supervisor=supervisor)

    child = in_child(body, failure_in)
    os.close(failure_in)
    with os.fdopen(failure_out, "rb") as stream:
        failure = stream.read()  # ends when the program is executed: the descriptor closes then
    if failure:
        os.waitpid(child, 0)
        told = json.loads(failure)
        raise SetupError(told["step"], told["errno"], program=told["program"])
    return child


def confine_root(root: str) -> None:
    """chroot to `root`."""
    with step("change the root directory"):
        os.chroot(root)
        os.chdir("/")


def become_program(settings: Settings, *, keep: int, supervisor: int) -> int:
    """Drop every privilege and execute the program; returns 0 for a probe, else raises or never returns."""
    restricted = settings["mode"] == "restricted"
    os.setsid()
    if settings["terminal"]:
        with step("take control of the terminal"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.umask(0o022)
    with step(f"enter the working directory {settings['workdir']}", program=True):
        os.chdir(settings["workdir"])
    limit_resources(settings)
    with step("drop capabilities"):
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        drop_bounding_set(required=not restricted)
    with step("change the user"):
        _own_streams(settings["uid"], settings["gid"])
        change_user(settings["uid"], settings["gid"], in_user_namespace=settings["mode"] == "rootless")
    with step("drop capabilities"):
        drop_capabilities()
    if restricted:
        # Elsewhere the end of process 1 ends all; the change of user has cleared any earlier setting.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            return 0
    _filter_calls(restricted=restricted, network=settings["network"])
    os.closerange(3, keep)
    os.closerange(keep + 1, HIGHEST_DESCRIPTOR)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if settings["argv"]:
        execute(settings)
    return 0


def _own_streams(uid: int, gid: int) -> None:
    """Give the pipes, or the terminal made for it, to the program's user, or it could not open /dev/stdout again."""
    for descriptor in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, uid, gid)


def _filter_calls(*, restricted: bool, network: bool) -> None:
    machine = os.uname().machine
    if machine not in AUDIT_ARCHITECTURE:
        if restricted:
            raise SetupError(f"filter system calls of {machine}", errno.ENOSYS)
        return
    families = AF_WITHOUT_NAMESPACE if restricted and not network else AF_VISIBLE_IN_NAMESPACE
    with step("filter system calls"):
        install_filter(system_call_filter(machine, families))


def limit_resources(settings: Settings) -> None:
    """Set the resource limits; never above what the host side has itself."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 4096,
    }
    if settings["file_bytes"]:
        wanted[resource.RLIMIT_FSIZE] = settings["file_bytes"]
    if settings["processes"]:
        wanted[resource.RLIMIT_NPROC] = settings["processes"]
    if settings["data_bytes"]:
        wanted[resource.RLIMIT_DATA] = settings["data_bytes"]
    with step("set resource limits"):
        for kind, value in wanted.items():
            _, hard = resource.getrlimit(kind)
            allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (allowed, allowed))


def execute(settings: Settings) -> NoReturn:
    """Execute the program, found on its own PATH; raises SetupError."""
    argv, environment = settings["argv"], settings["environment"]
    with step(f"execute {argv[0]}", program=True):
        if settings["emulator"]:
            # qemu does not search PATH
            program = find_program(argv[0], environment.get("PATH", os.defpath))
            emulator = settings["emulator"]
            os.execve(emulator[0], [*emulator, "-0", argv[0], program, *argv[1:]], environment)
        os.execvpe(argv[0], argv, environment)


def find_program(name: str, search_path: str) -> str:
    """Where `name` lies on `search_path`; OSError if nowhere, or if it may not be executed."""
    directories = [""] if "/" in name else search_path.split(os.pathsep)
    candidates = [f"{directory}/{name}" if directory else name for directory in directories]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    number = errno.EACCES if any(os.path.exists(candidate) for candidate in candidates) else errno.ENOENT
    raise OSError(number, os.strerror(number), name)


def wait_for(child: int, control: int) -> int:
    """Reap whatever ends until `child` does; its exit code, or minus the signal number.

    Meanwhile each signal whose number comes by `control` goes to the program's process group. What has left the group,
    as a daemon does, is the program's own affair.
    """
    woken, into = os.pipe()
    for descriptor in (woken, into, *([control] if control >= 0 else [])):
        os.set_blocking(descriptor, False)
    # A signal between a look and a wait would be missed; the descriptor is readable until it is read.
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sources = [woken, control] if control >= 0 else [woken]
    while True:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return os.waitstatus_to_exitcode(ended[1])
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            os.read(woken, 4096)
        if control in ready and not forward_signals(control, child):
            sources.remove(control)


def forward_signals(control: int, group: int) -> bool:
    """Send the signals that wait in `control` to the group; False once nobody can send more."""
    numbers = os.read(control, 64)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    return bool(numbers)


def run_init(settings: Settings, status: int, lifeline: int) -> int:
    """Process 1 of the new namespace: set the stage, start the program, reap, report."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_blocking(lifeline, False)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)
        return 1  # end of file: the supervisor went before the line above could bind us to it
    has_proc = mount_root(settings)
    with step("set the host name"):
        socket.sethostname("nnenv")
    if not settings["network"]:
        raise_loopback()
    confine_root(settings["root"])
    prctl(PR_SET_DUMPABLE, 0)  # the program could be of the same user, and must not trace us
    child = start_program(settings)
    may_kill = settings["control"] >= 0 and settings["mode"] == "namespaces"  # else the program is of the same user
    drop_capabilities(CAP_KILL if may_kill else 0)
    report(status, "started", proc=has_proc)
    report(status, "ended", code=wait_for(child, settings["control"]))
    return 0


def raise_loopback() -> None:
    """Bring up "lo" of the new network namespace, for programs that talk to themselves; they may do without."""
    up_and_running = 0x1 | 0x40  # linux/if.h
    request = struct.pack("16sH14x", b"lo", up_and_running)
    siocsifflags = 0x8914
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, siocsifflags, request)


def run_namespaced(settings: Settings, status: int) -> None:
    """Make the namespaces, fork their process 1, and end when it has ended, and with it all others."""
    with step("create namespaces"):
        if settings["mode"] == "rootless":
            enter_user_namespace(settings["uid"], settings["gid"])
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
        if not settings["network"]:
            unshare(CLONE_NEWNET)
    die_with_parent(settings["parent"])
    lifeline_out, lifeline_in = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def body() -> int:
        os.close(lifeline_in)
        return run_init(settings, status, lifeline_out)

    child = in_child(body, status)

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.waitpid(child, 0)


def enter_user_namespace(uid: int, gid: int) -> None:
    """A new user namespace in which only the present user exists, named `uid` and `gid` (user_namespaces(7))."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {outer_uid} 1"), ("gid_map", f"{gid} {outer_gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(text)


def run_restricted(settings: Settings, status: int) -> None:
    """No namespaces: another user in a chroot under a system-call filter; this process adopts and kills orphans."""
    with step("adopt orphans"):
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    die_with_parent(settings["parent"])
    with step("make devices"):
        make_devices_without_mount(settings["root"])
        for name in ("tmp", "dev/shm"):
            os.chmod(f"{settings['root']}/{name}", 0o1777)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = start_program(settings)

    def stop(*_: object) -> None:
        kill_descendants(child)
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    report(status, "started", proc=False)
    code = wait_for(child, settings["control"])
    kill_descendants(child)
    report(status, "ended", code=code)


def die_with_parent(parent: int) -> None:
    """Have SIGTERM sent to this process when the host side ends, however it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent and os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """Read the settings, run, report; the exit code carries nothing."""
    status, settings_descriptor = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(status, False)
    try:
        with os.fdopen(settings_descriptor, "rb") as stream:
            settings: Settings = json.loads(stream.read())
        die_with_parent(settings["parent"])
        if settings["mode"] == "restricted":
            run_restricted(settings, status)
        else:
            run_namespaced(settings, status)
    except SetupError as failure:
        report(status, "failed", step=failure.step, errno=failure.number, program=failure.program)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
