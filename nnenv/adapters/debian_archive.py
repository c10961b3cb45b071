"""A signed Debian archive: InRelease, verified by gpgv -> Packages, by digest -> records.

The chain is the same for every mirror; one that fails a check is passed over like one that does not answer, and the
next goes through the same checks (CVE-2018-0501: a fallback that skipped them).
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from nnenv.adapters.apt_sources import ArchiveSources
from nnenv.adapters.gpgv import signed_body
from nnenv.errors import NnenvError
from nnenv.formats.deb822 import PackagesIndex, pack_index
from nnenv.formats.debian_version import sort_key
from nnenv.formats.release import IndexEntry, Release, parse_release
from nnenv.resolve.debian import newest
from nnenv.resolve.debian_catalog import DebRecord, ReleaseFacts
from nnenv.resolve.debian_facts import DebianRelease, debian_facts, debian_release
from nnenv.spec.artifact import Sha256, sha256_of

KEYRING_VARIABLE: Final = "NNENV_DEBIAN_KEYRING"

_RELEASE_LIMIT: Final = 8 << 20
_PACKAGES_LIMIT: Final = 512 << 20
"""Bytes of a Packages file, compressed or not; bookworm's has 50 MB."""
_CLOCK_SLACK: Final = timedelta(days=1)
_POOL_PATH: Final = re.compile(r"pool(?:/[A-Za-z0-9+_~][A-Za-z0-9+._~:%-]*)+\.deb\Z")
_RELEASE_KIND: Final = "debian-release"
_INDEX_KIND: Final = "debian-packages"


class Answer(Protocol):
    """What a server sent."""

    @property
    def body(self) -> bytes: ...


class Http(Protocol):
    """How bytes are fetched."""

    def get(self, url: str, *, limit: int) -> Answer | None:
        """The answer, at most `limit` bytes; None for 404; NnenvError index-unreachable for anything else."""
        ...


class Cache(Protocol):
    """Small derived records that may vanish at any time but are never wrong."""

    def load(self, kind: str, key: str) -> bytes | None: ...

    def save(self, kind: str, key: str, data: bytes) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suite:
    """One verified suite."""

    facts: ReleaseFacts
    index: PackagesIndex


