"""Python indexes over real HTTP on this machine: pages, the metadata ladder, binding of names, offline."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnenv.adapters.http import Http
from nnenv.adapters.pip_config import IndexConfiguration
from nnenv.adapters.python_index import IndexProject, PythonIndexes, Source
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata
from nnenv.formats.packed_page import FORMAT
from nnenv.formats.wheel_outline import Probes, Statement
from nnenv.resolve.python import PythonPolicy, resolve_wheels
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.resolve.python_target import PythonTarget
from nnenv.spec.artifact import Artifact, Kind, Sha256
from tests.formats.archives import record_line, wheel
from tests.support.flaky_server import FlakyServer

Make = Callable[..., PythonIndexes]
JSON = "application/vnd.pypi.simple.v1+json"


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """A server without files."""
    with FlakyServer({}) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def indexes(store: Store) -> Iterator[Make]:
    """Makes clients of one store; all are closed at the end."""
    made = []

    def make(
        *urls: str,
        links: tuple[str, ...] = (),
        bound: dict[str, Source] | None = None,
        offline: bool = False,
        now: float = 1000.0,
    ) -> PythonIndexes:
        http = Http(environ={}, offline=offline, retries=0, connect_timeout=2, read_timeout=2)
        configuration = IndexConfiguration(indexes=urls, find_links=links)
        made.append(PythonIndexes(configuration, http, store, bound=bound, workers=4, clock=lambda: now))
        return made[-1]

    yield make
    for client in made:
        client.close()


def metadata_of(name: str, version: str, *requires: str) -> bytes:
    """A METADATA file."""
    lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}\n".encode()


def wheel_of(name: str, version: str, *requires: str, ballast: int = 0) -> bytes:
    """An honest wheel; `ballast` members make its central directory large."""
    info = f"{name}-{version}.dist-info"
    files = {f"{name}/file_{number:06}.py": b"" for number in range(ballast)}
    files |= {
        f"{name}/__init__.py": b"",
        f"{info}/METADATA": metadata_of(name, version, *requires),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [record_line(path, data) for path, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    return wheel(files)


def offer(
    server: FlakyServer,
    name: str,
    version: str,
    *requires: str,
    root: str = "/simple",
    beside: bytes | None = None,
    hashed: bool = True,
    sized: bool = True,
    ballast: int = 0,
    core_metadata: object = None,
) -> bytes:
    """Put a wheel on the server and its entry on the project's JSON page; the wheel's bytes."""
    data = wheel_of(name, version, *requires, ballast=ballast)
    filename = f"{name}-{version}-py3-none-any.whl"
    server.files[f"/files{root}/{filename}"] = data
    if beside is not None:
        server.files[f"/files{root}/{filename}.metadata"] = beside
    path = f"{root}/{name}/"
    page = json.loads(server.files.get(path, b'{"meta": {"api-version": "1.0"}, "files": []}'))
    hashes = {"sha256": hashlib.sha256(data).hexdigest()} if hashed else {}
    size = {"size": len(data)} if sized else {}
    announced = {} if core_metadata is None else {"core-metadata": core_metadata}
    entry = {"filename": filename, "url": f"/files{root}/{filename}", "hashes": hashes, **size, **announced}
    page["files"].append(entry)
    server.files[path] = json.dumps(page).encode()
    server.types[path] = JSON
    return data


def only(client: PythonIndexes, name: str) -> WheelRecord:
    """The one wheel of a project."""
    (record,) = wheels(client, name)
    return record


def wheels(client: PythonIndexes, name: str) -> list[WheelRecord]:
    """All wheels of a project that some target might use."""
    project = client.project(name)
    return [record for version in project.versions for record in project.wheels_of(version)]


def asked_for_wheel(server: FlakyServer, root: str = "/simple") -> list[str]:
    """What was asked about files: paths with `range` or `whole`."""
    return [
        f"{path.rsplit('/', 1)[1]} {'range' if 'range' in request.headers else 'whole'}"
        for path in server.counts()
        if path.startswith(f"/files{root}/")
        for request in server.requests(path)
    ]


def ignored(answer: object) -> None:
    """What to do with an answer that only was to be brought nearer."""


# The metadata ladder


def test_an_announced_metadata_file_is_taken_and_checked(server: FlakyServer, indexes: Make) -> None:
    """PEP 658: one small request, and nothing of the wheel."""
    beside = metadata_of("demo", "1", "bb>=1")
    offer(server, "demo", "1", beside=beside, core_metadata={"sha256": hashlib.sha256(beside).hexdigest()})
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb>=1",)
    assert asked_for_wheel(server) == ["demo-1-py3-none-any.whl.metadata whole"]


def test_an_announced_metadata_file_with_other_bytes_is_refused(server: FlakyServer, indexes: Make) -> None:
    """The page states its digest: a file that differs is an error and no reason to go on to the next rung."""
    offer(server, "demo", "1", beside=metadata_of("demo", "1", "evil"), core_metadata={"sha256": "ab" * 32})
    client = indexes(server.url("/simple"))
    with pytest.raises(NnenvError) as caught:
        client.metadata(only(client, "demo"))
    assert caught.value.code == "digest-mismatch"
    assert caught.value.because


def test_an_unannounced_metadata_file_is_found(server: FlakyServer, indexes: Make) -> None:
    """Some indexes serve the files and do not say so."""
    offer(server, "demo", "1", beside=metadata_of("demo", "1", "bb"))
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)
    assert asked_for_wheel(server) == ["demo-1-py3-none-any.whl.metadata whole"]


@pytest.mark.parametrize("page", [b"<html>not found, but 200</html>", metadata_of("other", "7"), b""])
def test_an_unannounced_file_must_prove_itself(page: bytes, server: FlakyServer, indexes: Make) -> None:
    """A server that answers everything with a page of its own: the wheel is asked instead."""
    offer(server, "demo", "1", "bb", beside=page)
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)


def test_without_metadata_files_the_tail_of_the_zip_is_read(server: FlakyServer, indexes: Make) -> None:
    """404 on the first wheel: ranges of it, and for the next wheel of that host no more asking beside it."""
    offer(server, "demo", "1", "bb")
    offer(server, "bb", "2")
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)
    assert client.metadata(only(client, "bb")).version == "2"
    assert asked_for_wheel(server) == [
        "demo-1-py3-none-any.whl.metadata whole",
        "demo-1-py3-none-any.whl range",
        "bb-2-py3-none-any.whl range",
    ]


def test_a_large_central_directory_takes_one_range_more(server: FlakyServer, indexes: Make) -> None:
    """Wheels of thousands of files (torch) have directories beyond the first tail; still the content is not read."""
    data = offer(server, "demo", "1", "bb", ballast=1500)
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)
    spans = [request.headers["range"] for request in server.requests("/files/simple/demo-1-py3-none-any.whl")]
    assert len(spans) == 3
    assert len(data) > 65536


def test_without_ranges_the_whole_wheel_is_fetched_once(server: FlakyServer, indexes: Make, store: Store) -> None:
    """The last rung: the wheel, verified, stays in the store for the build."""
    data = offer(server, "demo", "1", "bb")
    server.ranges = False
    client = indexes(server.url("/simple"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)
    assert store.contains(Sha256(hashlib.sha256(data).hexdigest()))


def test_the_whole_wheel_must_have_the_stated_digest(server: FlakyServer, indexes: Make) -> None:
    """Other bytes than the page states never become metadata."""
    offer(server, "demo", "1")
    server.ranges = False
    server.break_for_ever("/files/simple/demo-1-py3-none-any.whl", "flip")
    client = indexes(server.url("/simple"))
    with pytest.raises(NnenvError) as caught:
        client.metadata(only(client, "demo"))
    assert caught.value.code == "digest-mismatch"


def test_metadata_is_kept_by_the_wheels_digest(server: FlakyServer, indexes: Make) -> None:
    """A second run asks for the page and nothing else."""
    offer(server, "demo", "1", "bb")
    first = indexes(server.url("/simple"))
    first.metadata(only(first, "demo"))
    before = len(asked_for_wheel(server))
    second = indexes(server.url("/simple"))
    assert second.metadata(only(second, "demo")).requires == ("bb",)
    assert len(asked_for_wheel(server)) == before


def test_expected_metadata_is_asked_once(server: FlakyServer, indexes: Make) -> None:
    """A hint starts the request; the question waits for it and makes no second one."""
    beside = metadata_of("demo", "1")
    offer(server, "demo", "1", beside=beside, core_metadata=True)
    client = indexes(server.url("/simple"))
    record = only(client, "demo")
    client.expect(record, ignored)
    client.expect(record, ignored)
    client.metadata(record)
    assert len(asked_for_wheel(server)) == 1


def test_hints_go_on_from_what_arrived(server: FlakyServer, indexes: Make) -> None:
    """The answer to a hint is told in another thread, also one at hand, as long as another answer is awaited."""
    offer(server, "demo", "1", beside=metadata_of("demo", "1"), core_metadata=True)
    offer(server, "slow", "1")
    server.break_("/simple/slow/", "stall")
    told: list[tuple[str, bool]] = []
    arrived = threading.Semaphore(0)

    def then(answer: IndexProject | CoreMetadata) -> None:
        told.append((answer.name, threading.current_thread() is threading.main_thread()))
        arrived.release()

    client = indexes(server.url("/simple"))
    client.prefetch("slow", ignored)
    client.prefetch("demo", then)
    assert arrived.acquire(timeout=10)
    client.expect(only(client, "demo"), then)
    assert arrived.acquire(timeout=10)
    client.expect(only(client, "demo"), then)
    assert arrived.acquire(timeout=10)
    assert told == [("demo", False)] * 3


def test_a_hint_that_fails_tells_nobody(server: FlakyServer, indexes: Make) -> None:
    """Neither a dead index nor a client that was closed: only who needs the answer hears of it."""
    server.break_for_ever("/simple/demo/", "500")
    told: list[IndexProject] = []
    client = indexes(server.url("/simple"))
    client.prefetch("demo", told.append)
    with pytest.raises(NnenvError, match="500"):
        client.project("demo")
    client.close()
    client.prefetch("other", told.append)
    assert told == []


def test_a_wheel_that_names_another_package_is_refused(server: FlakyServer, indexes: Make) -> None:
    """File name and METADATA must agree."""
    offer(server, "demo", "1")
    server.files["/files/simple/demo-1-py3-none-any.whl.metadata"] = metadata_of("evil", "1")
    page = json.loads(server.files["/simple/demo/"])
    page["files"][0]["core-metadata"] = True
    server.files["/simple/demo/"] = json.dumps(page).encode()
    client = indexes(server.url("/simple"))
    with pytest.raises(NnenvError) as caught:
        client.metadata(only(client, "demo"))
    assert caught.value.code == "wheel-refused"
    assert "evil 1" in caught.value.what


# Digest and size


def test_identify_fills_in_what_the_page_leaves_out(server: FlakyServer, indexes: Make) -> None:
    """No size: one byte is asked for. No digest: the bytes are fetched once, and hashed."""
    data = offer(server, "demo", "1", sized=False)
    bare = offer(server, "bare", "1", hashed=False, sized=False)
    client = indexes(server.url("/simple"))
    assert client.identify(only(client, "demo")).size == len(data)
    assert asked_for_wheel(server) == ["demo-1-py3-none-any.whl range"]
    found = client.identify(only(client, "bare"))
    assert (found.sha256, found.size) == (hashlib.sha256(bare).hexdigest(), len(bare))
    client.metadata(only(client, "bare"))
    assert asked_for_wheel(server).count("bare-1-py3-none-any.whl whole") == 1


def test_identify_never_replaces_a_stated_digest(server: FlakyServer, indexes: Make) -> None:
    """Without size and ranges the file is fetched, but held against the digest of the page."""
    offer(server, "demo", "1", sized=False)
    server.ranges = False
    server.break_for_ever("/files/simple/demo-1-py3-none-any.whl", "flip")
    client = indexes(server.url("/simple"))
    with pytest.raises(NnenvError) as caught:
        client.identify(only(client, "demo"))
    assert caught.value.code == "digest-mismatch"


# Pages


def test_pages_are_asked_again_by_etag(server: FlakyServer, indexes: Make, store: Store) -> None:
    """A second run sends the validator; a 304 brings the stored page back."""
    offer(server, "demo", "1")
    assert only(indexes(server.url("/simple")), "demo").version == "1"
    server.break_("/simple/demo/", "304")
    assert only(indexes(server.url("/simple")), "demo").version == "1"
    first, second = server.requests("/simple/demo/")
    assert "if-none-match" not in first.headers
    assert second.headers["if-none-match"].startswith('"')


def questions(server: FlakyServer, client: PythonIndexes) -> int:
    """How many requests it takes the client to know the project `demo`."""
    before = len(server.requests("/simple/demo/"))
    client.prefetch("demo", ignored)
    assert only(client, "demo").version == "1"
    return len(server.requests("/simple/demo/")) - before


@pytest.mark.parametrize(
    ("said", "age", "fresh"),
    [
        ("max-age=600, public", "", True),
        ("max-age=600", "100", True),
        ("public, Max-Age=600, must-revalidate", "", True),
        ("max-age=600", "598", False),
        ("max-age=600", "soon", False),
        ("max-age=2", "", False),
        ("no-cache, max-age=600", "", False),
        ("max-age=600, no-store", "", False),
        ('max-age=600, no-cache="set-cookie"', "", False),
        ("max-age=-1", "", False),
        ("public", "", False),
        ("", "", False),
    ],
)
def test_a_page_is_used_for_as_long_as_its_index_says(
    said: str, age: str, fresh: bool, server: FlakyServer, indexes: Make
) -> None:
    """RFC 9111 as pip and browsers go by it: nothing is asked while a page is fresh, five seconds after it came."""
    offer(server, "demo", "1")
    server.extra = {"Cache-Control": said, "Age": age} if age else {"Cache-Control": said}
    assert questions(server, indexes(server.url("/simple"), now=1000)) == 1
    assert questions(server, indexes(server.url("/simple"), now=1005)) == (0 if fresh else 1)


def test_freshness_ends(server: FlakyServer, indexes: Make) -> None:
    """After ten minutes the index is asked again, a 304 begins another ten; a clock that went back is not believed."""
    offer(server, "demo", "1")
    server.extra = {"Cache-Control": "max-age=600"}
    asked = []
    for now in (1000, 1599, 1600, 1700, 2199, 2200, 2100):
        if now == 1600:
            server.break_("/simple/demo/", "304")
        asked.append(questions(server, indexes(server.url("/simple"), now=now)))
    assert asked == [1, 0, 1, 0, 0, 1, 1]


def test_no_index_is_believed_for_more_than_an_hour(server: FlakyServer, indexes: Make) -> None:
    """A lock is expected to see new releases, whatever a page's headers promise."""
    offer(server, "demo", "1")
    server.extra = {"Cache-Control": "max-age=31536000"}
    asked = [questions(server, indexes(server.url("/simple"), now=now)) for now in (1000, 4599, 4600)]
    assert asked == [1, 0, 1]


