"""From a shared library's soname to the Debian package that ships it."""

from __future__ import annotations

import re
from typing import Final

from nnenv.resolve.debian_catalog import DebianCatalog
from nnenv.resolve.debian_facts import debian_facts

_DIGIT_BEFORE_SO: Final = re.compile(r"([0-9])\.so\.")
_SO: Final = re.compile(r"\.so(\.|\Z)")
_HYPHEN_BEFORE_DIGIT: Final = re.compile(r"-([0-9])")
_TRANSITIONS: Final = ("t64", "")
"""Suffixes of packages rebuilt without a new soname; `t64` is the 64-bit time_t transition of trixie."""


def package_for_soname(soname: str, catalog: DebianCatalog) -> str | None:
    """The package of `catalog` that ships `soname`, or None when neither table nor policy leads to one.

    The name follows from Debian policy 8.1, as `dh_makeshlibs` and others derive it; the table holds the exceptions.
    A guess by name only: that the package's bytes hold the soname is for the closure verdict to prove.
    """
    facts = debian_facts()
    if soname in facts.libc_sonames:
        return "libc6"
    names = facts.soname_packages.get(soname) or names_by_policy(soname)
    return next((name for name in names if catalog.candidates(name)), None)


def names_by_policy(soname: str) -> tuple[str, ...]:
    """Package names that policy 8.1 allows for `soname`, the likeliest first; () when it is no soname.

    `libX11.so.6` -> libx11-6, `libgcc_s.so.1` -> libgcc-s1. Many old packages also drop the hyphen before a version
    in the library's name: `libglib-2.0.so.0` -> libglib2.0-0.
    """
    if not _SO.search(soname) or not soname.startswith("lib"):
        return ()
    name = _SO.sub("", _DIGIT_BEFORE_SO.sub(r"\1-", soname), count=1).replace("_", "-").lower()
    hyphenless = _HYPHEN_BEFORE_DIGIT.sub(r"\1", name, count=1)
    # Only the hyphen inside the library's own name may go: libx11-6 is not libx116.
    spellings = (name, hyphenless) if _HYPHEN_BEFORE_DIGIT.search(soname.split(".so", 1)[0]) else (name,)
    return tuple(spelling + suffix for spelling in spellings for suffix in _TRANSITIONS)
