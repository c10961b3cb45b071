"""What a name means, and what is said where the store knows less than the lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.resolve.dependency_graph import DependencyGraph, NodeKind
from nnenv.resolve.locked_graph import locked_graph
from nnenv.spec.artifact import Artifact, Kind
from nnenv.spec.lock_toml import write_lock
from nnenv.spec.lockfile import CaseLock, FileLock, Lockfile
from nnenv.workflows.explaining import explain, grow_trees, meanings
from nnenv.workflows.session import Session
from tests.resolve.locks import deb, digest, lock, model_file, target, wheel

PLAIN = wheel("plain-wheel", "1.0", "numpy")
BINARY = replace(wheel("numpy", "2.0"), filename="numpy-2.0-cp311-cp311-manylinux_2_28_x86_64.whl")


def own(kind: Kind, path: str) -> Artifact:
    """A file of the project."""
    name = path.rsplit("/", 1)[-1]
    return Artifact(kind=kind, name=path, version="", filename=name, sha256=digest(path), size=7, origin=f"file:{path}")


@pytest.fixture
def lockfile() -> Lockfile:
    """A wheel that needs libm, a model with a case, a file, and an OS."""
    given, script = own(Kind.CASE, "tests/m/input_0.pb"), own(Kind.FILE, "src/serve.py")
    debs = [deb("libc6"), deb("libssl3"), deb("python3.11-minimal", "1", "Depends: libssl3, libc6")]
    shown = [PLAIN, BINARY, *debs, model_file("m")]
    cpu = target("cpu", shown, sonames=(("libm.so.6", "libc6"), ("libz.so.1", "libssl3")))
    other = target("other", [PLAIN, wheel("numpy", "1.0")], models=())
    made = lock(
        [*shown, wheel("numpy", "1.0"), given, script], cpu, other,
        packages=["plain-wheel"], models={"m": {"source": "file:m.onnx"}}, image={"files": {"src": "/app"}},
    )  # fmt: skip
    case = CaseLock(name="tests/m", inputs=(given.sha256,), expected=(given.sha256,))
    return replace(
        made,
        models=(replace(made.models[0], cases=(case,)),),
        files=(FileLock(path="app/serve.py", sha256=script.sha256, executable=False),),
    )


def graph(lockfile: Lockfile, uses: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None) -> DependencyGraph:
    """Of the first target."""
    return locked_graph(lockfile, lockfile.targets[0], uses or {}, ())


@pytest.mark.parametrize(
    ("name", "kind", "meant"),
    [
        ("plain-wheel", NodeKind.WHEEL, "plain-wheel"),
        ("Plain_Wheel", NodeKind.WHEEL, "plain-wheel"),
        (PLAIN.filename, NodeKind.WHEEL, "plain-wheel"),
        (PLAIN.sha256, NodeKind.WHEEL, "plain-wheel"),
        (PLAIN.sha256[:6], NodeKind.WHEEL, "plain-wheel"),
        (f"sha256:{PLAIN.sha256[:12]}", NodeKind.WHEEL, "plain-wheel"),
        ("libssl3", NodeKind.DEB, "libssl3"),
        ("libssl3_1_amd64.deb", NodeKind.DEB, "libssl3"),
        ("libm.so.6", NodeKind.DEB, "libc6"),
        ("libssl.so.3", NodeKind.DEB, "libssl3"),
        ("libpthread.so.0", NodeKind.DEB, "libc6"),
        ("m", NodeKind.MODEL, "m"),
        ("m.onnx", NodeKind.MODEL, "m"),
        ("tests/m", NodeKind.CASE, "tests/m"),
        ("tests/m/input_0.pb", NodeKind.CASE, "tests/m"),
        ("input_0.pb", NodeKind.CASE, "tests/m"),
        ("/app/serve.py", NodeKind.FILE, "/app/serve.py"),
        ("app/serve.py", NodeKind.FILE, "/app/serve.py"),
        ("src/serve.py", NodeKind.FILE, "/app/serve.py"),
        ("serve.py", NodeKind.FILE, "/app/serve.py"),
    ],
)
def test_names(lockfile: Lockfile, name: str, kind: NodeKind, meant: str) -> None:
    """A name, a soname, a file name, a path, or the start of a sha256 means one thing, and something leads to it."""
    (subject,) = meanings(graph(lockfile), lockfile, name)
    assert (subject.node.kind, subject.node.name) == (kind, meant)
    assert subject.last


@pytest.mark.parametrize("name", ["", "plain", "lib", PLAIN.sha256[:5], "libnothing.so.1", "../plain-wheel", "*"])
def test_names_of_nothing(lockfile: Lockfile, name: str) -> None:
    """No name is guessed at."""
    assert meanings(graph(lockfile), lockfile, name) == []


def test_a_library_is_asked_for_by_those_who_need_it(lockfile: Lockfile) -> None:
    """By its soname only the wheels that need it lead to the package, for it alone."""
    uses = {"numpy": {"libm.so.6": ("numpy/x.so",), "libc.so.6": ("numpy/x.so",)}, "plain-wheel": {"libz.so.1": ()}}
    (subject,) = meanings(graph(lockfile, uses), lockfile, "libm.so.6")
    assert [(edge.asker.name, edge.requirement) for edge in subject.last] == [("numpy", "libm.so.6")]
    assert subject.soname == "libm.so.6"


def test_a_library_inside_of_a_wheel(lockfile: Lockfile) -> None:
    """It is the wheel that is asked about."""
    (subject,) = meanings(graph(lockfile), lockfile, "libblas.so.3", {"libblas.so.3": ("numpy",)})
    assert (subject.node.name, subject.soname) == ("numpy", "libblas.so.3")


def test_one_name_may_mean_two_things(lockfile: Lockfile) -> None:
    """A model and a wheel of one name are both explained."""
    both = lock([wheel("m"), model_file("m")], packages=["m"])
    assert [subject.node.kind for subject in meanings(graph(both), both, "m")] == [NodeKind.MODEL, NodeKind.WHEEL]


@pytest.fixture
def session(tmp_path: Path, lockfile: Lockfile) -> Session:
    """A project that is a lock and nothing else, with an empty store."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "model.lock").write_bytes(write_lock(lockfile))
    store = Store(tmp_path / "store")
    return Session(project=project, store=store, progress=SilentProgress(), environment={}, home=tmp_path, offline=True)


