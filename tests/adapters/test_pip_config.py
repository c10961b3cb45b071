"""Where wheels come from, according to nnenv's variables, pip's variables and pip's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnenv.adapters.pip_config import IndexConfiguration, index_configuration
from nnenv.errors import NnenvError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration files all lie below `tmp_path`."""
    return {"XDG_CONFIG_DIRS": str(tmp_path / "global"), "VIRTUAL_ENV": str(tmp_path / "venv")}


def write(path: Path, text: str) -> Path:
    """A configuration file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(environment: dict[str, str], home: Path) -> IndexConfiguration:
    """The configuration as nnenv sees it; /etc/pip.conf of this machine may add extras, but no test relies on it."""
    return index_configuration(environment, home=home)


def test_files_by_precedence(tmp_path: Path, environment: dict[str, str]) -> None:
    """Global, then the user's old and new file, then the virtual environment's: the last one wins."""
    places = [
        tmp_path / "global" / "pip" / "pip.conf",
        tmp_path / ".pip" / "pip.conf",
        tmp_path / ".config" / "pip" / "pip.conf",
        tmp_path / "venv" / "pip.conf",
    ]
    for number, place in enumerate(places):
        write(place, f"[global]\nindex-url = https://index-{number}.example/simple/\n")
        assert read(environment, tmp_path).indexes[0] == f"https://index-{number}.example/simple"


def test_a_file_named_by_variable_stands_instead_of_the_users(tmp_path: Path, environment: dict[str, str]) -> None:
    """PIP_CONFIG_FILE wins, and the user's own file is not read beside it; /dev/null switches every file off."""
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://user.example\nno-index = true\n")
    chosen = write(tmp_path / "chosen.conf", "[global]\nindex-url = https://chosen.example\n")
    assert read({**environment, "PIP_CONFIG_FILE": str(chosen)}, tmp_path).indexes == ("https://chosen.example",)
    nothing = {**environment, "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "https://variable.example"}
    assert read(nothing, tmp_path).indexes == ("https://variable.example",)


def test_variables_win_and_ours_win_over_pips(tmp_path: Path, environment: dict[str, str]) -> None:
    """File < PIP_INDEX_URL < NNENV_INDEX_URL."""
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://file.example\n")
    environment["PIP_INDEX_URL"] = "https://pip.example/simple/"
    assert read(environment, tmp_path).indexes == ("https://pip.example/simple",)
    environment["NNENV_INDEX_URL"] = "https://ours.example"
    assert read(environment, tmp_path).indexes == ("https://ours.example",)


def test_sections_and_spellings(tmp_path: Path, environment: dict[str, str]) -> None:
    """[install] wins over [global] of whichever file; underscores are hyphens; lists go over lines; no name twice."""
    write(tmp_path / "global" / "pip" / "pip.conf", "[install]\nindex_url = https://install.example\n")
    write(
        tmp_path / ".config" / "pip" / "pip.conf",
        "[global]\nindex-url = https://global.example\nextra-index-url =\n  https://one.example/\n"
        "  https://install.example/\nfind-links = /srv/a /srv/b\n[list]\nindex-url = https://never.example\n",
    )
    assert read(environment, tmp_path) == IndexConfiguration(
        indexes=("https://install.example", "https://one.example"), find_links=("/srv/a", "/srv/b")
    )


@pytest.mark.parametrize("yes", ["1", "true", "YES", "on"])
def test_no_index(yes: str, tmp_path: Path, environment: dict[str, str]) -> None:
    """Only the links are left."""
    environment |= {"PIP_NO_INDEX": yes, "PIP_INDEX_URL": "https://x.example", "PIP_FIND_LINKS": "/srv/wheels"}
    assert read(environment, tmp_path) == IndexConfiguration(indexes=(), find_links=("/srv/wheels",))


def test_a_broken_file_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    """With the line and two ways out."""
    broken = write(tmp_path / ".config" / "pip" / "pip.conf", "index-url = https://x.example\n")
    with pytest.raises(NnenvError) as caught:
        read(environment, tmp_path)
    assert caught.value.code == "source-unconfigured"
    assert caught.value.where == str(broken)
    assert caught.value.because
    assert caught.value.fix


def test_without_any_setting_pip_is_asked(tmp_path: Path, environment: dict[str, str]) -> None:
    """The default is that of the pip on this machine: nnenv itself knows no host."""
    environment["PIP_CONFIG_FILE"] = "/dev/null"
    (index,) = read(environment, tmp_path).indexes
    assert index.startswith("https://")
