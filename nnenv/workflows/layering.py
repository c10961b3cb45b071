"""Make the layers of a target's image from the store, each once per digest of what goes in.

A layer is remembered as digests and slices (`image.layers.Layer`), so a build that finds them all reads no wheel.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nnenv.errors import NnenvError
from nnenv.formats.deb import decompress_data, read_deb
from nnenv.formats.ld_cache import CacheEntry, write_ld_cache
from nnenv.formats.oci import canonical_json
from nnenv.formats.tar_reader import read_tar
from nnenv.formats.wheel import read_wheel
from nnenv.image import bytecode
from nnenv.image.layers import Layer, layer_from_json, layer_to_json, plain_layer, read_layer_tar, spliced_layer
from nnenv.image.os_root import UnpackedDeb, os_entries, unpacked_deb, unpacked_from_json, unpacked_to_json
from nnenv.image.os_state import User, script_effects, state_entries
from nnenv.image.plan import RECIPE, LayerKind, LayerPlan, bytecode_path, model_path, plan_layers, wants_bytecode
from nnenv.image.tree import Content, Entry, Slice, compose
from nnenv.image.wheels import place
from nnenv.spec.artifact import Artifact, Sha256
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import Lockfile, ModelLock, TargetLock
from nnenv.verify.closure import TRIPLETS, ImageElf
from nnenv.verify.harness import FILES as HARNESS_FILES
from nnenv.verify.protocols import Limits, Run
from nnenv.workflows.cases import bound_case
from nnenv.workflows.facts import deb_facts, wheel_facts
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nnenv.adapters.sandbox import SandboxRunner

SHARE: Final = "opt/nnenv/share/nnenv"
"""Where the image keeps the harness, its cases and the lock."""
_UNPACKED_LIMIT: Final = 16 << 30


@dataclass(slots=True)
class LayerMaker:
    """Makes and remembers the layers of one target."""

    session: Session
    lockfile: Lockfile
    target: TargetLock
    _debs: dict[Sha256, UnpackedDeb] = field(default_factory=dict)
    _layers: dict[str, Layer] = field(default_factory=dict)

    def layers(self, advance: Callable[[LayerPlan], object] = lambda plan: None) -> tuple[Layer, ...]:
        """All layers, bottom to top."""
        made = []
        for plan in plan_layers(self.lockfile, self.target):
            made.append(self.layer(plan))
            advance(plan)
        return tuple(made)

    def layer(self, plan: LayerPlan) -> Layer:
        """One layer; from memory when everything that decides its bytes is the same and its objects are there."""
        key = self._key(plan)
        if key not in self._layers:
            cached = self.session.store.load("layer", key)
            layer = layer_from_json(cached) if cached else None
            if layer is None or not all(self.session.store.contains(piece.sha256) for piece in layer.pieces):
                layer = self._made(plan)
                self.session.store.save("layer", key, layer_to_json(layer))
            self._layers[key] = layer
        return self._layers[key]

    def trees(self) -> dict[str, tuple[Entry, ...]]:
        """The composed entries of each layer, by title."""
        return {plan.title: self._entries(plan) for plan in plan_layers(self.lockfile, self.target)}

    # What goes in

    def unpacked(self, artifact: Artifact) -> UnpackedDeb:
        """A .deb of the store through the strict gate, its data.tar decompressed into the store; remembered."""
        if artifact.sha256 not in self._debs:
            store = self.session.store
            cached = store.load("deb", artifact.sha256)
            deb = unpacked_from_json(cached) if cached else None
            if deb is None or not store.contains(deb.data_sha256):
                deb = _unpack(self.session, artifact)
                store.save("deb", artifact.sha256, unpacked_to_json(deb))
            self._debs[artifact.sha256] = deb
        return self._debs[artifact.sha256]

    def os_entries(self) -> tuple[Entry, ...]:
        """The composed tree of the OS packages."""
        return compose(os_entries([self.unpacked(deb) for deb in self.lockfile.debs_of(self.target)]))

    def elves(self) -> list[ImageElf]:
        """Every ELF file of the image, at its place."""
        store = self.session.store
        found = [
            ImageElf(path=fact.path, owner=f"{deb.name} {deb.version}", facts=fact)
            for deb in self.lockfile.debs_of(self.target)
            for fact in deb_facts(store, self.unpacked(deb), deb.sha256)
        ]
        for wheel in self.lockfile.wheels_of(self.target):
            facts = wheel_facts(store, wheel)
            places = self._places(wheel) if facts else {}
            found += [
                ImageElf(path=places[fact.path], owner=f"{wheel.name} {wheel.version}", facts=fact)
                for fact in facts
                if fact.path in places
            ]
        return found

    def _places(self, wheel: Artifact) -> dict[str, str]:
        from nnenv.image.wheels import destination

        with self.session.store.open(wheel.sha256) as stream:
            contents = read_wheel(stream, wheel.filename)
        placed = {member.name: destination(member.name, contents, self.target.python) for member in contents.members}
        return {name: path for name, path in placed.items() if path is not None}

    def _wheel_entries(self, wheel: Artifact) -> tuple[Entry, ...]:
        with self.session.store.open(wheel.sha256) as stream:
            contents = read_wheel(stream, wheel.filename)
            _insist_on_locked_metadata(contents.metadata, wheel)
            return place(contents, sha256=wheel.sha256, stream=stream, python=self.target.python)

    def _read(self, content: Content) -> bytes:
        if isinstance(content, bytes):
            return content
        assert isinstance(content, Slice)
        with self.session.store.open(content.sha256) as stream:
            stream.seek(content.offset)
            return stream.read(content.length)

    # Keys

    def _key(self, plan: LayerPlan) -> str:
        """A digest over everything that decides the layer's bytes."""
        more: object = ""
        match plan.kind:
            case LayerKind.OS_STATE:
                more = [self.target.os, self._user().uid, self._user().gid]
            case LayerKind.WHEELS:
                more = self.target.python
            case LayerKind.INTERPRETER_BYTECODE | LayerKind.WHEEL_BYTECODE:
                more = [self.target.python, *(deb.sha256 for deb in self._interpreter_debs())]
            case LayerKind.MODEL:
                more = plan.path
            case LayerKind.FILES:
                more = [[file.path, file.sha256, file.executable] for file in self.lockfile.files]
            case LayerKind.NNENV:
                more = [
                    hashlib.sha256(write_lock(self.lockfile.for_image(self.target.name))).hexdigest(),
                    *(hashlib.sha256(text).hexdigest() for text in harness_files().values()),
                ]
            case _:
                pass
        parts = [RECIPE, plan.kind, plan.title, [a.sha256 for a in plan.artifacts], more]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def _user(self) -> User:
        image = self.lockfile.manifest.get("image", {})
        text = image.get("user", "65532:65532") if isinstance(image, dict) else "65532:65532"
        uid, _, gid = text.partition(":")
        return User(name="nnenv", uid=int(uid), gid=int(gid or uid))

    # Making

    def _made(self, plan: LayerPlan) -> Layer:
        make = spliced_layer if plan.kind is LayerKind.WHEELS else plain_layer
        return make(plan.title, self._entries(plan), self.session.store)

    def _entries(self, plan: LayerPlan) -> tuple[Entry, ...]:
        """What the layer holds, composed."""
        match plan.kind:
            case LayerKind.OS:
                return self.os_entries()
            case LayerKind.OS_STATE:
                return self._os_state()
            case LayerKind.INTERPRETER_BYTECODE:
                return self._interpreter_bytecode()
            case LayerKind.WHEELS:
                return compose(entry for wheel in plan.artifacts for entry in self._wheel_entries(wheel))
            case LayerKind.WHEEL_BYTECODE:
                return self._wheel_bytecode(plan.artifacts)
            case LayerKind.MODEL:
                return self._model(plan)
            case LayerKind.FILES:
                return self._files()
            case LayerKind.NNENV:
                return self._nnenv()

    def _os_state(self) -> tuple[Entry, ...]:
        debs = [self.unpacked(deb) for deb in self.lockfile.debs_of(self.target)]
        return compose(
            state_entries(
                debs,
                self.os_entries(),
                script_effects(debs),
                os=self.target.os,
                user=self._user(),
                read=self._read,
            )
        )

    def _model(self, plan: LayerPlan) -> tuple[Entry, ...]:
        (artifact,) = plan.artifacts
        content = Slice(sha256=artifact.sha256, offset=0, length=artifact.size)
        return compose([Entry(path=plan.path, kind="file", mode=0o644, content=content, owner=plan.title)])

    def _files(self) -> tuple[Entry, ...]:
        sizes = {artifact.sha256: artifact.size for artifact in self.lockfile.artifacts}
        return compose(
            Entry(
                path=file.path,
                kind="file",
                mode=0o755 if file.executable else 0o644,
                content=Slice(sha256=file.sha256, offset=0, length=sizes[file.sha256]),
                owner="model.toml [image.files]",
            )
            for file in self.lockfile.files
        )

    def _nnenv(self) -> tuple[Entry, ...]:
        """The top layer: harness, cases, the lock that the image was made from, ld.so.cache."""
        texts: dict[str, bytes] = {f"{SHARE}/{name}": text for name, text in harness_files().items()}
        lock = write_lock(self.lockfile.for_image(self.target.name))
        texts[f"{SHARE}/model.lock"] = lock
        models = []
        for model in self.lockfile.models_of(self.target):
            models.append(self._model_under_test(model, texts))
        texts[f"{SHARE}/selftest.json"] = canonical_json(
            {"target": self.target.name, "lock": hashlib.sha256(lock).hexdigest(), "models": models}
        )
        texts["etc/ld.so.cache"] = self._ld_cache()
        return compose(
            Entry(path=path, kind="file", mode=0o644, content=text, owner="nnenv") for path, text in texts.items()
        )

    def _model_under_test(self, model: ModelLock, texts: dict[str, bytes]) -> dict[str, object]:
        from nnenv.verify.tensors import write_tensor

        artifact = self.lockfile.by_digest[model.file]
        listed = []
        for number, lock in enumerate(model.cases):
            under_test = bound_case(self.session.store, self.lockfile.by_digest, model, lock)
            roles: dict[str, list[dict[str, str]]] = {"inputs": [], "outputs": []}
            for role, tensors in (("inputs", under_test.case.inputs), ("outputs", under_test.case.expected)):
                for index, (name, array) in enumerate(tensors.items()):
                    path = f"cases/{model.name}/{number}/{role[:-1]}_{index}.pb"
                    texts[f"{SHARE}/{path}"] = write_tensor(name, array)
                    roles[role].append({"file": path, "name": name})
            settings = under_test.settings
            listed.append({"name": lock.name, **roles, "limits": dict(settings.tolerance), "axes": dict(settings.axes)})
        return {
            "name": model.name,
            "path": "/" + model_path(model.name, artifact),
            "sha256": model.file,
            "cases": listed,
        }

    def _ld_cache(self) -> bytes:
        """The cache that ldconfig would write for the OS libraries (wheels find theirs by RUNPATH)."""
        triplet = TRIPLETS[self.target.machine]
        directories = [f"usr/lib/{triplet}", "usr/lib"]
        paths = {entry.path for entry in self.os_entries()}
        entries = []
        for directory in directories:
            for elf in sorted(self.elves(), key=lambda elf: elf.path):
                name = elf.facts.soname
                if posixpath.dirname(elf.path) == directory and name and f"{directory}/{name}" in paths:
                    entries.append(CacheEntry(soname=name, path=f"/{directory}/{name}", machine=self.target.machine))
        return write_ld_cache(entries)

    # Bytecode

    def _interpreter_bytecode(self) -> tuple[Entry, ...]:
        version = ".".join(self.target.python.split(".")[:2])
        prefix = f"usr/lib/python{version}/"
        sources = [e.path for e in self.os_entries() if e.path.startswith(prefix) and wants_bytecode(e.path)]
        key = f"interpreter {self.target.python}"
        return self._compiled({key: sources}, [LayerKind.OS, LayerKind.OS_STATE])

    def _wheel_bytecode(self, wheels: Sequence[Artifact]) -> tuple[Entry, ...]:
        sources: dict[str, list[str]] = {
            wheel.sha256: [e.path for e in self._wheel_entries(wheel) if e.kind == "file" and wants_bytecode(e.path)]
            for wheel in wheels
        }
        return self._compiled(sources, [LayerKind.OS, LayerKind.OS_STATE, LayerKind.WHEELS])

    def _compiled(self, sources: dict[str, list[str]], kinds: Sequence[LayerKind]) -> tuple[Entry, ...]:
        """Bytecode of each group of sources, compiled by a fresh process of the locked interpreter."""
        store = self.session.store
        interpreter = [deb.sha256 for deb in self._interpreter_debs()]
        keys = {
            group: hashlib.sha256(canonical_json([RECIPE, group, self.target.python, interpreter, paths])).hexdigest()
            for group, paths in sources.items()
        }
        answers: dict[str, Sha256] = {}
        for group, key in keys.items():
            cached = store.load("bytecode", key)
            if cached is not None and store.contains(Sha256(cached.decode())):
                answers[group] = Sha256(cached.decode())
        missing = [group for group, paths in sources.items() if paths and group not in answers]
        if missing:
            with self._interpreter(kinds) as runner:
                for group in missing:
                    answers[group] = store.put(_compile(runner, sources[group], self.target))
                    store.save("bytecode", keys[group], answers[group].encode())
        return compose(
            entry for group, digest in sorted(answers.items()) for entry in self._pyc(digest, sources[group])
        )

    def _pyc(self, answer: Sha256, sources: Sequence[str]) -> Iterator[Entry]:
        with self.session.store.open(answer) as stream:
            size = stream.seek(0, 2)
            for path, offset, length in bytecode.read_answer(stream, size, ["/" + source for source in sources]):
                yield Entry(
                    path=bytecode_path(path.lstrip("/"), self.target.python),
                    kind="file",
                    mode=0o644,
                    content=Slice(sha256=answer, offset=offset, length=length),
                    owner="bytecode",
                )

    def _interpreter_debs(self) -> tuple[Artifact, ...]:
        return self.lockfile.tools_of(self.target) or self.lockfile.debs_of(self.target)

    @contextmanager
    def _interpreter(self, kinds: Sequence[LayerKind]) -> Iterator[SandboxRunner]:
        """The locked interpreter, able to run here, over the layers that hold the sources."""
        from nnenv.adapters.host import find_emulator, machine
        from nnenv.adapters.sandbox import SandboxRunner, compose_root

        host = machine()
        plans = [plan for plan in plan_layers(self.lockfile, self.target) if plan.kind in kinds]
        trees = [self.tree(self.layer(plan)) for plan in plans]
        native = self.target.machine
        if host != native and self.lockfile.tools_of(self.target):
            trees.append(self._tools_tree())
            native = "x86_64"
        with self.session.store.scratch() as scratch:
            root = scratch / "root"
            compose_root(trees, root)
            emulator = None if host == native else find_emulator(native)
            yield SandboxRunner(root, machine=native, environment={}, emulator=emulator)

    def _tools_tree(self) -> Path:
        """The build machine's interpreter over the target's OS: libraries lie beside each other by architecture."""
        debs = [self.unpacked(deb) for deb in self.lockfile.tools_of(self.target)]
        merged = [Entry(path=name, kind="symlink", mode=0o777, target=f"usr/{name}") for name in ("lib64",)]
        entries = compose([*os_entries(debs), *merged])
        return self.tree(plain_layer("build tools", entries, self.session.store))

    def tree(self, layer: Layer) -> Path:
        """The layer extracted into the store, for the sandbox."""
        from nnenv.adapters.layer_trees import extract_tar

        store = self.session.store
        return store.tree(layer.diff_id, lambda path: extract_tar(read_layer_tar(layer, store), path))


