"""Whole outputs of `nnenv why`, `nnenv tree` and `nnenv diff`, on real locks of the world on paper.

`NNENV_UPDATE_SNAPSHOTS=1 pytest tests/e2e/test_asking_snapshots.py` writes them anew.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nnenv.spec.lock_toml import read_lock, write_lock
from nnenv.spec.lockfile import ImageLock, LayerLock, Lockfile
from tests.adapters.test_git import IDENTITY, run
from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped
from tests.e2e.world import TOY, User, World, toy_project
from tests.resolve.locks import digest

MANIFEST = (
    TOY.replace("[targets.cpu]", "")
    + """
[requires]
packages = ["a[fast]>=1", "numpy<3"]
system = ["libgomp1 (>= 12)"]

[targets.cpu]

[targets.extra.requires]
packages = ["z"]
"""
)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, paper_world: World) -> User:
    """A project of two targets, with extras, markers, a cycle, and a wheel with a library; in git, committed twice."""
    folder = tmp_path_factory.mktemp("asking")
    with World(folder / "world") as made:
        for area in ("debian", "debian-security"):
            (made.folder / area).symlink_to(paper_world.folder / area)
        made.keyring.write_bytes(paper_world.keyring.read_bytes())
        offer_wheels(made)
        user = made.user(toy_project(folder / "project", MANIFEST), folder / "store")
        user.must("lock")
    commit(user, "init", "--quiet", "--initial-branch=main")
    commit(user, "commit", "--quiet", "--allow-empty", "--message", "empty")
    committed(user)
    return user


@pytest.fixture
def user(locked: User, world: World, tmp_path: Path) -> User:
    """Somebody with a copy of the project, in a world that offers the same wheels."""
    offer_wheels(world)
    shutil.copytree(locked.project, tmp_path / "project")
    return world.user(tmp_path / "project", locked.store)


def offer_wheels(world: World) -> None:
    """What the project is locked from."""
    offer_tiny_wheels(world)
    world.offer("a", "1.0", requires=["b>=1", "c; python_version >= '3.12'", "numpy; extra == 'fast'"])
    world.offer("b", "1.0", requires=["A>=1; sys_platform == 'linux'", "numpy"])
    world.offer("c", "1.0")
    world.offer("z", "1.0", requires=["b"])


def commit(user: User, *arguments: str) -> str:
    """A git command in the project."""
    return run(user.project, {**user.environment, **IDENTITY, "HOME": os.environ["HOME"]}, *arguments)


def committed(user: User) -> None:
    """What is there becomes a revision."""
    commit(user, "add", "-A")
    commit(user, "commit", "--quiet", "--message", "x")


def settled(text: str) -> str:
    """Without digests and sizes: a compiler and a compressor of this machine had a hand in the wheels."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "<digest>", text)
    text = re.sub(r"\bsha256:[0-9a-f]{12}\b", "sha256:<digest>", text)
    text = re.sub(r"\(([0-9a-f]{12})\)", "(<commit>)", text)
    text = re.sub(r'("\w*bytes\w*"): -?\d+', r"\1: <number>", text)
    text = re.sub(r"(?<=\s)[+-]?\d+(?:\.\d)? (?:B|kB|MB)(?=\W|ESC|$)", "<size>", text)
    text = re.sub(r"\([+-]\d+(?:\.\d)? (?:B|kB|MB)\)", "(<size>)", text)
    text = re.sub(r" {2,}<size>", "  <size>", re.sub(r"<size> {2,}", "<size>  ", text))
    return re.sub(r" +size +with needs", "  size  with needs", text)


def with_image(lockfile: Lockfile, *layers: tuple[str, str, int]) -> bytes:
    """The lock, expecting an image of (title, content, size) for its first target."""
    locked = tuple(LayerLock(title=t, diff_id=digest(c), digest=digest(c), size=size) for t, c, size in layers)
    image = ImageLock(recipe=1, manifest=digest(str(layers)), config=digest("config"), layers=locked)
    return write_lock(lockfile.with_image(lockfile.targets[0].name, image))


# why


