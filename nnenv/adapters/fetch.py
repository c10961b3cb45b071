"""Files from sources into the store: in parallel, resumed, verified while they arrive, each one once.

A transfer that breaks goes on where it stopped, in this process or the next. Bytes that turn out wrong are
thrown away and fetched once more from the start, then from the next address, and never reach the store.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nnenv.adapters.http import Http, HttpError, host_of
from nnenv.adapters.progress import Progress, SilentProgress, Task
from nnenv.adapters.store import ObjectWriter, Store
from nnenv.errors import NnenvError, SeveralErrors
from nnenv.spec.artifact import Sha256

_FRUITFUL: Final = 1 << 20
"""Bytes after which a transfer that breaks does not count against the retries: it gets somewhere."""
_LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at a lock that another process holds."""
_LARGEST_UNKNOWN: Final = 1 << 40
"""Cap of a file whose size nobody has said: no artifact of ours is near it, an endless answer is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """A file that should be in the store."""

    sha256: Sha256
    size: int | None
    """As locked; None before anything is locked."""
    filename: str
    """For messages."""
    urls: Sequence[str] | Callable[[], Sequence[str]]
    """Addresses in the order to try, or who knows them: asked only if the file is not in the store."""


class _Stopped(Exception):
    """Another thread has ended the whole."""


class _WrongBytes(Exception):
    """An address gave bytes that are not the locked ones."""


def fetch_all(
    downloads: Sequence[Download],
    store: Store,
    http: Http,
    *,
    workers: int = 8,
    progress: Progress | None = None,
) -> None:
    """Bring every download into the store, largest first; afterwards each is there, and its bytes were read.

    Entries that are there are verified once per process; a damaged one is fetched anew. What was fetched stays
    whatever happens to the rest, and a cut transfer leaves its bytes for the next run.
    Raises NnenvError: `digest-mismatch` (wrong bytes from every address), `index-unreachable`, `offline`
    (one error that names all missing files), `disk-full` (at once); SeveralErrors when several files failed.
    KeyboardInterrupt ends it at once: workers stop at their next chunk.
    """
    progress = progress or SilentProgress()
    wanted = {download.sha256: download for download in downloads}
    missing: list[Download] = []

    def verify(download: Download, stop: threading.Event) -> None:
        if not store.check(download.sha256):
            missing.append(download)

    _raise(_in_parallel(_largest_first(wanted.values()), verify, workers))
    if not missing:
        return
    task = progress.start(_title(missing), _total(missing))

    def fetch(download: Download, stop: threading.Event) -> None:
        _Fetch(download=download, store=store, http=http, stop=stop, task=task).run()

    try:
        _raise(_in_parallel(_largest_first(missing), fetch, workers))
    finally:
        task.finish()


def fetch_unknown(
    url: str, filename: str, store: Store, http: Http, progress: Progress | None = None
) -> tuple[Sha256, int]:
    """The file at an address of which nobody has said a digest yet, into the store: (sha256, bytes).

    A transfer that breaks goes on where it stopped if the server says that its file is still the same one, else from
    the start. Raises NnenvError `index-unreachable` (also for a file shorter than announced), `offline`, `disk-full`.
    """
    task = (progress or SilentProgress()).start(f"fetch {filename}")
    try:
        with store.writer() as writer:
            failures, etag = 0, ""
            while True:
                before = writer.written
                try:
                    etag = _append(url, writer, etag, http, task)
                except HttpError as error:
                    failures = 1 if writer.written - before >= _FRUITFUL else failures + 1
                    if not error.retryable or failures > http.retries:
                        raise
                    http.sleep(http.pause(failures, error))
                else:
                    return writer.commit()
    finally:
        task.finish()


def _append(url: str, writer: ObjectWriter, etag: str, http: Http, task: Task) -> str:
    """One request for what the writer has not yet; its entity tag. HttpError unless the file is whole afterwards."""
    if writer.written and not etag:
        writer.restart()  # nothing says that it would be the same file
    with http.stream(url, start=writer.written, etag=etag) as body:
        if body.start != writer.written:
            writer.restart()
        for chunk in body.chunks:
            writer.write(chunk)
            task.advance(len(chunk))
        if body.total is not None and writer.written < body.total:
            cut = f"truncated: {writer.written} of {body.total} bytes"
            raise HttpError(url, cut, retryable=True)
        return body.etag


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetch:
    """One download under way."""

    download: Download
    store: Store
    http: Http
    stop: threading.Event
    task: Task

    def run(self) -> None:
        """Fetch it, unless another process does: then wait for that one's bytes."""
        sha256 = self.download.sha256
        with self.store.lock(f"fetch-{sha256}", waiting=self._wait):
            if self.store.check(sha256):
                self.task.advance(self.download.size or 0)
                return
            urls = self.download.urls
            self._from_any(urls() if callable(urls) else urls)

    def _wait(self) -> None:
        if self.stop.wait(_LOOK_AGAIN):
            raise _Stopped

    def _from_any(self, urls: Sequence[str]) -> None:
        failures: list[HttpError | _WrongBytes] = []
        reasons: list[str] = []
        for url in urls:
            try:
                self._from(url)
            except (HttpError, _WrongBytes) as error:
                failures.append(error)
                reasons.append(f"{host_of(url)}: {error.cause if isinstance(error, HttpError) else error}")
            else:
                return
        raise self._failure(failures, reasons)

    def _from(self, url: str) -> None:
        """Fetch from one address. Raises HttpError or _WrongBytes."""
        size = self.download.size if self.download.size is not None else _LARGEST_UNKNOWN
        with self.store.partial(self.download.sha256, self.download.size) as partial:
            transfer = _Transfer(http=self.http, url=url, partial=partial, size=size, stop=self.stop, task=self.task)
            self.task.advance(partial.written)
            try:
                transfer.run()
                partial.commit()
            except BaseException:
                # The next address, or the next run, counts what is there again.
                self.task.advance(-partial.written)
                raise

    def _failure(self, failures: Sequence[HttpError | _WrongBytes], reasons: Sequence[str]) -> NnenvError:
        filename = self.download.filename
        if not failures:
            return NnenvError(
                "source-unconfigured",
                f"no configured source has {filename}",
                where=filename,
                fix=["configure the index or archive that it was locked from"],
            )
        if any(isinstance(failure, _WrongBytes) for failure in failures):
            return NnenvError(
                "digest-mismatch",
                f"no source gave the locked bytes of {filename}",
                where=filename,
                because=[*reasons, f"locked: sha256 {self.download.sha256}, {self.download.size} bytes"],
                fix=[
                    "run the command again: a cut or damaged transfer is fetched anew",
                    "if it stays, the source serves another file: ask why, then lock that file again",
                ],
            )
        return NnenvError(
            "index-unreachable",
            f"could not fetch {filename}",
            where=filename,
            because=reasons,
            fix=list(dict.fromkeys(line for failure in failures for line in getattr(failure, "fix", ()))),
        )