def test_a_fresh_project_is_answered_without_workers(server: FlakyServer, indexes: Make) -> None:
    """A warm lock starts no thread: page and metadata come from the store in the thread that asks."""
    beside = metadata_of("demo", "1")
    offer(server, "demo", "1", beside=beside, core_metadata=True)
    server.extra = {"Cache-Control": "max-age=600"}
    cold = indexes(server.url("/simple"))
    cold.metadata(only(cold, "demo"))
    before = threading.active_count()
    warm = indexes(server.url("/simple"))
    warm.prefetch("demo", ignored)
    warm.expect(only(warm, "demo"), ignored)
    assert warm.metadata(only(warm, "demo")).version == "1"
    assert threading.active_count() == before
    assert server.counts() == {"/simple/demo/": 1, "/files/simple/demo-1-py3-none-any.whl.metadata": 1}


def test_one_source_that_is_not_fresh_is_asked(server: FlakyServer, indexes: Make) -> None:
    """That the first index does not know a name is not fresh for ever: it is asked before the second is believed."""
    server.extra = {"Cache-Control": "max-age=600"}
    offer(server, "demo", "999", root="/second")
    assert only(indexes(server.url("/first"), server.url("/second")), "demo").version == "999"
    offer(server, "demo", "1", root="/first")
    assert only(indexes(server.url("/first"), server.url("/second")), "demo").version == "1"


