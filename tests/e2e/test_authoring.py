"""`nnenv init`, `add` and `remove`: what they write, what they refuse, and that a half-done change never stays."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nnenv.spec.lock_toml import read_lock
from nnenv.spec.manifest_toml import parse_manifest
from tests.e2e.conftest import offer_tiny_wheels
from tests.e2e.world import User, World, plain_project, tanh_model, toy_weights, write_case
from tests.verify.models import image, random_convnet

STYLED = """\
# The whole of it
[project]
name = "plain"
version = "1.0.0"

[requires]
packages = [
  "a",  # for the model
  # what comes next is for people
  "c>=1",
]
system = ["libgomp1"]  # by wheels

# Where it runs
[targets.cpu]
[targets.edge]
platform = "linux/arm64"
"""


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody with a styled manifest, in a world with the packages a, b, c and numpy."""
    for name in ("a", "b", "c"):
        world.offer(name, "1.0")
    world.offer("b", "2.0")
    offer_tiny_wheels(world)
    return world.user(plain_project(tmp_path / "project", STYLED), tmp_path / "store")


def manifest_of(user: User) -> str:
    """model.toml as it is on the disk."""
    return (user.project / "model.toml").read_bytes().decode()


# add and remove


def test_add_changes_both_files_and_nothing_else(user: User) -> None:
    """The new requirement stands in its place, comments stay, and the lock holds what it brings."""
    user.must("lock")
    done = user.must("add", "b>=2")
    assert manifest_of(user) == STYLED.replace("  # what", '  "b>=2",\n  # what')
    assert {a.name: a.version for a in user.lock().artifacts}["b"] == "2.0"
    assert "wrote model.toml and model.lock" in done.out
    user.must("lock", "--check", "--offline")


def test_remove_takes_back_what_add_did(user: User) -> None:
    """Byte for byte, in both files."""
    user.must("lock")
    locked = user.lock_path.read_bytes()
    user.must("add", "b")
    user.must("remove", "B")
    assert manifest_of(user) == STYLED
    assert user.lock_path.read_bytes() == locked


def test_targets_and_system_packages_have_their_own_lists(user: User) -> None:
    """--target edits one target's additions, --system the Debian packages."""
    user.must("add", "--target", "edge", "b<2")
    user.must("add", "--system", "zlib1g", "libgomp1 (>= 12)")
    user.must("add", "--system", "-t", "cpu", "tzdata")
    manifest = parse_manifest(manifest_of(user).encode())
    assert manifest.requires.system == ("libgomp1 (>= 12)", "zlib1g")
    assert {t.name: (t.requires.packages, t.requires.system) for t in manifest.targets} == {
        "cpu": ((), ("tzdata",)),
        "edge": (("b<2",), ()),
    }
    user.must("remove", "-t", "edge", "b")
    assert "b" not in {a.name for a in user.lock().artifacts}


def test_what_cannot_be_locked_changes_nothing(user: User) -> None:
    """An unsatisfiable addition leaves both files as they were, and says why."""
    user.must("lock")
    locked = user.lock_path.read_bytes()
    done = user.refused("add", "b>=3")
    assert "b>=3" in done.err
    assert manifest_of(user) == STYLED
    assert user.lock_path.read_bytes() == locked
    user.refused("add", "nowhere-to-be-found")
    assert manifest_of(user) == STYLED


