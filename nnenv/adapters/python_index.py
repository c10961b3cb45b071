"""Python package indexes as a `WheelCatalog`: pages, the metadata ladder, and where to fetch a locked wheel.

A name is bound to one source: the `[[index]]` that the manifest binds it to, else the first configured index that
knows it, else the configured links. Sources are never merged, so a package of the same name elsewhere cannot win by a
higher version.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from nnenv.adapters.http import Http, host_of
from nnenv.adapters.pip_config import IndexConfiguration
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata, read_metadata
from nnenv.formats.simple_index import ACCEPT, IndexFile, pack_page, read_page, unpack_page
from nnenv.formats.zip_gate import CentralEntry, TailTooShort, member_from_range, read_central_directory
from nnenv.resolve.python_catalog import Project, WheelRecord
from nnenv.spec.artifact import Artifact, Sha256

if TYPE_CHECKING:
    from nnenv.adapters.http import Response

PAGE_LIMIT: Final = 64 << 20
"""Bytes of one index page at most; the largest seen is 20 MB."""
METADATA_LIMIT: Final = 4 << 20
TAIL: Final = 64 << 10
"""Bytes of a wheel's end read first: holds the central directory of all but the largest wheels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One place that offers wheels."""

    origin: str
    """As locks name it: `python` or `python:NAME`."""
    url: str
    flat: bool = False
    """A folder or page of links for every project, instead of one page per project."""


_Page = tuple[IndexFile, ...] | None
"""The files of a page; None where the source has none of that name."""

Answer = TypeVar("Answer")


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
    ) -> None:
        self.http = http
        self.store = store
        self.sources = [
            *(Source(origin="python", url=_address(url)) for url in configuration.indexes),
            *(Source(origin="python", url=_address(url), flat=True) for url in configuration.find_links),
        ]
        self.bound = dict(bound or {})
        self._userinfo = dict(_userinfo(source.url) for source in (*self.sources, *self.bound.values()))
        self._mutex = threading.Lock()
        self._answers: dict[tuple[str, str], Future[Any]] = {}
        self._sizes: dict[str, int] = {}
        self._without_metadata_files: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="index")

    def close(self) -> None:
        """Stop the workers; unanswered prefetches are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # WheelCatalog

    def project(self, name: str) -> Project:
        return self._project(name).result()[0]

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            self._project(name)

    def metadata(self, record: WheelRecord) -> CoreMetadata:
        return self._metadata(record).result()

    def expect(self, record: WheelRecord) -> None:
        # Without a digest the whole file would have to be read: too much for a guess.
        if record.sha256:
            self._metadata(record)

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

    # Fetching

    def locate(self, artifact: Artifact) -> list[str]:
        """Every address at which a configured source offers exactly this wheel, by digest; [] if none does.

        A source that does not answer counts only when no other offers the wheel.
        """
        urls = []
        failures = []
        for source in self._sources_for(artifact.name):
            try:
                page = self._page(source, artifact.name) or ()
            except NnenvError as error:
                failures.append(error)
                continue
            urls += [
                self._open_address(file.url)
                for file in page
                # Where no digest is stated, the download will be held against the locked one.
                if file.filename == artifact.filename and file.sha256 in {"", artifact.sha256}
            ]
        if failures and not urls:
            raise failures[0]
        return urls

    # Questions, asked once

    def _once(self, kind: str, key: str, ask: Callable[[], Answer]) -> Future[Answer]:
        """The answer to a question in a worker; at most one worker is ever busy with it."""
        with self._mutex:
            if (kind, key) not in self._answers:
                self._answers[kind, key] = self._pool.submit(ask)
            return self._answers[kind, key]

    def _here(self, kind: str, key: str, ask: Callable[[], Answer]) -> Answer:
        """The same for questions that workers ask: in the thread at hand, so that no worker waits for a free one."""
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

    def _project(self, name: str) -> Future[tuple[Project, Mapping[str, IndexFile]]]:
        return self._once("project", name, lambda: self._read_project(name))

    def _metadata(self, record: WheelRecord) -> Future[CoreMetadata]:
        return self._once("metadata", record.filename, lambda: self._read_metadata(record))

    def _sources_for(self, name: str) -> list[Source]:
        return [self.bound[name]] if name in self.bound else self.sources

    def _read_project(self, name: str) -> tuple[Project, Mapping[str, IndexFile]]:
        for source in self._sources_for(name):
            files = self._page(source, name)
            if files is not None:
                return _project(name, source, files), {file.filename: file for file in files}
        return Project(name=name, wheels=()), {}

    def _page(self, source: Source, name: str) -> _Page:
        if not source.flat:
            _insist_on_root(source)
            url = f"{source.url}/{name}/"
            return self._here("page", url, lambda: self._cached_page(url))
        listing = self._here("page", source.url, lambda: self._flat_page(source))
        return tuple(file for file in listing or () if _project_name(file.filename) == name) or None

    def _flat_page(self, source: Source) -> _Page:
        folder = _local_path(source.url)
        if folder is None or not folder.is_dir():
            return self._cached_page(source.url)
        return tuple(
            IndexFile(filename=path.name, url=path.as_uri(), size=path.stat().st_size)
            for path in sorted(folder.resolve().iterdir())
            if path.name.endswith((".whl", ".tar.gz", ".zip")) and path.is_file()
        )

    def _cached_page(self, url: str) -> _Page:
        """The page, asked again in every run that is online (revalidated by ETag where the index sends one)."""
        if url.startswith("file:"):
            return self._local_page(url)
        key = hashlib.sha256(url.encode()).hexdigest()
        cached = self.store.load("index-page", key)
        stamp, _, packed = cached.partition(b"\n") if cached else (b"{}", b"", _NO_PAGE)
        if self.http.offline:
            if cached is None:
                raise NnenvError(
                    "offline",
                    f"the index page for {url.rstrip('/').rsplit('/', 1)[-1]} is not in the store",
                    where=host_of(url),
                    because=["--offline forbids to ask the index"],
                    fix=["run once without --offline"],
                )
            return _unpacked(packed)
        headers = {"Accept": ACCEPT}
        etag = json.loads(stamp).get("etag")
        if etag:
            headers["If-None-Match"] = etag
        response = self.http.get(url, limit=PAGE_LIMIT, headers=headers)
        if response is not None and response.status == 304:
            return _unpacked(packed)
        files = read_page(response.body, _content_type(response), response.url) if response is not None else None
        validators = {"etag": response.headers.get("etag", "")} if response is not None else {}
        fresh = json.dumps(validators).encode() + b"\n" + (pack_page(files) if files is not None else _NO_PAGE)
        if fresh != cached:
            self.store.save("index-page", key, fresh)
        return files

    def _local_page(self, url: str) -> _Page:
        # A simple index in a folder is served by its index.html; a web server does so by itself.
        address = url + "index.html" if url.endswith("/") else url
        response = self.http.get(address, limit=PAGE_LIMIT)
        return read_page(response.body, "text/html", address) if response is not None else None

    def _file(self, record: WheelRecord) -> IndexFile:
        return self._project(record.project).result()[1][record.filename]

    def _open_address(self, url: str) -> str:
        """`url` with the credentials that the configuration has for its host: pages name files without them."""
        parts = urlsplit(url)
        userinfo = self._userinfo.get(f"{parts.scheme}://{parts.netloc}", "")
        return parts._replace(netloc=f"{userinfo}@{parts.netloc}").geturl() if userinfo else url

    # Metadata ladder

    def _read_metadata(self, record: WheelRecord) -> CoreMetadata:
        file = self._file(record)
        if not record.sha256:
            record = self._hashed(record, file)
        cached = self.store.load("wheel-metadata", record.sha256)
        if cached is None:
            cached = self._fetch_metadata(file, record)
            self.store.save("wheel-metadata", record.sha256, cached)
        metadata = read_metadata(cached, record.filename)
        _insist_on_name(metadata, record)
        return metadata

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
        url = self._open_address(file.url)
        tail = self.http.get_range(url, -TAIL)
        for _ in range(_MOST_TAILS):
            if tail is None:
                return None
            self._sizes[file.filename] = tail.total
            directory = read_central_directory(tail.data, tail.start, tail.total, file.filename)
            if not isinstance(directory, TailTooShort):
                return self._member(file, directory)
            tail = self.http.get_range(url, directory.needed_from, tail.total)
        return None

    def _member(self, file: IndexFile, directory: Sequence[CentralEntry]) -> bytes | None:
        """METADATA out of the zip at `file`; None where it is not there once, which the whole wheel's gate explains."""
        entries = [
            entry for entry in directory if entry.name.count("/") == 1 and entry.name.endswith(".dist-info/METADATA")
        ]
        if len(entries) != 1:
            return None
        entry = entries[0]
        part = self.http.get_range(self._open_address(file.url), entry.header_offset, entry.end_offset)
        return None if part is None else member_from_range(part.data, entry, file.filename)

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


