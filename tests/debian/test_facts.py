"""The curated table of Debian, and package names from sonames."""

from __future__ import annotations

import pytest

from nnenv import data
from nnenv.errors import NnenvError
from nnenv.resolve.debian_facts import debian_facts, debian_release
from nnenv.resolve.debian_relation import parse_relations
from nnenv.resolve.debian_soname import names_by_policy, package_for_soname
from tests.debian.catalog import TextCatalog

BOOKWORM = ("libx11-6", "libssl3", "libglib2.0-0", "zlib1g", "libgcc-s1", "libdb5.3", "libc6", "libbz2-1.0", "libnss3")
TRIXIE = ("libx11-6", "libssl3t64", "libglib2.0-0t64", "zlib1g", "libgcc-s1", "libdb5.3t64", "libc6", "libgomp1")

SONAMES = [
    (BOOKWORM, "libX11.so.6", "libx11-6"),
    (BOOKWORM, "libssl.so.3", "libssl3"),
    (BOOKWORM, "libcrypto.so.3", "libssl3"),
    (BOOKWORM, "libssl3.so", "libnss3"),
    (BOOKWORM, "libglib-2.0.so.0", "libglib2.0-0"),
    (BOOKWORM, "libz.so.1", "zlib1g"),
    (BOOKWORM, "libgcc_s.so.1", "libgcc-s1"),
    (BOOKWORM, "libdb-5.3.so", "libdb5.3"),
    (BOOKWORM, "libbz2.so.1.0", "libbz2-1.0"),
    (BOOKWORM, "libm.so.6", "libc6"),
    (BOOKWORM, "ld-linux-aarch64.so.1", "libc6"),
    (BOOKWORM, "libcuda.so.1", None),
    (BOOKWORM, "not-a-soname", None),
    (TRIXIE, "libssl.so.3", "libssl3t64"),
    (TRIXIE, "libcrypto.so.3", "libssl3t64"),
    (TRIXIE, "libglib-2.0.so.0", "libglib2.0-0t64"),
    (TRIXIE, "libgio-2.0.so.0", "libglib2.0-0t64"),
    (TRIXIE, "libdb-5.3.so", "libdb5.3t64"),
    (TRIXIE, "libgomp.so.1", "libgomp1"),
]


@pytest.mark.parametrize(("packages", "soname", "package"), SONAMES)
def test_package_for_soname(packages: tuple[str, ...], soname: str, package: str | None) -> None:
    """The policy's name, its variants and the table lead to the package that the release has."""
    catalog = TextCatalog("\n\n".join(f"Package: {name}" for name in packages))
    assert package_for_soname(soname, catalog) == package


def test_hyphen_of_the_version_stays() -> None:
    """Only a hyphen in the library's own name may be dropped: libX11.so.6 never becomes libx116."""
    assert names_by_policy("libX11.so.6") == ("libx11-6t64", "libx11-6")
    assert names_by_policy("libusb-1.0.so.0") == ("libusb-1.0-0t64", "libusb-1.0-0", "libusb1.0-0t64", "libusb1.0-0")


def test_every_row_has_its_reason_and_source() -> None:
    """A curated row without reason and source is an assertion nobody can check."""
    table = data.table("debian")
    for row in (*table["omit"], *table["sonames"]):
        assert row["reason"], row
        assert row["source"], row


def test_rows_are_not_repeated() -> None:
    """Two rows for one soname or one dependency would hide each other."""
    table = data.table("debian")
    sonames = [row["soname"] for row in table["sonames"]]
    omitted = [(row["dependency"], tuple(row.get("packages", ()))) for row in table["omit"]]
    assert len(set(sonames)) == len(sonames)
    assert len(set(omitted)) == len(omitted)


@pytest.mark.parametrize("number", ["12", "13"])
def test_releases(number: str) -> None:
    """Each release has its interpreter among the roots, security among the suites, and parsable names."""
    release = debian_release(number)
    assert f"python{release.python}-minimal" in release.roots
    assert release.suites[0] == release.codename
    assert f"{release.codename}-security" in release.suites
    for root in (*release.roots, *release.shell_roots):
        assert len(parse_relations(root)) == 1


def test_unknown_release() -> None:
    """A release that nnenv does not know is refused with those it knows."""
    with pytest.raises(NnenvError) as caught:
        debian_release("11")
    assert caught.value.code == "manifest-invalid"
    assert caught.value.because == ("known releases: 12, 13",)


def test_omit_rule_bound_to_packages() -> None:
    """A rule with packages concerns those only; one without concerns everyone."""
    omit = debian_facts().omit
    assert omit.reason("ca-certificates", ["openssl"])
    assert omit.reason("curl", ["openssl"]) is None
    assert omit.reason("anything", ["gone", "dpkg"])
