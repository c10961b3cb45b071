"""Pages of simple indexes: JSON, HTML, and what is neither."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import pytest

from nnenv.errors import NnenvError
from nnenv.formats.simple_index import IndexFile, read_page

PAGE = "https://index.example/simple/demo/"
JSON = "application/vnd.pypi.simple.v1+json"
DIGEST = "ab" * 32
OTHER = "cd" * 32


def json_page(*files: Any, **page: Any) -> bytes:
    """A page as PEP 691 has it."""
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "demo", "files": list(files), **page}).encode()


FULL = {
    "filename": "demo-1-py3-none-any.whl",
    "url": "../../files/demo-1-py3-none-any.whl",
    "hashes": {"sha256": DIGEST.upper()},
    "size": 7,
    "requires-python": ">=3.9",
    "yanked": "broken",
    "upload-time": "2025-01-02T03:04:05.678901Z",
    "core-metadata": {"sha256": OTHER},
}


def test_a_full_json_entry() -> None:
    """Every field is read; the address is made absolute, the time cut to seconds, digests are lower case."""
    assert read_page(json_page(FULL), JSON, PAGE) == (
        IndexFile(
            filename="demo-1-py3-none-any.whl",
            url="https://index.example/files/demo-1-py3-none-any.whl",
            sha256=DIGEST,
            size=7,
            requires_python=">=3.9",
            yanked=True,
            upload_time="2025-01-02T03:04:05Z",
            metadata=True,
            metadata_sha256=OTHER,
        ),
    )


def test_a_bare_json_entry() -> None:
    """What the index does not state is empty; nulls are as good as nothing."""
    bare = {"filename": "demo-1.tar.gz", "url": "https://files.example/demo-1.tar.gz", "hashes": {}}
    nulls = {**bare, "filename": "demo-2.tar.gz", "requires-python": None, "yanked": None, "size": None}
    for file in read_page(json_page(bare, nulls), JSON, PAGE):
        assert file == IndexFile(filename=file.filename, url="https://files.example/demo-1.tar.gz")


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"yanked": False}, "yanked", False),
        ({"yanked": True}, "yanked", True),
        ({"size": -1}, "size", None),
        ({"size": True}, "size", None),
        ({"size": "7"}, "size", None),
        ({"hashes": {"sha256": "short"}}, "sha256", ""),
        ({"hashes": {"sha256": 7}}, "sha256", ""),
        ({"hashes": {"md5": "x"}}, "sha256", ""),
        ({"hashes": None}, "sha256", ""),
        ({"upload-time": "2025-01-02T03:04:05+00:00"}, "upload_time", "2025-01-02T03:04:05Z"),
        ({"upload-time": "2025-01-02T03:04:05+02:00"}, "upload_time", ""),
        ({"upload-time": "the day before yesterday, 3 Z"}, "upload_time", ""),
        ({"upload-time": 1735787045}, "upload_time", ""),
        ({"core-metadata": True}, "metadata", True),
        ({"core-metadata": False}, "metadata", False),
    ],
)
def test_odd_values(changes: dict[str, Any], field: str, expected: object) -> None:
    """What is not as the standard has it counts as not stated; a lock must not hold it."""
    (file,) = read_page(json_page({**FULL, **changes}), JSON, PAGE)
    assert getattr(file, field) == expected


def test_the_older_name_of_core_metadata() -> None:
    """PEP 714: the older key counts where the newer one is absent."""
    entry = {key: value for key, value in FULL.items() if key != "core-metadata"}
    (file,) = read_page(json_page({**entry, "dist-info-metadata": {"sha256": OTHER}}), JSON, PAGE)
    assert (file.metadata, file.metadata_sha256) == (True, OTHER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"files": 7}',
        b'{"files": [7]}',
        json_page({"filename": "demo-1.whl"}),
        json_page({**FULL, "filename": 7}),
        json_page({**FULL, "url": None}),
        json_page({**FULL, "url": "//[::1/x.whl"}),
        json_page({**FULL, "requires-python": [3]}),
        json_page(FULL, meta={"api-version": "2.0"}),
        b"<html>log in</html>",
    ],
)
def test_garbage_is_refused(body: bytes) -> None:
    """Wrong JSON, wrong types, an unknown major version: a refusal that names the page, without credentials."""
    with pytest.raises(NnenvError) as caught:
        read_page(body, JSON, "https://user:secret@index.example/simple/demo/")
    assert caught.value.code == "index-unreachable"
    assert caught.value.where == "https://index.example/simple/demo/"
    assert caught.value.because
    assert caught.value.fix


HTML = f"""<!DOCTYPE html><html><body><a href="../">up</a>
<a href="/files/demo-1-py3-none-any.whl#sha256={DIGEST}" data-requires-python="&gt;=3.9"
   data-dist-info-metadata="sha256={OTHER}">demo-1-py3-none-any.whl</a>