class DebianArchive:
    """A `DebianCatalog` of one release and architecture, read when first asked.

    `now` is the moment against which a Release must be valid; without a `keyring`, `find_keyring` looks for one in the
    process's environment when it is needed. `offline` reads what earlier runs saved and nothing else; a Release that
    was valid when it was saved is then taken though it has expired since, because no mirror has a say in it.
    """

    def __init__(
        self,
        sources: ArchiveSources,
        *,
        http: Http,
        cache: Cache,
        now: datetime,
        keyring: Path | None = None,
        release: str = "12",
        architecture: str = "amd64",
        offline: bool = False,
    ) -> None:
        self._release: DebianRelease = debian_release(release)
        self._sources = sources
        self._architecture = architecture
        self._http = http
        self._cache = cache
        self._now = now
        self._keyring = keyring
        self._offline = offline
        self._oldest: dict[str, str] = {}
        self._served: dict[str, str] = {}
        self._loaded: tuple[_Suite, ...] = ()
        self._records: dict[str, tuple[DebRecord, ...]] = {}

    def not_before(self, dates: Mapping[str, str]) -> None:
        """Refuse a Release older than `dates` (suite -> `ReleaseFacts.date`), the one that was locked.

        Without it a mirror could go back in time: Debian's main suites carry no Valid-Until.
        Raises NnenvError clock-or-release at once when the suite was read already, else when it is.
        """
        for suite, date in dates.items():
            self._oldest[suite] = max(date, self._oldest.get(suite, ""))
        for loaded in self._loaded:
            self._refuse_rollback(loaded.facts.suite, loaded.facts.date, loaded.facts.suite)

    def releases(self) -> tuple[ReleaseFacts, ...]:
        """The suites that answer, in the order in which they are preferred at equal versions."""
        return tuple(suite.facts for suite in self._suites())

    def candidates(self, name: str) -> tuple[DebRecord, ...]:
        """Every .deb of that name in all suites, newest first; equal versions in the order of `releases`."""
        if name not in self._records:
            records = [
                self._record(fields, suite.facts.suite)
                for suite in self._suites()
                for fields in suite.index.paragraphs(name)
            ]
            self._records[name] = newest(records, self._release.suites)
        return self._records[name]

    def providers(self, virtual: str) -> tuple[DebRecord, ...]:
        """Every .deb whose Provides names `virtual`, by name, newest first."""
        names = sorted({name for suite in self._suites() for name in suite.index.providers(virtual)})
        named = re.compile(rf"(?:\A|[,\s]){re.escape(virtual)}(?:[\s,:(]|\Z)")
        return tuple(record for name in names for record in self.candidates(name) if named.search(record.provides))

    def locate(self, path: str, suite: str) -> tuple[str, ...]:
        """The URLs at which the file `path` of `suite` may be had, in the order to ask them; reads nothing."""
        return tuple(f"{root}/{quote(path, safe='/~')}" for root in self._roots(suite))

    def _roots(self, suite: str) -> tuple[str, ...]:
        """The one that served the suite first, as far as that is known."""
        roots = self._sources.security if suite.endswith("-security") else self._sources.main
        return tuple(sorted(roots, key=lambda root: root != self._served.get(suite)))

    def _gpg_keys(self) -> Path:
        if self._keyring is None:
            self._keyring = find_keyring(os.environ)
        return self._keyring

    def _suites(self) -> tuple[_Suite, ...]:
        if not self._loaded:
            loaded = (self._suite(suite) for suite in self._release.suites)
            self._loaded = tuple(suite for suite in loaded if suite is not None)
        return self._loaded

    # Release files.

    def _suite(self, suite: str) -> _Suite | None:
        """None for an -updates suite that no mirror has: a new release starts without one."""
        body = self._saved_release(suite) if self._offline else self._fetched_release(suite)
        if body is None:
            return None
        release = parse_release(body, suite)
        facts = ReleaseFacts(
            suite=suite,
            codename=release.codename,
            date=_iso(release.date),
            sha256=Sha256(hashlib.sha256(body).hexdigest()),
            components=release.components,
        )
        return _Suite(facts=facts, index=self._index(suite, release))

    def _saved_release(self, suite: str) -> bytes | None:
        signed = self._cache.load(_RELEASE_KIND, suite)
        if signed is None:
            raise _not_saved(f"the Release file of {suite}")
        if not signed:
            return None
        body = signed_body(signed, self._gpg_keys(), suite)
        self._refuse_release(parse_release(body, suite), suite)
        return body

    def _fetched_release(self, suite: str) -> bytes | None:
        """The signed body; None when it is missing everywhere and may be."""
        roots = self._roots(suite)
        failures: list[NnenvError] = []
        for root in roots:
            url = f"{root}/dists/{suite}/InRelease"
            try:
                answer = self._http.get(url, limit=_RELEASE_LIMIT)
                if answer is None:
                    continue
                body = signed_body(answer.body, self._gpg_keys(), url)
                self._refuse_release(parse_release(body, url), suite, url)
            except NnenvError as failure:
                failures.append(failure)
                continue
            self._cache.save(_RELEASE_KIND, suite, answer.body)
            self._served[suite] = root
            return body
        if failures:
            raise _worst(failures)
        if not suite.endswith("-updates"):
            raise _absent(suite, roots)
        self._cache.save(_RELEASE_KIND, suite, b"")
        return None

    def _refuse_release(self, release: Release, suite: str, url: str = "") -> None:
        """The checks that a valid signature leaves open: another suite, too old, too new, another architecture."""
        where = url or suite
        if release.codename != suite:
            raise _refused(where, f"the Release file is for {release.codename}, not for {suite}", [])
        if release.date > self._now + _CLOCK_SLACK:
            because = [f"signed {_iso(release.date)}", f"this machine's clock says {_iso(self._now)}"]
            raise _refused(where, f"the Release file of {suite} comes from the future", because, "set the clock")
        if url and release.valid_until is not None and release.valid_until < self._now:
            because = [f"valid until {_iso(release.valid_until)}", f"this machine's clock says {_iso(self._now)}"]
            raise _refused(where, f"the Release file of {suite} has expired", because, "set the clock if it is wrong")
        self._refuse_rollback(suite, _iso(release.date), where)
        if self._architecture not in release.architectures:
            raise NnenvError(
                "clock-or-release",
                f"{suite} has no architecture {self._architecture}",
                where=where,
                because=[f"it has {', '.join(release.architectures)}"],
                fix=["choose a platform that the release supports"],
            )

    def _refuse_rollback(self, suite: str, date: str, where: str) -> None:
        oldest = self._oldest.get(suite, "")
        if date < oldest:
            because = [f"signed {date}", f"model.lock was made from the one of {oldest}"]
            raise _refused(where, f"the Release file of {suite} is older than the locked one", because)

    # Packages files.

    def _index(self, suite: str, release: Release) -> PackagesIndex:
        directory = f"main/binary-{self._architecture}"
        path, entry, inflate = _compressed(release, directory, suite)
        where = f"{suite} {path}"
        packed = self._cache.load(_INDEX_KIND, entry.sha256)
        if packed is not None:
            try:
                return PackagesIndex(packed, where)
            except ValueError:
                pass  # Written by another nnenv: made again below.
        if self._offline:
            raise _not_saved(f"the package index {path} of {suite}")
        compressed = self._fetched(suite, path, entry, release.by_hash)
        plain = _inflated(inflate, compressed, release.files.get(f"{directory}/Packages"), where)
        packed = pack_index(plain, where)
        self._cache.save(_INDEX_KIND, entry.sha256, packed)
        return PackagesIndex(packed, where)

    def _fetched(self, suite: str, path: str, entry: IndexEntry, by_hash: bool) -> bytes:
        """By digest first, which a mirror in the middle of an update still serves; then by name."""
        directory = path.rpartition("/")[0]
        paths = [f"{directory}/by-hash/SHA256/{entry.sha256}"] if by_hash else []
        roots = self._roots(suite)
        failures: list[NnenvError] = []
        for url in (f"{root}/dists/{suite}/{name}" for root in roots for name in (*paths, path)):
            try:
                answer = self._http.get(url, limit=entry.size)
            except NnenvError as failure:
                failures.append(failure)
                continue
            body = answer.body if answer else None
            if body is not None and len(body) == entry.size and hashlib.sha256(body).hexdigest() == entry.sha256:
                return body
            if body is not None:
                failures.append(_mismatch(url, entry, body))
        raise _worst(failures) if failures else _absent(f"{suite}/{path}", roots)

    # Records.

    def _record(self, fields: Mapping[str, str], suite: str) -> DebRecord:
        name = fields["Package"]
        where = f"{suite}: package {name}"
        for field in ("Version", "Architecture", "Filename", "Size", "SHA256"):
            if field not in fields:
                raise _bad_record(where, f"the field {field} is missing")
        if fields["Architecture"] not in (self._architecture, "all"):
            raise _bad_record(where, f"the architecture is {fields['Architecture']}, not {self._architecture}")
        if not _POOL_PATH.match(fields["Filename"]):
            raise _bad_record(where, f"Filename is no path in the pool: {fields['Filename'][:120]!r}")
        sort_key(fields["Version"])
        try:
            sha256, size = sha256_of(fields["SHA256"]), int(fields["Size"])
        except ValueError:
            raise _bad_record(where, "Size or SHA256 is malformed") from None
        return DebRecord(
            name=name,
            version=fields["Version"],
            architecture=fields["Architecture"],
            multi_arch=fields.get("Multi-Arch", ""),
            essential=fields.get("Essential", "") == "yes",
            depends=fields.get("Depends", ""),
            pre_depends=fields.get("Pre-Depends", ""),
            provides=fields.get("Provides", ""),
            conflicts=fields.get("Conflicts", ""),
            breaks=fields.get("Breaks", ""),
            path=fields["Filename"],
            sha256=sha256,
            size=size,
            suite=suite,
        )