def test_a_damaged_record_is_made_anew(server: FlakyServer, indexes: Make, store: Store) -> None:
    """Cut short or empty: the page is asked for without a condition, and kept again."""
    offer(server, "demo", "1")
    server.extra = {"Cache-Control": "max-age=600"}
    assert questions(server, indexes(server.url("/simple"))) == 1
    (record,) = (path for path in (store.root / "derived" / f"index-page-{FORMAT}").rglob("*") if path.is_file())
    for data in (record.read_bytes()[:-3], b""):
        record.write_bytes(data)
        assert questions(server, indexes(server.url("/simple"))) == 1
        assert questions(server, indexes(server.url("/simple"))) == 0
    assert all("if-none-match" not in request.headers for request in server.requests("/simple/demo/"))


def test_pages_without_etag_are_read_again(server: FlakyServer, indexes: Make) -> None:
    """A new release shows up in the next run, and not within one."""
    server.etags = False
    offer(server, "demo", "1")
    client = indexes(server.url("/simple"))
    assert len(wheels(client, "demo")) == 1
    offer(server, "demo", "2")
    assert len(wheels(client, "demo")) == 1
    assert len(wheels(indexes(server.url("/simple")), "demo")) == 2
    assert all("if-none-match" not in request.headers for request in server.requests("/simple/demo/"))


