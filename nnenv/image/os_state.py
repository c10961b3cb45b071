"""What an installed Debian system has beyond its packages' files, made by rules instead of maintainer scripts.

Accounts, links of merged /usr, CA bundle, alternatives, package database for scanners, and the virtual
environment that wheels go into. Which Debian script each rule stands for: `nnenv/data/maintainer_scripts.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.formats.debian_version import sort_key, upstream
from nnenv.image.maintainer_scripts import Effect, effects
from nnenv.image.os_root import UnpackedDeb, control_paragraph, is_left_out, merged_path
from nnenv.image.script_reader import Alternative, Link
from nnenv.image.tree import Content, Entry

OWNER: Final = "nnenv os state"
PREFIX: Final = "opt/nnenv"
"""The virtual environment that wheels are installed into."""
CA_BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"
CA_SOURCES: Final = "usr/share/ca-certificates/"

MULTIARCH: Final[Mapping[str, str]] = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
"""Debian architecture -> directory below /usr/lib (Debian policy 9.1.1; gcc's multiarch tuples)."""

_DIRECTORIES: Final[Mapping[str, int]] = {
    "dev": 0o755,
    "etc": 0o755,
    "etc/ld.so.conf.d": 0o755,
    "home": 0o755,
    "opt": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr/bin": 0o755,
    "usr/lib": 0o755,
    "usr/sbin": 0o755,
    "var/tmp": 0o1777,
}

_INTERPRETER = re.compile(r"python(3\.[0-9]+)-minimal\Z")
_DISTRIBUTIONS: Final[Mapping[str, str]] = {"debian": "Debian GNU/Linux", "ubuntu": "Ubuntu"}

ReadContent = Callable[[Content], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """The account that containers of the image run as."""

    name: str = "nnenv"
    uid: int = 1000
    gid: int = 1000


def script_effects(debs: Sequence[UnpackedDeb]) -> tuple[Effect, ...]:
    """What all packages' scripts make, by package name; raises every `maintainer-script` refusal at once."""
    found: list[Effect] = []
    errors: list[NnenvError] = []
    for deb in sorted(debs, key=lambda deb: deb.name):
        try:
            found += effects(deb.name, deb.version, deb.scripts)
        except NnenvError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    return tuple(found)


def state_entries(
    debs: Sequence[UnpackedDeb],
    root: Sequence[Entry],
    scripts: Sequence[Effect],
    *,
    os: str,
    user: User,
    read: ReadContent,
) -> tuple[Entry, ...]:
    """Entries of the layer above `root` (the packages' own entries), sorted by path, to compose.

    A path that a package ships is never made again. `scripts` is what `script_effects` found, `os` the target's
    (`debian:12`), `read` gives a file's bytes. Raises `maintainer-script` when a script would have made something
    out of files that no rule treats, and `archive-refused` for packages of several architectures.
    """
    shipped = {entry.path: entry for entry in root}
    _check_absences(scripts, root)
    state = _State(shipped)
    state.add_all(_script_entries(scripts, shipped))
    state.add_all(_alternative_entries(scripts, shipped))
    if any(effect.kind == "rule" and effect.path == "ca-certificates" for effect in scripts):
        state.add_all(_certificate_entries(root, read))
    state.add_all(_directory_entries())
    state.add_all(_merged_usr_entries(shipped))
    state.add_all(_account_entries(user, has_shell="usr/bin/sh" in shipped))
    state.add_all(_linker_entries(_architecture(debs)))
    state.add_all(_release_entries(os))
    state.add_all([_file("var/lib/dpkg/status", package_status(debs))])
    state.add_all(_environment_entries(debs))
    return tuple(state.entries[path] for path in sorted(state.entries))


def package_status(debs: Sequence[UnpackedDeb]) -> bytes:
    """`/var/lib/dpkg/status` with every package installed, sorted by name: what vulnerability scanners read."""
    paragraphs = []
    for deb in sorted(debs, key=lambda deb: (deb.name, deb.architecture)):
        lines = deb.control.strip("\n").split("\n")
        at = next(i for i, line in enumerate(lines) if line.lower().startswith("package:"))
        paragraphs.append("\n".join([*lines[: at + 1], "Status: install ok installed", *lines[at + 1 :]]) + "\n")
    return "\n".join(paragraphs).encode()


def certificate_bundle(certificates: Iterable[bytes]) -> bytes:
    """The certificates one after the other, each ending its last line, as update-ca-certificates(8) joins them."""
    return b"".join(text if text.endswith(b"\n") or not text else text + b"\n" for text in certificates)


class _State:
    """Entries collected so far; the first to claim a path keeps it, and packages come before all."""

    def __init__(self, shipped: Mapping[str, Entry]) -> None:
        self._shipped = shipped
        self.entries: dict[str, Entry] = {}

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Add the entries whose paths are free."""
        for entry in entries:
            if entry.path not in self._shipped:
                self.entries.setdefault(entry.path, entry)


def _file(path: str, content: bytes | str, mode: int = 0o644) -> Entry:
    raw = content.encode() if isinstance(content, str) else content
    return Entry(path=path, kind="file", mode=mode, content=raw, owner=OWNER)


def _link(path: str, target: str) -> Entry:
    return Entry(path=path, kind="symlink", mode=0o777, target=target, owner=OWNER)


def _directory(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    return Entry(path=path, kind="dir", mode=mode, uid=uid, gid=gid, owner=OWNER)


def _check_absences(scripts: Sequence[Effect], root: Sequence[Entry]) -> None:
    for effect in scripts:
        if effect.kind != "absent":
            continue
        found = [entry for entry in root if entry.kind != "dir" and entry.path.startswith(effect.path)]
        if found:
            raise NnenvError(
                "maintainer-script",
                f"{effect.package} makes something out of the files in /{effect.path}, and no rule of nnenv does",
                where=effect.package,
                because=[f"/{entry.path} is shipped by {entry.owner}" for entry in found[:5]],
                fix=["leave the package that ships these files out of [requires] system"],
            )


def _script_entries(scripts: Sequence[Effect], shipped: Mapping[str, Entry]) -> Iterable[Entry]:
    for effect in scripts:
        match effect.kind:
            case "directory":
                yield _directory(effect.path, effect.mode)
            case "file":
                yield _file(effect.path, effect.target)
            case "symlink":
                yield _link(effect.path, effect.target)
            case "copy":
                source = shipped.get(effect.target)
                if source is not None and source.content is not None:
                    yield Entry(path=effect.path, kind="file", mode=source.mode, content=source.content, owner=OWNER)
            case "alternative" | "rule" | "absent":
                pass


def _alternative_entries(scripts: Sequence[Effect], shipped: Mapping[str, Entry]) -> Iterable[Entry]:
    """Links of each name's best candidate: the highest priority, then the first path (update-alternatives(1))."""
    candidates: dict[str, list[Alternative]] = {}
    for effect in scripts:
        if effect.alternative is not None and _exists(effect.alternative.link.target, shipped):
            candidates.setdefault(effect.alternative.link.name, []).append(effect.alternative)
    for _, offered in sorted(candidates.items()):
        best = min(offered, key=lambda one: (-one.priority, one.link.target))
        yield from _alternative_links(best.link)
        for slave in best.slaves:
            if _exists(slave.target, shipped):
                yield from _alternative_links(slave)


def _alternative_links(link: Link) -> Iterable[Entry]:
    path = merged_path(link.path.lstrip("/"))
    if not is_left_out(path):
        yield _link(path, f"/etc/alternatives/{link.name}")
        yield _link(f"etc/alternatives/{link.name}", link.target)


def _exists(absolute: str, shipped: Mapping[str, Entry]) -> bool:
    return merged_path(absolute.lstrip("/")) in shipped


def _certificate_entries(root: Sequence[Entry], read: ReadContent) -> Iterable[Entry]:
    """The bundle, in the order of a sorted /etc/ca-certificates.conf, and OpenSSL's default names for it.

    The hashed links of `openssl rehash` are not made: nothing that reads the bundle needs them.
    """
    sources = [
        entry
        for entry in sorted(root, key=lambda entry: entry.path)
        if entry.path.startswith(CA_SOURCES) and entry.path.endswith(".crt") and entry.content is not None
    ]
    yield _file(CA_BUNDLE, certificate_bundle(read(entry.content) for entry in sources if entry.content is not None))
    # OPENSSLDIR of Debian's libssl is /usr/lib/ssl: ssl.get_default_verify_paths() names both.
    yield _link("usr/lib/ssl/cert.pem", f"/{CA_BUNDLE}")
    yield _link("usr/lib/ssl/certs", "/etc/ssl/certs")


def _directory_entries() -> Iterable[Entry]:
    for path, mode in _DIRECTORIES.items():
        yield _directory(path, mode)


def _merged_usr_entries(shipped: Mapping[str, Entry]) -> Iterable[Entry]:
    for name in ("bin", "lib", "sbin"):
        yield _link(name, f"usr/{name}")
    # amd64's dynamic linker is /lib64/ld-linux-x86-64.so.2; arm64 has no such directory.
    if any(path.startswith("usr/lib64/") for path in shipped):
        yield _link("lib64", "usr/lib64")


def _account_entries(user: User, *, has_shell: bool) -> Iterable[Entry]:
    """Accounts without passwords: root, nobody and the image's user. There is no /etc/shadow to leak or to fill."""
    nologin = "/usr/sbin/nologin"
    shell = "/bin/sh" if has_shell else nologin
    passwd = ["root:x:0:0:root:/root:" + shell, "nobody:x:65534:65534:nobody:/nonexistent:" + nologin]
    group = ["root:x:0:", "nogroup:x:65534:"]
    home = f"home/{user.name}"
    if user.uid not in (0, 65534):
        passwd.append(f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:/{home}:{shell}")
        yield _directory(home, uid=user.uid, gid=user.gid)
    if user.gid not in (0, 65534):
        group.append(f"{user.name}:x:{user.gid}:")
    yield _file("etc/passwd", "\n".join(passwd) + "\n")
    yield _file("etc/group", "\n".join(group) + "\n")
    yield _file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")


def _linker_entries(architecture: str) -> Iterable[Entry]:
    triplet = MULTIARCH[architecture]
    yield _file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
    yield _file(f"etc/ld.so.conf.d/{triplet}.conf", f"/usr/local/lib/{triplet}\n/usr/lib/{triplet}\n")


def _release_entries(os: str) -> Iterable[Entry]:
    """os-release(5): scanners and `platform.freedesktop_os_release` ask it which distribution this is."""
    identity, _, version = os.partition(":")
    name = _DISTRIBUTIONS.get(identity, identity)
    lines = [f'PRETTY_NAME="{name} {version}"', f'NAME="{name}"', f'VERSION_ID="{version}"', f"ID={identity}"]
    yield _file("usr/lib/os-release", "\n".join(lines) + "\n")
    yield _link("etc/os-release", "../usr/lib/os-release")


def _environment_entries(debs: Sequence[UnpackedDeb]) -> Iterable[Entry]:
    """The virtual environment of the newest packaged interpreter (PEP 405); none without an interpreter."""
    interpreters = [(match[1], deb) for deb in debs if (match := _INTERPRETER.match(deb.name))]
    if not interpreters:
        return
    series, deb = max(interpreters, key=lambda found: sort_key(found[0]))
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {upstream(deb.version)}\n"
    yield _file(f"{PREFIX}/pyvenv.cfg", settings)
    yield _link(f"{PREFIX}/bin/python{series}", f"/usr/bin/python{series}")
    yield _link(f"{PREFIX}/bin/python3", f"python{series}")
    yield _link(f"{PREFIX}/bin/python", f"python{series}")
    yield _directory(f"{PREFIX}/lib/python{series}/site-packages")


def _architecture(debs: Sequence[UnpackedDeb]) -> str:
    """The one architecture of the packages."""
    found = sorted({deb.architecture for deb in debs} - {"all"})
    if len(found) != 1 or found[0] not in MULTIARCH:
        named = [f"{control_paragraph(deb)['Package']}: {deb.architecture}" for deb in debs]
        raise NnenvError(
            "archive-refused",
            f"the Debian packages of one image are for {' and '.join(found) or 'no architecture'}",
            because=sorted(named)[:10],
            fix=["lock the target again: its packages must be of one architecture, amd64 or arm64"],
        )
    return found[0]
