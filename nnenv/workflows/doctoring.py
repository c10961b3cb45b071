"""`nnenv doctor`: what this machine can do, and what to do where it cannot.

Each examination asks one thing of the world, and a pure function makes a line of the answer; all are asked side by
side, and none is waited for longer than ANSWER_SECONDS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nnenv import __version__
from nnenv.adapters.docker_engine import EngineFacts, connect
from nnenv.adapters.examination import (
    GpuFacts,
    Memory,
    Place,
    gpu_facts,
    gpu_host,
    has_binary_format,
    memory,
    place,
    program_version,
)
from nnenv.adapters.host import HostFacts, find_emulator, host_facts, machine, user_namespace_obstacles
from nnenv.adapters.patience import answers_within
from nnenv.errors import NnenvError
from nnenv.spec.names import LOCK_NAME, MANIFEST_NAME
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.http import Http

ANSWER_SECONDS: Final = 5.0

OLDEST_PYTHON: Final = (3, 11)
"""As pyproject.toml requires."""

OLDEST_ENGINE_API: Final = (1, 41)
"""Docker 20.10, the oldest that nnenv is tested with."""

LITTLE_DISK: Final = 5_000_000_000
"""Bytes: a CUDA build of a framework is 3 GB of wheels, and its layers are as large again."""

LITTLE_MEMORY: Final = 2_000_000_000
"""Bytes: a small model runs in less; nnenv's own work stays far below."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)

PROBED_PROJECT: Final = "packaging"
"""A project with a small page that every index of any size has."""

_MACHINES: Final = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})


class State(StrEnum):
    """What a line of the examination says."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing examined."""

    name: str
    state: State
    text: str
    fix: tuple[str, ...] = ()
    fatal: bool = False
    """Whether nnenv can do nothing at all without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a server on the network answered."""

    date: str
    """By its clock, as RFC 9110 writes it; empty where it does not say."""
    traits: tuple[str, ...] = ()
    """What it offers, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A line, and the times by which other clocks differ from ours, if the question came by any."""

    line: Line
    skews: tuple[timedelta, ...] = ()


def examine(session: Session, *, offline: bool) -> tuple[Line, ...]:
    """Every line, in a fixed order; returns within little more than ANSWER_SECONDS, whatever hangs."""
    foreign = foreign_machines(session)
    local: dict[str, Callable[[], Answer]] = {
        "nnenv": lambda: Answer(line=python_line(sys.version_info[:2], sys.version.split()[0])),
        "machine": lambda: Answer(line=machine_line(host_facts(), memory())),
        "store": lambda: Answer(line=store_line(place(session.store.root))),
        "docker": lambda: Answer(line=_engine_line(session.environment)),
        "sandbox": lambda: Answer(line=_sandbox_line()),
        "emulator": lambda: Answer(line=_emulator_line(foreign)),
        "gpu": lambda: Answer(line=gpu_line(gpu_facts())),
        "git": lambda: Answer(line=git_line(program_version("git", "--version"))),
        "gpgv": lambda: Answer(line=_signature_line(session.environment)),
        "project": lambda: Answer(line=_project_line(session)),
    }
    remote: dict[str, Callable[[], Answer]] = {
        "python index": lambda: _index_answer(session),
        "debian mirror": lambda: _mirror_answer(session),
    }
    answers = answers_within(ANSWER_SECONDS, local if offline else {**local, **remote})
    lines = {name: _line(name, answer) for name, answer in answers.items()}
    skipped = {name: Line(name=name, state=State.SKIPPED, text="not asked (--offline)") for name in (*remote, "clock")}
    if not offline:
        skews = [skew for answer in answers.values() if isinstance(answer, Answer) for skew in answer.skews]
        lines["clock"] = clock_line(skews)
    lines = {**skipped, **lines}
    return tuple(lines[name] for name in (*local, *remote, "clock"))


def targets_here(session: Session, names: Sequence[str]) -> tuple[Line, ...]:
    """Whether this machine could run the images of these targets; NnenvError `target-unknown`, `lock-missing`, …"""
    from nnenv.workflows.target_host import target_lines
    from nnenv.workflows.targets import chosen_targets

    targets = chosen_targets(session.lockfile(), names)
    host = gpu_host(session.environment)
    try:
        runtimes: tuple[str, ...] | None = connect().facts().runtimes
    except NnenvError:
        runtimes = None
    return tuple(line for target in targets for line in target_lines(target, host, machine(), runtimes))


