"""Python package indexes as a `WheelCatalog`: pages, the metadata ladder, and where to fetch a locked wheel.

A name is bound to one source: the `[[index]]` that the manifest binds it to, else the first configured index that
knows it, else the configured links. Sources are never merged, so a package of the same name elsewhere cannot win by a
higher version.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from nnenv.adapters.http import Http
from nnenv.adapters.pip_config import IndexConfiguration
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata, read_metadata
from nnenv.formats.simple_index import ACCEPT, IndexFile, pack_page, read_page, unpack_page
from nnenv.formats.zip_gate import TailTooShort, member_from_range, read_central_directory
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


@dataclass(slots=True)
class _Pages:
    """Futures by what they answer, so that each question goes out once."""

    projects: dict[str, Future[tuple[Project, Mapping[str, IndexFile]]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class PythonIndexes:
    """The configured indexes; satisfies `resolve.python_catalog.WheelCatalog`."""

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
            *(Source(origin="python", url=url) for url in configuration.indexes),
            *(Source(origin="python", url=url, flat=True) for url in configuration.find_links),
        ]
        self.bound = dict(bound or {})
        self._pages = _Pages()
        self._files: dict[tuple[str, str], IndexFile] = {}
        self._metadata: dict[str, CoreMetadata] = {}
        self._without_metadata_files: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="index")

    def close(self) -> None:
        """Stop the workers; unanswered prefetches are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # WheelCatalog

    def project(self, name: str) -> Project:
        return self._asked(name).result()[0]

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            self._asked(name)

    def metadata(self, record: WheelRecord) -> CoreMetadata:
        key = record.filename
        if key not in self._metadata:
            self._metadata[key] = self._read_metadata(record)
        return self._metadata[key]

    def identify(self, record: WheelRecord) -> WheelRecord:
        if record.sha256 and record.size is not None:
            return record
        file = self._file(record.project, record.filename)
        if not record.sha256:
            return self._hashed(record, file)
        last = self.http.get_range(file.url, -1)
        if last is None:
            return self._hashed(record, file)
        return replace(record, size=last.total)

    # Fetching

    def locate(self, artifact: Artifact) -> list[str]:
        """Every address at which a configured source offers exactly this wheel, by digest; [] if none does."""
        urls = []
        for source in self._sources_for(artifact.name):
            for file in self._page(source, artifact.name):
                same_bytes = file.sha256 == artifact.sha256 or (not file.sha256 and file.filename == artifact.filename)
                if same_bytes and file.filename == artifact.filename:
                    urls.append(file.url)
        return urls

    # Pages

    def _asked(self, name: str) -> Future[tuple[Project, Mapping[str, IndexFile]]]:
        with self._pages.lock:
            if name not in self._pages.projects:
                self._pages.projects[name] = self._pool.submit(self._read_project, name)
            return self._pages.projects[name]

    def _sources_for(self, name: str) -> list[Source]:
        return [self.bound[name]] if name in self.bound else self.sources

    def _read_project(self, name: str) -> tuple[Project, Mapping[str, IndexFile]]:
        asked = []
        for source in self._sources_for(name):
            asked.append(source.url)
            files = self._page(source, name)
            if files:
                return _project(name, source, files, tuple(asked)), {file.filename: file for file in files}
        return Project(name=name, wheels=(), asked=tuple(asked)), {}

    def _page(self, source: Source, name: str) -> tuple[IndexFile, ...]:
        if source.flat:
            return tuple(file for file in self._flat_page(source) if _project_name(file.filename) == name)
        return self._cached_page(f"{source.url}/{name}/")

    def _flat_page(self, source: Source) -> tuple[IndexFile, ...]:
        folder = _local_folder(source.url)
        if folder is None:
            return self._cached_page(source.url)
        if not folder.is_dir():
            return ()
        return tuple(
            IndexFile(filename=path.name, url=path.as_uri(), size=path.stat().st_size)
            for path in sorted(folder.resolve().glob("*.whl"))
        )

    def _cached_page(self, url: str) -> tuple[IndexFile, ...]:
        """The page, asked again in every run that is online (revalidated by ETag where the index sends one)."""
        key = hashlib.sha256(url.encode()).hexdigest()
        cached = self.store.load("index-page", key)
        stamp, _, packed = cached.partition(b"\n") if cached else (b"", b"", b"")
        validators = json.loads(stamp) if stamp else {}
        if self.http.offline and not url.startswith("file:"):
            if cached is None:
                raise NnenvError(
                    "offline",
                    f"the index page for {url.rstrip('/').rsplit('/', 1)[-1]} is not in the store",
                    fix=["run once without --offline"],
                )
            return unpack_page(packed)
        headers = {"Accept": ACCEPT}
        if validators.get("etag"):
            headers["If-None-Match"] = validators["etag"]
        response = self.http.get(_page_address(url), limit=PAGE_LIMIT, headers=headers)
        if response is None:
            self.store.save("index-page", key, b"{}\n[]")
            return ()
        if response.status == 304:
            return unpack_page(packed)
        files = read_page(response.body, _content_type(response), response.url)
        etag = response.headers.get("etag", "")
        self.store.save("index-page", key, json.dumps({"etag": etag}).encode() + b"\n" + pack_page(files))
        return files

    def _file(self, project: str, filename: str) -> IndexFile:
        return self._asked(project).result()[1][filename]

    # Metadata ladder

    def _read_metadata(self, record: WheelRecord) -> CoreMetadata:
        file = self._file(record.project, record.filename)
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
        host = urlsplit(file.url).netloc
        if file.metadata or (host not in self._without_metadata_files and not file.url.startswith("file:")):
            response = self.http.get(file.url + ".metadata", limit=METADATA_LIMIT)
            if response is not None:
                return _checked_metadata(response.body, file)
            if not file.metadata:
                self._without_metadata_files.add(host)
        found = self._from_tail(file)
        if found is not None:
            return found
        self._into_store(file, Sha256(record.sha256), record.size)
        return self._from_store(record)

    def _from_tail(self, file: IndexFile) -> bytes | None:
        tail = self.http.get_range(file.url, -TAIL)
        if tail is None:
            return None
        directory = read_central_directory(tail.data, tail.start, tail.total, file.filename)
        if isinstance(directory, TailTooShort):
            tail = self.http.get_range(file.url, directory.needed_from, tail.total)
            if tail is None:
                return None
            directory = read_central_directory(tail.data, tail.start, tail.total, file.filename)
        if isinstance(directory, TailTooShort):
            return None
        entries = [
            entry
            for entry in directory
            if entry.name.count("/") == 1 and entry.name.endswith(".dist-info/METADATA")
        ]
        if len(entries) != 1:
            return None
        entry = entries[0]
        part = self.http.get_range(file.url, entry.header_offset, entry.end_offset)
        return None if part is None else member_from_range(part.data, entry, file.filename)

    def _from_store(self, record: WheelRecord) -> bytes:
        from nnenv.formats.wheel import read_wheel

        with self.store.open(Sha256(record.sha256)) as stream:
            return read_wheel(stream, record.filename).metadata

    def _into_store(self, file: IndexFile, sha256: Sha256 | None, size: int | None) -> tuple[Sha256, int]:
        with self.store.writer(sha256, size) as writer, self.http.stream(file.url) as body:
            for chunk in body.chunks:
                writer.write(chunk)
            return writer.commit()

    def _hashed(self, record: WheelRecord, file: IndexFile) -> WheelRecord:
        """The record of a file whose source states no sha256: the bytes are fetched and hashed, once per run."""
        sha256, size = self._into_store(file, None, file.size)
        return replace(record, sha256=sha256, size=size)


