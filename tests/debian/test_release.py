"""Release files."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nnenv.errors import NnenvError
from nnenv.formats.release import IndexEntry, parse_release
from nnenv.spec.artifact import Sha256

DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
RELEASE = f"""Origin: Debian
Suite: oldstable-security
Codename: bookworm-security
Date: Sat, 21 Nov 2026 00:53:02 UTC
Valid-Until: Sat, 28 Nov 2026 00:53:02 UTC
Acquire-By-Hash: yes
Architectures: amd64 arm64
Components: updates/main updates/contrib
MD5Sum:
 d41d8cd98f00b204e9800998ecf8427e 0 main/binary-amd64/Packages
SHA256:
 {DIGEST}        0 main/binary-amd64/Packages
 {DIGEST}       20 main/binary-amd64/Packages.gz
"""


def test_fields() -> None:
    """Every field that decides something is read; of the digests only SHA256."""
    release = parse_release(RELEASE, "InRelease")
    assert (release.suite, release.codename) == ("oldstable-security", "bookworm-security")
    assert release.date == datetime(2026, 11, 21, 0, 53, 2, tzinfo=UTC)
    assert release.valid_until == datetime(2026, 11, 28, 0, 53, 2, tzinfo=UTC)
    assert release.by_hash
    assert release.architectures == ("amd64", "arm64")
    assert release.components == ("updates/main", "updates/contrib")
    assert release.files == {
        "main/binary-amd64/Packages": IndexEntry(sha256=Sha256(DIGEST), size=0),
        "main/binary-amd64/Packages.gz": IndexEntry(sha256=Sha256(DIGEST), size=20),
    }


def test_absent_promises() -> None:
    """Without Valid-Until and Acquire-By-Hash nothing is promised."""
    lines = [line for line in RELEASE.splitlines() if not line.startswith(("Valid-Until", "Acquire"))]
    release = parse_release("\n".join(lines), "InRelease")
    assert release.valid_until is None
    assert not release.by_hash


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("Codename: bookworm-security\n", "", "Codename is missing"),
        ("SHA256:", "SHA512:", "SHA256 is missing"),
        ("Origin: Debian\n", "Origin: Debian\n\n", "one paragraph"),
        ("Sat, 21 Nov 2026 00:53:02 UTC", "yesterday", "not a date"),
        ("Sat, 21 Nov 2026 00:53:02 UTC", "Sat, 21 Nov 2026 00:53:02 +0100", "not in UTC"),
        (f" {DIGEST}       20 ", " 1234 20 ", "digest size path"),
        ("       20 ", "       x ", "digest size path"),
        ("main/binary-amd64/Packages.gz", "../../etc/passwd", "below the suite"),
        ("main/binary-amd64/Packages.gz", "/etc/passwd", "below the suite"),
        ("main/binary-amd64/Packages.gz", "main/binary-amd64/Packages", "two digests"),
    ],
)
def test_malformed(old: str, new: str, what: str) -> None:
    """A Release that cannot be believed literally is refused by name."""
    assert old in RELEASE
    with pytest.raises(NnenvError, match=what) as caught:
        parse_release(RELEASE.replace(old, new), "InRelease of bookworm-security")
    assert caught.value.where is not None
    assert caught.value.where.startswith("InRelease of bookworm-security")
