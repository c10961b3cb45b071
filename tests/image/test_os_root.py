"""The OS root out of packages: merged /usr, what is left out, modes, and who owns a path."""

from __future__ import annotations

import posixpath

import pytest

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.image.os_root import (
    UnpackedDeb,
    merged_path,
    os_entries,
    unpacked_deb,
    unpacked_from_json,
    unpacked_to_json,
)
from nnenv.image.tree import Entry, compose
from nnenv.spec.artifact import Sha256
from tests.image.debs import DIRECTORY, Archive


def entries_of(*debs: UnpackedDeb) -> dict[str, Entry]:
    """The root of `debs` by path."""
    return {entry.path: entry for entry in os_entries(debs)}


def test_names_move_into_usr() -> None:
    """Files of /bin, /sbin and /lib* are at their merged paths, and the top-level names themselves are not there."""
    deb = Archive().package(
        "old",
        {
            "bin": DIRECTORY,
            "bin/tool": b"1",
            "sbin/ldconfig": b"2",
            "lib": DIRECTORY,
            "lib/x/libc.so.6": b"3",
            "lib64/ld.so": b"4",
            "library/x": b"5",
            "usr/lib/y": b"6",
        },
    )
    assert sorted(entries_of(deb)) == [
        "library/x",
        "usr/bin/tool",
        "usr/lib/x/libc.so.6",
        "usr/lib/y",
        "usr/lib64/ld.so",
        "usr/sbin/ldconfig",
    ]


def test_top_level_links_of_base_files_are_not_taken() -> None:
    """Trixie's base-files ships the links that the state layer makes; they must not appear twice."""
    deb = Archive().package("base-files", {"bin": "usr/bin", "lib": "usr/lib", "etc/debian_version": b"13\n"})
    assert list(entries_of(deb)) == ["etc/debian_version"]


@pytest.mark.parametrize(
    ("path", "target", "wanted"),
    [
        ("lib/a/libz.so.1", "libz.so.1.2", "libz.so.1.2"),
        ("lib/a/libz.so", "../../usr/lib/b/libz.so", "../b/libz.so"),
        ("usr/lib/a/libz.so", "../../../lib/a/libz.so.1", "libz.so.1"),
        ("usr/bin/x", "/bin/y", "/usr/bin/y"),
        ("etc/x", "/usr/bin/y", "/usr/bin/y"),
        ("etc/x", "../usr/bin/y", "../usr/bin/y"),
        ("bin/sh", "dash", "dash"),
        ("sbin/x", "../bin/y", "../bin/y"),
    ],
)
def test_symlinks_name_the_same_file_after_the_move(path: str, target: str, wanted: str) -> None:
    """A link's text changes only where moving it, or what it names, into /usr would break it."""
    entry = entries_of(Archive().package("p", {path: target}))[merged_path(path)]
    assert entry.target == wanted
    before = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
    after = posixpath.normpath(posixpath.join("/", posixpath.dirname(entry.path), entry.target)).lstrip("/")
    assert after == merged_path(before)


def test_hard_links_move_with_their_target() -> None:
    """Both ends of a hard link are at merged paths, so that composing the layer finds the target."""
    archive = Archive()
    deb = archive.package("p", {"bin/a": b"program"}, hardlinks={"usr/bin/b": "bin/a"})
    composed = {entry.path: entry for entry in compose(os_entries([deb]))}
    assert (composed["usr/bin/b"].kind, composed["usr/bin/b"].target) == ("hardlink", "usr/bin/a")


def test_a_hard_link_to_documentation_becomes_a_file() -> None:
    """A kept link whose target is left out holds the bytes itself."""
    archive = Archive()
    deb = archive.package(
        "p", {"usr/share/doc/p/example": b"text"}, hardlinks={"usr/share/p/example": "usr/share/doc/p/example"}
    )
    entry = entries_of(deb)["usr/share/p/example"]
    assert entry.kind == "file"
    assert entry.content is not None
    assert archive.read(entry.content) == b"text"


def test_documentation_stays_out_and_copyright_stays_in() -> None:
    """Manuals, translations and the like are dropped; licences have to be shipped with the programs."""
    names = ("bug", "doc/p", "info", "lintian", "locale/de", "man/man1")
    files: dict[str, bytes | str | None] = {f"usr/share/{name}/file": b"x" for name in names}
    files |= {"usr/share/doc/p/copyright": b"GPL", "usr/share/doc/q": "p", "usr/share/zoneinfo/UTC": b"tz"}
    assert sorted(entries_of(Archive().package("p", files))) == [
        "usr/share/doc/p/copyright",
        "usr/share/doc/q",
        "usr/share/zoneinfo/UTC",
    ]


