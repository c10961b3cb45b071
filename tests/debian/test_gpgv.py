"""What gpgv's report must say before a text counts as signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnenv.adapters.gpgv import refuse_status
from nnenv.errors import NnenvError

GOOD = ["GOODSIG 0E98404D386FA1D9 Debian Archive Automatic Signing Key"]
VALID = ["VALIDSIG 1F89 2026-07-11 1783765000 0 4 0 1 8 01 B8B8"]
MISSING = ["ERRSIG F8D2585B8783D481 22 10 01 1783765000 9 1F89", "NO_PUBKEY F8D2585B8783D481"]
PLAIN = ["PLAINTEXT 74 0 "]


def judged(lines: list[str]) -> None:
    refuse_status([line.split() for line in lines], Path("keys.gpg"), "bookworm")


@pytest.mark.parametrize(
    "lines",
    [
        ["NEWSIG", *PLAIN, *GOOD, *VALID],
        ["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", *GOOD, *VALID],
        ["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", *MISSING],
        ["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", "KEYEXPIRED 1752239000", "EXPKEYSIG 6ED0E7B82643E131 old"],
    ],
)
def test_accepted(lines: list[str]) -> None:
    """One good signature is enough beside keys that are unknown or have expired since: Debian signs with several."""
    judged(lines)


@pytest.mark.parametrize(
    ("lines", "because"),
    [
        ([], "no good signature"),
        (["NEWSIG", *PLAIN, *MISSING], "no good signature"),
        (["NEWSIG", *PLAIN, "EXPKEYSIG 6ED0E7B82643E131 old", *VALID], "no good signature"),
        (["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", "BADSIG 0E98 x"], "BADSIG"),
        (["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", "REVKEYSIG 0E98 x", *VALID], "REVKEYSIG"),
        (["NEWSIG", *PLAIN, *GOOD, *VALID, "NEWSIG", "EXPSIG 0E98 x", *VALID], "EXPSIG"),
        (["NEWSIG", *PLAIN, *GOOD], "one signed text"),
        (["NEWSIG", *PLAIN, *GOOD, *VALID, *VALID], "one signed text"),
        (["NEWSIG", *PLAIN, *PLAIN, *GOOD, *VALID], "one signed text"),
        (["NEWSIG", *PLAIN, *GOOD, VALID[0].replace(" 8 01", " 2 01")], "weaker than SHA-256"),
        (["NEWSIG", *PLAIN, *GOOD, "VALIDSIG 1F89"], "weaker than SHA-256"),
    ],
)
def test_refused(lines: list[str], because: str) -> None:
    """A report that is not one good, strong signature over one text, or that holds a bad one, is refused."""
    with pytest.raises(NnenvError) as caught:
        judged(lines)
    assert caught.value.code == "signature-invalid"
    assert any(because in line for line in caught.value.because)
