"""`nnenv store`: what lies in the store, whether it is whole, and what no known project needs.

A project is known from the first command that used its lock with this store, and as long as model.lock is where it was.
What a known lock needs is found in two steps. Its artifacts are all digests in the file, whatever stands around them:
a lock that is being merged, or was written by a newer nnenv, keeps its files too. Layers, trees and remembered results
are those that building the lock would ask for; losing one of these costs the time to make it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nnenv.adapters.garbage import Bin, opened_bin, temporary_leftovers
from nnenv.adapters.inventory import Entry, Part, inventory
from nnenv.adapters.store import Store, record_name, remove
from nnenv.errors import NnenvError
from nnenv.image.layers import layer_from_json
from nnenv.image.os_root import unpacked_from_json
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.lock_toml import read_lock
from nnenv.spec.lockfile import Lockfile, TargetLock
from nnenv.workflows.adapting import RECORD
from nnenv.workflows.facts import facts_key
from nnenv.workflows.fetching import fetch_locked
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session

HOUR_NS: Final = 3_600_000_000_000
YOUNG_NS: Final = HOUR_NS
"""An entry that was written so lately is kept: a command that was interrupted may soon go on."""
MEMORY_NS: Final = 30 * 24 * HOUR_NS
"""A record of no known build is kept so long: it is small, and saves asking an index or reading a wheel again."""

_DIGEST: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_READ_RECORDS: Final = 1 << 20
"""Bytes of the largest record that is searched for digests; larger ones are pages of indexes."""
_LOCK_LIMIT: Final = 64 << 20

KINDS: Final[Mapping[Kind, str]] = {
    Kind.WHEEL: "wheels",
    Kind.DEB: ".debs",
    Kind.MODEL: "models",
    Kind.CASE: "test cases",
    Kind.FILE: "application files",
}
UNPACKED: Final = "unpacked .debs"
LAYERS: Final = "parts of layers"
NAMED: Final = "named by a lock"
UNKNOWN: Final = "of no known project"
PARTS: Final[Mapping[Part, str]] = {
    Part.TREE: "extracted layers",
    Part.RECORD: "remembered results",
    Part.PARTIAL: "unfinished downloads",
    Part.QUARANTINE: "quarantine",
    Part.WORK: "being written",
    Part.LEFT: "left by killed processes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """So much of one kind."""

    kind: str
    entries: int
    bytes: int
    disk_bytes: int


@dataclass(kw_only=True, slots=True)
class Needs:
    """What the known projects need."""

    objects: dict[str, str] = field(default_factory=dict)
    """Digest -> what it is."""
    trees: set[str] = field(default_factory=set)
    records: set[str] = field(default_factory=set)
    """`KIND/NAME`."""
    projects: list[Path] = field(default_factory=list)
    """Their locks."""
    gone: dict[Path, Path] = field(default_factory=dict)
    """Locks that are not there any more, by the entry that remembers each."""


# Size


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What `nnenv store size` found."""

    store: Path
    projects: tuple[Path, ...]
    amounts: tuple[Amount, ...]


def store_sizes(session: Session) -> Sizes:
    """How much of each kind is in the store; reads names, records and locks, no artifact."""
    needs = needed(session)
    kinds = (*KINDS.values(), UNPACKED, LAYERS, NAMED, UNKNOWN, *PARTS.values())
    rows: dict[str, list[Entry]] = {kind: [] for kind in kinds}
    for entry in inventory(session.store):
        rows[kind_of(entry, needs)].append(entry)
    return Sizes(
        store=session.store.root,
        projects=tuple(needs.projects),
        amounts=tuple(amount(kind, entries) for kind, entries in rows.items()),
    )


def kind_of(entry: Entry, needs: Needs) -> str:
    """What people call the entry."""
    return needs.objects.get(entry.name, UNKNOWN) if entry.part is Part.OBJECT else PARTS[entry.part]


