"""Reading over HTTP, or from a file: the right bytes, or an error that says what went wrong.

Only GET, with bounded redirects, retries and sizes. Environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY;
PIP_CERT, SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE; NETRC or ~/.netrc; NNENV_HTTP_RETRIES.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from nnenv import __version__
from nnenv.errors import NnenvError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_CHUNK: Final = 1 << 16
_REDIRECTS: Final = 10
_LONGEST_PAUSE: Final = 60.0
"""Seconds; a Retry-After beyond it is cut."""
_SLOWEST: Final = 1024
"""Bytes that must arrive within one read timeout, else the transfer counts as stalled."""
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next try (RFC 9110 section 15; 425: RFC 8470, 429: RFC 6585)."""
_CERTIFICATES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NETWORK: Final = ("http", "https")

Answer = TypeVar("Answer")


class HttpError(NnenvError):
    """An `index-unreachable` refusal; `retryable` if another try may succeed, `pause` what the server asked for,
    `challenge` the WWW-Authenticate of a 401."""

    def __init__(
        self,
        url: str,
        cause: str,
        *,
        fix: str = "",
        retryable: bool = False,
        pause: float | None = None,
        status: int = 0,
        challenge: str = "",
    ) -> None:
        super().__init__(
            "index-unreachable",
            f"{host_of(url)} did not give {_name_of(url)}: {cause}",
            where=host_of(url),
            because=[cause],
            fix=[fix or "check the network and the configured index, then run the command again"],
        )
        self.cause = cause
        self.retryable = retryable
        self.pause = pause
        self.status = status
        """Of the answer; 0 without one."""
        self.challenge = challenge


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    """200, or 304 when the caller asked conditionally."""
    url: str
    """Where it came from after redirects, without credentials."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """Decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeResult:
    """A part of a file."""

    data: bytes
    start: int
    """Offset of `data` in the file."""
    total: int
    """Bytes of the whole file."""
    etag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """An answer whose bytes are on their way."""

    chunks: Iterable[bytes]
    """Decoded; iterating raises HttpError when the transfer breaks."""
    start: int
    """Offset of the first byte: what was asked for, or 0 when the server sends the whole file."""
    total: int | None
    """Bytes of the whole file as the server says, or None."""
    etag: str
    """A strong validator, or empty."""


