"""Fetching through every fault: the right bytes in the store, or an error that tells cut from altered."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nnenv.adapters.fetch import Download, fetch_all
from nnenv.adapters.files import UNSAFE_VARIABLE
from nnenv.adapters.http import Http
from nnenv.adapters.progress import BarProgress, PlainProgress, SilentProgress, make_progress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError, SeveralErrors
from nnenv.spec.artifact import Sha256
from tests.support.flaky_server import FlakyServer

DATA = random.Random(5).randbytes(52_000)
DIGEST = Sha256(hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """A server with the file at two addresses."""
    with FlakyServer({"/a.whl": DATA, "/mirror/a.whl": DATA}) as running:
        yield running


def client(retries: int = 3, offline: bool = False) -> Http:
    """A client that does not sleep, with short timeouts and an empty environment."""
    return Http(environ={}, sleep=lambda _: None, retries=retries, connect_timeout=2, read_timeout=0.3, offline=offline)


def wheel(*urls: str, size: int | None = len(DATA)) -> Download:
    """The file, from these addresses."""
    return Download(sha256=DIGEST, size=size, filename="a.whl", urls=urls)


def fetch(store: Store, download: Download, retries: int = 3) -> None:
    """Fetch one file."""
    fetch_all([download], store, client(retries))


def partials(store: Store) -> list[Path]:
    """Cut downloads that the store keeps."""
    return list((store.root / "tmp" / "partial").glob("*"))


def test_a_download_is_in_the_store_afterwards(store: Store, server: FlakyServer) -> None:
    """Verified, asked for once, and not asked for again."""
    for _ in range(2):
        fetch(store, wheel(server.url("/a.whl")))
    assert store.check(DIGEST)
    assert server.counts() == {"/a.whl": 1}
    assert partials(store) == []


ONCE = ["cut", "reset", "stall", "short-length", "long-length", "extra", "flip", "gzip", "bad-gzip", "chunked"]
ONCE += ["chunked-cut", "500", "503", "429:1", "error-page", "weak-etag"]


@pytest.mark.parametrize("size", [len(DATA), None])
@pytest.mark.parametrize("fault", ONCE)
def test_a_fault_that_passes_is_survived(fault: str, size: int | None, store: Store, server: FlakyServer) -> None:
    """Each fault once, with the size locked or unknown: the right bytes in the end."""
    server.break_("/a.whl", fault)
    fetch(store, wheel(server.url("/a.whl"), size=size))
    assert store.check(DIGEST)


RESUMES = ["", "ignore-range", "wrong-range", "other-file", "no-total", "flip", "cut", "reset", "416", "500", "gzip"]


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("fault", RESUMES)
def test_a_resume_that_goes_wrong_ends_in_a_whole_download(
    fault: str, etags: bool, store: Store, server: FlakyServer
) -> None:
    """First a cut, then this fault in the answer to the range: the right bytes in the end."""
    server.etags = etags
    server.break_("/a.whl", "cut", fault)
    fetch(store, wheel(server.url("/a.whl")))
    assert store.check(DIGEST)


def test_only_the_rest_is_asked_for(store: Store, server: FlakyServer) -> None:
    """After a cut in the middle the second request is for the second half, of the same ETag."""
    server.break_("/a.whl", "cut")
    fetch(store, wheel(server.url("/a.whl")))
    first, second = server.requests("/a.whl")
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={len(DATA) // 2}-"
    assert second.headers["if-range"].startswith('"')


def test_the_next_run_goes_on_where_this_one_was_cut(store: Store, server: FlakyServer) -> None:
    """The cut file stays in the store's tmp/, and only the rest is asked for."""
    server.break_("/a.whl", "cut")
    with pytest.raises(NnenvError) as caught:
        fetch(store, wheel(server.url("/a.whl")), retries=0)
    assert caught.value.code == "index-unreachable"
    assert len(partials(store)) == 1
    fetch(Store(store.root), wheel(server.url("/a.whl")))
    assert server.requests("/a.whl")[-1].headers["range"] == f"bytes={len(DATA) // 2}-"
    assert store.check(DIGEST)