def usable(lines: Sequence[Line]) -> bool:
    """Whether nnenv can do anything here."""
    return not any(line.fatal for line in lines)


def _line(name: str, answer: Answer | BaseException | None) -> Line:
    """The line of an answer; of a refusal or of silence too, for neither may end the examination."""
    if isinstance(answer, Answer):
        return replace(answer.line, name=name)
    if answer is None:
        return Line(name=name, state=State.WARNING, text=f"no answer within {ANSWER_SECONDS:g} s")
    if isinstance(answer, NnenvError):
        text = without_secrets("; ".join([answer.what, *answer.because[:1]]))
        return Line(name=name, state=State.MISSING, text=text, fix=tuple(map(without_secrets, answer.fix)))
    return Line(name=name, state=State.WARNING, text=f"could not be examined: {answer}")


# This machine


def python_line(version: tuple[int, ...], text: str) -> Line:
    """nnenv itself."""
    what = f"{__version__}, Python {text}"
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        fix = (f"install nnenv with Python {oldest} or later",)
        return Line(name="nnenv", state=State.MISSING, text=what, fix=fix, fatal=True)
    return Line(name="nnenv", state=State.OK, text=what)


def machine_line(host: HostFacts, found: Memory) -> Line:
    """Processor and memory."""
    text = f"{host.kernel}, {host.machine}, {host.processors} processors"
    text += f", {size(found.available)} of {size(found.total)} memory available" if found.total else ""
    if found.total and found.available < LITTLE_MEMORY:
        fix = ("close other programs, or give this machine more memory: models are loaded whole to verify them",)
        return Line(name="machine", state=State.WARNING, text=text, fix=fix)
    return Line(name="machine", state=State.OK, text=text)


def store_line(found: Place) -> Line:
    """Where the store is or will be."""
    text = f"{found.path}" + ("" if found.exists else " (made by the first write)")
    text += f", {found.file_system or 'unknown file system'}, {size(found.free_bytes)} free"
    if found.obstacle:
        fix = ("make it writable for this user, or choose another place with --store or NNENV_STORE",)
        return Line(
            name="store", state=State.MISSING, text=f"{text}; not writable: {found.obstacle}", fix=fix, fatal=True
        )
    warnings = _store_warnings(found)
    if warnings:
        return Line(
            name="store",
            state=State.WARNING,
            text="; ".join([text, *(what for what, _ in warnings)]),
            fix=tuple(fix for _, fix in warnings),
        )
    return Line(name="store", state=State.OK, text=text)


def _store_warnings(found: Place) -> list[tuple[str, str]]:
    """(what is not well, what to do)."""
    elsewhere = "choose another place with --store or NNENV_STORE"
    warnings = []
    if not found.has_locks:
        warnings.append(("the kernel locks no files there", elsewhere))
    if found.free_bytes < LITTLE_DISK:
        warnings.append(("little room", f"free some space, `nnenv store gc` helps, or {elsewhere}"))
    if found.file_system in _VOLATILE:
        warnings.append(("it is lost when this machine restarts", elsewhere))
    if found.file_system in _REMOTE:
        warnings.append(("a network file system is slow, and some lose locks", elsewhere))
    return warnings


def _engine_line(environment: Mapping[str, str]) -> Line:
    address = environment.get("DOCKER_HOST", "")
    try:
        facts = connect(timeout=ANSWER_SECONDS - 1).facts()
    except NnenvError as error:
        return no_engine_line(error, address, _socket_obstacle(address))
    return engine_line(facts, machine())


def _socket_obstacle(address: str) -> str:
    """`absent` or `forbidden` for a local socket that cannot be used, else ""."""
    import os

    path = Path(address.removeprefix("unix://") if address else "/var/run/docker.sock")
    if "://" in str(address) and not address.startswith("unix://"):
        return ""
    if not path.exists():
        return "absent"
    return "" if os.access(path, os.R_OK | os.W_OK) else "forbidden"


def no_engine_line(error: NnenvError, address: str, obstacle: str) -> Line:
    """No engine is no misfortune: nnenv builds and verifies without one."""
    where = "at the address of DOCKER_HOST" if address else "at the default socket"
    text = f"no Docker engine answers {where}; nnenv then builds into files and runs images in its sandbox"
    fix = {
        "absent": ("start Docker (Debian: apt-get install docker.io), or set DOCKER_HOST",),
        "forbidden": ("add this user to the group docker (sudo usermod -aG docker USER) and log in again",),
    }.get(obstacle, (f"see why: {without_secrets(error.because[0]) if error.because else error.what}",))
    return Line(name="docker", state=State.WARNING, text=text, fix=fix)