class _Transfer:
    """The attempts at one address until the partial file holds the right bytes."""

    def __init__(
        self, *, http: Http, url: str, partial: ObjectWriter, size: int, stop: threading.Event, task: Task
    ) -> None:
        self._http = http
        self._url = url
        self._partial = partial
        self._size = size
        self._stop = stop
        self._task = task
        self._etag = ""
        self._failures = 0
        self._clean_retries = 1

    def run(self) -> None:
        """Return when the bytes are right. Raises HttpError or _WrongBytes when that will not be."""
        while not self._partial.matches():
            if self._partial.written >= self._size:
                self._start_over(f"altered: it has the locked size, but another sha256: {self._partial.sha256}")
                continue
            before = self._partial.written
            try:
                self._receive()
            except HttpError as error:
                if not self._partial.matches():
                    self._count(error, before)
            except _WrongBytes as wrong:
                self._start_over(str(wrong))
            else:
                self._judge_end(before)

    def _receive(self) -> None:
        """One request, from where the partial file ends."""
        partial = self._partial
        with self._http.stream(self._url, start=partial.written, etag=self._etag) as body:
            self._etag = body.etag
            if body.start != partial.written:
                self._forget()
            elif body.start and body.total not in (None, self._size) and self._size != _LARGEST_UNKNOWN:
                raise _WrongBytes(f"altered: the source's file has {body.total} bytes")
            for chunk in body.chunks:
                if self._stop.is_set():
                    raise _Stopped
                if partial.written + len(chunk) > self._size:
                    raise _WrongBytes("altered: it is longer than the locked file")
                partial.write(chunk)
                self._task.advance(len(chunk))

    def _judge_end(self, before: int) -> None:
        """The server ended in good order: is the file whole, cut by a proxy, or another one?"""
        if self._partial.matches():
            return
        if self._size == _LARGEST_UNKNOWN:
            self._start_over(f"altered: another sha256: {self._partial.sha256}")
        elif self._partial.written < self._size:
            cut = f"truncated: {self._partial.written} of {self._size} bytes"
            if self._failures >= self._http.retries:
                raise _WrongBytes(cut)
            self._count(HttpError(self._url, cut, retryable=True), before)

    def _count(self, error: HttpError, before: int) -> None:
        """Wait before the next attempt, or give up."""
        if self._partial.written - before >= _FRUITFUL:
            self._failures = 0
        self._failures += 1
        if not error.retryable or self._failures > self._http.retries:
            raise error
        self._http.sleep(self._http.pause(self._failures, error))
        if self._stop.is_set():
            raise _Stopped

    def _start_over(self, finding: str) -> None:
        self._forget()
        if self._clean_retries == 0:
            raise _WrongBytes(finding)
        self._clean_retries -= 1

    def _forget(self) -> None:
        self._task.advance(-self._partial.written)
        self._partial.restart()
        self._etag = ""


