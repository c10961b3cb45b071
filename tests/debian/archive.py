"""A small signed Debian archive and the servers that hold it: the simulator for the adapter's tests."""

from __future__ import annotations

import hashlib
import lzma
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from nnenv.adapters.apt_sources import ArchiveSources
from nnenv.adapters.debian_archive import DebianArchive
from nnenv.errors import NnenvError

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
MAIN = "http://main.test/debian"
OTHER = "http://other.test/debian"
SECURITY = "http://main.test/debian-security"
SOURCES = ArchiveSources(main=(MAIN,), security=(SECURITY,))
TWO_MIRRORS = ArchiveSources(main=(OTHER, MAIN), security=(SECURITY,))

PACKAGES = """Package: libc6
Version: 2.36-9
Architecture: amd64
Filename: pool/main/g/glibc/libc6_2.36-9_amd64.deb
Size: 10
SHA256: 1111111111111111111111111111111111111111111111111111111111111111

Package: libstdc++6
Version: 12.2.0-14
Architecture: amd64
Multi-Arch: same
Depends: libc6 (>= 2.36)
Provides: libstdc++
Filename: pool/main/g/gcc-12/libstdc++6_12.2.0-14_amd64.deb
Size: 20
SHA256: 2222222222222222222222222222222222222222222222222222222222222222
"""
SECURITY_PACKAGES = """Package: libc6
Version: 2.36-9+deb12u1
Architecture: amd64
Filename: pool/updates/main/g/glibc/libc6_2.36-9+deb12u1_amd64.deb
Size: 11
SHA256: 3333333333333333333333333333333333333333333333333333333333333333

Package: libstdc++6
Version: 12.2.0-14
Architecture: amd64
Multi-Arch: same
Depends: libc6 (>= 2.36)
Provides: libstdc++
Filename: pool/updates/main/g/gcc-12/libstdc++6_12.2.0-14_amd64.deb
Size: 20
SHA256: 2222222222222222222222222222222222222222222222222222222222222222
"""


class Signer:
    """A throw-away key; `keyring` is the file to trust it with."""

    def __init__(self, home: Path, name: str) -> None:
        self._home = home
        self._gpg("--quick-gen-key", f"{name} <{name}@key.test>", "ed25519", "sign", "never")
        self.keyring = home / "keys.gpg"
        self.keyring.write_bytes(self._gpg("--export"))

    def clear_sign(self, body: str, *options: str) -> bytes:
        return self._gpg("--clear-sign", *options, stdin=body.encode())

    def stop(self) -> None:
        """End the agent that gpg started for this home."""
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=True)

    def _gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What the simulated server answers."""

    body: bytes


@dataclass
class Servers:
    """URL -> body; a None stands for a server that does not answer; everything else is 404. Notes what was asked."""

    pages: dict[str, bytes | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def get(self, url: str, *, limit: int) -> Page | None:
        url = unquote(url)
        self.asked.append(url)
        if url not in self.pages:
            return None
        body = self.pages[url]
        if body is None or len(body) > limit:
            raise NnenvError("index-unreachable", f"{url} did not answer", where=url, fix=["try again"])
        return Page(body=body)

    def serve(self, root: str, suite: str, files: Mapping[str, bytes]) -> None:
        self.pages.update({f"{root}/dists/{suite}/{path}": body for path, body in files.items()})


@dataclass
class MemoryCache:
    """Records in memory."""

    records: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def load(self, kind: str, key: str) -> bytes | None:
        return self.records.get((kind, key))

    def save(self, kind: str, key: str, data: bytes) -> None:
        self.records[kind, key] = data


def release_text(suite: str, packages: str, compressed: bytes | None = None, **changes: str) -> str:
    """The Release of `suite`; `changes` replace fields (`Valid_Until`: Valid-Until), an empty value removes one."""
    compressed = compressed or lzma.compress(packages.encode())
    fields = {
        "Origin": "Debian",
        "Suite": "oldstable",
        "Codename": suite,
        "Date": "Sat, 21 Nov 2026 10:00:00 UTC",
        "Acquire-By-Hash": "yes",
        "Architectures": "all amd64 arm64",
        "Components": "main contrib",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    digests = [
        f" {hashlib.sha256(body).hexdigest()} {len(body)} main/binary-amd64/{name}"
        for name, body in (("Packages", packages.encode()), ("Packages.xz", compressed))
    ]
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return "\n".join([*lines, "SHA256:", *digests]) + "\n"


def suite_files(signer: Signer, suite: str, packages: str, **changes: str) -> dict[str, bytes]:
    """Path below the suite -> bytes: InRelease and Packages.xz, by name and by digest."""
    compressed = lzma.compress(packages.encode())
    return {
        "InRelease": signer.clear_sign(release_text(suite, packages, **changes)),
        "main/binary-amd64/Packages.xz": compressed,
        f"main/binary-amd64/by-hash/SHA256/{hashlib.sha256(compressed).hexdigest()}": compressed,
    }


def bookworm(signer: Signer) -> Servers:
    """A whole, right archive: main and security; -updates is absent, as in a new release."""
    servers = Servers()
    servers.serve(MAIN, "bookworm", suite_files(signer, "bookworm", PACKAGES))
    until = "Sat, 28 Nov 2026 10:00:00 UTC"
    security = suite_files(signer, "bookworm-security", SECURITY_PACKAGES, Valid_Until=until)
    servers.serve(SECURITY, "bookworm-security", security)
    return servers


def open_archive(
    servers: Servers,
    signer: Signer,
    *,
    sources: ArchiveSources = SOURCES,
    cache: MemoryCache | None = None,
    now: datetime = NOW,
    offline: bool = False,
) -> DebianArchive:
    """The archive as nnenv reads it."""
    memory = cache if cache is not None else MemoryCache()
    return DebianArchive(sources, http=servers, cache=memory, now=now, keyring=signer.keyring, offline=offline)