class Http:
    """A client that threads may share. `offline` refuses every network URL; files can be read all the same."""

    def __init__(
        self,
        *,
        offline: bool = False,
        environ: Mapping[str, str] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        retries: int | None = None,
        connect_timeout: float = 15.0,
        read_timeout: float = 30.0,
        connections: int = 16,
    ) -> None:
        self.offline = offline
        self.sleep = sleep
        self._environ = os.environ if environ is None else environ
        self._clock = clock
        self.retries = _retries(self._environ) if retries is None else retries
        """How often a failed request is made again."""
        self.credentials: dict[str, str] = {}
        """Host (and port) -> the Authorization header that it is sent, and no other host."""
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._connections = connections
        self._pools: dict[str, PoolManager] = {}
        self._mutex = threading.Lock()

    def get(self, url: str, *, limit: int, headers: Mapping[str, str] | None = None) -> Response | None:
        """The whole answer, at most `limit` decoded bytes; None if the server says that there is none (404, 410).

        Raises NnenvError: HttpError when there is no answer, or a larger one; `offline`.
        """
        if not _is_network(url):
            return _file_response(url, limit)
        return self._retrying(url, lambda: self._get(url, limit, dict(headers or {})))

    def get_range(self, url: str, start: int, end: int | None = None) -> RangeResult | None:
        """Bytes `start` up to, not including, `end` (None: the file's end); a negative `start` counts from the end.

        Fewer bytes come back where the file ends earlier. None if the server has no ranges, or wrong ones: then
        its answer is not read, and the caller wants the whole file. Raises as `get`, also for 404.
        """
        assert end is not None or start < 0, "a range is bounded"
        if not _is_network(url):
            return _file_range(url, start, end)
        return self._retrying(url, lambda: self._get_range(url, start, end))

    @contextmanager
    def stream(self, url: str, *, start: int = 0, etag: str = "") -> Iterator[Body]:
        """An answer to iterate over, from byte `start` on if the server can and its file is still `etag`.

        Nothing is retried here, since only the caller knows what it has got: a failure, on opening or while
        iterating, is an HttpError that says whether it is retryable. Raises as `get`, also for 404.
        """
        if not _is_network(url):
            yield _file_body(url, start)
            return
        response, begin, total = self._open_from(url, start, etag)
        try:
            yield Body(
                chunks=self._chunks(url, response),
                start=begin,
                total=total,
                etag=_strong(response.headers.get("ETag", "")),
            )
        finally:
            response.close()

    def pause(self, failures: int, error: HttpError) -> float:
        """Seconds to wait after the n-th failure: what the server asked for, else 0.5, 1, 2, 4, …"""
        wanted = 0.5 * 2 ** (failures - 1) if error.pause is None else error.pause
        return min(wanted, _LONGEST_PAUSE)

    # One request

    def _get(self, url: str, limit: int, headers: dict[str, str]) -> Response | None:
        response, final = self._send(url, {"Accept-Encoding": "gzip", **headers})
        try:
            if response.status in (404, 410):
                return None
            body = bytearray()
            if response.status == 304:  # it has the headers of the answer it stands for, but no body
                return Response(status=304, url=final, headers=_lower(response), body=b"")
            _expect(final, response, 200)
            for chunk in self._chunks(final, response):
                body += chunk
                if len(body) > limit:
                    raise HttpError(final, f"its answer is larger than the limit of {limit} bytes")
            return Response(status=200, url=final, headers=_lower(response), body=bytes(body))
        finally:
            _give_back(response)

    def _get_range(self, url: str, start: int, end: int | None) -> RangeResult | None:
        wanted = f"bytes={start}-{end - 1}" if end is not None else f"bytes={start}"
        response, final = self._send(url, {"Accept-Encoding": "identity", "Range": wanted})
        try:
            if response.status in (200, 416):
                return None
            _expect(final, response, 206)
            span = _content_range(response)
            if span is None or not _answers(span, start, end) or _encoding(response):
                return None
            first, last, total = span
            data = bytearray()
            for chunk in self._chunks(final, response):
                data += chunk
                if len(data) > last + 1 - first:
                    return None
            if len(data) != last + 1 - first:
                raise HttpError(final, "the answer was cut short", retryable=True)
            return RangeResult(data=bytes(data), start=first, total=total, etag=response.headers.get("ETag", ""))
        finally:
            _give_back(response)

    def _open_from(self, url: str, start: int, etag: str) -> tuple[BaseHTTPResponse, int, int | None]:
        if start:
            headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
            if etag:
                headers["If-Range"] = etag
            response, final = self._send(url, headers)
            span = _content_range(response) if response.status == 206 else None
            if span is not None and span[0] == start and span[1] + 1 == span[2] and not _encoding(response):
                return response, start, span[2]
            if response.status == 200:
                return response, 0, _length(response)
            if response.status not in (206, 416):
                _expect(final, response, 206)
            response.close()  # a wrong range, or none: take the whole file
        response, final = self._send(url, {"Accept-Encoding": "identity"})
        _expect(final, response, 200)
        return response, 0, _length(response)

    def _send(self, url: str, headers: Mapping[str, str]) -> tuple[BaseHTTPResponse, str]:
        """The first answer that is no redirect, unread, and its URL without credentials."""
        import urllib3

        if self.offline:
            raise NnenvError(
                "offline",
                f"--offline forbids to ask {host_of(url)} for {_name_of(url)}",
                where=host_of(url),
                fix=["run the command once without --offline"],
            )
        target, credentials = _split_credentials(url)
        first_origin = _origin(target)
        for _ in range(_REDIRECTS + 1):
            sent = {"User-Agent": f"nnenv/{__version__}", **headers}
            # What belongs to one origin is not shown to another (RFC 9110 section 15.4).
            same = _origin(target) == first_origin
            authorization = self._authorization(target, credentials if same else "")
            if authorization:
                sent.setdefault("Authorization", authorization)
            if not same and headers.get("Authorization") == sent.get("Authorization"):
                sent.pop("Authorization", None)
            try:
                response = self._pool(target).request(
                    "GET", target, headers=sent, redirect=False, retries=False, preload_content=False
                )
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise _failed(target, error) from error
            if response.status not in _REDIRECTING:
                return response, target
            target = _next(target, response)
        raise HttpError(url, f"more than {_REDIRECTS} redirects", fix="check the configured index's address")

    def _chunks(self, url: str, response: BaseHTTPResponse) -> Iterator[bytes]:
        """The body, decoded; raises HttpError when it is cut, stalls, or has an unknown encoding."""
        encoding = _encoding(response)
        raw = self._raw_chunks(url, response)
        if not encoding:
            yield from raw
        elif encoding in ("gzip", "x-gzip"):
            yield from _gunzip(url, raw)
        else:
            raise HttpError(url, f"unknown Content-Encoding {encoding!r}")

    def _raw_chunks(self, url: str, response: BaseHTTPResponse) -> Iterator[bytes]:
        import urllib3

        window, received = self._clock(), 0
        while True:
            try:
                # read1, since read waits for a whole chunk and so lets one byte a second look alive
                chunk = response.read1(_CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise _failed(url, error) from error
            if not chunk:
                return
            yield chunk
            received += len(chunk)
            now = self._clock()
            if received >= _SLOWEST:
                window, received = now, 0
            elif now - window > self._read_timeout:
                raise HttpError(url, f"fewer than {_SLOWEST} bytes in {self._read_timeout:g} s", retryable=True)

    def _retrying(self, url: str, attempt: Callable[[], Answer]) -> Answer:
        failures = 0
        while True:
            try:
                return attempt()
            except HttpError as error:
                failures += 1
                if not error.retryable or failures > self.retries:
                    raise
                self.sleep(self.pause(failures, error))

    # What the environment says

    def _pool(self, url: str) -> PoolManager:
        proxy = _proxy(url, self._environ)
        with self._mutex:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str) -> PoolManager:
        import urllib3

        timeout = urllib3.Timeout(connect=self._connect_timeout, read=self._read_timeout)
        authorities = certificates(self._environ)
        if not proxy:
            return urllib3.PoolManager(
                maxsize=self._connections, timeout=timeout, cert_reqs="CERT_REQUIRED", ca_certs=authorities
            )
        address, credentials = _split_credentials(proxy)
        headers = {"Proxy-Authorization": credentials} if credentials else {}
        return urllib3.ProxyManager(
            address,
            proxy_headers=headers,
            maxsize=self._connections,
            timeout=timeout,
            cert_reqs="CERT_REQUIRED",
            ca_certs=authorities,
        )

    def _authorization(self, url: str, credentials: str) -> str:
        """The Authorization header for `url`, from its own userinfo or from netrc, or empty."""
        if credentials:
            return credentials
        known = self.credentials.get(host_of(url))
        if known:
            return known
        import netrc

        path = Path(self._environ.get("NETRC") or Path(self._environ.get("HOME", "/nonexistent")) / ".netrc")
        # Like curl and pip: a netrc that cannot be read is as good as none; the server will say 401.
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            found = netrc.netrc(str(path)).authenticators(urlsplit(url).hostname or "")
            if found:
                return basic_authorization(found[0] or "", found[2] or "")
        return ""


