"""Make the layers of a target's image from the store, each once per digest of what goes in.

A layer is remembered as digests and slices (`image.layers.Layer`), so a build that finds them all reads no wheel.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nnenv.formats.oci import canonical_json
from nnenv.image.accelerator import LINKER_CONFIGURATION, linked_libraries, linker_configuration
from nnenv.image.layers import Layer, layer_from_json, layer_to_json, plain_layer, read_layer_tar, spliced_layer
from nnenv.image.plan import RECIPE, SHARE, LayerKind, LayerPlan, model_files, model_path, plan_layers, wants_bytecode
from nnenv.image.tree import Entry, Slice, compose, meanings
from nnenv.image.trim import CudaLibrary, Trim, matches_any, unused_libraries
from nnenv.spec.artifact import Artifact
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import CaseLock, Lockfile, ModelLock, TargetLock
from nnenv.workflows.compiling import Compiler
from nnenv.workflows.session import Session

if TYPE_CHECKING:
    from nnenv.adapters.sandbox import SandboxRunner
    from nnenv.verify.closure import ImageElf
    from nnenv.workflows.os_packages import OsPackages

BYTECODE: Final = (LayerKind.INTERPRETER_BYTECODE, LayerKind.WHEEL_BYTECODE)
HARNESS_FILES: Final = (
    "compare.py",
    "cuda_calls.py",
    "harness.py",
    "keras_session.py",
    "placement.py",
    "providers.py",
    "tensors.py",
    "wire.py",
)
"""`verify.harness.FILES`, which takes longer to import than to make a layer."""
_THREADS: Final = min(4, os.cpu_count() or 1)
"""Layers of wheels made at once."""
_COMPILER: Final = re.compile(r"(?:clang|g\+\+|gcc)(?:-[0-9]+)?\Z")
"""Debian packages of C++ compilers, which may be there to compile CUDA code."""
_GROUP_VERSION: Final = 2
"""Raise when the record of a compiled group changes its form."""


@dataclass(slots=True)
class LayerMaker:
    """Makes and remembers the layers of one target."""

    session: Session
    lockfile: Lockfile
    target: TargetLock
    _packages: OsPackages | None = None
    _lock: bytes = b""
    _brought: frozenset[str] = frozenset()
    _keys: dict[LayerPlan, str] = field(default_factory=dict)
    _layers: dict[LayerPlan, Layer] = field(default_factory=dict)
    _compiler: Compiler | None = None
    _trim: Trim | None = None

    def layers(self, advance: Callable[[LayerPlan], object] = lambda plan: None) -> tuple[Layer, ...]:
        """All layers, bottom to top.

        Those of wheels are made several at once: inflating and digesting leave the interpreter's lock alone.
        Bytecode is compiled in the background meanwhile, so its layers come last.
        """
        plans = plan_layers(self.lockfile, self.target)
        missing = [plan for plan in plans if not self._is_remembered(plan)]
        for plan in plans:
            if plan not in missing:
                advance(plan)
        if missing:
            with self._compiling() as compiler:
                if any(plan.kind is LayerKind.INTERPRETER_BYTECODE for plan in missing):
                    compiler.submit(self._interpreter_group(), _sources(self._os().modules(self.target.python)))
                self._make_wheel_layers([plan for plan in missing if plan.kind is LayerKind.WHEELS], advance)
                others = [plan for plan in missing if plan.kind is not LayerKind.WHEELS]
                for plan in sorted(others, key=lambda plan: plan.kind in BYTECODE):
                    self.layer(plan)
                    advance(plan)
        return tuple(self._layers[plan] for plan in plans)

    def _make_wheel_layers(self, plans: Sequence[LayerPlan], advance: Callable[[LayerPlan], object]) -> None:
        """Make these layers, the largest first, so that no thread is left alone with one in the end."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        self._trimming()  # once, before the threads ask for it
        size = {plan: sum(artifact.size for artifact in plan.artifacts) for plan in plans}
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="layer")
        try:
            making = {pool.submit(self.layer, plan): plan for plan in sorted(plans, key=lambda plan: -size[plan])}
            for made in as_completed(making):
                made.result()
                advance(making[made])
        finally:
            pool.shutdown(cancel_futures=True)

    def layer(self, plan: LayerPlan) -> Layer:
        """One layer; from memory when everything that decides its bytes is the same and its objects are there."""
        if not self._is_remembered(plan):
            store = self.session.store
            entries = self._entries(plan)
            make = spliced_layer if plan.kind is LayerKind.WHEELS else plain_layer
            layer = make(plan.title, entries, store)
            store.save("layer-paths", self._key(plan), meanings(entries))
            store.save("layer", self._key(plan), layer_to_json(layer))
            self._layers[plan] = layer
        return self._layers[plan]

    def records(self) -> tuple[tuple[str, str], ...]:
        """(kind, key) of what the store may remember of the layers and their packages: no garbage, while the lock is a
        project's."""
        plans = plan_layers(self.lockfile, self.target)
        return (
            *((kind, self._key(plan)) for kind in ("layer", "layer-paths") for plan in plans),
            *(("deb", digest) for digest in (*self.target.debs, *self.target.tools)),
            ("bytecode", self._interpreter_group()),
            *(("bytecode", self._wheel_group(wheel)) for wheel in self.lockfile.wheels_of(self.target)),
            ("ld-cache", self._ld_cache_key()),
        )

    def trees(self) -> dict[str, tuple[Entry, ...]]:
        """The composed entries of each layer, by title."""
        return {plan.title: self._entries(plan) for plan in plan_layers(self.lockfile, self.target)}

    def meanings(self) -> Iterator[bytes]:
        """What the paths of each layer mean, bottom to top, see `image.tree.meanings`; remembered."""
        for plan in plan_layers(self.lockfile, self.target):
            known = self.session.store.load("layer-paths", self._key(plan))
            yield meanings(self._entries(plan)) if known is None else known

    def _is_remembered(self, plan: LayerPlan) -> bool:
        """Whether the layer needs not be made; it is in `_layers` then."""
        if plan not in self._layers:
            store = self.session.store
            record = store.load("layer", self._key(plan))
            layer = layer_from_json(record) if record else None
            if layer is None or not all(map(store.contains, layer.objects)):
                return False
            self._layers[plan] = layer
        return True

    def lock_copy(self) -> bytes:
        """The part of the lock that decides the image, as the image holds it."""
        if not self._lock:
            self._lock = write_lock(self.lockfile.for_image(self.target.name))
        return self._lock

    def links(self) -> Mapping[str, str]:
        """Path of each symbolic link of the image -> target as written; no leading slashes."""
        entries = (entry for entries in self.trees().values() for entry in entries)
        return {entry.path: entry.target for entry in entries if entry.kind == "symlink"}

    def linker_directories(self) -> tuple[str, ...]:
        """The directories that /etc/ld.so.conf.d of the image names, without leading slashes, in ldconfig's order."""
        folder = posixpath.dirname(LINKER_CONFIGURATION)
        texts = {
            entry.path: entry.content
            for entries in self.trees().values()
            for entry in entries
            if posixpath.dirname(entry.path) == folder and entry.path.endswith(".conf")
        }
        said = (content for _, content in sorted(texts.items()) if isinstance(content, bytes))
        return tuple(line.strip("/ ") for content in said for line in content.decode().split("\n") if line)

    def brings(self, path: str) -> bool:
        """Whether some wheel brings a file, by its path in the image without leading slash."""
        if not self._brought:
            self._brought = self._wheel_paths()
        return path in self._brought

    def _wheel_paths(self) -> frozenset[str]:
        from nnenv.workflows.wheel_files import wheel_places

        store, python = self.session.store, self.target.python
        wheels = self.lockfile.wheels_of(self.target)
        return frozenset(path for wheel in wheels for path in wheel_places(store, wheel, python).values())

    def elves(self) -> list[ImageElf]:
        """Every ELF file of the image, at its place."""
        wheels = self.lockfile.wheels_of(self.target)
        return [*self._os().elves(), *(elf for wheel in wheels for elf in self._wheel_elves(wheel))]

    def _wheel_elves(self, wheel: Artifact) -> list[ImageElf]:
        """The wheel's ELF files at their places, without what is left out."""
        leaves_out = self._leaves_out(wheel)
        return [elf for elf in self._all_elves_of(wheel) if not leaves_out(elf.path)]

    def _all_elves_of(self, wheel: Artifact) -> list[ImageElf]:
        """The wheel's ELF files at the places where an installer puts them."""
        from nnenv.verify.closure import ImageElf
        from nnenv.workflows.facts import wheel_facts
        from nnenv.workflows.wheel_files import wheel_places

        facts = wheel_facts(self.session.store, wheel)
        places = wheel_places(self.session.store, wheel, self.target.python) if facts else {}
        return [
            ImageElf(path=places[fact.path], owner=f"{wheel.name} {wheel.version}", facts=fact)
            for fact in facts
            if fact.path in places
        ]

    def _os(self) -> OsPackages:
        from nnenv.workflows.os_packages import OsPackages

        if self._packages is None:
            self._packages = OsPackages(self.session.store, self.lockfile.debs_of(self.target))
        return self._packages

    def _wheel_entries(self, wheel: Artifact) -> tuple[Entry, ...]:
        from nnenv.workflows.wheel_files import wheel_entries

        return wheel_entries(self.session.store, wheel, self.target.python, self._leaves_out(wheel))

    # Keys

    def _key(self, plan: LayerPlan) -> str:
        """A digest over everything that decides the layer's bytes."""
        if plan not in self._keys:
            self._keys[plan] = self._new_key(plan)
        return self._keys[plan]

    def _new_key(self, plan: LayerPlan) -> str:
        more: object = ""
        match plan.kind:
            case LayerKind.OS_STATE:
                more = [self.target.os, *self._user()]
            case LayerKind.WHEELS:
                more = [self.target.python, *self._trim_key(plan.artifacts)]
            case LayerKind.INTERPRETER_BYTECODE | LayerKind.WHEEL_BYTECODE:
                more = [self.target.python, *(deb.sha256 for deb in self._interpreter_debs())]
            case LayerKind.MODEL:
                more = plan.paths[0] if len(plan.paths) == 1 else list(plan.paths)
            case LayerKind.FILES:
                more = [[file.path, file.sha256, file.executable] for file in self.lockfile.files]
            case LayerKind.NNENV:
                more = [
                    hashlib.sha256(self.lock_copy()).hexdigest(),
                    *(hashlib.sha256(text).hexdigest() for text in harness_files().values()),
                ]
            case _:
                pass
        parts = [RECIPE, plan.kind, plan.title, [a.sha256 for a in plan.artifacts], more]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def _user(self) -> tuple[int, int]:
        """uid and gid of the image's user."""
        image = self.lockfile.manifest.get("image", {})
        text = image.get("user", "65532:65532") if isinstance(image, dict) else "65532:65532"
        uid, _, gid = text.partition(":")
        return int(uid), int(gid or uid)

    # Making

    def _entries(self, plan: LayerPlan) -> tuple[Entry, ...]:
        """What the layer holds, composed."""
        match plan.kind:
            case LayerKind.OS:
                return self._os().entries()
            case LayerKind.OS_STATE:
                return self._os_state()
            case LayerKind.INTERPRETER_BYTECODE:
                return self._interpreter_bytecode()
            case LayerKind.WHEELS:
                return self._wheels(plan.artifacts)
            case LayerKind.WHEEL_BYTECODE:
                return self._wheel_bytecode(plan.artifacts)
            case LayerKind.MODEL:
                return self._model(plan)
            case LayerKind.FILES:
                return self._files()
            case LayerKind.NNENV:
                return self._nnenv()

    def _wheels(self, wheels: Sequence[Artifact]) -> tuple[Entry, ...]:
        entries: list[Entry] = []
        for wheel in wheels:
            placed = self._wheel_entries(wheel)
            if self._compiler is not None:
                self._compiler.submit(self._wheel_group(wheel), _sources(placed))
            entries += placed
        return compose(entries)

    def _os_state(self) -> tuple[Entry, ...]:
        from nnenv.image.os_state import User

        uid, gid = self._user()
        return self._os().state(self.target.os, User(name="nnenv", uid=uid, gid=gid))

    def _model(self, plan: LayerPlan) -> tuple[Entry, ...]:
        return compose(
            Entry(
                path=path,
                kind="file",
                mode=0o644,
                content=Slice(sha256=artifact.sha256, offset=0, length=artifact.size),
                owner=plan.title,
            )
            for path, artifact in zip(plan.paths, plan.artifacts, strict=True)
        )

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
        lock = self.lock_copy()
        texts[f"{SHARE}/model.lock"] = lock
        models = []
        for model in self.lockfile.models_of(self.target):
            models.append(self._model_under_test(model, texts))
        texts[f"{SHARE}/selftest.json"] = canonical_json(
            {"target": self.target.name, "lock": hashlib.sha256(lock).hexdigest(), "models": models}
        )
        texts["etc/ld.so.cache"] = self._ld_cache()
        if self.target.gpu is not None:
            texts[LINKER_CONFIGURATION] = linker_configuration(self._cuda_libraries())
        return compose(
            Entry(path=path, kind="file", mode=0o644, content=text, owner="nnenv") for path, text in texts.items()
        )

    def _model_under_test(self, model: ModelLock, texts: dict[str, bytes]) -> dict[str, object]:
        """What `selftest.json` says of the model; its cases' tensors go into `texts`."""
        return {
            "name": model.name,
            "path": "/" + model_path(model.name, self.lockfile.by_digest[model.file]),
            "sha256": model.file,
            **({} if model.format == "onnx" else {"format": model.format}),
            **({"beside": beside} if (beside := self._beside(model)) else {}),
            "cases": [self._case(model, number, case, texts) for number, case in enumerate(model.cases)],
        }

    def _beside(self, model: ModelLock) -> dict[str, str]:
        """Absolute path -> digest of the model's further files."""
        _, *others = model_files(self.lockfile, model).items()
        return {f"/{path}": digest for path, digest in others}

    def _case(self, model: ModelLock, number: int, lock: CaseLock, texts: dict[str, bytes]) -> dict[str, object]:
        from nnenv.verify.tensors import write_tensor
        from nnenv.workflows.cases import bound_case

        under_test = bound_case(self.session.store, self.lockfile.by_digest, model, lock)
        roles: dict[str, list[dict[str, str]]] = {"inputs": [], "outputs": []}
        for role, tensors in (("inputs", under_test.case.inputs), ("outputs", under_test.case.expected)):
            for index, (name, array) in enumerate(tensors.items()):
                path = f"cases/{model.name}/{number}/{role[:-1]}_{index}.pb"
                texts[f"{SHARE}/{path}"] = write_tensor(name, array)
                roles[role].append({"file": path, "name": name})
        settings = under_test.settings
        judged = {"limits": dict(settings.tolerance), "axes": dict(settings.axes)}
        return {"name": lock.name, "kind": settings.kind.value, **roles, **judged}

    def _ld_cache_key(self) -> str:
        wheels = [wheel.sha256 for wheel in self._cuda_wheels()]
        return hashlib.sha256(canonical_json([RECIPE, self.target.machine, self.target.debs, wheels])).hexdigest()

    def _ld_cache(self) -> bytes:
        key = self._ld_cache_key()
        cache = self.session.store.load("ld-cache", key)
        if cache is None:
            cache = self._os().ld_cache(self.target.machine, self._cuda_libraries())
            self.session.store.save("ld-cache", key, cache)
        return cache

    def _cuda_wheels(self) -> tuple[Artifact, ...]:
        """CUDA's own libraries and tools among the wheels; none on a target without an accelerator."""
        if self.target.gpu is None:
            return ()
        from nnenv.resolve.compat import is_part_of_cuda

        return tuple(wheel for wheel in self.lockfile.wheels_of(self.target) if is_part_of_cuda(wheel.name))

    def _cuda_libraries(self) -> dict[str, str]:
        """Path -> soname of what the dynamic linker finds by name."""
        from nnenv.resolve.compat import driver_sonames

        elves = [elf for wheel in self._cuda_wheels() for elf in self._wheel_elves(wheel)]
        sonames = {elf.path: elf.facts.soname for elf in elves if elf.facts.machine == self.target.machine}
        return linked_libraries(sonames, driver_sonames())

    # What is left out

    def left_out(self) -> tuple[int, int]:
        """(files, bytes) of CUDA's wheels that the image does without."""
        from nnenv.workflows.wheel_files import wheel_sizes

        sizes = [
            size
            for wheel in self._cuda_wheels()
            for path, size in wheel_sizes(self.session.store, wheel, self.target.python).items()
            if self._leaves_out(wheel)(path)
        ]
        return len(sizes), sum(sizes)

    def _leaves_out(self, wheel: Artifact) -> Callable[[str], bool]:
        """Whether a path of the wheel stays out of the image."""
        return self._trimming().leaves_out if wheel in self._cuda_wheels() else lambda path: False

    def _trim_key(self, wheels: Sequence[Artifact]) -> tuple[object, ...]:
        """What of the trimming decides a layer of these wheels; nothing where none of them is CUDA's."""
        if not {*wheels} & {*self._cuda_wheels()}:
            return ()
        trim = self._trimming()
        return (trim.headers, *sorted(trim.unused))

    def _trimming(self) -> Trim:
        if self._trim is None:
            image = self.lockfile.manifest.get("image", {})
            wanted = image.get("trim") if isinstance(image, Mapping) else None
            self._trim = Trim(
                headers=wanted is not False and not self._uses_headers(),
                unused=self._unused_libraries() if wanted else frozenset(),
            )
        return self._trim

    def _uses_headers(self) -> bool:
        """Whether anything in the image may compile CUDA C++."""
        from nnenv.resolve.compat import uses_headers

        wheels, debs = self.lockfile.wheels_of(self.target), self.lockfile.debs_of(self.target)
        return any(uses_headers(wheel.name) for wheel in wheels) or any(_COMPILER.match(deb.name) for deb in debs)

    def _unused_libraries(self) -> frozenset[str]:
        """Paths of those of CUDA's libraries that nothing in the image needs or loads by name."""
        from nnenv.resolve.compat import loads_by_name

        assert self.target.gpu is not None
        by_name = loads_by_name()
        known: list[ImageElf] = []
        others = self._os().elves()
        for wheel in self.lockfile.wheels_of(self.target):
            for elf in self._all_elves_of(wheel):
                is_known = wheel in self._cuda_wheels() and matches_any(elf.facts.soname, by_name)
                (known if is_known else others).append(elf)
        wanted = {soname for elf in others for soname in elf.facts.needed}
        return unused_libraries(
            [CudaLibrary(path=elf.path, soname=elf.facts.soname, needed=elf.facts.needed) for elf in known],
            wanted | {soname for soname, _ in self.target.gpu.lazy},
            by_name,
        )

    # Bytecode

    @contextmanager
    def _compiling(self) -> Iterator[Compiler]:
        """The compiler that works in the background; one for all that happens inside."""
        if self._compiler is not None:
            yield self._compiler
            return
        compiler = Compiler(self.session.store, self.target.python, self._interpreter)
        with compiler:
            self._compiler = compiler
            try:
                yield compiler
            finally:
                self._compiler = None

    def _interpreter_bytecode(self) -> tuple[Entry, ...]:
        group = self._interpreter_group()
        with self._compiling() as compiler:
            if not compiler.is_done(group):
                compiler.submit(group, _sources(self._os().modules(self.target.python)))
            return compose(compiler.entries(group))

    def _wheel_bytecode(self, wheels: Sequence[Artifact]) -> tuple[Entry, ...]:
        with self._compiling() as compiler:
            for wheel in wheels:
                if not compiler.is_done(self._wheel_group(wheel)):
                    compiler.submit(self._wheel_group(wheel), _sources(self._wheel_entries(wheel)))
            # Wheels may share a source, as NVIDIA's share nvidia/__init__.py: equal sources can have unequal bytecode,
            # because marshal marks what else the process refers to. The first wheel's counts.
            found: dict[str, Entry] = {}
            for wheel in wheels:
                for entry in compiler.entries(self._wheel_group(wheel)):
                    found.setdefault(entry.path, entry)
            return compose(found.values())

    def _interpreter_group(self) -> str:
        return self._group(["interpreter", *self.target.debs])

    def _wheel_group(self, wheel: Artifact) -> str:
        return self._group(["wheel", wheel.sha256])

    def _group(self, sources: Sequence[str]) -> str:
        """A digest over everything that decides the bytecode: the sources, their paths, and the interpreter."""
        interpreter = [deb.sha256 for deb in self._interpreter_debs()]
        parts = [RECIPE, _GROUP_VERSION, sources, self.target.python, interpreter]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def _interpreter_debs(self) -> tuple[Artifact, ...]:
        return self.lockfile.tools_of(self.target) or self.lockfile.debs_of(self.target)

    def interpreter_trees(self) -> tuple[str, ...]:
        """What the store may call the extracted interpreter that compiles for this target."""
        debs, tools = self.lockfile.debs_of(self.target), self.lockfile.tools_of(self.target)
        return _interpreter_tree(self.target.machine, debs), _interpreter_tree("x86_64", tools)

    @contextmanager
    def _interpreter(self) -> Iterator[SandboxRunner]:
        """The sandbox in which the interpreter can run here.

        Its directory stays in the store, for the next wheel; where a run writes into it, it is made anew each time.
        """
        from nnenv.adapters.host import find_emulator, machine
        from nnenv.adapters.sandbox import SandboxRunner, strongest_mode
        from nnenv.workflows.os_packages import OsPackages

        store, packages, native = self.session.store, self._os(), self.target.machine
        if machine() != native and self.lockfile.tools_of(self.target):
            # The build machine's own interpreter compiles, because the target's cannot run here.
            packages, native = OsPackages(store, self.lockfile.tools_of(self.target)), "x86_64"
        emulator = None if machine() == native else find_emulator(native)
        mode = strongest_mode()
        with ExitStack() as ends:
            if emulator is None and mode != "restricted":
                tree = _interpreter_tree(native, packages.debs)
                place = store.tree(tree, lambda new: packages.make_interpreter(new / "root"))
            else:
                place = ends.enter_context(store.scratch())
                packages.make_interpreter(place / "root")
            yield SandboxRunner(place / "root", machine=native, environment={}, emulator=emulator, mode=mode)

    def tree(self, layer: Layer) -> Path:
        """The layer extracted into the store, for the sandbox."""
        from nnenv.adapters.layer_trees import extract_tar

        store = self.session.store
        return store.tree(layer.diff_id, lambda path: extract_tar(read_layer_tar(layer, store), path))


def _interpreter_tree(machine: str, debs: Sequence[Artifact]) -> str:
    parts = [RECIPE, machine, *(deb.sha256 for deb in debs)]
    return f"interpreter-{hashlib.sha256(canonical_json(parts)).hexdigest()}"


def harness_files() -> dict[str, bytes]:
    """The files that run inside the image, as they are shipped with nnenv."""
    import nnenv.verify

    folder = Path(nnenv.verify.__file__).parent
    return {name: (folder / name).read_bytes() for name in HARNESS_FILES}


def _sources(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Those that get bytecode."""
    return tuple(entry for entry in entries if entry.kind == "file" and wants_bytecode(entry.path))
