"""The HTTP client against a real server that breaks: right bytes, or an error that says why."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnenv.adapters.http import Http, HttpError, RangeResult
from nnenv.errors import NnenvError
from tests.support.flaky_server import FlakyServer

DATA = b"".join(number.to_bytes(4, "big") for number in range(20_000))
LIMIT = 1 << 20


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """A server with one file."""
    with FlakyServer({"/a.whl": DATA, "/empty": b""}) as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the client made."""
    return []


@pytest.fixture
def http(pauses: list[float]) -> Http:
    """A client that sleeps on paper, with short timeouts and an empty environment."""
    return Http(environ={}, sleep=pauses.append, retries=3, connect_timeout=2, read_timeout=0.3)


def test_a_whole_answer(server: FlakyServer, http: Http) -> None:
    """Body, headers in lower case, the final URL; None for 404 and 410."""
    response = http.get(server.url("/a.whl"), limit=LIMIT)
    assert response is not None
    assert (response.status, response.body, response.url) == (200, DATA, server.url("/a.whl"))
    assert response.headers["etag"]
    empty = http.get(server.url("/empty"), limit=LIMIT)
    assert empty is not None
    assert empty.body == b""
    assert http.get(server.url("/missing"), limit=LIMIT) is None
    server.break_("/a.whl", "410")
    assert http.get(server.url("/a.whl"), limit=LIMIT) is None


RECOVERABLE = ["cut", "reset", "stall", "long-length", "500", "502", "503", "429:2", "408", "gzip", "chunked"]
RECOVERABLE += ["chunked-cut", "bad-gzip"]


@pytest.mark.parametrize("fault", RECOVERABLE)
def test_a_passing_fault_is_survived(fault: str, server: FlakyServer, http: Http) -> None:
    """Once or twice: the right bytes come in the end."""
    server.break_("/a.whl", fault, fault)
    response = http.get(server.url("/a.whl"), limit=LIMIT)
    assert response is not None
    assert response.body == DATA


PERSISTENT = {
    "cut": "cut short",
    "chunked-cut": "",
    "reset": "broke",
    "stall": "timeout",
    "long-length": "cut short",
    "500": "status 500",
    "429:9": "status 429",
    "403": "status 403",
    "401": "status 401",
    "418": "status 418",
    "bad-gzip": "gzip encoding is damaged",
    "redirect-loop": "more than 10 redirects",
    "redirect:ftp://x.invalid/": "redirect to ftp",
    "redirect:http://[/": "not an address",
}


@pytest.mark.parametrize("fault", PERSISTENT)
def test_a_lasting_fault_is_named(fault: str, server: FlakyServer, http: Http) -> None:
    """The error has the cause, the host but neither URL nor secret, and a fix."""
    server.break_for_ever("/a.whl", fault)
    with pytest.raises(HttpError) as caught:
        http.get(server.url("/a.whl", userinfo="user:secret@"), limit=LIMIT)
    error = caught.value
    assert (error.code, error.where) == ("index-unreachable", server.url("/").split("/")[2])
    assert PERSISTENT[fault] in error.cause
    assert error.fix
    assert "secret" not in str(error.as_json())
    assert "://" not in str(error.as_json())


def test_pauses_double_and_follow_the_server_within_bounds(
    server: FlakyServer, http: Http, pauses: list[float]
) -> None:
    """The schedule is the same each time; Retry-After is honoured up to a minute."""
    server.break_for_ever("/a.whl", "503")
    with pytest.raises(HttpError):
        http.get(server.url("/a.whl"), limit=LIMIT)
    assert pauses == [0.5, 1.0, 2.0]
    pauses.clear()
    server.break_for_ever("/a.whl", "429:86400")
    with pytest.raises(HttpError):
        http.get(server.url("/a.whl"), limit=LIMIT)
    assert pauses == [60.0, 60.0, 60.0]
    pauses.clear()
    server.break_("/a.whl", "429:2", "")
    assert http.get(server.url("/a.whl"), limit=LIMIT)
    assert pauses == [2.0]