def engine_line(facts: EngineFacts, here: str) -> Line:
    """An engine that answers: images are loaded into it and run by it."""
    traits = [
        f"API {facts.api}",
        facts.storage,
        f"cgroup {facts.cgroup}",
        *(["rootless"] if facts.rootless else []),
        facts.machine,
    ]
    text = f"{facts.version} ({', '.join(traits)}): `build` loads images into it, `verify`, `run` and `shell` use it"
    warnings = []
    if tuple(int(part) for part in facts.api.split(".")[:2]) < OLDEST_ENGINE_API:
        warnings.append(("older than 20.10", "update it, or use --output oci:FILE and --runner sandbox"))
    if not facts.has_init:
        warnings.append(
            ("no docker-init, so some commands ignore Ctrl-C until the third", "Debian: apt-get install tini")
        )
    if facts.machine != here:
        warnings.append((f"its machine is {facts.machine}, this one {here}", "use --runner sandbox for this machine"))
    if warnings:
        text = "; ".join([text, *(what for what, _ in warnings)])
        return Line(name="docker", state=State.WARNING, text=text, fix=tuple(fix for _, fix in warnings))
    return Line(name="docker", state=State.OK, text=text)


def _sandbox_line() -> Line:
    from nnenv.adapters.sandbox import obstacles

    return sandbox_line(obstacles(), user_namespace_obstacles())


def sandbox_line(modes: Mapping[str, str], settings: Sequence[str]) -> Line:
    """The strongest mode that works (docs/adr/0006-sandbox-modes.md); `modes` says why each other does not."""
    working = [mode for mode, why in modes.items() if not why]
    if not working:
        return Line(
            name="sandbox",
            state=State.MISSING,
            text="; ".join(
                ["nothing isolates a process here", *(f"{mode}: {why}" for mode, why in modes.items()), *settings]
            ),
            fix=(
                "allow user namespaces: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1, and "
                "on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0",
                "or, inside a container, give it CAP_SYS_ADMIN or CAP_SYS_CHROOT, CAP_SETUID and CAP_SETGID",
            ),
        )
    if working[0] == "restricted":
        return Line(
            name="sandbox",
            state=State.WARNING,
            text=f"mode restricted, the weakest; namespaces: {modes['namespaces']}",
            fix=("give this container CAP_SYS_ADMIN, or allow user namespaces", "or use a Docker engine"),
        )
    return Line(name="sandbox", state=State.OK, text=f"mode {working[0]}: compiles bytecode, verifies and runs images")


def foreign_machines(session: Session) -> tuple[str, ...]:
    """Processors of model.toml's targets that this machine is not; empty where model.toml cannot be read."""
    try:
        manifest = session.manifest()
    except NnenvError:
        return ()
    wanted = {target.platform for target in manifest.targets}
    return tuple(name for name, platform in _MACHINES.items() if platform in wanted and name != machine())


def _emulator_line(foreign: Sequence[str]) -> Line:
    others = [name for name in _MACHINES if name != machine()]
    found = {name: str(find_emulator(name) or "") for name in others}
    return emulator_line(found, {name for name in others if has_binary_format(name)}, foreign)


def emulator_line(found: Mapping[str, str], registered: set[str], wanted: Sequence[str]) -> Line:
    """Emulators of other processors: needed only to verify and run their targets here."""
    lacking = [name for name in wanted if not found.get(name)]
    words = [
        f"{name}: {path or 'none'}" + (" (engines too)" if name in registered else "") for name, path in found.items()
    ]
    if lacking:
        text = f"targets for {', '.join(lacking)} lock and build here, but cannot be verified or run"
        return Line(name="emulator", state=State.WARNING, text=text, fix=("Debian: apt-get install qemu-user-static",))
    needed = "" if any(found.values()) else "; needed only for targets of other processors"
    return Line(name="emulator", state=State.OK, text=", ".join(words) + needed)


