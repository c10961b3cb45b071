"""Python package indexes as a `WheelCatalog`: pages, the metadata ladder, and where to fetch a locked wheel.

A name is bound to one source: the `[[index]]` that the manifest binds it to, else the first configured index that
knows it, else the configured links. Sources are never merged, so a package of the same name elsewhere cannot win by a
higher version.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from nnenv.adapters.http import Http, host_of
from nnenv.adapters.pip_config import IndexConfiguration
from nnenv.adapters.store import Store
from nnenv.adapters.wheel_ranges import (
    Ends,
    ReadPart,
    file_parts,
    read_directory,
    read_metadata_member,
    read_outline,
)
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata, normal_name, read_metadata
from nnenv.formats.packed_page import FORMAT, PackedPage, pack, pack_files
from nnenv.formats.simple_index import ACCEPT, IndexFile
from nnenv.formats.wheel_outline import NO_PROBES, Probes, pack_outline, unpack_outline
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.gpu import WheelOutline

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from nnenv.adapters.http import Response

PAGE_LIMIT: Final = 64 << 20
"""Bytes of one index page at most; the largest seen is 20 MB."""
METADATA_LIMIT: Final = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One place that offers wheels."""

    origin: str
    """As locks name it: `python` or `python:NAME`."""
    url: str
    flat: bool = False
    """A folder or page of links for every project, instead of one page per project."""


Answer = TypeVar("Answer")