def test_a_rotten_partial_file_is_thrown_away(store: Store, server: FlakyServer) -> None:
    """What a power cut left wrong is found by the digest and fetched once more from the start."""
    for rotten in (bytes(1000), bytes(len(DATA)), bytes(len(DATA) + 5)):
        with store.partial(DIGEST) as partial:
            partial.write(rotten)
        fetch(store, wheel(server.url("/a.whl")))
        assert store.check(DIGEST)
        store.quarantine(DIGEST)


ALWAYS = {
    "flip": ("digest-mismatch", "altered: it has the locked size, but another sha256"),
    "extra": ("digest-mismatch", "altered: it is longer than the locked file"),
    "short-length": ("digest-mismatch", "truncated: "),
    "error-page": ("digest-mismatch", "truncated: 35 of 52000 bytes"),
    "stall": ("index-unreachable", "timeout"),
    "500": ("index-unreachable", "status 500"),
    "404": ("index-unreachable", "status 404"),
    "redirect-loop": ("index-unreachable", "more than 10 redirects"),
}


@pytest.mark.parametrize("fault", ALWAYS)
def test_a_fault_that_stays_is_named(fault: str, store: Store, server: FlakyServer) -> None:
    """Cut is told from altered; nothing reaches the store; where, because and fix are there."""
    server.ranges = False
    server.break_for_ever("/a.whl", fault)
    code, reason = ALWAYS[fault]
    with pytest.raises(NnenvError) as caught:
        fetch(store, wheel(server.url("/a.whl")), retries=2)
    assert (caught.value.code, caught.value.where) == (code, "a.whl")
    assert any(reason in line for line in caught.value.because), caught.value.because
    assert caught.value.fix
    assert list(store.objects()) == []


def test_a_flipped_bit_costs_one_clean_retry(store: Store, server: FlakyServer) -> None:
    """Not more: the second wrong answer sends us to the next address."""
    server.break_for_ever("/a.whl", "flip")
    fetch(store, wheel(server.url("/a.whl"), server.url("/mirror/a.whl")))
    assert server.counts() == {"/a.whl": 2, "/mirror/a.whl": 1}
    assert "range" not in server.requests("/mirror/a.whl")[0].headers