def gpu_line(facts: GpuFacts) -> Line:
    """A report and no judgement: GPU targets lock and build anywhere."""
    if not facts.driver and not facts.library:
        return Line(name="gpu", state=State.OK, text="no NVIDIA driver here: CPU targets need none")
    parts = [f"driver: {facts.driver or 'no kernel module'}", f"libcuda.so.1: {facts.library or 'none'}"]
    parts.append(f"for containers: {', '.join(facts.tools) or 'no NVIDIA container toolkit'}")
    return Line(name="gpu", state=State.OK, text="; ".join(parts))


def git_line(version: str) -> Line:
    """Needed by `nnenv diff` alone."""
    if version:
        return Line(name="git", state=State.OK, text=version.removeprefix("git version "))
    fix = ("Debian: apt-get install git",)
    return Line(name="git", state=State.WARNING, text="none: `nnenv diff` cannot read revisions", fix=fix)


def _signature_line(environment: Mapping[str, str]) -> Line:
    from nnenv.adapters.debian_archive import find_keyring

    return signature_line(program_version("gpgv", "--version"), find_keyring(environment))


def signature_line(version: str, keyring: Path) -> Line:
    """What Debian's signatures are checked with."""
    if not version:
        fix = ("Debian: apt-get install gpgv",)
        return Line(name="gpgv", state=State.MISSING, text="none: Debian's signatures cannot be checked", fix=fix)
    if not keyring.is_file():
        fix = ("Debian: apt-get install debian-archive-keyring",)
        return Line(name="gpgv", state=State.MISSING, text=f"{keyring} is not there", fix=fix)
    return Line(name="gpgv", state=State.OK, text=f"{version.rpartition(' ')[2]}, keys in {keyring}")


def _project_line(session: Session) -> Line:
    from nnenv.workflows.building import checked_lock

    if not (session.project / MANIFEST_NAME).exists():
        return Line(name="project", state=State.OK, text=f"no {MANIFEST_NAME} in this folder")
    try:
        names = [target.name for target in session.manifest().targets]
        checked_lock(session, frozen=False)
    except NnenvError as error:
        text = "; ".join([error.what, *error.because[:1]])
        return Line(name="project", state=State.WARNING, text=text, fix=error.fix)
    return Line(name="project", state=State.OK, text=f"{LOCK_NAME} fits {MANIFEST_NAME}: {', '.join(names)}")


# The network


def _patient_http(session: Session) -> Http:
    from nnenv.adapters.http import Http

    return Http(environ=session.environment, retries=0, connect_timeout=3.0, read_timeout=4.0)


def _skews(date: str, now: datetime) -> tuple[timedelta, ...]:
    """How far a server's clock (RFC 9110, Date) is before ours."""
    from email.utils import parsedate_to_datetime

    try:
        return (now - parsedate_to_datetime(date),)
    except (TypeError, ValueError):
        return ()


def _index_answer(session: Session) -> Answer:
    """Ask each configured index for one small page."""
    from nnenv.adapters.pip_config import index_configuration

    configuration = index_configuration(session.environment, home=session.home)
    http = _patient_http(session)
    reached: list[str] = []
    failed: list[NnenvError] = []
    skews: list[timedelta] = []
    for url in configuration.indexes:
        try:
            served = _index_served(http, url)
        except NnenvError as error:
            failed.append(error)
        else:
            reached.append(f"{_host(url)} ({', '.join(served.traits)})")
            skews += _skews(served.date, _clock())
    links = [f"links in {_host(url)}" for url in configuration.find_links]
    return Answer(line=sources_line("python index", [*reached, *links], failed), skews=tuple(skews))


def _index_served(http: Http, url: str) -> Served:
    """What the index offers: one page of it, or the folder that it is."""
    from urllib.parse import urlsplit

    from nnenv.adapters.python_index import PAGE_LIMIT
    from nnenv.formats.simple_index import ACCEPT, read_page

    if urlsplit(url).scheme not in ("http", "https"):
        path = Path(urlsplit(url).path)
        if not path.is_dir():
            raise NnenvError("index-unreachable", f"{path} is not a folder", fix=["correct the index's address"])
        return Served(date="", traits=("a folder",))
    answer = http.get(f"{url.rstrip('/')}/{PROBED_PROJECT}/", limit=PAGE_LIMIT, headers={"Accept": ACCEPT})
    if answer is None:
        return Served(date="", traits=(f"reachable, has no {PROBED_PROJECT}",))
    kind = answer.headers.get("content-type", "text/html")
    files = read_page(answer.body, kind, answer.url)
    traits = (
        "JSON" if "json" in kind else "HTML",
        "metadata files" if any(file.metadata for file in files) else "no metadata files",
        "ETag" if "etag" in answer.headers else "no ETag",
        *([] if any(file.upload_time for file in files) else ["no upload times"]),
    )
    return Served(date=answer.headers.get("date", ""), traits=traits)