def test_garbage_is_refused_and_not_remembered(server: FlakyServer, indexes: Make) -> None:
    """A broken page is an error; the next run reads the repaired one."""
    server.files["/simple/demo/"] = b'{"files": ['
    server.types["/simple/demo/"] = JSON
    with pytest.raises(NnenvError) as caught:
        indexes(server.url("/simple")).project("demo")
    assert caught.value.code == "index-unreachable"
    del server.files["/simple/demo/"]
    offer(server, "demo", "1")
    assert only(indexes(server.url("/simple")), "demo").version == "1"


def test_a_dead_index_is_an_error_and_not_an_empty_one(server: FlakyServer, indexes: Make) -> None:
    """If the first index fails, the second is not asked: it might hold a stranger's package of that name."""
    offer(server, "demo", "999.0", root="/second")
    server.break_for_ever("/first/demo/", "500")
    with pytest.raises(NnenvError) as caught:
        indexes(server.url("/first"), server.url("/second")).project("demo")
    assert caught.value.code == "index-unreachable"
    assert server.requests("/second/demo/") == []


def test_credentials_of_the_index_reach_its_files(server: FlakyServer, indexes: Make) -> None:
    """A private index asks for them at pages and files alike; pages name files without them."""
    offer(server, "demo", "1", "bb")
    client = indexes(server.url("/simple", userinfo="user:secret@"))
    assert client.metadata(only(client, "demo")).requires == ("bb",)
    wanted = "Basic " + base64.b64encode(b"user:secret").decode()
    for path in ("/simple/demo/", "/files/simple/demo-1-py3-none-any.whl"):
        assert server.requests(path)
        assert all(request.headers.get("authorization") == wanted for request in server.requests(path))