<a href="demo-2%2Bcpu-py3-none-any.whl?token=1#egg=demo&amp;sha256={DIGEST}" data-yanked data-core-metadata="true">x</a>
<A HREF="https://files.example/demo-3.tar.gz#md5=123">x</A>
</body></html>"""


def test_html_page() -> None:
    """PEP 503: relative links, digests in fragments, entities, yanked, PEP 658 attributes in both spellings."""
    assert read_page(HTML.encode(), "text/html; charset=utf-8", PAGE) == (
        IndexFile(
            filename="demo-1-py3-none-any.whl",
            url="https://index.example/files/demo-1-py3-none-any.whl",
            sha256=DIGEST,
            requires_python=">=3.9",
            metadata=True,
            metadata_sha256=OTHER,
        ),
        IndexFile(
            filename="demo-2+cpu-py3-none-any.whl",
            url="https://index.example/simple/demo/demo-2%2Bcpu-py3-none-any.whl?token=1",
            sha256=DIGEST,
            yanked=True,
            metadata=True,
        ),
        IndexFile(filename="demo-3.tar.gz", url="https://files.example/demo-3.tar.gz"),
    )


def test_html_base() -> None:
    """Links are relative to <base href>, which may itself be relative."""
    page = b'<base href="/cdn/"><a href="demo-1-py3-none-any.whl">x</a>'
    (file,) = read_page(page, "text/html", PAGE)
    assert file.url == "https://index.example/cdn/demo-1-py3-none-any.whl"


def test_html_garbage() -> None:
    """A page without links is an empty project; an impossible link is refused, not a traceback."""
    assert read_page(b"\xff\x00<a <<<>", "text/html", PAGE) == ()
    with pytest.raises(NnenvError, match="HTML that PEP 503"):
        read_page(b'<a href="//[::1/demo-1-py3-none-any.whl">x</a>', "text/html", PAGE)


def test_a_web_page_cannot_name_a_local_file() -> None:
    """Else an index could have any file of this machine locked; a local page may name local files."""
    page = b'<a href="file:///etc/demo-1-py3-none-any.whl">x</a>'
    assert read_page(page, "text/html", PAGE) == ()
    assert len(read_page(page, "text/html", "file:///srv/simple/demo/index.html")) == 1
    assert read_page(json_page({**FULL, "url": "file:///etc/passwd"}), JSON, PAGE) == ()


def test_a_name_counts_once() -> None:
    """Of two entries with one name the first counts, so that choice and download speak of the same bytes."""
    (file,) = read_page(json_page(FULL, {**FULL, "hashes": {"sha256": OTHER}}), JSON, PAGE)
    assert file.sha256 == DIGEST


@pytest.mark.parametrize(
    "link",
    [
        "/a/b-1.whl",
        "/a/../b-1.whl",
        "/a/./b",
        "//other.example/b",
        "b-1.whl",
        "/a b",
        "/a?q",
        "/a#f",
        "/",
        "",
        "/%7Ea/b+c",
    ],
)
def test_links_are_joined_as_urljoin_does(link: str) -> None:
    """The short way for plain paths must lead to the same place."""
    (file,) = read_page(json_page({**FULL, "url": link}), JSON, PAGE)
    assert file.url == urljoin(PAGE, link)