class IndexProject:
    """One name of one source; satisfies `resolve.python_catalog.Project`."""

    def __init__(self, name: str, origin: str, page: PackedPage | None) -> None:
        """`page` is None where nobody knows the name."""
        self.name = name
        self.known = page is not None
        self._origin = origin
        self._page = page or PackedPage(pack_files((), ""))
        self._records: dict[str, tuple[WheelRecord, ...]] = {}

    @property
    def versions(self) -> tuple[str, ...]:
        """Newest first."""
        return self._page.versions

    def wheels_of(self, version: str) -> tuple[WheelRecord, ...]:
        """Of one of `versions`."""
        if version not in self._records:
            self._records[version] = tuple(map(self._record, self._page.files(version)))
        return self._records[version]

    @cached_property
    def misnamed(self) -> tuple[WheelRecord, ...]:
        """Wheels of no version that PEP 440 allows."""
        return tuple(map(self._record, self._page.misnamed))

    @property
    def other_names(self) -> tuple[str, ...]:
        """Files that no target can use."""
        return self._page.other_names

    def file(self, filename: str) -> IndexFile:
        """The file of a record that came from here."""
        found = self._page.file(filename)
        assert found is not None, filename
        return found

    def _record(self, file: IndexFile) -> WheelRecord:
        return WheelRecord(
            project=self.name,
            version=file.filename.split("-", 2)[1],
            filename=file.filename,
            origin=self._origin,
            sha256=file.sha256,
            size=file.size,
            requires_python=file.requires_python,
            yanked=file.yanked,
            upload_time=file.upload_time,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """What the store has of a page."""

    etag: str = ""
    since: int = 0
    """When its index last said that it is right, in seconds since 1970."""
    seconds: int = 0
    """How long it may be taken as right without asking (RFC 9111 section 4.2)."""
    packed: bytes = b""
    """Empty where the index has no page of that name."""

    @classmethod
    def of(cls, record: bytes) -> _Stored:
        """What `record` made bytes of."""
        stamp, _, packed = record.partition(b"\n")
        return cls(**json.loads(stamp), packed=packed)

    def record(self) -> bytes:
        """As bytes for the store."""
        stamp = {"etag": self.etag, "since": self.since, "seconds": self.seconds}
        return json.dumps(stamp).encode() + b"\n" + self.packed

    def is_fresh(self, now: float) -> bool:
        """Whether HTTP allows to use it without asking; not under a clock that went back."""
        return self.since <= now < self.since + self.seconds

    def page(self) -> PackedPage | None:
        """The page, or None where the index has none of that name."""
        return PackedPage(self.packed) if self.packed else None


class _Closed(Exception):
    """Nobody waits for answers any more."""


class PythonIndexes:
    """The configured indexes; satisfies `resolve.python_catalog.WheelCatalog`. Each question goes out once."""

    def __init__(
        self,
        configuration: IndexConfiguration,
        http: Http,
        store: Store,
        *,
        bound: Mapping[str, Source] | None = None,
        workers: int = 16,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` says seconds since 1970: how long a page stays fresh, and nothing else, depends on it."""
        self.http = http
        self.store = store
        self.sources = [
            *(Source(origin="python", url=_address(url)) for url in configuration.indexes),
            *(Source(origin="python", url=_address(url), flat=True) for url in configuration.find_links),
        ]
        self.bound = dict(bound or {})
        self._userinfo = dict(_userinfo(source.url) for source in (*self.sources, *self.bound.values()))
        self._mutex = threading.RLock()  # an answer that is there at once is counted within the question
        self._answers: dict[tuple[str, str], Future[Any]] = {}
        self._ends = Ends()
        self._sizes: dict[str, int] = {}
        self._without_metadata_files: set[str] = set()
        self._projects: dict[str, IndexProject] = {}
        self._metadata: dict[str, CoreMetadata] = {}
        self._outlines: dict[str, WheelOutline] = {}
        self._stored: dict[str, _Stored | None] = {}
        self._clock = clock
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._unanswered = 0
        self._is_closed = False

    def close(self) -> None:
        """Stop the workers; unanswered prefetches are dropped."""
        with self._mutex:
            self._is_closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # WheelCatalog

    def project(self, name: str) -> IndexProject:
        project = self._project_at_hand(name)
        return project or self._once("project", name, lambda: self._read_project(name)).result()

    def prefetch(self, name: str, then: Callable[[IndexProject], None]) -> None:
        project = self._project_at_hand(name)
        if project is None:
            self._hint("project", name, partial(self._read_project, name), then)
        else:
            self._go_on(then, project)

    def metadata(self, record: WheelRecord) -> CoreMetadata:
        metadata = self._metadata_at_hand(record)
        return metadata or self._once("metadata", record.filename, lambda: self._read_metadata(record)).result()

    def expect(self, record: WheelRecord, then: Callable[[CoreMetadata], None]) -> None:
        metadata = self._metadata_at_hand(record)
        if metadata is not None:
            self._go_on(then, metadata)
        # Without a digest the whole file would have to be read: too much for a guess.
        elif record.sha256:
            self._hint("metadata", record.filename, partial(self._read_metadata, record), then)

    def identify(self, record: WheelRecord) -> WheelRecord:
        if record.sha256 and record.size is not None:
            return record
        file = self._file(record)
        if record.sha256:
            size = self._sizes.get(record.filename)
            if size is None:
                last = self.http.get_range(self._open_address(file.url), -1)
                size = last.total if last is not None else None
            if size is not None:
                return replace(record, size=size)
        return self._hashed(record, file)

    def outline(self, record: WheelRecord, probes: Probes = NO_PROBES) -> WheelOutline:
        """What the wheel says of itself, from a few parts of it; the whole wheel where the index gives no parts.

        Raises NnenvError `wheel-refused`, and what the network raises.
        """
        if not record.sha256:
            record = self._hashed(record, self._file(record))
        key = f"{record.sha256}-{probes.digest}" if probes != NO_PROBES else record.sha256
        known = self._outlines.get(key)
        if known is None:
            packed = self.store.load(_OUTLINES, key)
            if packed is None:
                packed = pack_outline(self._read_outline(record, probes))
                self.store.save(_OUTLINES, key, packed)
            known = self._outlines[key] = unpack_outline(packed)
        return known

    def _read_outline(self, record: WheelRecord, probes: Probes) -> WheelOutline:
        sha256 = Sha256(record.sha256)
        if not self.store.contains(sha256):
            file = self._file(record)
            outline = read_outline(self._parts(file), probes, record.filename)
            if outline is not None:
                return outline
            self._into_store(file, sha256, record.size)
        with self.store.open(sha256) as stream:
            outline = read_outline(file_parts(stream), probes, record.filename)
        assert outline is not None, record.filename
        return outline

    # Fetching

    def locate(self, artifact: Artifact) -> list[str]:
        """Every address at which a configured source offers exactly this wheel, by digest; [] if none does.

        A source that does not answer counts only when no other offers the wheel.
        """
        urls = []
        failures = []
        for source in self._sources_for(artifact.name):
            try:
                page = self._page(source, artifact.name)
                file = page.file(artifact.filename) if page is not None else None
            except NnenvError as error:
                failures.append(error)
                continue
            # Where no digest is stated, the download will be held against the locked one.
            if file is not None and file.sha256 in {"", artifact.sha256}:
                urls.append(self._open_address(file.url))
        if failures and not urls:
            raise failures[0]
        return urls

    # Questions, asked once

    def _once(self, kind: str, key: str, ask: Callable[[], Answer]) -> Future[Answer]:
        """The answer to a question in a worker; at most one worker is ever busy with it."""
        with self._mutex:
            if (kind, key) not in self._answers:
                self._answers[kind, key] = self._submitted(ask)
            return self._answers[kind, key]

    def _hint(self, kind: str, key: str, ask: Callable[[], Answer], then: Callable[[Answer], None]) -> None:
        """Have the question asked, and go on with the answer; a failure matters only to who needs the answer."""

        def arrived(future: Future[Answer]) -> None:
            if not future.cancelled() and future.exception() is None:
                then(future.result())

        with suppress(_Closed):
            future = self._once(kind, key, ask)
            if not future.done():
                future.add_done_callback(arrived)
            elif future.exception() is None:
                self._go_on(then, future.result())

    def _go_on(self, then: Callable[[Answer], None], answer: Answer) -> None:
        """Think ahead from an answer at hand while others are awaited; else who asked gets there as soon."""
        with self._mutex, suppress(_Closed):
            if self._unanswered:
                self._submitted(partial(then, answer))

    def _submitted(self, ask: Callable[[], Answer]) -> Future[Answer]:
        """The question in a worker; these start when the first question goes out, so a warm lock needs none."""
        from concurrent.futures import ThreadPoolExecutor

        if self._is_closed:
            raise _Closed
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="index")
        future = self._pool.submit(ask)
        self._unanswered += 1
        future.add_done_callback(self._count)
        return future

    def _count(self, _: Future[Any]) -> None:
        with self._mutex:
            self._unanswered -= 1

    def _here(self, kind: str, key: str, ask: Callable[[], Answer]) -> Answer:
        """The same for questions that workers ask: in the thread at hand, so that no worker waits for a free one."""
        from concurrent.futures import Future

        with self._mutex:
            future = self._answers.get((kind, key))
            mine = future is None
            if future is None:
                future = self._answers[kind, key] = Future()
        if mine:
            try:
                future.set_result(ask())
            except BaseException as error:
                future.set_exception(error)
        answer: Answer = future.result()
        return answer

    # Pages

    def _sources_for(self, name: str) -> list[Source]:
        return [self.bound[name]] if name in self.bound else self.sources

    def _project_at_hand(self, name: str) -> IndexProject | None:
        """The project, if it can be told without asking anybody, and nobody was asked."""
        if name not in self._projects and ("project", name) not in self._answers:
            for source in self._sources_for(name):
                if source.flat or source.url.startswith("file:"):
                    return None
                stored = self._from_the_store(_page_url(source, name))
                if stored is None or not (self.http.offline or stored.is_fresh(self._clock())):
                    return None
                if stored.packed:
                    self._projects[name] = IndexProject(name, source.origin, stored.page())
                    break
        return self._projects.get(name)

    def _read_project(self, name: str) -> IndexProject:
        for source in self._sources_for(name):
            page = self._page(source, name)
            if page is not None:
                return IndexProject(name, source.origin, page)
        return IndexProject(name, "", None)

    def _page(self, source: Source, name: str) -> PackedPage | None:
        if not source.flat:
            _insist_on_root(source)
            url = _page_url(source, name)
            return self._here("page", url, lambda: self._cached_page(url))
        listing = self._here("page", source.url, lambda: self._flat_page(source))
        return _part(listing, name) if listing is not None else None

    def _flat_page(self, source: Source) -> PackedPage | None:
        folder = _local_path(source.url)
        if folder is None or not folder.is_dir():
            return self._cached_page(source.url)
        files = (
            IndexFile(filename=path.name, url=path.as_uri(), size=path.stat().st_size)
            for path in sorted(folder.resolve().iterdir())
            if path.name.endswith((".whl", ".tar.gz", ".zip")) and path.is_file()
        )
        return PackedPage(pack_files(files, source.url))

    def _cached_page(self, url: str) -> PackedPage | None:
        """The page: for as long as the index allows from the store, then asked again (by ETag where it sends one)."""
        if url.startswith("file:"):
            return self._local_page(url)
        stored = self._from_the_store(url)
        if self.http.offline:
            if stored is None:
                raise NnenvError(
                    "offline",
                    f"the index page for {url.rstrip('/').rsplit('/', 1)[-1]} is not in the store",
                    where=host_of(url),
                    because=["--offline forbids to ask the index"],
                    fix=["run once without --offline"],
                )
            return stored.page()
        if stored is not None and stored.is_fresh(self._clock()):
            return stored.page()
        headers = {"Accept": ACCEPT}
        if stored is not None and stored.etag:
            headers["If-None-Match"] = stored.etag
        response = self.http.get(url, limit=PAGE_LIMIT, headers=headers)
        fresh = _answered(response, stored, int(self._clock()))
        if fresh != stored:
            self.store.save(_PAGES, _key(url), fresh.record())
        return fresh.page()

    def _from_the_store(self, url: str) -> _Stored | None:
        if url not in self._stored:
            record = self.store.load(_PAGES, _key(url))
            self._stored[url] = _Stored.of(record) if record is not None else None
        return self._stored[url]

    def _local_page(self, url: str) -> PackedPage | None:
        # A simple index in a folder is served by its index.html; a web server does so by itself.
        address = url + "index.html" if url.endswith("/") else url
        response = self.http.get(address, limit=PAGE_LIMIT)
        return PackedPage(pack(response.body, "text/html", address)) if response is not None else None

    def _file(self, record: WheelRecord) -> IndexFile:
        return self.project(record.project).file(record.filename)

    def _open_address(self, url: str) -> str:
        """`url` with the credentials that the configuration has for its host: pages name files without them."""
        parts = urlsplit(url)
        userinfo = self._userinfo.get(f"{parts.scheme}://{parts.netloc}", "")
        return parts._replace(netloc=f"{userinfo}@{parts.netloc}").geturl() if userinfo else url

    # Metadata ladder

    def _metadata_at_hand(self, record: WheelRecord) -> CoreMetadata | None:
        """The metadata, if it is in the store, and nobody was asked."""
        if record.filename not in self._metadata:
            if not record.sha256 or ("metadata", record.filename) in self._answers:
                return None
            cached = self.store.load("wheel-metadata", record.sha256)
            if cached is None:
                return None
            self._metadata[record.filename] = _checked_to_be_of(record, cached)
        return self._metadata[record.filename]

    def _read_metadata(self, record: WheelRecord) -> CoreMetadata:
        file = self._file(record)
        if not record.sha256:
            record = self._hashed(record, file)
        cached = self.store.load("wheel-metadata", record.sha256)
        if cached is None:
            cached = self._fetch_metadata(file, record)
            self.store.save("wheel-metadata", record.sha256, cached)
        return _checked_to_be_of(record, cached)

    def _fetch_metadata(self, file: IndexFile, record: WheelRecord) -> bytes:
        """PEP 658 file where it exists, else a range read of the zip's tail, else the wheel itself."""
        if self.store.contains(Sha256(record.sha256)):
            return self._from_store(record)
        found = self._metadata_file(file, record)
        if found is None:
            found = self._from_tail(file)
        if found is not None:
            return found
        self._into_store(file, Sha256(record.sha256), record.size)
        return self._from_store(record)

    def _metadata_file(self, file: IndexFile, record: WheelRecord) -> bytes | None:
        """The file beside the wheel; where the index does not announce it, it must prove to be this wheel's."""
        host = urlsplit(file.url).netloc
        if not file.metadata and (host in self._without_metadata_files or file.url.startswith("file:")):
            return None
        response = self.http.get(self._open_address(file.url) + ".metadata", limit=METADATA_LIMIT)
        if response is None:
            if not file.metadata:
                self._without_metadata_files.add(host)
            return None
        if not file.metadata and not _is_metadata_of(response.body, record):
            # Some servers answer anything with a page of their own.
            return None
        return _checked_metadata(response.body, file)

    def _from_tail(self, file: IndexFile) -> bytes | None:
        read = self._parts(file)
        found = read_directory(read, file.filename)
        if found is None:
            return None
        directory, self._sizes[file.filename] = found
        return read_metadata_member(read, directory, file.filename)

    def _parts(self, file: IndexFile) -> ReadPart:
        return self._ends.reading(file.url, partial(self.http.get_range, self._open_address(file.url)))

    def _from_store(self, record: WheelRecord) -> bytes:
        from nnenv.formats.wheel import read_wheel

        with self.store.open(Sha256(record.sha256)) as stream:
            return read_wheel(stream, record.filename).metadata

    def _into_store(self, file: IndexFile, sha256: Sha256 | None, size: int | None) -> tuple[Sha256, int]:
        url = self._open_address(file.url)
        with self.store.writer(sha256, size) as writer, self.http.stream(url) as body:
            for chunk in body.chunks:
                writer.write(chunk)
            return writer.commit()

    def _hashed(self, record: WheelRecord, file: IndexFile) -> WheelRecord:
        """The record with what its source does not state: the bytes are fetched and hashed, once per run."""
        stated = Sha256(record.sha256) if record.sha256 else None
        sha256, size = self._here("bytes", file.url, lambda: self._into_store(file, stated, file.size))
        return replace(record, sha256=sha256, size=size)


_OUTLINES: Final = "wheel-outline-2"
"""Kind of the store's records, by the wheel's sha256 and the probes; the number moves with the way of reading."""

_PAGES: Final = f"index-page-{FORMAT}"
"""Kind of the store's records: one of another form is never read as one of this."""


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _page_url(source: Source, name: str) -> str:
    return f"{source.url}/{name}/"


def _answered(response: Response | None, stored: _Stored | None, now: int) -> _Stored:
    """What to keep of an answer."""
    if response is None:
        return _Stored()
    etag, seconds = response.headers.get("etag", ""), _seconds_of_freshness(response.headers)
    if response.status == 304:
        assert stored is not None
        return replace(stored, since=now if seconds else 0, seconds=seconds, etag=etag or stored.etag)
    packed = pack(response.body, _content_type(response), response.url)
    return _Stored(etag=etag, since=now if seconds else 0, seconds=seconds, packed=packed)


def _seconds_of_freshness(headers: Mapping[str, str]) -> int:
    """How long an answer may be used again without asking (RFC 9111 sections 4.2 and 5.2.2); 0 if it does not say."""
    directives = [part.strip().lower() for part in headers.get("cache-control", "").split(",")]
    if {"no-cache", "no-store"} & {directive.partition("=")[0] for directive in directives}:
        return 0
    stated = next((directive for directive in directives if directive.startswith("max-age=")), "")
    match = re.fullmatch(r'max-age="?([0-9]{1,9})"?', stated)
    age = headers.get("age", "0").strip()
    if match is None or not re.fullmatch(r"[0-9]{1,9}", age):
        return 0
    return min(max(0, int(match[1]) - int(age)), _LONGEST_FRESH)


_LONGEST_FRESH: Final = 3600
"""Seconds; an index that promises more is asked all the same, since a lock is expected to see new releases."""


def _part(listing: PackedPage, name: str) -> PackedPage | None:
    """The files of one project on a page for all; None without any."""
    files = [file for version in listing.versions for file in listing.files(version)]
    own = [file for file in (*files, *listing.misnamed) if _project_name(file.filename) == name]
    others = [other for other in listing.other_names if _project_name(other) == name]
    return PackedPage(pack_files(own, listing.address, others)) if own or others else None


def _project_name(filename: str) -> str:
    """Normalised project name of a distribution's file name (PEP 503); a source's may hold hyphens in its name."""
    return normal_name(filename.split("-", 1)[0] if filename.endswith(".whl") else filename.rpartition("-")[0])


def _address(url: str) -> str:
    """A source as an address: pip's settings may name a folder by its path."""
    return url if "://" in url or url.startswith("file:") else Path(url).expanduser().absolute().as_uri()


def _local_path(url: str) -> Path | None:
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None


def _userinfo(url: str) -> tuple[str, str]:
    """(scheme and host, credentials) of a configured address."""
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{host}", userinfo


def _content_type(response: Response) -> str:
    return response.headers.get("content-type", "text/html")


def _is_metadata_of(body: bytes, record: WheelRecord) -> bool:
    try:
        _checked_to_be_of(record, body)
    except NnenvError:
        return False
    return True


def _insist_on_root(source: Source) -> None:
    """A local index that is not there would silently leave its names to the next source."""
    root = _local_path(source.url)
    if root is not None and not root.is_dir():
        raise NnenvError(
            "source-unconfigured",
            "a configured Python index is a folder that does not exist",
            where=str(root),
            fix=["correct index-url or extra-index-url in pip's configuration, or NNENV_INDEX_URL"],
        )


def _checked_metadata(body: bytes, file: IndexFile) -> bytes:
    if file.metadata_sha256 and hashlib.sha256(body).hexdigest() != file.metadata_sha256:
        raise NnenvError(
            "digest-mismatch",
            f"the metadata file of {file.filename} is not the one its index states",
            where=file.filename,
            because=[f"stated {file.metadata_sha256}", f"found  {hashlib.sha256(body).hexdigest()}"],
            fix=["run again; if it stays, tell whoever runs the index"],
        )
    return body


def _checked_to_be_of(record: WheelRecord, data: bytes) -> CoreMetadata:
    """The metadata in `data`. The file name and the METADATA must speak of one package: else one of them lies."""
    from packaging.version import InvalidVersion, Version

    metadata = read_metadata(data, record.filename)
    try:
        same_name = normal_name(metadata.name) == record.project
        same = same_name and Version(metadata.version) == Version(record.version)
    except InvalidVersion:
        same = False
    if not same:
        raise NnenvError(
            "wheel-refused",
            f"{record.filename} says inside that it is {metadata.name} {metadata.version}",
            where=record.filename,
            because=["rule: file name and METADATA agree on name and version"],
            fix=[f"exclude that version: {record.project}!={record.version}"],
        )
    return metadata
