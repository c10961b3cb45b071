"""Damaged store entries: found before use, moved away, made or fetched again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nnenv.adapters.store import StoreCorrupt
from nnenv.errors import NnenvError

T = TypeVar("T")

MOST_REPAIRS = 64
"""Entries that may be damaged before the disk itself is blamed."""


def healed(action: Callable[[], T], notice: Callable[[str], object]) -> T:
    """What `action` returns; each damaged entry it meets is in quarantine by then, so a repeat gets or makes it anew.

    Raises the `store-corrupt` refusal, with why it could not be healed, when the repeat cannot replace the entry
    (`--offline`, index gone), and after MOST_REPAIRS repeats.
    """
    damaged: StoreCorrupt | None = None
    for _ in range(MOST_REPAIRS):
        try:
            return action()
        except StoreCorrupt as error:
            damaged = error
            notice(f"{error.what}: replacing it")
        except NnenvError as error:
            if damaged is None or error.code not in {"offline", "index-unreachable", "source-unconfigured"}:
                raise
            raise NnenvError(
                "store-corrupt",
                damaged.what,
                where=damaged.where,
                because=[*damaged.because, f"it could not be replaced: {error.what}"],
                fix=["run once without --offline, with the index reachable"],
            ) from None
    assert damaged is not None
    raise damaged