def test_a_lock_alone_is_enough(session: Session) -> None:
    """Without model.toml, store or network; what only the wheels know is named as unknown."""
    first, second = explain(session, "numpy", [], 10)
    assert [e.graph.target.name for e in (first, second)] == ["cpu", "other"]
    assert [[edge.asker.name for edge in path] for path in first.paths.shown] == [
        ["models.m", "m"],
        ["requires.packages", "plain-wheel"],
    ]
    assert first.unread == ()
    (library,) = explain(session, "libz.so.1", ["cpu"], 10)
    assert library.unread == ("numpy",)
    assert [edge.asker.kind for path in library.paths.shown for edge in path] == [NodeKind.UNREAD]
    (trees,) = grow_trees(session, ["cpu"])
    assert trees.graph.unread == ("numpy",)
    assert [tree.node.name for tree in trees.trees][-1] == "a wheel that is not in the store"


@pytest.mark.parametrize(
    ("name", "targets", "because", "fix"),
    [
        ("nunpy", (), (), "did you mean numpy?"),
        ("libzz.so.1", (), (), "did you mean libz.so.1?"),
        ("libssl3", ("other",), ("but target cpu does",), "ask with --target cpu"),
    ],
)
def test_an_unknown_name_is_refused(
    session: Session, name: str, targets: tuple[str, ...], because: tuple[str, ...], fix: str
) -> None:
    """The refusal proposes what was meant, or the target that holds it."""
    for asked in (lambda: explain(session, name, targets, 10), lambda: grow_trees(session, targets, inverted=name)):
        with pytest.raises(NnenvError) as caught:
            asked()
        assert (caught.value.code, caught.value.because) == ("name-unknown", because)
        assert fix in caught.value.fix


def test_an_unknown_target_is_refused(session: Session) -> None:
    """As by every command."""
    with pytest.raises(NnenvError, match="no target nowhere"):
        explain(session, "numpy", ["nowhere"], 10)
