"""The real archive: what a default image holds. Needs the configured Debian mirror."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from nnenv.adapters.apt_sources import archive_sources
from nnenv.adapters.debian_archive import DebianArchive
from nnenv.resolve.debian import close
from nnenv.resolve.debian_facts import debian_facts, debian_release
from nnenv.resolve.debian_soname import package_for_soname
from tests.debian.archive import MemoryCache, Page

NEVER = ("dash", "bash", "busybox", "apt", "dpkg", "perl-base", "perl", "debconf", "coreutils", "openssl", "mawk")
"""Shells, package managers and interpreters that an image without a shell must not hold."""


@dataclass
class PlainHttp:
    """The standard library's client."""

    def get(self, url: str, *, limit: int) -> Page | None:
        try:
            with urlopen(url, timeout=60) as answer:
                return Page(body=answer.read(limit + 1))
        except HTTPError as error:
            if error.code == 404:
                return None
            raise


@pytest.mark.network
@pytest.mark.parametrize(("release", "architecture"), [("12", "amd64"), ("13", "amd64"), ("12", "arm64")])
def test_default_closure(release: str, architecture: str) -> None:
    """The default roots close over the real archive without shell, package manager or perl; a second, offline reading
    gives the same; the exceptions of the soname table exist."""
    cache, facts, os_release = MemoryCache(), debian_facts(), debian_release(release)

    def archive(offline: bool) -> DebianArchive:
        return DebianArchive(
            archive_sources(os.environ),
            http=PlainHttp(),
            cache=cache,
            now=datetime.now(UTC),
            release=release,
            architecture=architecture,
            offline=offline,
        )

    online = archive(False)
    closure = close(os_release.roots, online, omit=facts.omit)
    names = {record.name for record in closure.packages}
    assert names.isdisjoint(NEVER)
    assert {f"python{os_release.python}-minimal", "libc6", "ca-certificates", "tzdata"} <= names
    assert len(closure.packages) < 50
    assert close(os_release.roots, archive(True), omit=facts.omit) == closure
    with_shell = close((*os_release.roots, *os_release.shell_roots), online, omit=facts.omit)
    shell_names = {record.name for record in with_shell.packages}
    assert {"dash", "bash", "coreutils"} <= shell_names
    assert shell_names.isdisjoint({"apt", "dpkg", "perl-base"})
    other_python = "libpython3.13.so.1.0" if release == "12" else "libpython3.11.so.1.0"
    for soname in facts.soname_packages:
        assert (package_for_soname(soname, online) is None) == (soname == other_python), soname