def test_a_lock_that_cannot_be_written_takes_the_manifest_back(user: User) -> None:
    """Where the second of the two writes fails, the first is undone."""
    user.must("lock")
    script = (
        "import nnenv.workflows.editing as editing\n"
        "from nnenv.errors import NnenvError\n"
        "swap = editing.compare_and_swap\n"
        "def failing(path, data, old, **options):\n"
        "    if path.name == 'model.lock':\n"
        "        raise NnenvError('disk-full', 'cannot write')\n"
        "    swap(path, data, old, **options)\n"
        "editing.compare_and_swap = failing\n"
        "from nnenv.cli.main import main\n"
        f"raise SystemExit(main(['add', 'b', '--store', {str(user.store)!r}]))\n"
    )
    command = [user.python, "-c", script]
    done = subprocess.run(command, cwd=user.project, env=user.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot write" in done.stderr) == (1, True), done.stderr
    assert manifest_of(user) == STYLED
    user.must("lock", "--check")


def test_no_lock_edits_the_manifest_alone(user: User) -> None:
    """Without network, without a store, and the old lock is stale afterwards."""
    user.must("lock")
    locked = user.lock_path.read_bytes()
    for line in (("add", "--no-lock", "b"), ("add", "--frozen", "b>1")):
        user.must(*line, "--offline")
    user.with_environment(NNENV_FROZEN="1").must("add", "numpy")
    assert '"b>1",' in manifest_of(user)
    assert '"numpy",' in manifest_of(user)
    assert user.lock_path.read_bytes() == locked
    assert user.refused("lock", "--check", "--json").json()["errors"][0]["code"] == "lock-stale"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_permissions_links_and_line_ends_are_kept(user: User, ends: str) -> None:
    """model.toml may be a link inside of the project, with permissions of its own and CRLF."""
    real = user.project / "real.toml"
    real.write_bytes(STYLED.replace("\n", ends).encode())
    real.chmod(0o640)
    (user.project / "model.toml").unlink()
    (user.project / "model.toml").symlink_to("real.toml")
    user.must("add", "--no-lock", "b")
    assert (user.project / "model.toml").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_bytes() == STYLED.replace("  # what", '  "b",\n  # what').replace("\n", ends).encode()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (("add", "a b"), 2, "'a b' is not a requirement"),
        (("add", "a @ https://h.example/a.whl"), 2, "a lock holds no addresses"),
        (("add", "--system", "libgomp1:amd64"), 2, "is not a Debian package"),
        (("add", "-t", "gpu", "a"), 1, "model.toml defines no target gpu"),
        (("add", "--exclude-newer", "yesterday", "a"), 2, "is not a moment"),
        (("add",), 2, "required: REQUIREMENT"),
        (("remove", "a>=1"), 2, "write the name alone"),
        (("remove", "libgomp1"), 2, "requires.system has it: nnenv remove libgomp1 --system"),
        (("remove", "b"), 2, "requires.packages has no b"),
        (("remove", "-t", "gpu", "a"), 1, "model.toml defines no target gpu"),
    ],
)
def test_what_is_refused(user: User, line: tuple[str, ...], code: int, words: str) -> None:
    """With the rule and the way out, and nothing is written."""
    done = user.run(*line)
    assert done.code == code, done.all
    assert words in done.err
    assert manifest_of(user) == STYLED


@pytest.mark.parametrize("damage", [b"\xef\xbb\xbf" + STYLED.encode(), b"[requires\n", STYLED.encode() + b"[extra]\n"])
def test_a_wrong_manifest_is_not_edited(user: User, damage: bytes) -> None:
    """A byte order mark, broken TOML and unknown keys are refused as `nnenv lock` refuses them."""
    (user.project / "model.toml").write_bytes(damage)
    done = user.refused("add", "b", "--json")
    assert done.json()["errors"][0]["code"] == "manifest-invalid"
    assert (user.project / "model.toml").read_bytes() == damage


def test_without_a_manifest_there_is_nothing_to_edit(user: User) -> None:
    """And the way out is named."""
    (user.project / "model.toml").unlink()
    assert "nnenv init" in user.refused("add", "b").err


def test_an_edit_meanwhile_wins(user: User, world: World) -> None:
    """Whoever saves model.toml while the lock is made keeps what they wrote; nnenv says so and writes neither file."""
    user.must("lock")
    locked = user.lock_path.read_bytes()
    theirs = STYLED.replace("# The whole of it", "# Mine now")
    process = subprocess.Popen(
        user.command("add", "b"), cwd=user.project, env=user.environment, stderr=subprocess.PIPE, text=True
    )
    # The page of b is asked for after model.toml was read, and before anything is written.
    while not world.requests["/simple/b/"] and process.poll() is None:
        time.sleep(0.001)
    with world.mutex:  # the server answers no further
        (user.project / "model.toml").write_text(theirs)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "changed on disk while nnenv was working" in err
    assert manifest_of(user) == theirs
    assert user.lock_path.read_bytes() == locked


