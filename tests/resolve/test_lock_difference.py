"""What changed from one lock to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnenv.resolve.lock_difference import Change, LockDifference, Move, lock_difference
from nnenv.spec.artifact import Artifact
from nnenv.spec.lockfile import CaseLock, FileLock, Lockfile, ReleaseLock
from tests.resolve.locks import deb, digest, image, lock, model_file, target, wheel


def packages(difference: LockDifference) -> list[tuple[str, str, Move, int]]:
    """Role, name, move and growth of the first target's packages."""
    return [(p.role, p.name, p.move, p.growth) for p in difference.targets[0].packages]


def test_the_same() -> None:
    """Nothing is said of equal locks."""
    one = lock([wheel("a"), deb("libc6"), model_file("m")])
    difference = lock_difference(one, one)
    assert difference.same
    assert (difference.manifest, difference.releases, difference.models, difference.files) == ((), (), (), ())
    assert [(t.name, t.move, t.packages, t.facts) for t in difference.targets] == [("cpu", None, (), ())]


def test_packages_come_go_and_move() -> None:
    """Wheels before Debian packages, by name, with the direction and the bytes."""
    old = lock([wheel("a"), wheel("b", "1.9"), wheel("c", "2.0rc1"), wheel("e", build="x"), deb("libc6", "1:1~rc1")])
    new = lock(
        [
            wheel("b", "1.10", size=1500),
            wheel("c", "1.9"),
            wheel("d"),
            wheel("e", build="y"),
            deb("libc6", "1:1", size=90),
        ]
    )
    assert packages(lock_difference(old, new)) == [
        ("wheel", "a", Move.REMOVED, -1000),
        ("wheel", "b", Move.UPGRADED, 500),
        ("wheel", "c", Move.DOWNGRADED, -1000 + 1000),
        ("wheel", "d", Move.ADDED, 1000),
        ("wheel", "e", Move.REPLACED, 0),
        ("deb", "libc6", Move.UPGRADED, -10),
    ]
    assert not lock_difference(old, new).same


@pytest.mark.parametrize(
    ("old", "new", "move"),
    [
        (wheel("a", "1.0"), wheel("a", "1.0.0"), Move.REPLACED),
        (wheel("a", "not a version"), wheel("a", "1"), Move.REPLACED),
        (deb("aa", "1-1"), deb("aa", "1-1~bpo1"), Move.DOWNGRADED),
        (deb("aa", "9"), deb("aa", "1:1"), Move.UPGRADED),
    ],
)
def test_direction_is_the_ecosystems_own(old: Artifact, new: Artifact, move: Move) -> None:
    """PEP 440 for wheels, Debian policy for .debs; equal or without order is neither up nor down."""
    assert [package[2] for package in packages(lock_difference(lock([old]), lock([new])))] == [move]


def test_a_package_of_the_image_and_of_the_build_machine() -> None:
    """They are apart, though they have one name."""
    arm, tool = deb("libc6", architecture="arm64"), deb("libc6")
    old = lock([arm, tool], target("cpu", [arm], tools=[tool], platform="linux/arm64"))
    newer = deb("libc6", "2")
    new = lock([arm, newer], target("cpu", [arm], tools=[newer], platform="linux/arm64"))
    assert packages(lock_difference(old, new)) == [("tool", "libc6", Move.UPGRADED, 0)]


def test_targets_and_their_facts() -> None:
    """Targets that came and went, and what changed of one that stayed."""
    artifacts = [wheel("a"), deb("libc6")]
    old = lock(artifacts, target("cpu", artifacts, sonames=(("libm.so.6", "libc6"),)), target("gone", artifacts))
    built = image(("os debian:13", "x", 1))
    new = lock(artifacts, target("came", artifacts), target("cpu", artifacts, os="debian:13", image=built))
    difference = lock_difference(old, new)
    assert [(t.name, t.move) for t in difference.targets] == [
        ("came", Move.ADDED),
        ("cpu", Move.CHANGED),
        ("gone", Move.REMOVED),
    ]
    assert difference.targets[1].facts == (
        Change(key="image", gone=("not built",), came=(f"sha256:{built.manifest} (recipe 1)",)),
        Change(key="os", gone=("debian:12",), came=("debian:13",)),
        Change(key="sonames", gone=("libm.so.6 (libc6)",), came=()),
    )
    assert (difference.targets[2].old_size, difference.targets[2].new_size) == (1100, 0)


