"""Where Debian comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnenv.adapters.apt_sources import ArchiveSources, archive_sources
from nnenv.errors import NnenvError

MAIN = "http://mirror.test/debian"
SECURITY = "http://mirror.test/debian-security"


def apt(tmp_path: Path, **files: str) -> Path:
    """An /etc/apt with `sources.list` (key `list`) and files of sources.list.d (`name__suffix`)."""
    (tmp_path / "sources.list.d").mkdir()
    for key, text in files.items():
        path = tmp_path / "sources.list" if key == "list" else tmp_path / "sources.list.d" / key.replace("__", ".")
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_one_line_format(tmp_path: Path) -> None:
    """Options, comments, source entries and other components are understood; -security goes to its own list."""
    folder = apt(
        tmp_path,
        list=f"# deb http://old.test/debian bookworm main\n"
        f"deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] {MAIN}/ bookworm main contrib # mine\n"
        f"deb-src http://source.test/debian bookworm main\n"
        f"deb {MAIN} bookworm-updates main\n"
        f"deb {SECURITY} bookworm-security main\n"
        f"deb http://vendor.test/apt bookworm stable\n"
        f"deb http://other.test/apt cloud-sdk-bookworm main\n",
    )
    assert archive_sources({}, folder) == ArchiveSources(main=(MAIN,), security=(SECURITY,))


def test_deb822_format(tmp_path: Path) -> None:
    """Several URIs and suites, comments, and `Enabled: no` are understood."""
    folder = apt(
        tmp_path,
        debian__sources=f"Types: deb deb-src\n# a comment\nURIs: {MAIN} http://second.test/debian\n"
        f"Suites: trixie trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/x.gpg\n\n"
        f"Types: deb\nURIs: {SECURITY}\nSuites: trixie-security\nComponents: main\n\n"
        f"Enabled: no\nTypes: deb\nURIs: http://off.test/debian\nSuites: trixie\nComponents: main\n",
        vendor__sources="Types: deb\nURIs: http://vendor.test\nSuites: nodistro\nComponents: main\n",
        backup__save="deb http://ignored.test/debian bookworm main\n",
    )
    expected = ArchiveSources(main=(MAIN, "http://second.test/debian"), security=(SECURITY,))
    assert archive_sources({}, folder) == expected


def test_order_is_apt_s(tmp_path: Path) -> None:
    """sources.list comes first, then the other files by name."""
    folder = apt(
        tmp_path,
        list="deb http://one.test/debian stable main\n",
        b__list="deb http://three.test/debian bookworm main\n",
        a__list="deb http://two.test/debian bookworm main\n",
    )
    main = ("http://one.test/debian", "http://two.test/debian", "http://three.test/debian")
    assert archive_sources({}, folder).main == main


def test_mirror_list(tmp_path: Path) -> None:
    """`mirror+file:` is replaced by the archives that its file lists, as in Debian's cloud images."""
    mirrors = tmp_path / "mirrors.list"
    mirrors.write_text(f"{MAIN}/\tpriority:1\n# none\n", encoding="utf-8")
    folder = apt(tmp_path, list=f"deb mirror+file://{mirrors} bookworm main\n")
    assert archive_sources({}, folder).main == (MAIN,)


def test_security_stands_beside_main(tmp_path: Path) -> None:
    """Where no security archive is named, it is derived from the main one."""
    assert archive_sources({"NNENV_DEBIAN_MIRROR": MAIN}, tmp_path) == ArchiveSources(
        main=(MAIN,), security=(SECURITY,)
    )


def test_variables_come_before_apt(tmp_path: Path) -> None:
    """NNENV_DEBIAN_MIRROR replaces apt's configuration altogether, and may name several archives."""
    folder = apt(tmp_path, list="deb http://one.test/debian bookworm main\n")
    environment = {
        "NNENV_DEBIAN_MIRROR": f"{MAIN} file:///srv/debian/",
        "NNENV_DEBIAN_SECURITY_MIRROR": "http://security.test/x",
    }
    expected = ArchiveSources(main=(MAIN, "file:///srv/debian"), security=("http://security.test/x",))
    assert archive_sources(environment, folder) == expected


def test_nothing_configured(tmp_path: Path) -> None:
    """Without an archive nnenv says which variable to set; it never guesses a host."""
    folder = apt(tmp_path, list="deb http://ubuntu.test/ubuntu jammy main\n")
    with pytest.raises(NnenvError) as caught:
        archive_sources({}, folder)
    assert caught.value.code == "source-unconfigured"
    assert "NNENV_DEBIAN_MIRROR" in caught.value.fix[0]


def test_variable_without_url(tmp_path: Path) -> None:
    """A variable that holds no URL is a mistake, not an empty setting."""
    with pytest.raises(NnenvError) as caught:
        archive_sources({"NNENV_DEBIAN_MIRROR": "mirror.test/debian"}, tmp_path)
    assert caught.value.code == "source-unconfigured"
    assert caught.value.where == "NNENV_DEBIAN_MIRROR"


@pytest.mark.parametrize("content", [b"Types: deb\nnonsense\n", b"\xff\xfe"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    """A file of apt that cannot be read is named with a way round it."""
    folder = apt(tmp_path)
    (folder / "sources.list.d" / "x.sources").write_bytes(content)
    with pytest.raises(NnenvError) as caught:
        archive_sources({}, folder)
    assert caught.value.code == "source-unconfigured"
    assert (caught.value.where or "").endswith("x.sources")
