"""Pages of a Python index as the replay serves them: PEP 691 JSON and PEP 503 HTML, made from what upstream said.

Files are addressed on the same host, and every wheel announces a metadata file (PEP 658), as the public index does.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

JSON_TYPE: Final = "application/vnd.pypi.simple.v1+json"
HTML_TYPE: Final = "text/html"
ACCEPT: Final = f"{JSON_TYPE}, {HTML_TYPE};q=0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page to serve, and where its files really are."""

    json: bytes
    html: bytes
    hosts: Mapping[str, str]
    """First folder of a file's path -> scheme and host behind it."""


def served_page(name: str, body: bytes, content_type: str, url: str) -> Page:
    """The page to serve for the answer that `url` gave; ValueError if it is neither JSON nor HTML of an index."""
    document = json.loads(body) if "json" in content_type else _from_html(body.decode("utf-8", "replace"))
    hosts: dict[str, str] = {}
    files = [_served_file(file, url, hosts) for file in document["files"]]
    page = {
        "meta": {"api-version": "1.1" if all("size" in file for file in files) else "1.0"},
        "name": name,
        "files": files,
        **({"versions": document["versions"]} if "versions" in document else {}),
    }
    return Page(json=json.dumps(page).encode(), html=_as_html(name, files).encode(), hosts=hosts)


def releases(page: bytes, host: str) -> bytes:
    """The older JSON document of a project, as pip-compile reads digests from it; `page` is the JSON page served."""
    document = json.loads(page)
    found: dict[str, list[dict[str, object]]] = {}
    for file in document["files"]:
        found.setdefault(_version(file["filename"]), []).append(
            {
                "filename": file["filename"],
                "url": f"http://{host}{file['url']}",
                "digests": file["hashes"],
                "packagetype": "bdist_wheel" if file["filename"].endswith(".whl") else "sdist",
                "requires_python": file.get("requires-python"),
                "yanked": bool(file.get("yanked")),
            }
        )
    return json.dumps({"info": {"name": document["name"]}, "releases": found}).encode()


def _served_file(file: Mapping[str, Any], page_url: str, hosts: dict[str, str]) -> dict[str, Any]:
    address, _ = urldefrag(urljoin(page_url, file["url"]))
    parts = urlsplit(address)
    host = f"{parts.scheme}://{parts.netloc}"
    key = hashlib.sha256(host.encode()).hexdigest()[:8]
    hosts[key] = host
    kept = ("filename", "hashes", "requires-python", "size", "upload-time", "yanked")
    served = {name: file[name] for name in kept if file.get(name) is not None}
    served["url"] = f"/files/{key}{parts.path}"
    if file["filename"].endswith(".whl"):
        served["core-metadata"] = True
    return served


def _as_html(name: str, files: list[dict[str, Any]]) -> str:
    lines = [f"<!DOCTYPE html>\n<html><head><title>Links for {html.escape(name)}</title></head><body>"]
    for file in files:
        digest = file["hashes"].get("sha256", "")
        marks = [f'href="{html.escape(file["url"])}{"#sha256=" + digest if digest else ""}"']
        if "requires-python" in file:
            marks.append(f'data-requires-python="{html.escape(file["requires-python"])}"')
        if file.get("yanked"):
            reason = file["yanked"] if isinstance(file["yanked"], str) else ""
            marks.append(f'data-yanked="{html.escape(reason)}"')
        if "core-metadata" in file:
            marks.append('data-dist-info-metadata="true" data-core-metadata="true"')
        lines.append(f"<a {' '.join(marks)}>{html.escape(file['filename'])}</a><br>")
    return "\n".join([*lines, "</body></html>\n"])


class _Links(HTMLParser):
    """The anchors of a page, as the files of a JSON page."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        address = known.get("href")
        if tag != "a" or not address:
            return
        path, fragment = urldefrag(address)
        algorithm, _, digest = fragment.partition("=")
        self.files.append(
            {
                "filename": unquote(urlsplit(path).path.rpartition("/")[2]),
                "url": path,
                "hashes": {algorithm: digest} if digest else {},
                "requires-python": known.get("data-requires-python"),
                "yanked": (known["data-yanked"] or True) if "data-yanked" in known else None,
            }
        )


def _from_html(text: str) -> dict[str, Any]:
    links = _Links()
    links.feed(text)
    return {"files": links.files}


def _version(filename: str) -> str:
    """The version in a distribution's file name, as it is spelled there."""
    if filename.endswith(".whl"):
        return filename.split("-")[1]
    for suffix in (".tar.gz", ".tar.bz2", ".zip"):
        filename = filename.removesuffix(suffix)
    return filename.rpartition("-")[2]