def amount(kind: str, entries: Sequence[Entry]) -> Amount:
    """The entries, added up."""
    return Amount(
        kind=kind,
        entries=len(entries),
        bytes=sum(entry.bytes for entry in entries),
        disk_bytes=sum(entry.disk_bytes for entry in entries),
    )


# Needs


def needed(session: Session) -> Needs:
    """What the known projects need.

    Raises NnenvError `file-unreadable` for a lock that is there and cannot be read: what it needs is unknown.
    """
    needs = Needs()
    for entry, path in session.store.roots().items():
        data = _lock_bytes(path)
        if data is None:
            needs.gone[entry] = path
            continue
        needs.projects.append(path)
        # A lock that is merged, torn or newer cannot be read: the digests are what can be known of it.
        with suppress(NnenvError):
            _add(session, read_lock(data), needs)
        for digest in _DIGEST.findall(data):
            needs.objects.setdefault(digest.decode(), NAMED)
    return needs


def _lock_bytes(path: Path) -> bytes | None:
    """The lock's bytes; None if it is gone."""
    try:
        with path.open("rb") as stream:
            return stream.read(_LOCK_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NnenvError(
            "file-unreadable",
            "a project's lock cannot be read, so what it needs is unknown",
            where=str(path),
            because=[error.strerror or str(error)],
            fix=["make it readable", "remove it, if the project is given up"],
        ) from None


def _add(session: Session, lockfile: Lockfile, needs: Needs) -> None:
    """Add what one lock needs."""
    for artifact in lockfile.artifacts:
        needs.objects[artifact.sha256] = KINDS[artifact.kind]
        needs.records.add(record_name("elf-facts", facts_key(artifact.sha256)))
        needs.records.add(record_name("wheel-metadata", artifact.sha256))
    for derivation in lockfile.derivations:
        for step in derivation.steps:
            needs.objects.setdefault(step.output, KINDS[Kind.MODEL])
            needs.records.add(record_name(RECORD, step.key))
    for target in lockfile.targets:
        _add_target(session, LayerMaker(session, lockfile, target), needs)


def _add_target(session: Session, maker: LayerMaker, needs: Needs) -> None:
    """Add what building one target asks the store for; nothing is made."""
    needs.trees.update(maker.interpreter_trees())
    for kind, key in maker.records():
        needs.records.add(record_name(kind, key))
        record = session.store.load(kind, key)
        if record is None:
            continue
        if kind == "deb":
            needs.objects[unpacked_from_json(record).data_sha256] = UNPACKED
        elif kind == "layer" and (layer := layer_from_json(record)) is not None:
            needs.trees.add(layer.diff_id)
            for digest in layer.objects:
                needs.objects.setdefault(digest, LAYERS)


# Garbage


@dataclass(frozen=True, kw_only=True, slots=True)
class GarbageOptions:
    """What the user asked of `nnenv store gc`."""

    dry_run: bool = False
    older_than_ns: int | None = None
    """Keep what was written later than so long ago; None means YOUNG_NS, or 0 with `everything`."""
    most_bytes: int | None = None
    """Stop when the store takes no more of the disk; None means to remove all garbage."""
    everything: bool = False
    """As if no project were known."""

    @property
    def youth_ns(self) -> int:
        """How old an entry must be to be removed."""
        if self.older_than_ns is not None:
            return self.older_than_ns
        return 0 if self.everything else YOUNG_NS


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What `nnenv store gc` did, or would do."""

    removed: tuple[Amount, ...]
    """By kind; kinds of which nothing went are left out."""
    kept: Amount
    projects: tuple[Path, ...]
    in_use: int
    """Garbage that stays because a process uses it."""
    young: int
    """Garbage that stays because it was written too lately."""


def collect_garbage(session: Session, options: GarbageOptions) -> Collected:
    """Remove what no known project needs, no process uses, and is not too young; oldest first.

    Safe beside any other command. Raises NnenvError: `store-unusable` on a disk that machines share, `disk-full` in a
    store that cannot be written, `file-unreadable` for a lock that hides what it needs.
    """
    store = session.store
    if not (store.root / "locks").is_dir():
        return Collected(removed=(), kept=amount("kept", ()), projects=(), in_use=0, young=0)
    with opened_bin(store) as bin:
        needs = needed(session)
        if options.everything:
            needs = Needs(projects=needs.projects, gone=needs.gone)
        entries = list(inventory(store))
        before_ns = session.started_ns - options.youth_ns
        unneeded = [entry for entry in entries if not _is_needed(entry, needs, session.started_ns, options)]
        old = sorted((e for e in unneeded if e.modified_ns <= before_ns), key=lambda entry: entry.modified_ns)
        used = bin.in_use(old)
        free = [entry for entry in old if entry.path not in used]
        garbage = enough(free, sum(entry.disk_bytes for entry in entries), options.most_bytes)
        removed = garbage if options.dry_run else _emptied(session, bin, garbage, needs)
    gone = {entry.path for entry in removed}
    return Collected(
        removed=tuple(_by_kind(removed)),
        kept=amount("kept", [entry for entry in entries if entry.path not in gone]),
        projects=tuple(needs.projects),
        in_use=len(used),
        young=len(unneeded) - len(old),
    )


def enough(garbage: Sequence[Entry], disk_bytes: int, most_bytes: int | None) -> list[Entry]:
    """The beginning of the garbage that brings a store of `disk_bytes` down to `most_bytes`; all of it for None."""
    if most_bytes is None:
        return list(garbage)
    chosen = []
    for entry in garbage:
        if disk_bytes <= most_bytes:
            break
        chosen.append(entry)
        disk_bytes -= entry.disk_bytes
    return chosen


def _is_needed(entry: Entry, needs: Needs, now_ns: int, options: GarbageOptions) -> bool:
    match entry.part:
        case Part.OBJECT:
            return entry.name in needs.objects
        case Part.TREE:
            return entry.name in needs.trees
        case Part.WORK:
            return True
        case Part.RECORD:
            return (
                entry.name in needs.records
                or (not options.everything and entry.modified_ns > now_ns - MEMORY_NS)
                or _speaks_of(entry, needs)
            )
        case _:
            return False


def _speaks_of(record: Entry, needs: Needs) -> bool:
    """Whether all entries that a record names are needed, and it names one at least."""
    if record.bytes > _READ_RECORDS:
        return False
    try:
        # The first line is the record's own checksum.
        named = _DIGEST.findall(record.path.read_bytes().partition(b"\n")[2])
    except OSError:
        return False
    return bool(named) and all(digest.decode() in needs.objects for digest in named)


def _emptied(session: Session, bin: Bin, garbage: Sequence[Entry], needs: Needs) -> list[Entry]:
    """Remove the garbage, and what is no entry: roots of projects that are gone, locks and folders of the dead."""
    removed: list[Entry] = []
    task = session.progress.start("remove", sum(entry.bytes for entry in garbage) or None)

    def count(entry: Entry) -> None:
        removed.append(entry)
        task.advance(entry.bytes)

    try:
        bin.remove(garbage, count)
    finally:
        task.finish()
    for root, lock in needs.gone.items():
        root.unlink(missing_ok=True)
        if lock.exists():  # back again, and whoever wrote it may have seen that it was remembered
            session.store.add_root(lock)
    bin.tidy()
    for folder in temporary_leftovers(session.started_ns - YOUNG_NS):
        remove(folder)
    return removed


def _by_kind(entries: Iterable[Entry]) -> Iterator[Amount]:
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        kind = "files and layers" if entry.part is Part.OBJECT else PARTS[entry.part]
        rows.setdefault(kind, []).append(entry)
    for kind in sorted(rows):
        yield amount(kind, rows[kind])


# Verification


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One damaged entry."""

    name: str
    """Digest, or the tree's key."""
    what: str
    """File name and project of an artifact, else what kind of thing it is."""
    repaired: bool
    """Whether `--repair` was given, and the entry is there again or nobody will miss it."""
    remedy: str
    """What was done about it, or what will."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCheck:
    """What `nnenv store verify` found."""

    entries: int
    bytes: int
    damaged: tuple[Damage, ...]

    @property
    def whole(self) -> bool:
        """Nothing was damaged, or all of it was repaired."""
        return all(damage.repaired for damage in self.damaged)


def verify_store(session: Session, *, repair: bool) -> StoreCheck:
    """Read and hash everything again; what is damaged goes to quarantine, and is fetched again with `repair`.

    With `repair`, what an earlier command put into quarantine counts too, if nothing has taken its place.
    """
    entries = [entry for entry in inventory(session.store) if entry.part in (Part.OBJECT, Part.TREE)]
    size = sum(entry.bytes for entry in entries)
    needs = needed(session)
    task = session.progress.start("verify store", size or None)
    damaged: list[str] = []
    trees: list[str] = []
    try:
        for sha256, whole in session.store.verify_all(workers=session.workers, advance=task.advance):
            if not whole:
                damaged.append(sha256)
        for entry in entries:
            if entry.part is Part.TREE:
                if not session.store.verify_tree(entry.name):
                    trees.append(entry.name)
                task.advance(entry.bytes)
    finally:
        task.finish()
    lost = [name for name in _in_quarantine(session.store) if name not in damaged] if repair else []
    wanted = _artifacts_by_project(needs.projects, [*damaged, *lost])
    damaged += [name for name in lost if name in wanted]
    found = [_object_damage(session, name, needs, wanted.get(name), repair=repair) for name in damaged]
    found += [
        Damage(name=name, what="extracted layer", repaired=repair, remedy="the next command that uses it makes it anew")
        for name in trees
    ]
    return StoreCheck(entries=len(entries), bytes=size, damaged=tuple(found))


def _in_quarantine(store: Store) -> list[str]:
    """Digests of entries that were moved away and are not there again."""
    names = {entry.name.partition(".")[0] for entry in inventory(store) if entry.part is Part.QUARANTINE}
    present = set(store.objects())
    return sorted(name for name in names if _DIGEST.fullmatch(name.encode()) and name not in present)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """A damaged artifact, and a project that can fetch it."""

    artifact: Artifact
    target: TargetLock
    lock: Path


def _artifacts_by_project(locks: Iterable[Path], damaged: Sequence[str]) -> dict[str, _Wanted]:
    found: dict[str, _Wanted] = {}
    for path in locks:
        try:
            lockfile = read_lock(_lock_bytes(path) or b"")
        except NnenvError:
            continue
        for target in lockfile.targets:
            for artifact in lockfile.artifacts_of(target):
                if artifact.sha256 in damaged:
                    found.setdefault(artifact.sha256, _Wanted(artifact=artifact, target=target, lock=path))
    return found


def _object_damage(session: Session, name: str, needs: Needs, wanted: _Wanted | None, *, repair: bool) -> Damage:
    if wanted is None:
        kind = needs.objects.get(name, UNKNOWN)
        made = kind in (UNPACKED, LAYERS)
        remedy = "the next build makes it anew" if made else "no known project needs it"
        return Damage(name=name, what=kind, repaired=repair, remedy=remedy)
    what = f"{wanted.artifact.filename}, of {wanted.lock.parent}"
    if not repair:
        return Damage(name=name, what=what, repaired=False, remedy="`nnenv store verify --repair` fetches it again")
    try:
        fetch_locked(_in_project(session, wanted.lock.parent), [wanted.artifact], wanted.target.os)
    except NnenvError as error:
        return Damage(name=name, what=what, repaired=False, remedy=f"it could not be fetched again: {error.what}")
    return Damage(name=name, what=what, repaired=True, remedy="fetched again")


def _in_project(session: Session, project: Path) -> Session:
    """The same outside, in the folder of another project."""
    return Session(
        project=project,
        store=session.store,
        progress=session.progress,
        environment=session.environment,
        home=session.home,
        http=session.http,
        workers=session.workers,
    )