def find_keyring(environment: Mapping[str, str]) -> Path:
    """The keys to check Debian with: `NNENV_DEBIAN_KEYRING`, else the distribution's keyring on this machine."""
    if environment.get(KEYRING_VARIABLE):
        return Path(environment[KEYRING_VARIABLE])
    known = debian_facts().keyrings
    for path in map(Path, known):
        if path.is_file():
            return path
    raise NnenvError(
        "signature-invalid",
        "the keys of the Debian archive are not on this machine",
        because=[f"looked for {path}" for path in known],
        fix=["apt-get install debian-archive-keyring", f"or set {KEYRING_VARIABLE} to a keyring file"],
    )


def _compressed(
    release: Release, directory: str, suite: str
) -> tuple[str, IndexEntry, Callable[[bytes, int], tuple[bytes, bool]]]:
    for suffix, inflate in ((".xz", _unxz), (".gz", _gunzip)):
        entry = release.files.get(f"{directory}/Packages{suffix}")
        if entry is not None:
            if entry.size > _PACKAGES_LIMIT:
                raise _bad_record(suite, f"{directory}/Packages{suffix} has {entry.size} bytes")
            return f"{directory}/Packages{suffix}", entry, inflate
    raise _bad_record(suite, f"the Release file lists no {directory}/Packages.xz or .gz")


