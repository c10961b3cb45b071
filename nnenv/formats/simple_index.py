"""Pages of a simple index (PEP 503 HTML, PEP 691 JSON, PEP 658/714 metadata, PEP 592 yanked, PEP 700 sizes and times).

A flat page or folder of links (pip's `--find-links`) is read by the same functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from nnenv.errors import NnenvError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_WEB = ("https://", "http://")

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
"""The Accept header for a page: JSON first (PEP 691, "Content negotiation")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """One file that an index offers."""

    filename: str
    url: str
    """Absolute; never leaves the adapters."""
    sha256: str = ""
    """Empty where the index states none."""
    size: int | None = None
    requires_python: str = ""
    yanked: bool = False
    upload_time: str = ""
    """RFC 3339 UTC, or empty where the index states none."""
    metadata: bool = False
    """Whether the index says it serves `<url>.metadata`."""
    metadata_sha256: str = ""


def read_page(body: bytes, content_type: str, url: str) -> tuple[IndexFile, ...]:
    """The files of one project page, in the page's order, each name once.

    Files at addresses that a page of that origin must not name (a local file named by a web page) are left out.
    Raises NnenvError `index-unreachable` if the page is not what its type says.
    """
    found = _json_files(body, url) if "json" in content_type else _html_files(body, url)
    files: dict[str, IndexFile] = {}
    for file in found:
        if may_name(url, file.url):
            files.setdefault(file.filename, file)
    return tuple(files.values())


def may_name(page: str, link: str) -> bool:
    """Whether a link may be followed: the web names the web, a local page names whatever it likes."""
    return link.startswith(_WEB) or not page.startswith(_WEB)


def _json_files(body: bytes, url: str) -> Iterator[IndexFile]:
    try:
        for item in listed_files(json.loads(body)):
            yield json_file(item, url)
    except WRONG_JSON as error:
        raise no_page(url, error) from None


WRONG_JSON = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a page that is not as PEP 691 says may raise."""


def listed_files(page: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """The entries of a decoded JSON page; one of WRONG_JSON if it is none, or of a major version we do not know."""
    version = str(page.get("meta", {}).get("api-version", "1.0"))
    if version.partition(".")[0] != "1":
        # PEP 629: a client that knows only major version 1 refuses any other.
        raise ValueError(f"its api-version is {version}")
    files: list[Mapping[str, object]] = page["files"]
    return files


def no_page(url: str, error: Exception) -> NnenvError:
    """The refusal of a JSON page."""
    return _no_page(url, f"{type(error).__name__}: {error}", "the JSON that PEP 691 describes")


def _no_page(url: str, because: str, wanted: str) -> NnenvError:
    parts = urlsplit(url)
    return NnenvError(
        "index-unreachable",
        f"an index page is not {wanted}",
        where=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        because=[because[:200]],
        fix=["check the index URL in pip's configuration or NNENV_INDEX_URL"],
    )


def json_file(item: Mapping[str, object], base: str) -> IndexFile:
    """One entry of a JSON page at `base`; one of WRONG_JSON if it is none."""
    hashes = item.get("hashes")
    size = item.get("size")
    metadata = item.get("core-metadata", item.get("dist-info-metadata", False))
    return IndexFile(
        filename=_string(item["filename"]),
        url=_joined(base, _string(item["url"])),
        sha256=_checked(hashes.get("sha256")) if isinstance(hashes, dict) else "",
        size=size if type(size) is int and size >= 0 else None,
        requires_python=_string(item.get("requires-python") or ""),
        yanked=bool(item.get("yanked", False)),
        upload_time=_moment(item.get("upload-time")),
        metadata=bool(metadata),
        metadata_sha256=_checked(metadata.get("sha256")) if isinstance(metadata, dict) else "",
    )


def _joined(base: str, link: str) -> str:
    """`urljoin`, which costs most of a large page's time, only where the link is relative and not plain."""
    if link.startswith(_WEB):
        return link
    if _PLAIN.fullmatch(link) and base.startswith(_WEB):
        return _root(base) + link
    return urljoin(base, link)


_PLAIN = re.compile(r"(?:/[A-Za-z0-9_+%-][A-Za-z0-9_.+%-]*)+")
"""A path from the root, without anything that `urljoin` would change."""


@cache
def _root(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a string")
    return value


_MOMENT = re.compile(r"([0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9])(?:\.[0-9]+)?(?:Z|\+00:00)\Z")


def _moment(value: object) -> str:
    """An upload time cut to whole seconds, so that two spellings of one moment are one string; "" for anything else."""
    match = _MOMENT.match(value) if isinstance(value, str) else None
    return f"{match[1]}Z" if match else ""


def _checked(value: object) -> str:
    return value.lower() if isinstance(value, str) and _SHA256.match(value.lower()) else ""


def _links(text: str) -> tuple[str, list[dict[str, str | None]]]:
    """The address that links are relative to, or empty, and the attributes of all links."""
    from html.parser import HTMLParser

    class Links(HTMLParser):
        base = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            if tag == "base" and not self.base:
                self.base = values.get("href") or ""
            elif tag == "a" and values.get("href"):
                links.append(values)

    links: list[dict[str, str | None]] = []
    parser = Links(convert_charrefs=True)
    parser.feed(text)
    return parser.base, links


def _html_files(body: bytes, url: str) -> Iterator[IndexFile]:
    try:
        stated, links = _links(body.decode("utf-8", "replace"))
        base = urljoin(url, stated)
        for attributes in links:
            link, fragment = urldefrag(urljoin(base, attributes["href"] or ""))
            filename = unquote(link.partition("?")[0].rsplit("/", 1)[-1])
            if filename.endswith(_DISTRIBUTIONS):
                yield _html_file(filename, link, fragment, attributes)
    except (ValueError, AssertionError) as error:
        raise _no_page(url, str(error), "the HTML that PEP 503 describes") from None


_DISTRIBUTIONS = (".whl", ".tar.gz", ".zip", ".tar.bz2")


def _html_file(filename: str, link: str, fragment: str, attributes: Mapping[str, str | None]) -> IndexFile:
    metadata = attributes.get("data-core-metadata") or attributes.get("data-dist-info-metadata") or ""
    digests = [part.removeprefix("sha256=") for part in fragment.split("&") if part.startswith("sha256=")]
    return IndexFile(
        filename=filename,
        url=link,
        sha256=_checked(digests[0]) if digests else "",
        requires_python=attributes.get("data-requires-python") or "",
        yanked="data-yanked" in attributes,
        metadata=metadata not in {"", "false"},
        metadata_sha256=_checked(metadata.removeprefix("sha256=")),
    )