def host_of(url: str) -> str:
    """The host (and port) that `url` names, without credentials; for a file its path."""
    parts = urlsplit(url)
    if parts.scheme in _NETWORK:
        return parts.netloc.rpartition("@")[2]
    return str(_path_of(url))


def _name_of(url: str) -> str:
    """The last part of the path: enough to know the file, and never a token from the query."""
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "/"


def _is_network(url: str) -> bool:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise NnenvError(
            "index-unreachable",
            f"this is not an address: {error}",
            fix=["check the configured index's address"],
        ) from error
    if scheme in _NETWORK:
        return True
    if scheme in ("", "file"):
        return False
    raise NnenvError(
        "index-unreachable",
        f"nnenv does not speak {scheme}",
        where=f"{scheme}:",
        fix=["use http, https, a file: URL or a path"],
    )


def _retries(environ: Mapping[str, str]) -> int:
    text = environ.get("NNENV_HTTP_RETRIES", "")
    if not text:
        return 5
    if not re.fullmatch(r"[0-9]{1,2}", text):
        raise NnenvError(
            "usage",
            f"not a number of retries: {text!r}",
            where="NNENV_HTTP_RETRIES",
            fix=["set it to a number from 0 to 99"],
            exit_code=2,
        )
    return int(text)


def certificates(environ: Mapping[str, str]) -> str | None:
    """The file of certificate authorities that the environment names, as for pip and OpenSSL; None: the system's."""
    for name in _CERTIFICATES:
        path = environ.get(name, "")
        if path:
            if Path(path).is_file():
                return path
            raise NnenvError(
                "source-unconfigured",
                "the file with the certificate authorities cannot be read",
                where=f"{name}={path}",
                fix=[f"correct {name}, or unset it to use the system's authorities"],
            )
    return None


