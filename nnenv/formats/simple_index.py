"""Pages of a simple index (PEP 503 HTML, PEP 691 JSON, PEP 658/714 metadata, PEP 592 yanked, PEP 700 sizes and times).

A flat page or folder of links (pip's `--find-links`) is read by the same functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import cast
from urllib.parse import unquote, urldefrag, urljoin

from nnenv.errors import NnenvError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)
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
    """The files of one project page, in the page's order; NnenvError `index-unreachable` if it is neither JSON nor HTML."""
    if "json" in content_type:
        return tuple(_json_files(body, url))
    return tuple(_html_files(body, url))


def _json_files(body: bytes, url: str) -> Iterator[IndexFile]:
    try:
        page = json.loads(body)
        for item in page["files"]:
            yield _json_file(item, url)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NnenvError(
            "index-unreachable",
            "an index page is not the JSON that PEP 691 describes",
            where=url,
            because=[str(error)[:200]],
            fix=["check the index URL in pip's configuration or NNENV_INDEX_URL"],
        ) from None


def _json_file(item: Mapping[str, object], base: str) -> IndexFile:
    hashes = item.get("hashes")
    sha256 = hashes.get("sha256", "") if isinstance(hashes, dict) else ""
    size = item.get("size")
    metadata = item.get("core-metadata", item.get("dist-info-metadata", False))
    return IndexFile(
        filename=cast(str, item["filename"]),
        url=urljoin(base, cast(str, item["url"])),
        sha256=_checked(sha256),
        size=size if isinstance(size, int) else None,
        requires_python=cast(str, item.get("requires-python") or ""),
        yanked=bool(item.get("yanked", False)),
        upload_time=_seconds(item.get("upload-time")),
        metadata=bool(metadata),
        metadata_sha256=_checked(metadata.get("sha256", "")) if isinstance(metadata, dict) else "",
    )


def _seconds(value: object) -> str:
    """An upload time cut to whole seconds, so that two spellings of one moment are one string."""
    if not isinstance(value, str) or len(value) < 20 or not value.endswith("Z"):
        return ""
    return value[:19] + "Z"


def _checked(value: object) -> str:
    return value.lower() if isinstance(value, str) and _SHA256.match(value.lower()) else ""


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base = ""
        self.links: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "base" and not self.base:
            self.base = values.get("href") or ""
        elif tag == "a" and values.get("href"):
            self.links.append(values)


def _html_files(body: bytes, url: str) -> Iterator[IndexFile]:
    parser = _Links()
    parser.feed(body.decode("utf-8", "replace"))
    base = urljoin(url, parser.base)
    for attributes in parser.links:
        link, fragment = urldefrag(urljoin(base, attributes["href"] or ""))
        filename = unquote(link.rsplit("/", 1)[-1])
        if not filename.endswith((".whl", ".tar.gz", ".zip")):
            continue
        metadata = attributes.get("data-core-metadata") or attributes.get("data-dist-info-metadata") or ""
        yield IndexFile(
            filename=filename,
            url=link,
            sha256=_checked(fragment.removeprefix("sha256=")),
            requires_python=attributes.get("data-requires-python") or "",
            yanked="data-yanked" in attributes,
            metadata=bool(metadata),
            metadata_sha256=_checked(metadata.removeprefix("sha256=")),
        )


def pack_page(files: tuple[IndexFile, ...]) -> bytes:
    """A page as compact bytes for the store."""
    return json.dumps(
        [
            [f.filename, f.url, f.sha256, f.size, f.requires_python, f.yanked, f.upload_time, f.metadata, f.metadata_sha256]
            for f in files
        ],
        separators=(",", ":"),
    ).encode()


def unpack_page(data: bytes) -> tuple[IndexFile, ...]:
    """The page that `pack_page` packed."""
    return tuple(
        IndexFile(
            filename=row[0],
            url=row[1],
            sha256=row[2],
            size=row[3],
            requires_python=row[4],
            yanked=row[5],
            upload_time=row[6],
            metadata=row[7],
            metadata_sha256=row[8],
        )
        for row in json.loads(data)
    )
