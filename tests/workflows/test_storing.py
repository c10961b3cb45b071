"""What a store is said to hold, what projects need of it, and what goes: on a world whose archive exists on paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from nnenv.adapters.inventory import Entry, Part, inventory
from nnenv.adapters.progress import SilentProgress, Task
from nnenv.adapters.store import Store, record_name
from nnenv.errors import NnenvError
from nnenv.image.layers import Layer, layer_to_json
from nnenv.image.tree import Slice
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.digest import Sha256
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session
from nnenv.workflows.storing import (
    MEMORY_NS,
    YOUNG_NS,
    GarbageOptions,
    collect_garbage,
    enough,
    store_sizes,
    verify_store,
)

NOW = GarbageOptions(older_than_ns=0)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A project with an empty store."""
    (tmp_path / "project").mkdir()
    return Session(
        project=tmp_path / "project",
        store=Store(tmp_path / "store"),
        progress=SilentProgress(),
        environment={},
        home=tmp_path,
        offline=True,
    )


def artifact(session: Session, kind: Kind, name: str) -> Artifact:
    """A file of the project that is in the store."""
    data = f"{kind} {name}".encode()
    (session.project / name).write_bytes(data)
    return Artifact(
        kind=kind,
        name=name,
        version="1" if kind in (Kind.WHEEL, Kind.DEB, Kind.MODEL) else "",
        filename=f"{name}-1-py3-none-any.whl" if kind is Kind.WHEEL else name,
        sha256=session.store.put(data),
        size=len(data),
        origin=f"file:{name}",
        architecture="amd64" if kind is Kind.DEB else "",
    )


def lock(session: Session) -> Lockfile:
    """A lock with one wheel and one .deb, written into the project and known to the store."""
    wheel, deb = artifact(session, Kind.WHEEL, "wheel"), artifact(session, Kind.DEB, "deb")
    target = TargetLock(
        name="cpu",
        platform="linux/amd64",
        os="debian:12",
        python="3.11.2",
        moment="2026-01-01T00:00:00Z",
        glibc="2.36",
        wheels=(wheel.sha256,),
        debs=(deb.sha256,),
    )
    made = Lockfile(
        manifest={"project": {"name": "p", "version": "1"}},
        releases=(),
        targets=(target,),
        models=(),
        artifacts=(deb, wheel),
    )
    (session.project / "model.lock").write_bytes(write_lock(made))
    session.remember_project()
    return made


def fresh(session: Session) -> Session:
    """The same project in the eyes of another process, after the first has ended."""
    session.store.close()
    return Session(
        project=session.project,
        store=Store(session.store.root),
        progress=SilentProgress(),
        environment={},
        home=session.home,
        offline=True,
    )