def _proxy(url: str, environ: Mapping[str, str]) -> str:
    """The proxy for `url`, or empty."""

    def setting(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    parts = urlsplit(url)
    proxy = setting(f"{parts.scheme}_proxy") or setting("all_proxy")
    if not proxy:
        return ""
    if _excluded(host_of(url).lower(), setting("no_proxy").lower()):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _excluded(host: str, no_proxy: str) -> bool:
    """True if `host` (perhaps with a port) is, or ends in, one of the comma-separated names, as curl reads them."""
    bare = host.rpartition(":")[0] if re.search(r":[0-9]+\Z", host) else host
    for name in (entry.strip().lstrip(".") for entry in no_proxy.split(",")):
        if name == "*" or (name and any(known == name or known.endswith(f".{name}") for known in (host, bare))):
            return True
    return False


def basic_authorization(user: str, password: str) -> str:
    """The Authorization header of RFC 7617, in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _split_credentials(url: str) -> tuple[str, str]:
    """`url` without userinfo and fragment, and the Authorization header that the userinfo stands for."""
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if not userinfo:
        return bare, ""
    user, _, password = userinfo.partition(":")
    return bare, basic_authorization(unquote(user), unquote(password))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def _next(url: str, response: BaseHTTPResponse) -> str:
    """Where a redirect leads."""
    location = response.headers.get("Location", "")
    _give_back(response)
    if not location:
        raise HttpError(url, f"status {response.status} without a Location")
    try:
        target = _split_credentials(urljoin(url, location))[0]
    except ValueError as error:
        raise HttpError(url, "a redirect to what is not an address") from error
    scheme = urlsplit(target).scheme
    if scheme not in _NETWORK:
        raise HttpError(url, f"a redirect to {scheme or 'nothing'}")
    if urlsplit(url).scheme == "https" and scheme == "http":
        raise HttpError(url, "a redirect from https to http", fix="check the configured index's address")
    return target


def _give_back(response: BaseHTTPResponse) -> None:
    """Keep the connection if little or nothing of its answer is unread, else close it."""
    if response.length_remaining is not None and response.length_remaining <= _CHUNK:
        response.drain_conn()
        response.release_conn()
    else:
        response.close()


def _expect(url: str, response: BaseHTTPResponse, status: int) -> None:
    """Raise HttpError unless the answer has `status`."""
    if response.status == status:
        return
    response.close()
    cause = f"status {response.status}"
    if response.status in (401, 403, 407):
        fix = "give credentials: in the index's URL or in ~/.netrc"
        challenge = ", ".join(response.headers.getlist("WWW-Authenticate"))
        raise HttpError(url, cause, fix=fix, status=response.status, challenge=challenge)
    passing = response.status in _PASSING
    pause = _asked_pause(response) if passing else None
    raise HttpError(url, cause, retryable=passing, pause=pause, status=response.status)


def _asked_pause(response: BaseHTTPResponse) -> float | None:
    """Retry-After in seconds (RFC 9110 section 10.2.3); a date is measured from the server's own Date."""
    from email.utils import parsedate_to_datetime

    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,6}", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until - parsedate_to_datetime(response.headers.get("Date", ""))).total_seconds())
    except (ValueError, TypeError):
        return None


