"""Damaged store entries are replaced by running again; when that cannot be, the reason is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnenv.adapters.store import Store, StoreCorrupt
from nnenv.errors import NnenvError
from nnenv.workflows.healing import MOST_REPAIRS, healed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def flipped(store: Store, data: bytes) -> str:
    """Put `data` and damage it behind the store's back."""
    digest = store.put(data)
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"X" + data[1:])
    return digest


def reader(store: Store, data: bytes, again: Callable[[], object]) -> Callable[[], bytes]:
    """An action that reads an entry, and gets it `again` when it is missing."""
    digest = flipped(store, data)

    def action() -> bytes:
        from nnenv.spec.artifact import Sha256

        if not store.contains(Sha256(digest)):
            again()
        with store.open(Sha256(digest)) as stream:
            return stream.read()

    return action


def test_a_damaged_entry_is_replaced_and_told(store: Store) -> None:
    """The second try finds the entry gone and makes it anew; the user hears of it."""
    notices: list[str] = []
    assert healed(reader(store, b"right bytes", lambda: store.put(b"right bytes")), notices.append) == b"right bytes"
    assert notices == ["a store entry is damaged: replacing it"]


def test_nothing_damaged_nothing_told() -> None:
    """The action runs once."""
    calls: list[int] = []

    def action() -> int:
        calls.append(1)
        return 7

    assert healed(action, lambda _: pytest.fail("a notice")) == 7
    assert calls == [1]


@pytest.mark.parametrize("code", ["offline", "index-unreachable", "source-unconfigured"])
def test_what_cannot_be_replaced_is_reported_as_damage(code: str, store: Store) -> None:
    """The user must hear that the store is damaged, and not only that the network is missing."""

    def again() -> None:
        raise NnenvError(code, "no way to the index")

    with pytest.raises(NnenvError) as caught:
        healed(reader(store, b"right bytes", again), lambda _: None)
    assert caught.value.code == "store-corrupt"
    assert caught.value.where
    assert "it could not be replaced: no way to the index" in caught.value.because
    assert caught.value.fix


def test_other_errors_stay_what_they_are(store: Store) -> None:
    """Before and after damage: a refusal of another kind is not dressed up, and `offline` without damage neither."""

    def again() -> None:
        raise NnenvError("disk-full", "no space")

    with pytest.raises(NnenvError, match="no space") as caught:
        healed(reader(store, b"right bytes", again), lambda _: None)
    assert caught.value.code == "disk-full"

    def offline() -> None:
        raise NnenvError("offline", "not in the store")

    with pytest.raises(NnenvError) as caught:
        healed(offline, lambda _: None)
    assert caught.value.code == "offline"


def test_a_disk_that_damages_everything_is_given_up(store: Store) -> None:
    """Repairs end, with the last damage as the reason."""
    tries: list[int] = []

    def action() -> None:
        tries.append(1)
        from nnenv.spec.artifact import Sha256

        store.open(Sha256(flipped(store, b"bytes %d" % len(tries)))).close()

    with pytest.raises(StoreCorrupt):
        healed(action, lambda _: None)
    assert len(tries) == MOST_REPAIRS