def age(path: Path, nanoseconds: int) -> None:
    """Make a file older."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - nanoseconds))


def kinds(session: Session) -> Mapping[str, int]:
    """Kind -> entries, of what is there."""
    return {amount.kind: amount.entries for amount in store_sizes(session).amounts if amount.entries}


def remembered_layer(session: Session, lockfile: Lockfile) -> tuple[Layer, Sha256]:
    """(a layer that the store remembers for the target's first plan, the object it lies in)."""
    part = session.store.put(b"part of a layer")
    layer = Layer(
        title="os debian:12",
        media_type="application/vnd.oci.image.layer.v1.tar",
        diff_id=Sha256("d" * 64),
        diff_size=15,
        digest=Sha256("d" * 64),
        size=15,
        pieces=(Slice(sha256=part, offset=0, length=15),),
        paths=1,
    )
    kind, key = LayerMaker(session, lockfile, lockfile.targets[0]).records()[0]
    assert kind == "layer"
    session.store.save(kind, key, layer_to_json(layer))
    session.store.tree(layer.diff_id, lambda place: None)
    return layer, part


# Size


def test_kinds(session: Session) -> None:
    """Artifacts by what the lock says, parts of layers by what the store remembers, the rest as unknown."""
    remembered_layer(session, lock(session))
    session.store.put(b"somebody else's")
    assert kinds(session) == {
        "wheels": 1,
        ".debs": 1,
        "parts of layers": 1,
        "of no known project": 1,
        "extracted layers": 1,
        "remembered results": 1,
        "being written": 1,
    }


def test_no_store_at_all(session: Session) -> None:
    """Nothing is made by looking."""
    assert kinds(session) == {}
    assert collect_garbage(session, NOW).removed == ()
    assert verify_store(session, repair=False).whole
    assert not session.store.root.exists()


# Needs


def test_what_a_lock_needs_stays_and_the_rest_goes(session: Session) -> None:
    """Artifacts, parts of layers, extracted layers, records; not what no lock names."""
    lockfile = lock(session)
    layer, part = remembered_layer(session, lockfile)
    unknown = session.store.put(b"unknown")
    session.store.tree("unknown", lambda place: None)
    later = fresh(session)
    assert collect_garbage(later, NOW).projects == (session.project / "model.lock",)
    left = {entry.name for entry in inventory(later.store) if entry.part in (Part.OBJECT, Part.TREE)}
    assert left == {*(one.sha256 for one in lockfile.artifacts), part, layer.diff_id}
    assert unknown not in left


def test_a_lock_that_is_gone_needs_nothing(session: Session) -> None:
    """As in Nix: a root that leads nowhere is dropped. One that is back by then is known again."""
    lock(session)
    kept = session.project / "kept"
    (session.project / "model.lock").rename(kept)
    later = fresh(session)
    assert collect_garbage(later, GarbageOptions(older_than_ns=0, dry_run=True)).removed[0].entries == 2
    assert len(later.store.roots()) == 1
    assert collect_garbage(later, NOW).removed[0].entries == 2
    assert later.store.roots() == {}


class Returning(SilentProgress):
    """A step that begins when a lock is put back."""

    def __init__(self, kept: Path, lock: Path) -> None:
        self.kept = kept
        self.lock = lock

    def start(self, title: str, total_bytes: int | None = None) -> Task:
        """Put it back."""
        self.kept.rename(self.lock)
        return super().start(title, total_bytes)


def test_a_lock_that_comes_back_meanwhile_is_known(session: Session) -> None:
    """Whoever wrote it may have seen that it was remembered, just before that was forgotten."""
    lock(session)
    path, kept = session.project / "model.lock", session.project / "kept"
    path.rename(kept)
    later = fresh(session)
    later.progress = Returning(kept, path)
    collect_garbage(later, NOW)
    assert list(later.store.roots().values()) == [path]


@pytest.mark.parametrize("version", ["merged", "newer"])
def test_a_lock_that_cannot_be_understood_keeps_its_files(session: Session, version: str) -> None:
    """In the midst of a merge, or written by a later nnenv: every digest in it counts."""
    lockfile = lock(session)
    path = session.project / "model.lock"
    text = path.read_text()
    if version == "merged":
        path.write_text("<<<<<<< HEAD\n" + text + "=======\n>>>>>>> branch\n")
    else:
        path.write_text(text.replace("lock-version = 1", "lock-version = 99"))
    later = fresh(session)
    assert collect_garbage(later, NOW).removed == ()
    assert all(later.store.check(one.sha256) for one in lockfile.artifacts)


def test_a_lock_that_cannot_be_read_stops_it(session: Session) -> None:
    """What it needs is unknown, so nothing goes."""
    lock(session)
    path = session.project / "model.lock"
    path.unlink()
    path.mkdir()
    with pytest.raises(NnenvError) as caught:
        collect_garbage(fresh(session), NOW)
    assert (caught.value.code, caught.value.where) == ("file-unreadable", str(path))


# Options


def test_what_is_young_stays(session: Session) -> None:
    """An hour without being told otherwise; with --older-than as long as that; with --all not at all."""
    name = session.store.put(b"x")
    later = fresh(session)
    assert (collect_garbage(later, GarbageOptions()).removed, collect_garbage(later, GarbageOptions()).young) == ((), 1)
    (entry,) = [entry for entry in inventory(later.store) if entry.name == name]
    age(entry.path, YOUNG_NS)
    assert collect_garbage(later, GarbageOptions(older_than_ns=2 * YOUNG_NS)).removed == ()
    assert collect_garbage(later, GarbageOptions()).removed[0].entries == 1
    later.store.put(b"x")
    assert collect_garbage(fresh(later), GarbageOptions(everything=True)).removed[0].entries == 1


def test_records_are_kept_for_a_month(session: Session) -> None:
    """Unless all that they name is needed, or a known build asks for them: those stay as long as that is so."""
    wheel = lock(session).artifacts[1]
    store = session.store
    asked = [("wheel-metadata", wheel.sha256)]
    naming = [("bytecode", "of what is needed")]
    others = [("index-page", "a page"), ("bytecode", "of what is gone")]
    for kind, key in [*asked, *naming, *others]:
        store.save(kind, key, {"of what is needed": wheel.sha256, "of what is gone": "e" * 64}.get(key, "").encode())
    later = fresh(session)
    assert collect_garbage(later, NOW).removed == ()
    for entry in inventory(later.store):
        age(entry.path, MEMORY_NS)
    collect_garbage(later, NOW)
    left = {entry.name for entry in inventory(later.store) if entry.part is Part.RECORD}
    assert left == {record_name(kind, key) for kind, key in [*asked, *naming]}


def test_everything_goes_as_if_no_project_were_known(session: Session) -> None:
    """--all: projects, records, what is young; the store is usable, and the project known, afterwards."""
    remembered_layer(session, lock(session))
    later = fresh(session)
    collect_garbage(later, GarbageOptions(everything=True))
    assert list(inventory(later.store)) == []
    assert len(later.store.roots()) == 1
    assert later.store.put(b"x")


def entries(*sizes: int) -> list[Entry]:
    """Entries of these sizes, oldest first."""
    return [
        Entry(part=Part.OBJECT, name=str(n), path=Path(str(n)), bytes=size, disk_bytes=size, modified_ns=n)
        for n, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(("most", "count"), [(None, 3), (100, 0), (99, 1), (90, 1), (89, 2), (60, 3), (0, 3)])
def test_enough(most: int | None, count: int) -> None:
    """The oldest garbage first, and no more than is asked for; what is not garbage cannot be counted on."""
    garbage = entries(10, 20, 10)
    assert enough(garbage, 100, most) == garbage[:count]


# Verification


def damage(store: Store, name: str) -> None:
    """Change an entry's bytes."""
    path = store.root / "objects" / "sha256" / name[:2] / name
    path.chmod(0o644)
    path.write_bytes(b"rotten")


def test_damage_is_named_and_repaired(session: Session) -> None:
    """The file's name and project; with `repair` it is fetched for that project, from another folder too."""
    wheel = lock(session).artifacts[1]
    damage(session.store, wheel.sha256)
    later = fresh(session)
    check = verify_store(later, repair=False)
    assert not check.whole
    (one,) = check.damaged
    assert (one.name, one.repaired) == (wheel.sha256, False)
    assert wheel.filename in one.what
    assert str(session.project) in one.what
    session.store.put(b"x")
    damage(session.store, session.store.put(b"wheel wheel"))
    check = verify_store(fresh(later), repair=True)
    assert check.whole
    assert [one.remedy for one in check.damaged] == ["fetched again"]
    assert fresh(later).store.check(wheel.sha256)


def test_what_cannot_be_fetched_again_is_said(session: Session) -> None:
    """The source is gone: not repaired, with the reason."""
    wheel = lock(session).artifacts[1]
    damage(session.store, wheel.sha256)
    (session.project / "wheel").unlink()
    check = verify_store(fresh(session), repair=True)
    assert not check.whole
    assert check.damaged[0].remedy.startswith("it could not be fetched again")


def test_what_is_made_anew_is_said(session: Session) -> None:
    """Parts of layers and extracted layers need no source."""
    layer, part = remembered_layer(session, lock(session))
    damage(session.store, part)
    (session.store.root / "trees" / layer.diff_id / "new").write_bytes(b"")
    later = fresh(session)
    check = verify_store(later, repair=False)
    assert not check.whole
    assert [(one.name, one.what) for one in check.damaged] == [
        (part, "parts of layers"),
        (layer.diff_id, "extracted layer"),
    ]
    assert verify_store(later, repair=False).damaged == ()
