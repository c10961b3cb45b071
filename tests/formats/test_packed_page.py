"""Packed pages: the short way, which never decodes what nobody wants, says the same as reading the page whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from nnenv.errors import NnenvError
from nnenv.formats import packed_page
from nnenv.formats.packed_page import PackedPage, might_run, pack, pack_files
from nnenv.formats.simple_index import IndexFile, read_page
from nnenv.resolve.python_target import PythonTarget
from nnenv.workflows.resolving import MACHINES

PAGE = "https://index.example/simple/demo/"
JSON = "application/vnd.pypi.simple.v1+json"
DIGEST = "ab" * 32


def entry(filename: str, **said: Any) -> dict[str, Any]:
    """An entry of a page."""
    url = f"/files/{filename}"
    return {"filename": filename, "url": url, "hashes": {"sha256": DIGEST}, "size": 1, **said}


def page(*entries: Any, **said: Any) -> bytes:
    """A page as PEP 691 has it."""
    return json.dumps({"files": list(entries), "meta": {"api-version": "1.1"}, "name": "demo", **said}).encode()


def wheel(version: str, tags: str = "py3-none-any", **said: Any) -> dict[str, Any]:
    """An entry of a wheel."""
    return entry(f"demo-{version}-{tags}.whl", **said)


def content(packed: PackedPage) -> list[object]:
    """All that can be asked of a packed page."""
    versions = [(version, packed.files(version)) for version in packed.versions]
    return [versions, packed.misnamed, packed.other_names, packed.address]


def read_whole(body: bytes) -> PackedPage:
    """The same page, every entry decoded."""
    return PackedPage(pack_files(read_page(body, JSON, PAGE), PAGE))


ORDINARY = [
    wheel("1.0"),
    wheel("2.0rc1", yanked='broken }, {"filename": 7'),
    wheel("1.10", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
    wheel("1.10", "cp311-cp311-win_amd64"),
    wheel("1.10", "cp311-cp311-musllinux_1_2_x86_64"),
    wheel("1.0.0", "cp310-abi3-manylinux_2_17_aarch64"),
    wheel("not.a.version"),
    entry("demo-1.0.tar.gz"),
    entry("demo-1.0-py2-none-any.whl"),
    entry("demo.whl"),
]


def test_a_page_is_arranged_by_version() -> None:
    """Newest first; spellings of one version together; what no target can use is a name and no more."""
    packed = PackedPage(pack(page(*ORDINARY), JSON, PAGE))
    assert packed.versions == ("2.0rc1", "1.10", "1.0")
    assert [file.filename for file in packed.files("1.0")] == [
        "demo-1.0-py3-none-any.whl",
        "demo-1.0.0-cp310-abi3-manylinux_2_17_aarch64.whl",
    ]
    assert [file.filename for file in packed.misnamed] == ["demo-not.a.version-py3-none-any.whl"]
    assert packed.other_names == (
        "demo-1.10-cp311-cp311-win_amd64.whl",
        "demo-1.10-cp311-cp311-musllinux_1_2_x86_64.whl",
        "demo-1.0.tar.gz",
        "demo-1.0-py2-none-any.whl",
        "demo.whl",
    )


@pytest.mark.parametrize("tags", ["py3-none-linux_x86_64-cuda13.0", "1-cp311-cp311-manylinux_2_28_x86_64-any"])
def test_wheels_of_a_variant_are_names_and_no_more(tags: str) -> None:
    """A sixth part in the name (PEP 825) makes no wheel of another kind out of it, even where it reads like a tag."""
    packed = PackedPage(pack(page(wheel("1.0"), wheel("2.0", tags)), JSON, PAGE))
    assert packed.versions == ("1.0",)
    assert packed.other_names == (f"demo-2.0-{tags}.whl",)


def test_a_file_is_found_by_name_whatever_its_version_is_spelled() -> None:
    """A lock names the file; its version is the file's own spelling."""
    packed = PackedPage(pack(page(*ORDINARY), JSON, PAGE))
    for filename in ("demo-1.0.0-cp310-abi3-manylinux_2_17_aarch64.whl", "demo-not.a.version-py3-none-any.whl"):
        found = packed.file(filename)
        assert found is not None
        assert (found.filename, found.sha256) == (filename, DIGEST)
    assert packed.file("demo-3-py3-none-any.whl") is None
    assert packed.file("demo-1.0.tar.gz") is None


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
@pytest.mark.parametrize("keys", [sorted, list, lambda names: sorted(names, reverse=True)])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_short_way_says_the_same(separators: tuple[str, str], keys: Any, indent: int | None) -> None:
    """Whatever the order of keys and the white space; and pages of equal entries do take the short way."""
    entries = [{"yanked": False, **item} for item in ORDINARY]
    entries = [{key: item[key] for key in keys(item)} for item in entries]
    document = {"meta": {"api-version": "1.1"}, "files": entries, "name": "demo", "versions": ["1.0"]}
    body = json.dumps(document, separators=separators, indent=indent).encode()
    assert packed_page._cut(body) is not None
    assert content(PackedPage(pack(body, JSON, PAGE))) == content(read_whole(body))


TRICKY = [
    page(),
    page(wheel("1")),
    page(wheel("1"), wheel("1", size=2)),
    page(wheel("1"), {"size": 1, **wheel("2")}),
    page(wheel("1"), wheel("2", provenance={"filename": "x"})),
    page(wheel("1"), wheel("2", provenance=[{"filename": "x"}, {"filename": "y"}])),
    page(wheel("1", notes=[{"filename": "demo-5-py3-none-any.whl"}]), wheel("2")),
    page(wheel("1", yanked='}, {"filename": "demo-9-py3-none-any.whl"'), wheel("2", yanked="filename")),
    page(wheel("1"), wheel("2"), versions=["1", '"files": [{']),
    page(wheel("1"), wheel("2")).replace(b"demo-2-", b"demo-\\u0032-"),
    page(wheel("1"), wheel("2", url="file:///etc/demo-2-py3-none-any.whl")),
    page(wheel("1"), wheel("2", yanked="\u2028 \u00e4 \U0001f600")),
    json.dumps({"files": [wheel("1"), wheel("2")], "meta": {"api-version": "1.1", "files": []}}).encode(),
]