def test_why(user: User, tmp_path: Path) -> None:
    """Wheels with extras, a cycle of Debian, libraries with and without the wheels, models, cases, and no answer."""
    empty = User(project=user.project, store=tmp_path / "empty", environment=user.environment)
    outputs = [
        piped(user, "why", "numpy"),
        piped(user, "why", "b", "--target", "extra"),
        piped(user, "why", "libgcc-s1", "--target", "cpu", "--paths", "3"),
        piped(user, "why", "libc.so.6", "-t", "cpu", "--paths", "1"),
        piped(empty, "why", "libc.so.6", "-t", "cpu", "--offline"),
        piped(user, "why", "toy"),
        piped(user, "why", "tests/toy/test_data_set_1/output_0.pb"),
        piped(user, "why", "c"),
        piped(user, "why", "z", "-t", "cpu"),
        piped(user, "why", "numpi", "--json"),
        piped(user, "why", "numpy", "--quiet"),
    ]
    compare("why", settled("\n".join(outputs)))


def test_why_on_a_terminal(user: User) -> None:
    """In colours, where there are some."""
    outputs = [
        on_a_terminal(user, "why", "libgomp1"),
        piped(user, "why", "libc.so.6", "-t", "cpu", "--paths", "1", "--color", "always").replace("\x1b", "ESC"),
    ]
    compare("why-terminal", settled("\n".join(outputs)))


def test_why_json(user: User) -> None:
    """One object with steps."""
    compare("why-json", settled(piped(user, "why", "libc.so.6", "-t", "cpu", "--paths", "1", "--json")))


# tree


def test_tree(user: User, tmp_path: Path) -> None:
    """Whole, shallow, with sizes, inverted, and without the wheels."""
    empty = User(project=user.project, store=tmp_path / "empty", environment=user.environment)
    outputs = [
        piped(user, "tree"),
        piped(user, "tree", "-t", "cpu", "--depth", "1", "--sizes"),
        piped(user, "tree", "--invert", "numpy"),
        piped(user, "tree", "--invert", "libc.so.6", "-t", "cpu", "--depth", "2"),
        piped(empty, "tree", "-t", "cpu", "--depth", "1", "--offline"),
        piped(user, "tree", "--invert", "nothing"),
    ]
    compare("tree", settled("\n".join(outputs)))


def test_tree_on_a_terminal(user: User) -> None:
    """In colours."""
    compare("tree-terminal", settled(on_a_terminal(user, "tree", "-t", "cpu", "--depth", "1", "--sizes")))


def test_tree_json(user: User) -> None:
    """Nested objects."""
    compare("tree-json", settled(piped(user, "tree", "-t", "cpu", "--depth", "1", "--json")))


def test_sizes_add_up(user: User) -> None:
    """The figures that snapshots cannot show: own sizes are the files', and sums hold each file once."""
    sizes = {artifact.name: artifact.size for artifact in user.lock().artifacts}
    trees = user.must("tree", "-t", "cpu", "--json").json()["targets"][0]["trees"]
    packages = next(tree for tree in trees if tree["name"] == "requires.packages")
    first = next(branch for branch in packages["branches"] if branch["name"] == "a[fast]")
    assert first["bytes"] == sizes["a"]
    assert first["bytes_with_needs"] == sizes["a"] + sizes["b"] + sizes["numpy"]
    system = next(tree for tree in trees if tree["name"] == "requires.system")
    assert system["bytes_with_needs"] == 3000  # libgomp1, libc6 and libgcc-s1, of 1000 bytes each


# diff


def changed(user: User, world: World) -> None:
    """A newer numpy, another wheel for one target, none for the other, a new target, a shell user, a changed model."""
    world.offer("numpy", "2.1.0", files={"numpy/__init__.py": b"# a longer one\n" * 3})
    manifest = MANIFEST.replace('packages = ["z"]', 'packages = ["c"]') + "\n[targets.new]\n[image]\nuser = '1000'\n"
    (user.project / "model.toml").write_text(manifest.replace('version = "1"', 'version = "2"'))
    (user.project / "tests/toy/test_data_set_1/output_0.pb").unlink()
    (user.project / "tests/toy/test_data_set_1/input_0.pb").unlink()
    (user.project / "tests/toy/test_data_set_1").rmdir()
    user.must("lock", "-P", "numpy")


def test_diff(user: User, world: World) -> None:
    """Nothing, then everything at once: as text, in colours, as Markdown, the other way round, and quiet."""
    outputs = [piped(user, "diff"), piped(user, "diff", "--markdown"), piped(user, "diff", "--exit-code")]
    changed(user, world)
    outputs += [
        piped(user, "diff"),
        piped(user, "diff", "--color", "always", "--exit-code").replace("\x1b", "ESC"),
        piped(user, "diff", "--markdown"),
    ]
    committed(user)
    outputs += [piped(user, "diff", "HEAD..HEAD~1"), piped(user, "diff", "HEAD~1", "--quiet", "--exit-code")]
    compare("diff", settled("\n".join(outputs)))