def test_a_drip_counts_as_stalled(server: FlakyServer, http: Http) -> None:
    """A byte now and then keeps a socket alive for ever; a least speed ends it."""
    server.break_for_ever("/a.whl", "drip")
    with pytest.raises(HttpError, match="fewer than 1024 bytes"):
        http.get(server.url("/a.whl"), limit=LIMIT)


def test_an_answer_beyond_the_limit_is_refused(server: FlakyServer, http: Http) -> None:
    """Also one that is small until it is decoded, and without trying again."""
    server.files["/bomb"] = bytes(LIMIT + 1)
    for fault in ("", "gzip"):
        server.break_("/bomb", fault)
        with pytest.raises(HttpError, match="larger than the limit"):
            http.get(server.url("/bomb"), limit=LIMIT)
    assert server.counts()["/bomb"] == 2


def test_redirects_are_followed_and_credentials_stay_with_their_host(server: FlakyServer, http: Http) -> None:
    """The same host sees the credentials again, another one does not."""
    with FlakyServer({"/b.whl": DATA}) as other:
        server.break_("/a.whl", "redirect:" + server.url("/c.whl"))
        server.files["/c.whl"] = DATA
        assert http.get(server.url("/a.whl", userinfo="user:p%40ss@"), limit=LIMIT)
        assert server.requests("/c.whl")[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
        server.break_("/a.whl", "redirect:" + other.url("/b.whl"))
        response = http.get(
            server.url("/a.whl", userinfo="user:secret@"), limit=LIMIT, headers={"Accept": "text/plain"}
        )
        assert response is not None
        assert response.url == other.url("/b.whl")
        assert "authorization" not in other.requests("/b.whl")[0].headers
        server.break_("/a.whl", "redirect:" + other.url("/b.whl"))
        http.get(server.url("/a.whl"), limit=LIMIT, headers={"Authorization": "Bearer secret"})
        assert server.requests("/a.whl")[-1].headers["authorization"] == "Bearer secret"
        assert "authorization" not in other.requests("/b.whl")[-1].headers


def test_a_redirect_from_https_to_http_is_refused() -> None:
    """A file that was asked for over TLS does not arrive without it."""
    from urllib3 import HTTPResponse

    from nnenv.adapters.http import _next

    response = HTTPResponse(status=302, headers={"Location": "http://host.invalid/a"}, preload_content=False)
    with pytest.raises(HttpError, match="https to http"):
        _next("https://host.invalid/a", response)


def test_credentials_come_from_netrc(server: FlakyServer, tmp_path: Path) -> None:
    """As with pip and curl; a broken netrc is as good as none."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password word\n")
    netrc.chmod(0o600)
    http = Http(environ={"NETRC": str(netrc)}, retries=0)
    assert http.get(server.url("/a.whl"), limit=LIMIT)
    assert server.requests("/a.whl")[-1].headers["authorization"] == "Basic bWU6d29yZA=="
    netrc.write_text("machine\n")
    assert http.get(server.url("/a.whl"), limit=LIMIT)
    assert "authorization" not in server.requests("/a.whl")[-1].headers


def test_a_proxy_is_used_unless_excluded(server: FlakyServer) -> None:
    """HTTP_PROXY in either case, with credentials, NO_PROXY by host."""
    proxy = server.url("", userinfo="me:word@")
    server.files["http://files.invalid/a"] = DATA
    for environ in ({"http_proxy": proxy}, {"HTTP_PROXY": proxy}, {"all_proxy": proxy}):
        response = Http(environ=environ, retries=0).get("http://files.invalid/a", limit=LIMIT)
        assert response is not None
        assert response.body == DATA
    asked = server.requests("http://files.invalid/a")[-1]
    assert asked.headers["proxy-authorization"] == "Basic bWU6d29yZA=="
    excluded = Http(environ={"http_proxy": "http://127.0.0.1:1", "no_proxy": "invalid, 127.0.0.1"}, retries=0)
    assert excluded.get(server.url("/a.whl"), limit=LIMIT)


def test_certificate_authorities_that_are_not_there_are_named(server: FlakyServer, tmp_path: Path) -> None:
    """The variable and the path, not a TLS error."""
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        with pytest.raises(NnenvError) as caught:
            Http(environ={name: str(tmp_path / "ca.pem")}).get(server.url("/a.whl"), limit=LIMIT)
        assert caught.value.where == f"{name}={tmp_path / 'ca.pem'}"


def test_a_dead_host_is_named(http: Http, pauses: list[float]) -> None:
    """Refused connections and unknown names, each with its cause."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(HttpError, match="refused the connection"):
            http.get(f"http://127.0.0.1:{port}/simple/", limit=LIMIT)
    with pytest.raises(HttpError, match=r"cannot be resolved \(DNS\)"):
        http.get("http://nothing.invalid/simple/", limit=LIMIT)
    assert len(pauses) == 6


def test_plain_http_on_a_tls_address_is_a_tls_error(server: FlakyServer, http: Http) -> None:
    """The cause says TLS, and the fix names the variable for authorities."""
    with pytest.raises(HttpError, match="TLS failed"):
        http.get(server.url("/a.whl").replace("http:", "https:"), limit=LIMIT)


def test_the_number_of_retries_is_configured(server: FlakyServer) -> None:
    """NNENV_HTTP_RETRIES, a small number, anything else is a usage error."""
    server.break_for_ever("/a.whl", "500")
    with pytest.raises(HttpError):
        Http(environ={"NNENV_HTTP_RETRIES": "1"}, sleep=lambda _: None).get(server.url("/a.whl"), limit=LIMIT)
    assert server.counts()["/a.whl"] == 2
    with pytest.raises(NnenvError) as caught:
        Http(environ={"NNENV_HTTP_RETRIES": "many"})
    assert (caught.value.code, caught.value.exit_code) == ("usage", 2)


def test_connections_are_kept(server: FlakyServer, http: Http) -> None:
    """Answers and small refusals leave the connection usable: one for all."""
    for path in ("/a.whl", "/missing", "/a.whl", "/missing", "/empty"):
        http.get(server.url(path), limit=LIMIT)
    (pool,) = http._pools.values()
    (connections,) = [pool.pools[key] for key in pool.pools.keys()]  # noqa: SIM118 - not a dict
    assert connections.num_connections == 1


# Ranges


def test_a_range(server: FlakyServer, http: Http) -> None:
    """Half-open, cut at the file's end, or counted from it."""
    url = server.url("/a.whl")
    total = len(DATA)
    whole = http.get_range(url, 0, 10**9)
    assert whole is not None
    assert (whole.data, whole.start, whole.total) == (DATA, 0, total)
    middle = http.get_range(url, 100, 200)
    assert middle is not None
    assert (middle.data, middle.start) == (DATA[100:200], 100)
    tail = http.get_range(url, -50)
    assert tail is not None
    assert (tail.data, tail.start) == (DATA[-50:], total - 50)
    more = http.get_range(url, -(10**9))
    assert more is not None
    assert more.data == DATA
    assert http.get_range(url, total, total + 1) is None


@pytest.mark.parametrize("fault", ["ignore-range", "wrong-range", "no-total", "gzip"])
def test_a_server_without_good_ranges_is_told_apart(fault: str, server: FlakyServer, http: Http) -> None:
    """None, so the caller takes the whole file; a wrong range is never believed."""
    server.break_for_ever("/a.whl", fault)
    assert http.get_range(server.url("/a.whl"), 100, 200) is None


def test_a_whole_file_in_place_of_a_range_is_not_read(server: FlakyServer, http: Http) -> None:
    """A stalled whole answer would time out if its body were read."""
    server.ranges = False
    server.files["/large"] = bytes(10_000_000)
    server.break_for_ever("/large", "stall")
    assert http.get_range(server.url("/large"), 100, 200) is None


@pytest.mark.parametrize("fault", ["cut", "reset", "500", "stall"])
def test_a_range_survives_a_passing_fault(fault: str, server: FlakyServer, http: Http) -> None:
    """As a whole answer does."""
    server.break_("/a.whl", fault)
    result = http.get_range(server.url("/a.whl"), 100, 20_000)
    assert result is not None
    assert result.data == DATA[100:20_000]


def test_a_range_of_a_missing_file_is_an_error(server: FlakyServer, http: Http) -> None:
    """404 is not `no ranges`."""
    with pytest.raises(HttpError, match="status 404"):
        http.get_range(server.url("/missing"), 0, 10)


# Streams


def test_a_stream_goes_on_where_it_is_asked_to(server: FlakyServer, http: Http) -> None:
    """From the offset when the ETag still holds, else the whole file."""
    url = server.url("/a.whl")
    with http.stream(url) as body:
        assert (body.start, body.total) == (0, len(DATA))
        assert b"".join(body.chunks) == DATA
        etag = body.etag
    with http.stream(url, start=1000, etag=etag) as body:
        assert (body.start, body.total) == (1000, len(DATA))
        assert b"".join(body.chunks) == DATA[1000:]
    with http.stream(url, start=1000, etag='"another"') as body:
        assert body.start == 0
        assert b"".join(body.chunks) == DATA
    with http.stream(url, start=len(DATA)) as body:
        assert body.start == 0


@pytest.mark.parametrize("fault", ["wrong-range", "ignore-range", "no-total"])
def test_a_stream_with_a_wrong_range_begins_at_the_start(fault: str, server: FlakyServer, http: Http) -> None:
    """The caller learns where the bytes begin."""
    server.break_("/a.whl", fault)
    with http.stream(server.url("/a.whl"), start=1000) as body:
        assert body.start == 0
        assert b"".join(body.chunks) == DATA


def test_a_broken_stream_says_so(server: FlakyServer, http: Http) -> None:
    """What arrived before is the right beginning."""
    for fault in ("cut", "reset", "stall", "chunked-cut"):
        server.break_("/a.whl", fault)
        got = bytearray()
        with pytest.raises(HttpError) as caught, http.stream(server.url("/a.whl")) as body:
            for chunk in body.chunks:
                got += chunk
        assert caught.value.retryable
        assert DATA.startswith(got)


def test_a_weak_etag_is_no_validator(server: FlakyServer, http: Http) -> None:
    """It may not stand in If-Range."""
    server.break_("/a.whl", "weak-etag")
    with http.stream(server.url("/a.whl")) as body:
        assert body.etag == ""


# Files, and being offline


def test_files_are_read_like_answers(tmp_path: Path) -> None:
    """file: URLs with escapes, and plain paths; offline makes no difference."""
    path = tmp_path / "a b.whl"
    path.write_bytes(DATA)
    http = Http(offline=True, environ={})
    for url in (path.as_uri(), str(path)):
        response = http.get(url, limit=LIMIT)
        assert response is not None
        assert response.body == DATA
        assert http.get_range(url, 10, 20) == RangeResult(data=DATA[10:20], start=10, total=len(DATA))
        assert http.get_range(url, -5) == RangeResult(data=DATA[-5:], start=len(DATA) - 5, total=len(DATA))
        with http.stream(url, start=7) as body:
            assert b"".join(body.chunks) == DATA[7:]
        with pytest.raises(HttpError, match="larger than the limit"):
            http.get(url, limit=10)
    assert http.get(str(tmp_path / "missing"), limit=LIMIT) is None
    with pytest.raises(NnenvError) as caught:
        http.get(str(tmp_path), limit=LIMIT)
    assert caught.value.where == str(tmp_path)


def test_offline_makes_no_request(server: FlakyServer) -> None:
    """The refusal names host and file; the server hears nothing."""
    http = Http(offline=True, environ={})
    for ask in (
        lambda: http.get(server.url("/a.whl"), limit=LIMIT),
        lambda: http.get_range(server.url("/a.whl"), 0, 1),
        lambda: http.stream(server.url("/a.whl")).__enter__(),
    ):
        with pytest.raises(NnenvError) as caught:
            ask()
        assert caught.value.code == "offline"
        assert "a.whl" in caught.value.what
    assert server.counts() == {}


def test_what_is_no_address_is_refused(http: Http) -> None:
    """Other schemes, broken brackets, nothing at all."""
    for url in ("ftp://host.invalid/a", "http://[::1/a", "git+https://host.invalid/a", "http:///a"):
        with pytest.raises(NnenvError) as caught:
            http.get(url, limit=LIMIT)
        assert caught.value.code == "index-unreachable"