# Which source a name belongs to


def test_the_first_index_that_knows_a_name_wins(server: FlakyServer, indexes: Make) -> None:
    """Sources are not merged: a higher version elsewhere is not looked at."""
    offer(server, "demo", "1.0", root="/first")
    offer(server, "demo", "999.0", root="/second")
    offer(server, "other", "2", root="/second")
    client = indexes(server.url("/first"), server.url("/second"))
    assert only(client, "demo").version == "1.0"
    assert server.requests("/second/demo/") == []
    assert only(client, "other").version == "2"
    unknown = client.project("nobody")
    assert (unknown.versions, unknown.known) == ((), False)


def test_an_index_that_knows_a_name_without_files_wins_too(server: FlakyServer, indexes: Make) -> None:
    """All releases deleted is not the same as never heard of."""
    server.files["/first/demo/"] = b"<html><body></body></html>"
    offer(server, "demo", "999.0", root="/second")
    project = indexes(server.url("/first"), server.url("/second")).project("demo")
    assert (project.versions, project.known) == ((), True)


def test_a_bound_name_is_asked_of_its_index_only(server: FlakyServer, indexes: Make) -> None:
    """Dependency confusion: an attacker's 999.0 on the public index is never even asked for."""
    offer(server, "demo", "1.0", root="/private")
    offer(server, "demo", "999.0")
    offer(server, "gone", "999.0")
    private = Source(origin="python:corp", url=server.url("/private"))
    client = indexes(server.url("/simple"), bound={"demo": private, "gone": private})
    record = only(client, "demo")
    assert (record.version, record.origin) == ("1.0", "python:corp")
    assert not client.project("gone").known
    assert server.requests("/simple/demo/") == []
    assert server.requests("/simple/gone/") == []