def test_no_special_permission_enters() -> None:
    """Setuid, setgid and sticky bits are gone, and modes are 0755 or 0644 by the executable bit."""
    modes = {"usr/bin/su": 0o4755, "usr/bin/wall": 0o2711, "etc/secret": 0o600, "var/local": 0o2775, "var/lock": 0o1777}
    files = {"usr/bin/su": b"", "usr/bin/wall": b"", "etc/secret": b"", "var/local": DIRECTORY, "var/lock": DIRECTORY}
    entries = entries_of(Archive().package("p", files, modes=modes))
    assert {path: oct(entry.mode) for path, entry in entries.items()} == {
        "usr/bin/su": "0o755",
        "usr/bin/wall": "0o755",
        "etc/secret": "0o644",
        "var/local": "0o755",
        "var/lock": "0o755",
    }
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}


def test_directories_with_their_own_mode_are_left_to_the_state_layer() -> None:
    """/tmp, /var/tmp and /root would otherwise have two modes in one image."""
    deb = Archive().package("base-files", {"tmp": DIRECTORY, "var/tmp": DIRECTORY, "root": DIRECTORY, "srv": DIRECTORY})
    assert list(entries_of(deb)) == ["srv"]


def test_contents_point_into_the_data_archive() -> None:
    """A file's slice holds exactly its bytes."""
    archive = Archive()
    entries = entries_of(archive.package("p", {"etc/one": b"first", "etc/two": b"second" * 200}))
    contents = {path: archive.read(entry.content) for path, entry in entries.items() if entry.content is not None}
    assert contents == {"etc/one": b"first", "etc/two": b"second" * 200}


def test_two_owners_are_an_error_that_names_both() -> None:
    """A path of two packages is refused for every such path, with both names."""
    archive = Archive()
    one = archive.package("one", {"etc/a": b"1", "lib/b": b"1", "etc": DIRECTORY})
    two = archive.package("two", {"etc/a": b"2", "usr/lib/b": b"1", "etc": DIRECTORY})
    with pytest.raises(SeveralErrors) as caught:
        os_entries([one, two])
    assert [error.where for error in caught.value.errors] == ["/etc/a", "/usr/lib/b"]
    assert caught.value.code == "layer-collision"
    assert caught.value.because == ("one 1.0-1: a file", "two 1.0-1: a file")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_replacing_package_wins(order: tuple[int, int]) -> None:
    """`Replaces` decides, whatever the order of packages."""
    archive = Archive()
    debs = [
        archive.package("zz-old", {"etc/a": b"old"}, version="1.0"),
        archive.package("new", {"etc/a": b"new"}, fields="Replaces: other, zz-old (<< 2)\n"),
    ]
    entry = entries_of(*(debs[i] for i in order))["etc/a"]
    assert entry.content is not None
    assert archive.read(entry.content) == b"new"


def test_replaces_holds_for_its_versions_only() -> None:
    """A version outside the relation is not replaced."""
    archive = Archive()
    old = archive.package("old", {"etc/a": b"old"}, version="2.0")
    new = archive.package("new", {"etc/a": b"new"}, fields="Replaces: old (<< 2)\n")
    with pytest.raises(NnenvError, match="two Debian packages own"):
        os_entries([old, new])


def test_the_order_of_packages_does_not_matter() -> None:
    """The same packages give the same entries."""
    archive = Archive()
    debs = [archive.package(name, {f"etc/{name}": b"x", "etc": DIRECTORY}) for name in ("a", "b", "c")]
    assert os_entries(debs) == os_entries(debs[::-1])


def test_json_round_trip() -> None:
    """A recorded package comes back equal, even with a compiled script whose bytes are no text."""
    deb = Archive().package(
        "p", {"etc/ä": b"x", "bin/y": "../z"}, scripts={"postinst": "\x7fELF\udcff\udc80", "triggers": "interest x\n"}
    )
    assert unpacked_from_json(unpacked_to_json(deb)) == deb


@pytest.mark.parametrize("raw", [b"{}", b"[]", b'{"format":2}', b"\xff", b'{"format":1,"entries":[[1]]}'])
def test_other_json_is_refused(raw: bytes) -> None:
    """A damaged cache entry is an error of one kind, so that it can be made again."""
    with pytest.raises(ValueError, match=r"."):
        unpacked_from_json(raw)


def test_control_without_mandatory_fields_is_refused() -> None:
    """A control file has to name its package, version and architecture."""
    with pytest.raises(NnenvError) as caught:
        unpacked_deb("Package: p\nVersion: 1\n", {}, Sha256("0" * 64), ())
    assert caught.value.code == "archive-refused"
    assert "no Architecture" in caught.value.what