def test_a_killed_add_leaves_whole_files(user: User) -> None:
    """At whatever moment it dies: model.toml is the old or the new one, and so is the lock, which is never ahead."""
    user.must("lock")
    before = (STYLED, user.lock_path.read_bytes())
    began = time.monotonic()
    user.must("add", "b")
    whole = time.monotonic() - began
    after = (manifest_of(user), user.lock_path.read_bytes())
    allowed = [before, after, (after[0], before[1])]
    for step in range(8):
        (user.project / "model.toml").write_text(before[0])
        user.lock_path.write_bytes(before[1])
        process = subprocess.Popen(
            user.command("add", "b"), cwd=user.project, env=user.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(whole * (0.4 + step * 0.08))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (manifest_of(user), user.lock_path.read_bytes()) in allowed
        read_lock(user.lock_path.read_bytes())
    user.must("add", "b")
    assert (manifest_of(user), user.lock_path.read_bytes()) == after


# init


@pytest.fixture
def newcomer(world: World, tmp_path: Path) -> User:
    """Somebody with a folder and nothing in it."""
    offer_tiny_wheels(world)
    (tmp_path / "digits").mkdir()
    return world.user(tmp_path / "digits", tmp_path / "store")


def test_init_names_the_models_that_are_there(newcomer: User) -> None:
    """With their tests beside them; the lock can be made at once."""
    (newcomer.project / "net.onnx").write_bytes(tanh_model(toy_weights()))
    write_case(newcomer.project / "tests/net/test_data_set_0", {"x": image()}, {"y": image()})
    zoo = newcomer.project / "zoo"
    zoo.mkdir()
    (zoo / "model.onnx").write_bytes(random_convnet().SerializeToString())
    write_case(zoo / "test_data_set_0", {"image": image()}, {"logits": image()})
    document = newcomer.must("init", "--json").json()
    assert [(m["name"], m["source"], m["tests"]) for m in document["models"]] == [
        ("net", "file:net.onnx", ["tests/net"])
    ]
    (newcomer.project / "model.toml").unlink()
    document = newcomer.must("init", "--json", "--model", "zoo/model.onnx", "--name", "other").json()
    (model,) = document["models"]
    assert (model["name"], model["tests"], model["opsets"]) == ("zoo", ["zoo"], {"ai.onnx": 17})
    assert model["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, 8, 8]}]
    manifest = parse_manifest((newcomer.project / "model.toml").read_bytes())
    assert manifest.project.name == "other"
    assert manifest.requires.packages == ("numpy", "onnxruntime>=1.15")
    assert document["next"] == ["nnenv lock", "nnenv build", "nnenv verify"]


def test_init_makes_a_folder_that_can_be_locked(newcomer: User, world: World) -> None:
    """Without a model too: every printed step runs."""
    document = newcomer.must("init", "demo", "--target", "cpu", "--target", "cpu-arm64", "--json").json()
    assert document["next"] == ["cd demo", "nnenv lock"]
    inside = User(project=newcomer.project / "demo", store=newcomer.store, environment=newcomer.environment)
    names = [target.name for target in parse_manifest((inside.project / "model.toml").read_bytes()).targets]
    assert names == ["cpu", "cpu-arm64"]
    offer = {"tag": "py3-none-any"}
    world.offer("onnxruntime", "1.21.0", **offer)
    inside.must("lock")


def test_init_overwrites_nothing(newcomer: User) -> None:
    """Not even a link that leads nowhere; --schema renews the schema alone, and says how to use it."""
    (newcomer.project / "model.toml").write_text("mine")
    assert newcomer.refused("init", "--json").json()["errors"][0]["code"] == "manifest-exists"
    done = newcomer.must("init", "--schema")
    assert "#:schema ./model.schema.json" in done.out
    assert (newcomer.project / "model.toml").read_text() == "mine"
    (newcomer.project / "model.toml").unlink()
    (newcomer.project / "model.toml").symlink_to("nowhere")
    newcomer.refused("init")
    assert (newcomer.project / "model.toml").is_symlink()


def test_init_puts_the_schema_of_this_nnenv_beside_it(newcomer: User) -> None:
    """The file is that of the repository, and the manifest's first line names it."""
    newcomer.must("init", "--schema")
    shipped = Path(__file__).parents[2] / "schemas/model.schema.json"
    assert (newcomer.project / "model.schema.json").read_bytes() == shipped.read_bytes()
    assert (newcomer.project / "model.toml").read_text().startswith("#:schema ./model.schema.json\n")
    (newcomer.project / "model.schema.json").write_text("old")
    newcomer.must("init", "--schema")
    assert (newcomer.project / "model.schema.json").read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (("init", "--model", "none.onnx"), 1, "cannot read none.onnx"),
        (("init", "--model", "../x.onnx"), 1, "is not in the project's folder"),
        (("init", "new", "--model", "net.onnx"), 1, "move or copy the file into new"),
        (("init", "--model", "bad.onnx"), 1, "is not an ONNX model"),
        (("init", "--model", "link.onnx"), 1, "link.onnx"),
        (("init", "--target", "gpu"), 2, "invalid choice: 'gpu'"),
        (("init", "--name", "Not A Name"), 2, "is not a name"),
        (("init", "net.onnx"), 1, "net.onnx"),
    ],
)
def test_what_init_refuses(newcomer: User, line: tuple[str, ...], code: int, words: str) -> None:
    """With the way out, and nothing is written."""
    (newcomer.project / "net.onnx").write_bytes(tanh_model(toy_weights()))
    (newcomer.project / "bad.onnx").write_bytes(b"\xff" * 40)
    (newcomer.project / "link.onnx").symlink_to("/etc/hostname")
    there = sorted(newcomer.project.iterdir())
    done = newcomer.run(*line)
    assert done.code == code, done.all
    assert words in done.err
    assert sorted(newcomer.project.iterdir()) == there