def test_a_name_has_many_spellings(server: FlakyServer, indexes: Make) -> None:
    """The normal name is asked for; the files may spell it as they like."""
    data = wheel_of("Foo_Bar", "1")
    server.files["/simple/foo-bar/"] = b'<a href="/f/Foo_Bar-1-py3-none-any.whl#sha256=%s">x</a>' % (
        hashlib.sha256(data).hexdigest().encode()
    )
    server.files["/f/Foo_Bar-1-py3-none-any.whl"] = data
    client = indexes(server.url("/simple"))
    aim = PythonTarget(name="cpu", python="3.11.2", machine="x86_64", glibc="2.36")
    (chosen,) = resolve_wheels(["FOO.bar", "foo_bar"], client, aim, PythonPolicy(), pins={})
    assert (chosen.record.project, chosen.record.size) == ("foo-bar", len(data))


# Folders and pages of links


def test_a_folder_of_wheels(tmp_path: Path, indexes: Make) -> None:
    """find-links by path or file: address; digests come from the bytes, other projects' files do not show."""
    folder = tmp_path / "my wheels"
    folder.mkdir()
    data = wheel_of("demo", "1", "bb")
    (folder / "demo-1-py3-none-any.whl").write_bytes(data)
    (folder / "demo-extra-1.tar.gz").write_bytes(b"")
    (folder / "other-1-py3-none-any.whl").write_bytes(wheel_of("other", "1"))
    for link in (str(folder), folder.as_uri()):
        client = indexes(links=(link,), offline=True)
        record = only(client, "demo")
        assert client.metadata(record).requires == ("bb",)
        assert client.identify(record).sha256 == hashlib.sha256(data).hexdigest()
        assert client.project("demo-extra").other_names == ("demo-extra-1.tar.gz",)
        assert not client.project("nobody").known