def _mirror_answer(session: Session) -> Answer:
    """Fetch the InRelease of the newest release, main and security, and check signature and dates."""
    from nnenv.adapters.apt_sources import archive_sources
    from nnenv.resolve.debian_facts import debian_facts

    sources = archive_sources(session.environment)
    releases = debian_facts().releases
    os_name = _os_of(session)
    release = releases[os_name if os_name in releases else max(releases, key=int)]
    http = _patient_http(session)
    reached: list[str] = []
    failed: list[NnenvError] = []
    skews: list[timedelta] = []
    questions = [
        (root, suite)
        for suite in release.suites
        if not suite.endswith("-updates")
        for root in (sources.security if suite.endswith("-security") else sources.main)
    ]
    for root, suite in questions:
        try:
            served = _release_served(session, http, root, suite)
        except NnenvError as error:
            failed.append(error)
        else:
            reached.append(f"{_host(root)} {suite}, {', '.join(served.traits)}")
            skews += _skews(served.date, _clock())
    return Answer(line=sources_line("debian mirror", reached, failed), skews=tuple(skews))


def _os_of(session: Session) -> str:
    """The number of the first target's Debian release, "" without a readable model.toml."""
    try:
        return session.manifest().targets[0].os.partition(":")[2]
    except (NnenvError, IndexError):
        return ""


def _release_served(session: Session, http: Http, root: str, suite: str) -> Served:
    from nnenv.adapters.debian_archive import find_keyring
    from nnenv.adapters.gpgv import signed_body
    from nnenv.formats.release import parse_release

    url = f"{root}/dists/{suite}/InRelease"
    answer = http.get(url, limit=16 << 20)
    if answer is None:
        raise NnenvError("index-unreachable", f"{_host(root)} has no {suite}", fix=["use another mirror"])
    release = parse_release(signed_body(answer.body, find_keyring(session.environment), url), url)
    now = _clock()
    if release.valid_until is not None and release.valid_until < now:
        raise NnenvError(
            "clock-or-release",
            f"the Release file of {suite} has expired",
            because=[f"valid until {release.valid_until:%Y-%m-%d}, and this machine's clock says {now:%Y-%m-%d}"],
            fix=["set the clock if it is wrong", "or use another mirror: this one is stale"],
        )
    return Served(
        date=answer.headers.get("date", ""),
        traits=(f"signed {release.date:%Y-%m-%d}",),
    )


def sources_line(name: str, reached: Sequence[str], failed: Sequence[NnenvError]) -> Line:
    """Sources that answered and those that did not."""
    text = "; ".join([*reached, *(without_secrets(error.what) for error in failed)])
    if not failed:
        return Line(name=name, state=State.OK, text=text or "none is configured, and none is wanted")
    fix = tuple(dict.fromkeys(fix for error in failed for fix in error.fix))
    return Line(name=name, state=State.WARNING if reached else State.MISSING, text=text, fix=fix)


def clock_line(skews: Sequence[timedelta]) -> Line:
    """Ours against the servers' we asked; the median, so that one wrong server proves nothing."""
    if not skews:
        return Line(name="clock", state=State.SKIPPED, text="no server told the time")
    skew = sorted(skews)[len(skews) // 2]
    seconds = round(skew.total_seconds())
    if abs(skew) <= CLOCK_TOLERANCE:
        return Line(name="clock", state=State.OK, text="agrees with the servers'")
    text = f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} the servers'"
    fix = ("set the clock (timedatectl set-ntp true): signed archives that seem expired, or not yet made, are refused",)
    return Line(name="clock", state=State.WARNING, text=text, fix=fix)


def _clock() -> datetime:
    from nnenv.adapters.examination import now

    return now()


def _host(url: str) -> str:
    from nnenv.adapters.http import host_of

    return host_of(url)


# Words


def size(count: int) -> str:
    """`12.3 GB`."""
    return f"{count / 1e9:.1f} GB"


def without_secrets(text: str) -> str:
    """`text` with the credentials of each address replaced: `https://***@host/`."""
    import re

    return re.sub(r"://[^/@\s]+@", "://***@", text)