_MOST_TAILS: Final = 3
"""Answers of a zip's end until its central directory is whole: `TailTooShort` comes twice at most."""

_NO_PAGE: Final = b"null"


def _unpacked(packed: bytes) -> _Page:
    return None if packed == _NO_PAGE else unpack_page(packed)


def _project(name: str, source: Source, files: tuple[IndexFile, ...]) -> Project:
    wheels = tuple(
        WheelRecord(
            project=name,
            version=file.filename.split("-", 2)[1] if file.filename.count("-") >= 2 else "",
            filename=file.filename,
            origin=source.origin,
            sha256=file.sha256,
            size=file.size,
            requires_python=file.requires_python,
            yanked=file.yanked,
            upload_time=file.upload_time,
        )
        for file in files
        if file.filename.endswith(".whl")
    )
    sdists = tuple(file.filename for file in files if not file.filename.endswith(".whl"))
    return Project(name=name, wheels=wheels, sdists=sdists, known=True)


def _project_name(filename: str) -> str:
    """Normalised project name of a distribution's file name (PEP 503); a source's may hold hyphens in its name."""
    from packaging.utils import canonicalize_name

    if filename.endswith(".whl"):
        return str(canonicalize_name(filename.split("-", 1)[0]))
    return str(canonicalize_name(filename.rpartition("-")[0]))


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
        _insist_on_name(read_metadata(body, record.filename), record)
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


def _insist_on_name(metadata: CoreMetadata, record: WheelRecord) -> None:
    """The file name and the METADATA must speak of one package: else one of them lies."""
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    try:
        same_name = canonicalize_name(metadata.name) == record.project
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