def test_a_page_of_links_is_read_once(server: FlakyServer, indexes: Make) -> None:
    """One flat page serves every name."""
    server.files["/links.html"] = b'<a href="demo-1-py3-none-any.whl">x</a><a href="bb-2-py3-none-any.whl">x</a>'
    client = indexes(links=(server.url("/links.html"),))
    for name in ("demo", "bb", "cc"):
        client.prefetch(name, ignored)
    assert [only(client, name).version for name in ("demo", "bb")] == ["1", "2"]
    assert not client.project("cc").known
    assert len(server.requests("/links.html")) == 1


def test_a_simple_index_in_a_folder(tmp_path: Path, indexes: Make) -> None:
    """index-url = file:///srv/simple, or its path: index.html of each project, relative links."""
    data = wheel_of("demo", "1")
    project = tmp_path / "simple" / "demo"
    project.mkdir(parents=True)
    (project / "index.html").write_text('<a href="../../demo-1-py3-none-any.whl">x</a>')
    (tmp_path / "demo-1-py3-none-any.whl").write_bytes(data)
    for url in ((tmp_path / "simple").as_uri(), str(tmp_path / "simple")):
        client = indexes(url, offline=True)
        assert client.identify(only(client, "demo")).sha256 == hashlib.sha256(data).hexdigest()
        assert not client.project("bb").known


# Offline, and fetching


def test_offline_answers_from_the_store(server: FlakyServer, indexes: Make) -> None:
    """Pages, also that a name is unknown, and metadata of the last run; no request is made."""
    offer(server, "demo", "1", "bb")
    online = indexes(server.url("/simple"))
    online.metadata(only(online, "demo"))
    assert not online.project("nobody").known
    before = server.counts()
    offline = indexes(server.url("/simple"), offline=True)
    assert offline.metadata(only(offline, "demo")).requires == ("bb",)
    assert not offline.project("nobody").known
    assert server.counts() == before


def test_offline_without_an_answer_is_an_error(server: FlakyServer, indexes: Make) -> None:
    """It names the page and the way out; it is not taken for an unknown name."""
    with pytest.raises(NnenvError) as caught:
        indexes(server.url("/simple", userinfo="user:secret@"), offline=True).project("demo")
    assert caught.value.code == "offline"
    assert "demo" in caught.value.what
    assert caught.value.fix
    assert "secret" not in repr(caught.value.as_json())


def locked(name: str, version: str, data: bytes) -> Artifact:
    """The wheel as a lock has it."""
    return Artifact(
        kind=Kind.WHEEL,
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256=Sha256(hashlib.sha256(data).hexdigest()),
        size=len(data),
        origin="python",
    )


def test_locate_goes_by_digest(server: FlakyServer, indexes: Make) -> None:
    """Every source that has the very bytes, whatever its order; a file of the same name with others is none."""
    data = offer(server, "demo", "1", root="/mirror")
    offer(server, "demo", "1", "tampered", root="/other")
    client = indexes(server.url("/other"), server.url("/mirror"))
    assert client.locate(locked("demo", "1", data)) == [server.url("/files/mirror/demo-1-py3-none-any.whl")]
    assert client.locate(locked("demo", "1", b"never seen")) == []


def test_locate_trusts_no_digest_where_none_is_stated(server: FlakyServer, indexes: Make, tmp_path: Path) -> None:
    """A file of the right name without a digest is worth a try: the download is held against the locked one."""
    data = wheel_of("demo", "1")
    (tmp_path / "demo-1-py3-none-any.whl").write_bytes(data)
    client = indexes(links=(str(tmp_path),))
    assert client.locate(locked("demo", "1", data)) == [(tmp_path / "demo-1-py3-none-any.whl").as_uri()]