@pytest.mark.parametrize("body", TRICKY, ids=range(len(TRICKY)))
def test_tricky_pages_are_read_the_same(body: bytes) -> None:
    """Names in other places, escapes, entries of another form: the short way is left, or says the same."""
    assert content(PackedPage(pack(body, JSON, PAGE))) == content(read_whole(body))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[],: filename', max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["filename", "files", "a"]), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(entries=st.lists(st.dictionaries(st.sampled_from(["aa", "yanked", "zz"]), VALUES, max_size=3), max_size=4))
def test_no_page_is_read_in_two_ways(entries: list[dict[str, Any]]) -> None:
    """Random entries, made to look like what separates them."""
    body = page(*(dict(sorted({**wheel(str(number)), **said}.items())) for number, said in enumerate(entries)))
    assert content(PackedPage(pack(body, JSON, PAGE))) == content(read_whole(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        page({}, wheel("2")),
        page(wheel("1"), wheel("2"))[:-9],
        page(wheel("1"), wheel("2"), meta={"api-version": "2.0"}),
        page(wheel("1"), wheel("2")) + b"x",
        page(wheel("1"), wheel("2")).replace(b'"files"', b'"other"'),
        b'"files": ' + page(wheel("1"), wheel("2")),
    ],
)
def test_what_is_no_page_is_refused(body: bytes) -> None:
    """Cut short, of another version, or something else."""
    with pytest.raises(NnenvError) as caught:
        pack(body, JSON, PAGE)
    assert caught.value.code == "index-unreachable"


@pytest.mark.parametrize(
    "damage",
    [
        (b'"size": 1, "x": 2', b'"size": 1 "x": 2'),
        (b'"url": "/files/demo-2', b'"url": ["/files/demo-2'),
    ],
)
def test_a_damaged_entry_is_refused_by_who_looks_at_it(damage: tuple[bytes, bytes]) -> None:
    """The others are good, and a version that nobody wants harms nobody."""
    body = page(wheel("1"), wheel("2", x=2), wheel("3"))
    assert damage[0] in body
    packed = PackedPage(pack(body.replace(*damage), JSON, PAGE))
    assert packed.files("1")
    assert packed.files("3")
    with pytest.raises(NnenvError) as caught:
        packed.files("2")
    assert caught.value.code == "index-unreachable"


def test_an_entry_cannot_pose_as_another_version() -> None:
    """One entry with two names and one without any: the count is right, and still nothing is taken for another."""
    body = page(*({"aa": 0, **wheel(version)} for version in ("1", "2", "3")))
    doubled = body.replace(b'"filename": "demo-3-py3-none-any.whl", ', b"").replace(
        b'"filename": "demo-2', b'"filename": "demo-3-py3-none-any.whl", "filename": "demo-2'
    )
    packed = PackedPage(pack(doubled, JSON, PAGE))
    assert packed.files("1")
    for version in ("2", "3"):
        with pytest.raises(NnenvError):
            packed.files(version)


def test_files_and_bare_names() -> None:
    """Pages of links become packed pages too; a file without digest and size stays one."""
    bare = IndexFile(filename="demo-1-py3-none-any.whl", url="file:///srv/demo-1-py3-none-any.whl")
    packed = PackedPage(pack_files([bare], "file:///srv/", ["demo-1.zip"]))
    assert (packed.files("1"), packed.other_names) == ((bare,), ("demo-1.zip",))
    assert PackedPage(pack_files([], PAGE)).versions == ()


@pytest.mark.parametrize("python", ["3.9.2", "3.11.2", "3.13.5"])
@pytest.mark.parametrize("machine", sorted(MACHINES.values()))
def test_no_usable_wheel_is_passed_over(python: str, machine: str) -> None:
    """Every tag of every target counts, alone and in a compressed set."""
    aim = PythonTarget(name="cpu", python=python, machine=machine, glibc="2.41")
    for tag in aim.tags:
        assert might_run(f"demo-1-{tag}.whl"), tag
        interpreter, abi, platform = tag.split("-")
        assert might_run(f"Demo_X-1-7-py2.{interpreter}-{abi}.none-macosx_11_0_arm64.{platform.upper()}.whl"), tag


@pytest.mark.parametrize(
    "name",
    [
        "demo-1-cp311-cp311-win_amd64.whl",
        "demo-1-cp311-cp311-manylinux_2_17_ppc64le.whl",
        "demo-1-cp27-none-any.whl",
        "demo-1-pp310-none-any.whl",
        "demo-1.tar.gz",
        "demo-1-py3-none-any.zip",
        "demo.whl",
    ],
)
def test_what_nobody_can_use(name: str) -> None:
    """Other systems, other CPUs, other interpreters, and no wheels."""
    assert not might_run(name)


def test_versions_are_in_the_order_of_packaging() -> None:
    """Epochs, pre-, post- and development releases."""
    texts = ["1.0", "1.0.post1", "1.0rc1", "1!0.1", "1.0.dev1", "1.10", "1.9", "1.0a1"]
    packed = PackedPage(pack(page(*map(wheel, texts)), JSON, PAGE))
    assert list(packed.versions) == [str(version) for version in sorted(map(Version, texts), reverse=True)]
