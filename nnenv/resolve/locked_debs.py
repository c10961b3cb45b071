"""Which locked Debian package asks for which, by the relations that the lock keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nnenv.resolve.debian_catalog import DebRecord
from nnenv.resolve.debian_facts import debian_facts
from nnenv.resolve.debian_relation import Relation, meets, parse_relations, provided_names, relation_text
from nnenv.resolve.dependency_graph import Edge, Node, NodeKind
from nnenv.spec.artifact import Artifact

_FOLLOWED = ("Pre-Depends", "Depends")


class LockedDebs:
    """The Debian packages of one image, or of one build machine."""

    def __init__(self, debs: Iterable[Artifact], kind: NodeKind) -> None:
        self._kind = kind
        self._records = {deb.name: _record(deb) for deb in debs}
        self._artifacts = {deb.name: deb for deb in debs}
        self._providers: dict[str, list[DebRecord]] = {}
        for _, record in sorted(self._records.items()):
            for name in provided_names(record):
                self._providers.setdefault(name, []).append(record)

    def node(self, name: str) -> Node:
        """The package of that name as a node."""
        return Node(kind=self._kind, name=name)

    def artifacts(self) -> dict[Node, Artifact]:
        """Every package."""
        return {self.node(name): artifact for name, artifact in self._artifacts.items()}

    def edge(self, asker: Node, text: str, *, because: str = "") -> Edge | None:
        """What `asker` wants by `name` or `name (>= version)`; None if no package here meets it."""
        relations = parse_relations(text)
        answer = self._answer(relations[0]) if relations else None
        return None if answer is None else Edge(asker=asker, answer=answer, requirement=text, because=because)

    def relations(self) -> Iterator[Edge]:
        """What the packages ask of each other, by name; what is left out on purpose is not followed."""
        omit = debian_facts().omit
        for name, record in self._records.items():
            asked: dict[Node, dict[str, list[str]]] = {}
            for field, text in zip(_FOLLOWED, (record.pre_depends, record.depends), strict=True):
                for relation in parse_relations(text):
                    answer = self._answer(relation)
                    left_out = omit.reason(name, [alternative.name for alternative in relation])
                    if answer is not None and answer.name != name and left_out is None:
                        asked.setdefault(answer, {}).setdefault(field, []).append(relation_text(relation))
            for answer, fields in asked.items():
                words = "; ".join(f"{field}: {', '.join(relations)}" for field, relations in fields.items())
                yield Edge(asker=self.node(name), answer=answer, requirement=words)

    def _answer(self, relation: Relation) -> Node | None:
        """The package that meets `relation`, in the order of its alternatives: the choice of `resolve.debian`."""
        for alternative in relation:
            own = self._records.get(alternative.name)
            for record in (*([own] if own else []), *self._providers.get(alternative.name, ())):
                if meets(record, alternative):
                    return self.node(record.name)
        return None


def _record(deb: Artifact) -> DebRecord:
    fields = dict(line.split(": ", 1) for line in deb.requires if ": " in line)
    return DebRecord(
        name=deb.name,
        version=deb.version,
        architecture=deb.architecture,
        # Not in the lock. Where `:any` was asked for, a package that allows it was chosen.
        multi_arch="allowed",
        essential=False,
        depends=fields.get("Depends", ""),
        pre_depends=fields.get("Pre-Depends", ""),
        provides=fields.get("Provides", ""),
        conflicts="",
        breaks="",
        path="",
        sha256=deb.sha256,
        size=deb.size,
        suite="",
    )