def test_without_the_guard_wrong_bytes_get_in(
    store: Store, server: FlakyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with verification off, a writer publishes other bytes under the name."""
    monkeypatch.setenv(UNSAFE_VARIABLE, "verify")
    store.add(io.BytesIO(b"other"), DIGEST, None)
    fetch(store, wheel(server.url("/a.whl")))
    assert server.counts() == {}
    monkeypatch.delenv(UNSAFE_VARIABLE)
    assert not Store(store.root).check(DIGEST)


def test_a_cut_transfer_goes_on_at_the_next_address(store: Store, server: FlakyServer) -> None:
    """The mirror is asked only for what is missing."""
    server.break_for_ever("/a.whl", "404")
    server.break_("/a.whl", "cut")
    fetch(store, wheel(server.url("/a.whl"), server.url("/mirror/a.whl")))
    assert server.requests("/mirror/a.whl")[0].headers["range"] == f"bytes={len(DATA) // 2}-"


def test_a_transfer_that_gets_somewhere_is_not_given_up(store: Store, server: FlakyServer) -> None:
    """A megabyte between two failures starts the count of failures anew."""
    data = random.Random(1).randbytes(5 << 20)
    server.files["/big"] = data
    server.break_("/big", *["cut"] * 2)
    sha256 = Sha256(hashlib.sha256(data).hexdigest())
    fetch(store, Download(sha256=sha256, size=len(data), filename="big", urls=[server.url("/big")]), retries=1)
    assert len(server.requests("/big")) == 3


def test_a_damaged_entry_is_healed(store: Store, server: FlakyServer) -> None:
    """Fetching what the store has verifies it; a flipped bit costs one download."""
    fetch(store, wheel(server.url("/a.whl")))
    path = store.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
    fetch(Store(store.root), wheel(server.url("/a.whl")))
    assert Store(store.root).check(DIGEST)
    assert server.counts() == {"/a.whl": 2}


def many(server: FlakyServer, count: int) -> list[Download]:
    """Files of growing size."""
    downloads = []
    for number in range(count):
        data = bytes([number]) * (number + 1) * 100
        server.files[f"/{number}"] = data
        sha256 = Sha256(hashlib.sha256(data).hexdigest())
        downloads.append(
            Download(sha256=sha256, size=len(data), filename=f"{number}.whl", urls=[server.url(f"/{number}")])
        )
    return downloads


def test_many_files_arrive_largest_first(store: Store, server: FlakyServer) -> None:
    """With one worker the order shows; equal digests are fetched once."""
    downloads = many(server, 12)
    fetch_all(downloads + downloads, store, client(), workers=1)
    assert list(server.counts()) == [f"/{number}" for number in reversed(range(12))]
    assert set(server.counts().values()) == {1}


def test_one_failure_does_not_stop_the_others(store: Store, server: FlakyServer) -> None:
    """All that can be fetched is; every failure is reported, in a fixed order."""
    downloads = many(server, 10)
    server.break_for_ever("/7", "flip")
    server.break_for_ever("/3", "404")
    with pytest.raises(SeveralErrors) as caught:
        fetch_all(downloads, store, client())
    assert [(error.code, error.where) for error in caught.value.errors] == [
        ("digest-mismatch", "7.whl"),
        ("index-unreachable", "3.whl"),
    ]
    assert len(list(store.objects())) == 8


def test_offline_names_what_is_missing(store: Store, server: FlakyServer) -> None:
    """One error for all; what is there is no error; the server hears nothing."""
    downloads = many(server, 3)
    fetch_all(downloads[:1], store, client())
    with pytest.raises(NnenvError) as caught:
        fetch_all(downloads, store, client(offline=True))
    assert caught.value.code == "offline"
    assert len(caught.value.because) == 2
    fetch_all(downloads[:1], store, client(offline=True))
    assert sum(server.counts().values()) == 1


def test_a_damaged_entry_is_named_offline(store: Store, server: FlakyServer) -> None:
    """Found before use, and named by its file."""
    fetch(store, wheel(server.url("/a.whl")))
    path = store.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(DATA[1:])
    with pytest.raises(NnenvError, match=r"a\.whl") as caught:
        fetch_all([wheel(server.url("/a.whl"))], Store(store.root), client(offline=True))
    assert caught.value.code == "offline"


def test_addresses_are_asked_for_only_when_needed(store: Store, server: FlakyServer) -> None:
    """A locator may need the network, so a warm store must not call it; none at all is an error."""
    asked: list[str] = []

    def locate() -> Sequence[str]:
        asked.append("x")
        return [server.url("/a.whl")]

    download = Download(sha256=DIGEST, size=len(DATA), filename="a.whl", urls=locate)
    fetch(store, download)
    fetch(store, download)
    assert asked == ["x"]
    other = Download(sha256=Sha256("0" * 64), size=1, filename="b.whl", urls=())
    with pytest.raises(NnenvError) as caught:
        fetch(store, other)
    assert (caught.value.code, caught.value.where) == ("source-unconfigured", "b.whl")


def test_files_on_disk_are_fetched_offline(store: Store, tmp_path: Path) -> None:
    """A find-links directory or a local archive needs no network; a changed file is refused."""
    path = tmp_path / "a.whl"
    path.write_bytes(DATA)
    fetch_all([wheel(path.as_uri())], store, client(offline=True))
    assert store.check(DIGEST)
    path.write_bytes(DATA[::-1])
    with pytest.raises(NnenvError) as caught:
        fetch_all([wheel(str(path))], Store(tmp_path / "other"), client(offline=True))
    assert caught.value.code == "digest-mismatch"


def fetch_in_process(root: str, url: str) -> None:
    """What each of several processes does."""
    fetch(Store(Path(root)), wheel(url))


def test_several_processes_fetch_one_digest_once(store: Store, server: FlakyServer) -> None:
    """Six processes and one GET, even while the first answer stalls a little."""
    server.break_("/a.whl", "stall")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=fetch_in_process, args=(str(store.root), server.url("/a.whl"))) for _ in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert store.check(DIGEST)
    ranges = [request.headers.get("range") for request in server.requests("/a.whl")]
    assert ranges == [None, f"bytes={len(DATA) // 2}-"]


def test_a_killed_fetch_leaves_its_lock_free_and_its_bytes_to_go_on(store: Store, server: FlakyServer) -> None:
    """kill -9 in the middle of a transfer: the next process resumes at once."""
    server.files["/a.whl"] = DATA
    server.break_("/a.whl", "drip")
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=fetch_in_process, args=(str(store.root), server.url("/a.whl")))
    process.start()
    deadline = time.monotonic() + 20
    while not server.counts() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    fetch(store, wheel(server.url("/a.whl")))
    assert store.check(DIGEST)


def test_an_interrupt_ends_it_at_once(store: Store, server: FlakyServer) -> None:
    """Ctrl-C does not wait for a server that stalls."""
    server.break_for_ever("/a.whl", "stall")
    http = Http(environ={}, read_timeout=30)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_all([wheel(server.url("/a.whl"))], store, http)
    assert time.monotonic() - begun < 2


# Progress


class Recorded:
    """A Progress that keeps the sum."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0
        self.finished = 0

    def start(self, title: str, total_bytes: int | None = None) -> Recorded:
        self.total = total_bytes
        return self

    def advance(self, n: int) -> None:
        self.done += n

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("faults", [[], ["cut"], ["flip"], ["cut", "ignore-range"], ["404"]])
def test_progress_ends_at_the_total_whatever_happened(faults: list[str], store: Store, server: FlakyServer) -> None:
    """Bytes that are thrown away are taken back; a mirror goes on counting."""
    recorded = Recorded()
    server.break_("/a.whl", *faults)
    urls = [server.url("/a.whl"), server.url("/mirror/a.whl")]
    fetch_all([wheel(*urls)], store, client(), workers=1, progress=recorded)
    assert (recorded.total, recorded.done, recorded.finished) == (len(DATA), len(DATA), 1)


def test_lines_are_written_for_long_steps_only() -> None:
    """At the end of a step of over a second, with bytes and seconds."""
    stream = io.StringIO()
    now = [0.0]
    progress = PlainProgress(stream, clock=lambda: now[0])
    for seconds in (0.5, 2.0):
        task = progress.start("fetch a.whl", 3 << 20)
        task.advance(3 << 20)
        now[0] += seconds
        task.finish()
    assert stream.getvalue() == "fetch a.whl: 3.0 MiB in 2.0 s\n"


def test_a_short_step_has_no_bar() -> None:
    """Nothing at all is written; the bars of long ones: tests/adapters/test_progress.py."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = BarProgress(stream)
    short = progress.start("short", 10)
    short.advance(10)
    short.finish()
    assert stream.getvalue() == ""


def test_the_kind_of_progress_follows_the_stream() -> None:
    """Quiet wins; bars only on a terminal."""
    stream = io.StringIO()
    assert isinstance(make_progress(stream, True, True), SilentProgress)
    assert isinstance(make_progress(stream, False, True), BarProgress)
    assert isinstance(make_progress(stream, False, False), PlainProgress)
