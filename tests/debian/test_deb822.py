"""Control data and the index of a Packages file."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.deb822 import PackagesIndex, iterate_paragraphs, pack_index

PACKAGES = b"""Package: zlib1g
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Provides: libz1, libz (= 1:1.2)
Depends: libc6 (>= 2.14),
 libx
Description: compression library - runtime
Tag: devel::library,
 role::shared-lib
Filename: pool/main/z/zlib/zlib1g_1.2.13_amd64.deb
Size: 86688
SHA256: 52b8b8a145bbe1956bba82034f77022cbef0c3d0885c9e32d9817a7932fe1913

Package: awk
Version: 1

Package: mawk
Version: 1
Provides: awk

Package: awk
Version: 2
"""


def test_paragraphs_in_order_with_continuations() -> None:
    """Values are stripped, continuation lines joined by newlines, comments and extra blank lines skipped."""
    text = "# made by hand\nA: 1\nB:\n x\n\ty\n\n \n\nC: 2"
    assert list(iterate_paragraphs(text)) == [{"A": "1", "B": "\nx\ny"}, {"C": "2"}]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("no colon", "neither a field"),
        ("-----BEGIN: x", "neither a field"),
        ("A B: 1", "neither a field"),
        (" continued", "follows no field"),
        ("A: 1\na: 2", "occurs twice"),
        (b"A: \xff", "not UTF-8"),
    ],
)
def test_malformed_control_data(data: str | bytes, what: str) -> None:
    """What is not control data is refused with place and reason."""
    with pytest.raises(NnenvError, match=what) as caught:
        list(iterate_paragraphs(data, "Packages"))
    assert caught.value.code == "debian-index-invalid"
    assert (caught.value.where or "").startswith("Packages")


def test_index_keeps_wanted_fields_of_every_paragraph() -> None:
    """A look-up gives the wanted fields with folded lines joined, and nothing else."""
    index = PackagesIndex(pack_index(PACKAGES))
    assert index.count == 4
    (zlib,) = index.paragraphs("zlib1g")
    assert zlib == {
        "Package": "zlib1g",
        "Version": "1:1.2.13.dfsg-1",
        "Architecture": "amd64",
        "Provides": "libz1, libz (= 1:1.2)",
        "Depends": "libc6 (>= 2.14), libx",
        "Filename": "pool/main/z/zlib/zlib1g_1.2.13_amd64.deb",
        "Size": "86688",
        "SHA256": "52b8b8a145bbe1956bba82034f77022cbef0c3d0885c9e32d9817a7932fe1913",
    }
    assert [paragraph["Version"] for paragraph in index.paragraphs("awk")] == ["1", "2"]
    assert index.paragraphs("zlib") == ()
    assert index.paragraphs("") == ()


def test_index_of_provides() -> None:
    """Virtual names lead to the packages that provide them."""
    index = PackagesIndex(pack_index(PACKAGES))
    assert index.providers("awk") == ("mawk",)
    assert index.providers("libz") == ("zlib1g",)
    assert index.providers("mawk") == ()


@given(st.lists(st.from_regex(r"\A[a-z0-9]{1,3}\Z"), max_size=300))
def test_every_name_is_found_and_no_other(names: list[str]) -> None:
    """Whatever the names and wherever blocks are cut, a look-up gives exactly the paragraphs of that name."""
    filler = "x" * 2000
    text = "\n".join(f"Package: {name}\nVersion: {number}\nDepends: {filler}\n" for number, name in enumerate(names))
    index = PackagesIndex(pack_index(text.encode()))
    for name in {*names, "a", "zzz", "0"}:
        wanted = [str(number) for number, other in enumerate(names) if other == name]
        assert [paragraph["Version"] for paragraph in index.paragraphs(name)] == wanted


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"Version: 1\n", "no Package field"),
        (b"Package: a\nPackage: b\n", "occurs twice"),
        (b"Package: a\0b\n", "NUL"),
    ],
)
def test_unusable_packages_file(data: bytes, what: str) -> None:
    """A Packages file that would make look-ups ambiguous is refused."""
    with pytest.raises(NnenvError, match=what):
        pack_index(data)


@pytest.mark.parametrize(
    "packed", [b"", b"something else", pack_index(PACKAGES)[:40], b"nnenv-packages-1\n" + b"\0" * 9]
)
def test_foreign_index(packed: bytes) -> None:
    """Bytes that are no index raise ValueError, so that the caller makes a new one."""
    with pytest.raises(ValueError, match=r"index|table"):
        PackagesIndex(packed)


def test_opening_an_index_reads_no_paragraph() -> None:
    """Opening and one look-up in an index of 20,000 packages take a small part of the time of making it."""
    text = "\n".join(f"Package: package{n}\nVersion: {n}\nDescription: {n}\n" for n in range(20_000)).encode()
    started = time.perf_counter()
    packed = pack_index(text)
    made = time.perf_counter()
    assert PackagesIndex(packed).paragraphs("package777")[0]["Version"] == "777"
    assert time.perf_counter() - made < (made - started) / 4
