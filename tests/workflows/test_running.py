"""What `nnenv run` and `nnenv shell` run: from the image's config and what the user wrote, without running it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from nnenv.adapters.live import Volume
from nnenv.errors import NnenvError
from nnenv.formats.oci import Execution, image_config
from nnenv.image.archive import ImageDocuments
from nnenv.workflows.running import REPL, RunOptions, live_run, shell_of, user, variables, volume


def documents(**execution: object) -> ImageDocuments:
    """An image without layers whose config says that."""
    settings = {"user": "65532:7", "environment": {"A": "image", "B": "image"}, **execution}
    config = image_config(
        architecture="amd64", created="2026-01-01T00:00:00Z", layers=[], execution=Execution(**settings)
    )
    return ImageDocuments(config=config, manifest=b"", layers=(), architecture="amd64", reference="x:1")


def test_the_image_says_what_runs() -> None:
    """Without options: entrypoint and command, user, folder and variables of the config; no network, no limits."""
    run = live_run(documents(entrypoint=("a",), command=("b", "c"), working_directory="/app"), RunOptions())
    assert (tuple(run.argv), run.uid, run.gid, run.workdir) == (("a", "b", "c"), 65532, 7, "/app")
    assert run.environment == {"A": "image", "B": "image"}
    assert (run.network, run.volumes, run.memory_bytes, run.seconds, run.terminal) == (False, (), None, None, False)


def test_what_the_user_wrote_wins() -> None:
    """A command replaces entrypoint and command; variables are added to the image's."""
    options = RunOptions(command=("x", "-v"), environment={"B": "user"}, workdir="/w", user=(5, 6), network=True)
    run = live_run(documents(entrypoint=("a",)), options)
    assert (tuple(run.argv), run.uid, run.gid, run.workdir, run.network) == (("x", "-v"), 5, 6, "/w", True)
    assert run.environment == {"A": "image", "B": "user"}


@pytest.mark.parametrize(
    ("debs", "argv"),
    [
        ({"bash", "dash", "coreutils"}, ("bash",)),
        ({"dash"}, ("dash",)),
        ({"libc6", "bash-completion"}, REPL),
        (set[str](), REPL),
    ],
)
def test_the_best_shell_of_an_image(debs: set[str], argv: tuple[str, ...]) -> None:
    """bash before dash; an image without either offers its Python."""
    assert shell_of(debs) == argv


def test_volumes(tmp_path: Path) -> None:
    """SRC is relative to the present folder, links in it are followed; `:ro` and `:rw` are understood."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    found = Volume(source=tmp_path / "data", destination=PurePosixPath("/d"))
    assert volume("data:/d", tmp_path) == found
    assert volume("link:/d:rw", tmp_path) == found
    assert volume(f"{tmp_path}/data:/d:ro", Path("/")) == Volume(
        source=tmp_path / "data", destination=PurePosixPath("/d"), read_only=True
    )


@pytest.mark.parametrize("text", ["", "data", ":/d", "data:", "data:d", "data:/d:rx", "data:/a/../b", "data:/d:ro:x"])
def test_other_volumes_are_refused(text: str, tmp_path: Path) -> None:
    """With the form that is wanted, and exit code 2."""
    (tmp_path / "data").mkdir()
    with pytest.raises(NnenvError) as refused:
        volume(text, tmp_path)
    assert (refused.value.code, refused.value.exit_code) == ("usage", 2)


def test_a_volume_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """An engine would make an empty folder of root in its place."""
    with pytest.raises(NnenvError) as refused:
        volume("absent:/d", tmp_path)
    assert refused.value.code == "file-unreadable"
    assert not (tmp_path / "absent").exists()


def test_variables() -> None:
    """KEY=VALUE, an empty value, and KEY alone, which is left out where this machine has none."""
    assert variables(["A=b=c", "E=", "HERE", "GONE"], {"HERE": "x"}) == {"A": "b=c", "E": "", "HERE": "x"}


@pytest.mark.parametrize("text", ["", "=x", "1A=x", "A B=x", "-A"])
def test_other_variables_are_refused(text: str) -> None:
    """A name is letters, digits and underscores."""
    with pytest.raises(NnenvError, match="not understood"):
        variables([text], {})


@pytest.mark.parametrize(("text", "numbers"), [("", None), ("5", (5, 5)), ("5:6", (5, 6))])
def test_users(text: str, numbers: tuple[int, int] | None) -> None:
    """UID, or UID:GID; nothing means the image's."""
    assert user(text) == numbers


@pytest.mark.parametrize("text", ["0", "0:5", "5:0", "root", "-1", "5:", "1:2:3"])
def test_other_users_are_refused(text: str) -> None:
    """Root first of all."""
    with pytest.raises(NnenvError, match="not understood"):
        user(text)