def _failed(url: str, error: Exception) -> HttpError:
    """A foreign error in our words: DNS, refused, TLS, timeout, or a broken transfer."""
    from urllib3 import exceptions

    chain = f"{error} {error.__cause__ or ''}"
    if isinstance(error, exceptions.NameResolutionError):
        return HttpError(url, "its name cannot be resolved (DNS)", retryable=True)
    if isinstance(error, exceptions.ProxyError):
        return HttpError(url, "the proxy did not answer", fix="check HTTP_PROXY, HTTPS_PROXY and NO_PROXY")
    if isinstance(error, exceptions.SSLError):
        certificate = "certificate" in chain.lower()
        fix = f"name the right certificate authorities in {_CERTIFICATES[0]} or {_CERTIFICATES[1]}"
        return HttpError(url, f"TLS failed: {_short(error)}", fix=fix, retryable=not certificate)
    if isinstance(error, exceptions.NewConnectionError):
        return HttpError(url, "it refused the connection" if "refused" in chain else _short(error), retryable=True)
    if isinstance(error, exceptions.TimeoutError):
        return HttpError(url, "timeout", retryable=True)
    if isinstance(error, exceptions.IncompleteRead) or "IncompleteRead" in chain:
        return HttpError(url, "the answer was cut short", retryable=True)
    if isinstance(error, (exceptions.LocationParseError, exceptions.LocationValueError, ValueError)):
        return HttpError(url, "this is not an address", fix="check the configured index's address")
    return HttpError(url, f"the connection broke: {_short(error)}", retryable=True)


def _short(error: Exception) -> str:
    """The error's last words: urllib3 puts its objects' reprs before them."""
    return str(error).rpartition(": ")[2].strip("()'\" ")[:200] or type(error).__name__


def _lower(response: BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _encoding(response: BaseHTTPResponse) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _length(response: BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and not _encoding(response) else None


def _strong(etag: str) -> str:
    """Only a strong validator may stand in If-Range (RFC 9110 section 13.1.5)."""
    return etag if etag.startswith('"') else ""


def _content_range(response: BaseHTTPResponse) -> tuple[int, int, int] | None:
    """First byte, last byte and total of a Content-Range that makes sense (RFC 9110 section 14.4)."""
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("Content-Range", "").strip()
    )
    if not match:
        return None
    first, last, total = (int(number) for number in match.groups())
    return (first, last, total) if first <= last < total else None


def _answers(span: tuple[int, int, int], start: int, end: int | None) -> bool:
    """True if the range is the one that was asked for."""
    first, last, total = span
    if end is None:
        return first == max(0, total + start) and last == total - 1
    return first == start and last == min(end, total) - 1


def _gunzip(url: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of one or more gzip members (RFC 1952 section 2.2), a bounded piece at a time."""
    member = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for chunk in chunks:
            rest = chunk
            begun = True
            while rest:
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
                yield member.decompress(rest, _CHUNK)
                rest = member.unused_data if member.eof else member.unconsumed_tail
    except zlib.error as error:
        raise HttpError(url, "its gzip encoding is damaged", retryable=True) from error
    # The last call may have met its bound exactly; more output can only wait behind more input.
    if begun and not member.eof:
        raise HttpError(url, "the answer was cut short", retryable=True)


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(url)


def _unreadable(path: Path, error: OSError) -> NnenvError:
    return NnenvError(
        "index-unreachable",
        f"cannot read {path}: {error.strerror}",
        where=str(path),
        fix=["check the path and its permissions"],
    )


def _file_response(url: str, limit: int) -> Response | None:
    path = _path_of(url)
    try:
        with path.open("rb") as stream:
            body = stream.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(body) > limit:
        raise HttpError(url, f"the file is larger than the limit of {limit} bytes")
    return Response(status=200, url=url, headers={}, body=body)


def _file_range(url: str, start: int, end: int | None) -> RangeResult:
    path = _path_of(url)
    try:
        with path.open("rb") as stream:
            total = stream.seek(0, os.SEEK_END)
            first = stream.seek(start if start >= 0 else max(0, total + start))
            data = stream.read(-1 if end is None else max(0, end - first))
    except OSError as error:
        raise _unreadable(path, error) from error
    return RangeResult(data=data, start=first, total=total)


def _file_body(url: str, start: int) -> Body:
    path = _path_of(url)
    try:
        total = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    begin = start if start <= total else 0

    def chunks() -> Iterator[bytes]:
        try:
            with path.open("rb") as stream:
                stream.seek(begin)
                while chunk := stream.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise _unreadable(path, error) from error

    return Body(chunks=chunks(), start=begin, total=total, etag="")