def _in_parallel(
    downloads: Sequence[Download], work: Callable[[Download, threading.Event], None], workers: int
) -> list[BaseException]:
    """Do the work on each, and return what went wrong.

    Daemon threads rather than an executor: after a KeyboardInterrupt nobody waits for a stalled server.
    """
    pending = deque(downloads)
    stop = threading.Event()
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def worker() -> None:
        while not stop.is_set():
            try:
                download = pending.popleft()
            except IndexError:
                return
            try:
                work(download, stop)
            except BaseException as error:  # it is raised again in the calling thread
                outcomes.put(error)
            else:
                outcomes.put(None)

    errors: list[BaseException] = []
    try:
        for number in range(min(workers, len(downloads))):
            threading.Thread(target=worker, name=f"fetch-{number}", daemon=True).start()
        for _ in downloads:
            error = outcomes.get()
            if error is not None:
                errors.append(error)
                if _hopeless(error):
                    break
    finally:
        stop.set()
    return errors


def _hopeless(error: BaseException) -> bool:
    """True if the other downloads would only fail too: a full disk, or a bug."""
    return not isinstance(error, NnenvError) or error.code in ("disk-full", "store-unusable")


def _raise(errors: Sequence[BaseException]) -> None:
    refusals: list[NnenvError] = []
    for error in errors:
        if not isinstance(error, NnenvError):
            raise error
        if _hopeless(error):
            raise error
        refusals.append(error)
    refusals.sort(key=lambda error: (error.code, error.where or "", error.what))
    if len(refusals) > 1 and all(refusal.code == "offline" for refusal in refusals):
        raise _all_offline(refusals)
    if len(refusals) > 1:
        raise SeveralErrors(refusals)
    if refusals:
        raise refusals[0]


def _all_offline(refusals: Sequence[NnenvError]) -> NnenvError:
    return NnenvError(
        "offline",
        f"{len(refusals)} files are not in the store, and --offline forbids to fetch them",
        because=[refusal.what for refusal in refusals],
        fix=refusals[0].fix,
    )


def _largest_first(downloads: Iterable[Download]) -> list[Download]:
    return sorted(
        downloads,
        key=lambda download: (-(download.size if download.size is not None else _LARGEST_UNKNOWN), download.sha256),
    )


def _title(missing: Sequence[Download]) -> str:
    return f"fetch {missing[0].filename}" if len(missing) == 1 else f"fetch {len(missing)} files"


def _total(missing: Sequence[Download]) -> int | None:
    sizes = [download.size for download in missing if download.size is not None]
    return sum(sizes) if len(sizes) == len(missing) else None
