"""Where `nnenv test record` may put its cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnenv.adapters.http import Http
from nnenv.adapters.progress import SilentProgress
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.workflows.recording import case_folder
from nnenv.workflows.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session in an empty project."""
    project = tmp_path / "project"
    project.mkdir()
    return Session(
        project=project,
        store=Store(tmp_path / "store"),
        http=Http(offline=True, environ={}),
        progress=SilentProgress(),
        environment={},
        home=tmp_path,
    )


@pytest.mark.parametrize("text", ["/tmp/elsewhere", "../elsewhere", ".", "tests/../..", "tests/a\\b", "tests/a\nb"])
def test_cases_stay_in_the_project(text: str, session: Session) -> None:
    """A folder that model.toml could not name is refused before anything is written."""
    with pytest.raises(NnenvError) as caught:
        case_folder(session, text)
    assert caught.value.code == "path-escapes"


def test_a_link_out_of_the_project_is_followed_and_refused(session: Session) -> None:
    """The folder that counts is the one that the link leads to."""
    (session.project / "tests").symlink_to(session.project.parent)
    with pytest.raises(NnenvError) as caught:
        case_folder(session, "tests/m")
    assert caught.value.code == "path-escapes"


def test_cases_go_to_an_empty_folder(session: Session) -> None:
    """A file, or a folder with other cases, is refused; a new or an empty folder is taken, by its plain name."""
    (session.project / "file").write_bytes(b"")
    (session.project / "full" / "case").mkdir(parents=True)
    for text in ("file", "full"):
        with pytest.raises(NnenvError) as caught:
            case_folder(session, text)
        assert caught.value.code == "case-invalid"
    (session.project / "empty").mkdir()
    assert [case_folder(session, text) for text in ("empty", "./new//m/")] == ["empty", "new/m"]