def _project(name: str, source: Source, files: tuple[IndexFile, ...], asked: tuple[str, ...]) -> Project:
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
    return Project(name=name, wheels=wheels, sdists=sdists, asked=asked)


def _project_name(filename: str) -> str:
    """Normalised project name of a wheel's file name (PEP 503)."""
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(filename.split("-", 1)[0]))


def _local_folder(url: str) -> Path | None:
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        return path if path.is_dir() else None
    return None if "://" in url else Path(url).expanduser()


def _page_address(url: str) -> str:
    """A simple index in a folder serves `index.html`; a web server does so by itself."""
    return url + "index.html" if url.startswith("file:") and url.endswith("/") else url


def _content_type(response: Response) -> str:
    return response.headers.get("content-type", "text/html")


def _checked_metadata(body: bytes, file: IndexFile) -> bytes:
    if file.metadata_sha256 and hashlib.sha256(body).hexdigest() != file.metadata_sha256:
        raise NnenvError(
            "digest-mismatch",
            f"the metadata file of {file.filename} is not the one its index states",
            where=file.filename,
            fix=["run again; if it stays, tell whoever runs the index"],
        )
    return body


def _insist_on_name(metadata: CoreMetadata, record: WheelRecord) -> None:
    """The file name and the METADATA must speak of one package: else one of them lies."""
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    try:
        same = canonicalize_name(metadata.name) == record.project and Version(metadata.version) == Version(record.version)
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
