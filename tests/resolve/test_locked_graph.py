"""The dependency graph of a lock: markers, extras, relations, libraries, and where everything begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnenv.resolve.dependency_graph import DependencyGraph, NodeKind
from nnenv.resolve.locked_graph import locked_graph
from nnenv.spec.artifact import Artifact
from nnenv.spec.lockfile import CaseLock, FileLock, Lockfile
from tests.resolve.locks import deb, lock, model_file, target, wheel


def graph(
    lockfile: Lockfile,
    name: str = "cpu",
    uses: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    unread: Sequence[str] = (),
) -> DependencyGraph:
    """The graph of one target."""
    chosen = lockfile.target(name)
    assert chosen is not None
    return locked_graph(lockfile, chosen, uses or {}, unread)


def edges(made: DependencyGraph) -> list[str]:
    """`asker > answer: requirement`."""
    return [f"{edge.asker.label} > {edge.answer.label}: {edge.requirement}" for edge in made.edges]


def locked(*artifacts: Artifact, packages: Sequence[str] = (), **manifest: object) -> Lockfile:
    """A lock of one target."""
    return lock(artifacts, packages=packages, **manifest)


def test_markers_hold_for_the_target() -> None:
    """A requirement whose marker does not hold on the target is no edge, whatever the machine of the test is."""
    asking = wheel(
        "a",
        "1.0",
        "b; python_version < '3.12'",
        "c; python_version >= '3.12'",
        "d; platform_machine == 'aarch64'",
        "e>=1; sys_platform == 'linux' and extra == ''",
    )
    wheels = [asking, *(wheel(name) for name in "bcde")]
    arm = target("arm", wheels, platform="linux/arm64", python="3.13.5", os="debian:13")
    lockfile = lock(wheels, target("cpu", wheels), arm, packages=["a"])
    assert edges(graph(lockfile)) == [
        "requires.packages > a: a",
        "a > b: b; python_version < '3.12'",
        "a > e: e>=1; sys_platform == 'linux' and extra == ''",
    ]
    assert [edge.answer.name for edge in graph(lockfile, "arm").edges] == ["a", "c", "d", "e"]


def test_extras_ask_for_more() -> None:
    """A wheel with an extra is a node of its own; what the extra brings does not hang on the wheel without it."""
    wheels = [wheel("a", "1.0", "b", "c; extra == 'Fast_Mode'", "a[fast-mode]; extra == 'all'"), *map(wheel, "bcd")]
    made = graph(lock([*wheels, wheel("d", "2", "a[all]")], packages=["a", "d"]))
    assert edges(made) == [
        "requires.packages > a: a",
        "requires.packages > d: d",
        "a > b: b",
        "d > a[all]: a[all]",
        "a[all] > b: b",
        "a[all] > a[fast-mode]: a[fast-mode]; extra == 'all'",
        "a[fast-mode] > b: b",
        "a[fast-mode] > c: c; extra == 'Fast_Mode'",
    ]


def test_names_in_any_spelling() -> None:
    """Names compare as PEP 503 says, and what is not locked is no edge."""
    made = graph(locked(wheel("a", "1", "Ruamel_Yaml.Clib >=1", "absent"), wheel("ruamel-yaml-clib"), packages=["A"]))
    assert edges(made) == ["requires.packages > a: A", "a > ruamel-yaml-clib: Ruamel_Yaml.Clib >=1"]


def test_an_override_is_told() -> None:
    """An edge says that an override stands instead of the requirement, where its marker holds."""
    made = graph(
        locked(
            wheel("a", "1", "b<1", "c"), wheel("b"), wheel("c"),
            packages=["a"], policy={"overrides": ["b>=1", "c<9; python_version < '3'"]},
        )
    )  # fmt: skip
    assert [edge.because for edge in made.edges] == ["", "policy.overrides says b>=1", ""]


def test_two_requirements_on_one_package_are_one_edge() -> None:
    """Both are shown."""
    made = graph(locked(wheel("a", "1", "b>=1", "b<2; python_version < '4'"), wheel("b"), packages=["a"]))
    assert edges(made)[1:] == ["a > b: b>=1, b<2; python_version < '4'"]


def test_relations_between_debian_packages() -> None:
    """Pre-Depends and Depends, the alternative that is there, Provides with versions, and `:any`."""
    made = graph(
        locked(
            deb("aa", "1", "Pre-Depends: bb (>= 1)", "Depends: absent | cc, virtual (>= 2), dd:any, bb (<< 9)"),
            deb("bb"), deb("cc"), deb("dd"),
            deb("old", "1", "Provides: virtual (= 1)"), deb("new", "1", "Provides: virtual (= 3)"),
            requires={"system": ["aa"]},
        )
    )  # fmt: skip
    assert edges(made) == [
        "requires.system > aa: aa",
        "aa > bb: Pre-Depends: bb (>= 1); Depends: bb (<< 9)",
        "aa > cc: Depends: absent | cc",
        "aa > new: Depends: virtual (>= 2)",
        "aa > dd: Depends: dd:any",
    ]


def test_what_is_left_out_on_purpose_is_no_reason() -> None:
    """ca-certificates depends on openssl for its scripts only: it is not why openssl is there."""
    made = graph(
        locked(deb("ca-certificates", "1", "Depends: openssl"), deb("openssl"), requires={"system": ["openssl"]})
    )
    assert "ca-certificates > openssl: Depends: openssl" not in edges(made)
    assert "requires.system > openssl: openssl" in edges(made)


def test_where_everything_begins() -> None:
    """Keys of model.toml for packages of all targets and of one, models, the OS, a shell, and application files."""
    wheels = [wheel("numpy"), wheel("onnxruntime"), wheel("a"), wheel("b")]
    debs = [deb(name) for name in ("libc6", "python3.11-minimal", "bash", "libgomp1", "libfoo")]
    model, case = model_file("m"), wheel("case")
    source = wheel("source")
    lockfile = lock(
        [*wheels, *debs, model, case, source],
        target("cpu", [*wheels, *debs, model]),
        packages=["a"],
        requires={"packages": ["a"], "system": ["libgomp1"]},
        targets={"cpu": {"requires": {"packages": ["b"], "system": ["libfoo (>= 1)"]}}},
        models={"m": {"source": "file:m.onnx"}},
        image={"shell": True, "files": {"src": "/app", "src/conf": "/app/conf"}},
    )
    (locked_model,) = lockfile.models
    lockfile = replace(
        lockfile,
        models=(replace(locked_model, cases=(CaseLock(name="tests/m", inputs=(), expected=(case.sha256,)),)),),
        files=(FileLock(path="app/conf/x", sha256=source.sha256, executable=False),),
    )
    made = graph(lockfile)
    assert [edge for edge in edges(made) if "." in edge.partition(" > ")[0]] == [
        "requires.packages > a: a",
        "targets.cpu.requires.packages > b: b",
        "models.m > m: file:m.onnx",
        "requires.system > libgomp1: libgomp1",
        "targets.cpu.requires.system > libfoo: libfoo (>= 1)",
        "targets.cpu.os > libc6: debian:12",
        "targets.cpu.os > python3.11-minimal: debian:12",
        "image.shell > bash: true",
        "image.files > /app/conf/x: src/conf -> /app/conf",
    ]
    reasons = {edge.answer.name: edge.because for edge in made.edges}
    assert (reasons["libc6"], reasons["python3.11-minimal"]) == ("every image has it", "the interpreter")
    assert [edge for edge in edges(made) if edge.startswith("m > ")] == [
        "m > numpy: numpy",
        "m > onnxruntime: onnxruntime",
        "m > tests/m: models.m.tests",
    ]


def test_libraries_are_edges_of_the_wheels_that_need_them() -> None:
    """All libraries of one package are one edge, which knows the files; unread wheels stand in for the rest."""
    sonames = (("libc.so.6", "libc6"), ("libm.so.6", "libc6"), ("libz.so.1", "zlib1g"))
    artifacts = [wheel("a"), wheel("b"), deb("libc6"), deb("zlib1g")]
    lockfile = lock(artifacts, target("cpu", artifacts, sonames=sonames), packages=["a", "b"])
    uses = {"a": {"libm.so.6": ("a/x.so",), "libc.so.6": ("a/x.so", "a/y.so"), "libown.so": ("a/x.so",)}}
    made = graph(lockfile, uses=uses, unread=["b"])
    (needing,) = (edge for edge in made.edges if edge.libraries and edge.asker.name == "a")
    assert needing.requirement == "libc.so.6, libm.so.6"
    assert needing.because == "needed by a/x.so and 1 more"
    assert needing.libraries == (("libc.so.6", ("a/x.so", "a/y.so")), ("libm.so.6", ("a/x.so",)))
    unread = [edge for edge in made.edges if edge.asker.kind is NodeKind.UNREAD]
    assert [(edge.answer.name, edge.requirement) for edge in unread] == [("zlib1g", "libz.so.1")]
    assert not any(
        e.asker.kind is NodeKind.UNREAD for e in graph(lockfile, uses={**uses, "b": {"libz.so.1": ()}}).edges
    )


def test_tools_of_the_build_machine_are_apart() -> None:
    """The same names as in the image, as other nodes, below the target's platform."""
    arm = [deb("libc6", architecture="arm64"), deb("python3.11-minimal", "1", "Depends: libc6", architecture="arm64")]
    own = [deb("libc6"), deb("python3.11-minimal", "1", "Depends: libc6")]
    made = graph(lock([*arm, *own], target("arm", arm, tools=own, platform="linux/arm64")), "arm")
    tools = [edge for edge in made.edges if edge.answer.kind is NodeKind.TOOL]
    assert [(edge.asker.name, edge.answer.name) for edge in tools] == [
        ("targets.arm.platform", "python3.11-minimal"),
        ("python3.11-minimal", "libc6"),
    ]
    assert {made.artifacts[edge.answer].architecture for edge in tools} == {"amd64"}


def test_sizes_count_each_file_once() -> None:
    """A diamond and a cycle."""
    made = graph(
        locked(
            wheel("a", "1", "b", "c", size=1), wheel("b", "1", "d", size=10), wheel("c", "1", "d", size=100),
            wheel("d", "1", "a", size=1000), packages=["a"],
        )
    )  # fmt: skip
    assert {node.name: made.size_below(node) for node in made.artifacts} == dict.fromkeys("abcd", 1111)
    assert made.size_below(made.beginnings[0]) == 1111