def _inflated(
    inflate: Callable[[bytes, int], tuple[bytes, bool]], compressed: bytes, entry: IndexEntry | None, where: str
) -> bytes:
    """The plain file, never more than the Release file says, and with its digest where the Release has one."""
    limit = min(entry.size if entry else _PACKAGES_LIMIT, _PACKAGES_LIMIT)
    plain, complete = inflate(compressed, limit)
    if not complete:
        raise _bad_record(where, f"the file does not inflate to {limit} bytes or fewer")
    if entry is not None and hashlib.sha256(plain).hexdigest() != entry.sha256:
        raise _mismatch(where, entry, plain)
    return plain


def _unxz(data: bytes, limit: int) -> tuple[bytes, bool]:
    import lzma

    reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=256 << 20)
    try:
        # One byte more than allowed, so that a stream of exactly `limit` bytes comes to its end.
        plain = reader.decompress(data, limit + 1)
    except lzma.LZMAError:
        return b"", False
    return plain, reader.eof and not reader.unused_data and len(plain) <= limit


def _gunzip(data: bytes, limit: int) -> tuple[bytes, bool]:
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(data, limit + 1)
    except zlib.error:
        return b"", False
    return plain, reader.eof and not reader.unused_data and len(plain) <= limit


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _worst(failures: list[NnenvError]) -> NnenvError:
    """What to report when every mirror failed: a refusal says more than a silence."""
    return next((failure for failure in failures if failure.code != "index-unreachable"), failures[0])


def _absent(what: str, roots: Iterable[str]) -> NnenvError:
    return NnenvError(
        "index-unreachable",
        f"no configured Debian archive has {what}",
        where=what,
        because=[f"asked {root}" for root in roots],
        fix=["set NNENV_DEBIAN_MIRROR (and NNENV_DEBIAN_SECURITY_MIRROR) to an archive that serves this release"],
    )


def _not_saved(what: str) -> NnenvError:
    return NnenvError(
        "offline",
        f"{what} is not in the store, and --offline forbids fetching it",
        where=what,
        fix=["run the command once without --offline"],
    )


def _mismatch(where: str, entry: IndexEntry, body: bytes) -> NnenvError:
    return NnenvError(
        "digest-mismatch",
        "a package index is not the one that the signed Release file names",
        where=where,
        because=[
            f"expected {entry.size} bytes, sha256 {entry.sha256}",
            f"received {len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()}",
        ],
        fix=["try again: the mirror may be in the middle of an update", "or use another mirror"],
    )


def _refused(where: str, what: str, because: list[str], hint: str = "") -> NnenvError:
    return NnenvError(
        "clock-or-release",
        what,
        where=where,
        because=because,
        fix=[*([hint] if hint else []), "use another mirror: this one is not up to date"],
    )


def _bad_record(where: str, what: str) -> NnenvError:
    return NnenvError("debian-index-invalid", what, where=where, fix=["use another mirror of this archive"])