def test_meaning_of_model_toml() -> None:
    """Values by key path, arrays by item; what is empty or false means the same as what is absent."""
    old = lock([], target(), packages=["a", "b"], image={"user": "1", "shell": False, "env": {"A": "x"}, "command": []})
    new = lock([], target(), packages=["b", "c"], image={"user": "2", "env": {"B": "y"}}, policy={"minimum-age": ""})
    assert lock_difference(old, new).manifest == (
        Change(key="image.env.A", gone=("x",), came=()),
        Change(key="image.env.B", gone=(), came=("y",)),
        Change(key="image.user", gone=("1",), came=("2",)),
        Change(key="requires.packages", gone=("a",), came=("c",)),
    )


def with_model(version: str, *cases: CaseLock, opsets: tuple[str, ...] = ("ai.onnx:17",)) -> Lockfile:
    """A lock of one model."""
    made = lock([model_file("m", version, size=int(version) * 10)])
    return replace(made, models=(replace(made.models[0], cases=cases, opsets=opsets),))


def case(name: str, tolerance: float | None = None) -> CaseLock:
    """A case without files."""
    return CaseLock(name=name, inputs=(), expected=(), tolerance=tolerance)


def test_models_and_test_cases() -> None:
    """File, operator sets, and cases that came, went, or are judged otherwise."""
    old = with_model("1", case("a"), case("b"), case("d"))
    new = with_model("2", case("b", 0.5), case("c"), case("d"), opsets=("ai.onnx:18",))
    (change,) = lock_difference(old, new).models
    assert (change.name, change.move, change.growth) == ("m", Move.CHANGED, 10)
    assert change.cases == (("a", Move.REMOVED), ("b", Move.CHANGED), ("c", Move.ADDED))
    assert change.opsets == Change(key="opsets", gone=("ai.onnx:17",), came=("ai.onnx:18",))
    none = lock([], target())
    assert [(m.name, m.move, m.growth) for m in lock_difference(old, none).models] == [("m", Move.REMOVED, -10)]
    assert [(m.name, m.move, m.growth) for m in lock_difference(none, old).models] == [("m", Move.ADDED, 10)]


def test_files_and_releases() -> None:
    """Application files by their path in the image, Release files by suite and architecture."""

    def made(text: str, mode: bool, date: str) -> Lockfile:
        release = ReleaseLock(suite="bookworm", architecture="amd64", date=date, sha256=digest(date))
        files = (
            FileLock(path="app/x", sha256=digest(text), executable=mode),
            FileLock(path=f"app/{text}", sha256=digest("y"), executable=False),
        )
        return replace(lock([wheel(text), wheel("y")], target()), files=files, releases=(release,))

    def fitting(lockfile: Lockfile, text: str) -> Lockfile:
        files = tuple(
            replace(f, sha256=wheel("y").sha256 if f.path != "app/x" else wheel(text).sha256) for f in lockfile.files
        )
        return replace(lockfile, files=files)

    difference = lock_difference(
        fitting(made("p", False, "2026-01-01"), "p"), fitting(made("q", False, "2026-01-02"), "q")
    )
    assert difference.files == (("app/p", Move.REMOVED), ("app/q", Move.ADDED), ("app/x", Move.CHANGED))
    assert difference.releases == (Change(key="bookworm amd64", gone=("2026-01-01",), came=("2026-01-02",)),)


def test_what_is_not_listed_is_a_difference_all_the_same() -> None:
    """`same` is about the whole lock: `--exit-code` and "nothing has changed" must not overlook an origin."""
    one = wheel("a")
    difference = lock_difference(lock([one]), lock([replace(one, origin="python:own")]))
    assert not difference.same
    assert [t.move for t in difference.targets] == [None]