def test_locate_survives_a_dead_source(server: FlakyServer, indexes: Make) -> None:
    """One source that has the file is enough; if none has, the dead one is the reason."""
    data = offer(server, "demo", "1")
    server.break_for_ever("/dead/demo/", "500")
    client = indexes(server.url("/dead"), server.url("/simple"))
    assert client.locate(locked("demo", "1", data)) == [server.url("/files/simple/demo-1-py3-none-any.whl")]
    with pytest.raises(NnenvError) as caught:
        client.locate(locked("demo", "1", b"never seen"))
    assert caught.value.code == "index-unreachable"


def test_a_local_index_that_is_missing_is_refused(indexes: Make, tmp_path: Path) -> None:
    """A mistyped folder must not leave its names to the next index."""
    with pytest.raises(NnenvError) as caught:
        indexes(str(tmp_path / "nowhere"), str(tmp_path)).project("a")
    assert caught.value.code == "source-unconfigured"
    assert caught.value.where == str(tmp_path / "nowhere")


# Outlines

PROBES = Probes(
    statements=(Statement(member="demo/version.py", reads="assignments", cuda="cuda", cudnn=""),),
    libraries=("demo/lib.so",),
)


def wheel_with_library() -> bytes:
    """A wheel that states its CUDA, with a large library that names others at its beginning."""
    noise = hashlib.shake_256(b"noise").digest(2 << 20)
    library = b"\x7fELF" + bytes(300) + b"\0libcublas.so.12\0libc.so.6\0" + b"\xff" + noise
    info = "demo-1.dist-info"
    files = {
        "demo/version.py": b"cuda = '12.8'\n",
        "demo/lib.so": library,
        f"{info}/METADATA": metadata_of("demo", "1"),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(
        [*(record_line(path, data) for path, data in files.items()), f"{info}/RECORD,,\n"]
    ).encode()
    return wheel(files)


def offer_library(server: FlakyServer) -> bytes:
    """That wheel on the server; its bytes."""
    data = wheel_with_library()
    server.files["/files/simple/demo-1-py3-none-any.whl"] = data
    entry = {
        "filename": "demo-1-py3-none-any.whl",
        "url": "/files/simple/demo-1-py3-none-any.whl",
        "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
        "size": len(data),
    }
    server.files["/simple/demo/"] = json.dumps({"meta": {"api-version": "1.0"}, "files": [entry]}).encode()
    server.types["/simple/demo/"] = JSON
    return data


@pytest.mark.parametrize("way", ["ranges", "whole", "store"])
def test_an_outline_is_the_same_however_it_is_read(server: FlakyServer, indexes: Make, store: Store, way: str) -> None:
    """By ranges, where the server has none, and from a wheel that is in the store already."""
    data = offer_library(server)
    server.ranges = way != "whole"
    if way == "store":
        store.put(data)
    client = indexes(server.url("/simple"))
    outline = client.outline(only(client, "demo"), PROBES)
    assert outline.cuda == "12.8"
    assert outline.needed == (("demo/lib.so", ("libc.so.6", "libcublas.so.12")),)
    assert {"demo/lib.so", "demo/version.py"} < {file.path for file in outline.files}
    asked = asked_for_wheel(server)
    assert ("demo-1-py3-none-any.whl whole" in asked) == (way == "whole")
    assert bool(asked) == (way != "store")


def test_an_outline_is_read_once(server: FlakyServer, indexes: Make) -> None:
    """The store keeps it, by the probes too: other probes are another question."""
    offer_library(server)
    first = indexes(server.url("/simple"))
    outline = first.outline(only(first, "demo"), PROBES)
    before = len(asked_for_wheel(server))
    again = indexes(server.url("/simple"))
    assert again.outline(only(again, "demo"), PROBES) == outline
    assert len(asked_for_wheel(server)) == before
    assert again.outline(only(again, "demo")).cuda == ""
    assert len(asked_for_wheel(server)) == before + 1