def test_diff_on_a_terminal(user: User, world: World) -> None:
    """In colours."""
    changed(user, world)
    compare("diff-terminal", settled(on_a_terminal(user, "diff")))


def test_diff_of_built_images(user: User) -> None:
    """With both images in the locks the figures are exact, and Docker's differ from the others'."""
    lockfile = user.lock()
    layers = [("os debian:12", "o", 50_000_000), ("numpy 2.0.0", "n", 17_000_000), ("model toy 1", "m", 9_000_000)]
    user.lock_path.write_bytes(with_image(lockfile, *layers))
    committed(user)
    layers[1] = ("numpy 2.0.0", "other", 18_000_000)
    user.lock_path.write_bytes(with_image(lockfile, *layers))
    outputs = [piped(user, "diff"), piped(user, "diff", "--json")]
    text = re.sub(r"\b[0-9a-f]{64}\b", "<digest>", "\n".join(outputs))
    text = re.sub(r"sha256:[0-9a-f]{12}", "sha256:<digest>", re.sub(r"\([0-9a-f]{12}\)", "(<commit>)", text))
    text = re.sub(r"[\d.]+ kB", "<size>", text)
    # The target that is not built is estimated from wheels that this machine made.
    text = re.sub(r'("bytes"): \d{1,6}\b', r"\1: <number>", text)
    compare("diff-built", re.sub(r'("(?:old|new)_bytes"): \d+', r"\1: <number>", text))


def test_diff_of_what_is_not_listed(user: User) -> None:
    """Another origin of the same file is a difference, and said to be one."""
    committed_lock = user.lock()
    moved = tuple(replace(a, origin="python:own") if a.name == "z" else a for a in committed_lock.artifacts)
    user.lock_path.write_bytes(write_lock(replace(committed_lock, artifacts=moved)))
    finished = user.run("diff", "--exit-code")
    assert finished.code == 1
    assert "only details changed" in finished.out
    assert "only details changed" in user.must("diff", "--markdown").out


def test_diff_refusals(user: User, tmp_path: Path) -> None:
    """Unknown revisions, no lock there, no repository, too many sides, a lock that is none."""
    alone = user.elsewhere(tmp_path / "alone")
    shutil.rmtree(alone.project / ".git")
    outputs = [
        piped(user, "diff", "nothing"),
        piped(user, "diff", "HEAD~1"),
        piped(user, "diff", "--", "-x"),
        piped(user, "diff", "a", "b", "c"),
        piped(user, "diff", "model.toml"),
        piped(alone, "diff"),
        piped(alone, "diff", "--json"),
    ]
    compare("diff-errors", settled("\n".join(outputs)))


def test_text_of_others_is_no_command_to_the_terminal(user: User) -> None:
    """A lock from a pull request may hold escapes; they are written out."""
    evil = "\x1b]0;owned\x07"
    lockfile = user.lock()
    manifest = {**lockfile.manifest, "project": {"name": "toy", "version": "1", "description": evil}}
    artifacts = tuple(replace(a, version=f"1{evil}") if a.name == "z" else a for a in lockfile.artifacts)
    user.lock_path.write_bytes(write_lock(replace(lockfile, manifest=manifest, artifacts=artifacts)))
    read_lock(user.lock_path.read_bytes())
    for line in (["diff"], ["diff", "--markdown"], ["why", "z"], ["tree"]):
        assert "\x1b" not in user.must(*line).out


# Examples


@pytest.mark.parametrize("command", ["why", "tree", "diff"])
def test_every_example_of_the_help_works(user: User, world: World, command: str) -> None:
    """Each line of the examples is run, in a project in which its names mean something."""
    changed(user, world)
    (user.project / "old.lock").write_bytes(user.lock_path.read_bytes())
    committed(user)
    committed_again = user.project / "note"
    committed_again.write_text("x")
    committed(user)
    examples = user.must(command, "--help").out.partition("example:")[2]
    lines = re.findall(r"(?m)^  nnenv (.*?)(?: +#.*)?$", examples)
    assert len(lines) >= 3
    for line in lines:
        assert user.must(*shlex.split(line)).out