@pytest.mark.network
@pytest.mark.slow
def test_the_steps_after_init_lead_to_a_verified_image(toy: User, tmp_path: Path) -> None:
    """For a model without tests: init, and then every line that it prints, as it stands."""
    (tmp_path / "convnet").mkdir()
    user = User(project=tmp_path / "convnet", store=toy.store, environment=toy.environment)
    (user.project / "model.onnx").write_bytes(random_convnet().SerializeToString())
    steps = user.must("init", "--json").json()["next"]
    assert steps == [
        "nnenv lock",
        "nnenv test record convnet --cross-check",
        "nnenv lock",
        "nnenv build",
        "nnenv verify",
    ]
    sandbox = {"NNENV_RUNNER": "sandbox", "NNENV_OUTPUT": f"dir:{tmp_path}/layout"}
    for step in steps:
        done = user.must(*shlex.split(step)[1:], **sandbox)
    assert "verified" in done.out


# Help


def examples(user: User, command: str) -> list[list[str]]:
    """The lines of a help's example, as arguments of nnenv."""
    text = user.must(command, "--help").out.partition("example:")[2]
    return [shlex.split(line, comments=True)[1:] for line in re.findall(r"(?m)^  (nnenv .*)$", text)]


def test_every_example_of_init_runs(newcomer: User) -> None:
    """Each in a folder of its own, with a model in it."""
    lines = examples(newcomer, "init")
    assert len(lines) == 4
    for number, line in enumerate(lines):
        folder = newcomer.project / str(number)
        folder.mkdir()
        (folder / "net.onnx").write_bytes(tanh_model(toy_weights()))
        User(project=folder, store=newcomer.store, environment=newcomer.environment).must(*line)
        assert list(folder.rglob("model.toml"))


def test_every_example_of_add_and_remove_runs(user: User, world: World) -> None:
    """Those of add, and then those of remove on what is there by then."""
    for name in ("pillow", "pandas"):
        world.offer(name, "1.0")
    world.offer("scipy", "1.11")
    lines = [*examples(user, "add"), *examples(user, "remove")]
    assert len(lines) == 8
    for line in lines:
        user.must(*line)
    user.must("lock")