def harness_files() -> dict[str, bytes]:
    """The files that run inside the image, as they are shipped with nnenv."""
    import nnenv.verify

    folder = Path(nnenv.verify.__file__).parent
    return {name: (folder / name).read_bytes() for name in HARNESS_FILES}


def _unpack(session: Session, artifact: Artifact) -> UnpackedDeb:
    store = session.store
    with store.open(artifact.sha256) as stream:
        parts = read_deb(stream, artifact.filename)
        with store.writer() as writer:
            for chunk in decompress_data(stream, parts, limit=_UNPACKED_LIMIT):
                writer.write(chunk)
            data, _ = writer.commit()
    with store.open(data) as stream:
        entries = read_tar(stream, artifact.filename)
    deb = unpacked_deb(parts.control, parts.scripts, data, entries)
    if (deb.name, deb.version) != (artifact.name, artifact.version):
        raise NnenvError(
            "metadata-mismatch",
            f"{artifact.filename} holds {deb.name} {deb.version}, locked is {artifact.name} {artifact.version}",
            where=artifact.filename,
            fix=["run `nnenv lock -P " + artifact.name + "`"],
        )
    return deb


def _insist_on_locked_metadata(metadata: bytes, wheel: Artifact) -> None:
    """The requirements that the solver saw must be those in the wheel: an index can serve other metadata beside it."""
    from nnenv.formats.core_metadata import read_metadata

    inside = read_metadata(metadata, wheel.filename)
    if inside.requires != wheel.requires:
        difference = sorted({*inside.requires} ^ {*wheel.requires})
        raise NnenvError(
            "metadata-mismatch",
            f"{wheel.filename} asks for other packages than its index said when it was locked",
            where=wheel.filename,
            because=difference[:6],
            fix=[f"tell whoever runs the index; choose another version of {wheel.name}"],
        )


def _compile(runner: SandboxRunner, sources: Sequence[str], target: TargetLock) -> bytes:
    version = ".".join(target.python.split(".")[:2])
    completed = runner.run(
        Run(
            argv=bytecode.argv(f"/usr/bin/python{version}"),
            environment=bytecode.ENVIRONMENT,
            stdin=bytecode.request(["/" + source for source in sources]),
            limits=Limits(seconds=1800.0, output_bytes=4 << 30),
        )
    )
    if completed.exit_code != 0 or completed.limit_hit:
        raise NnenvError(
            "internal",
            f"the locked interpreter could not compile the sources of target {target.name}",
            where=f"python {target.python}",
            because=completed.stderr.decode("utf-8", "replace").splitlines()[-8:] or [f"exit {completed.exit_code}"],
            fix=["report this with `nnenv -v build`"],
        )
    return completed.stdout
