"""The state that scripts would have made: links, accounts, certificates, alternatives, status, environment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nnenv.errors import NnenvError
from nnenv.image.maintainer_scripts import Effect
from nnenv.image.os_root import UnpackedDeb, os_entries
from nnenv.image.os_state import User, certificate_bundle, package_status, script_effects, state_entries
from nnenv.image.tree import Entry, collisions, compose
from tests.image.debs import DIRECTORY, Archive

AWK = """#!/bin/sh
set -e
update-alternatives --install /usr/bin/awk awk {target} {priority} \\
    --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/{name}.1.gz \\
    --slave /usr/bin/nawk nawk {target}
"""


def state_of(
    archive: Archive, debs: Sequence[UnpackedDeb], effects: Sequence[Effect] | None = None, user: User | None = None
) -> dict[str, Entry]:
    """The composed state of `debs` by path."""
    found = script_effects(debs) if effects is None else effects
    entries = state_entries(debs, os_entries(debs), found, os="debian:12", user=user or User(), read=archive.read)
    return {entry.path: entry for entry in compose(entries)}


def libc(archive: Archive, architecture: str = "amd64") -> UnpackedDeb:
    """A C library package with its dynamic linker where the architecture has it."""
    linker = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}[architecture]
    return archive.package("libc6", {linker: b"linker"}, architecture=architecture)


def awk(archive: Archive, name: str, priority: int) -> UnpackedDeb:
    """A package that offers itself as awk."""
    script = AWK.format(target=f"/usr/bin/{name}", priority=priority, name=name)
    return archive.package(name, {f"usr/bin/{name}": b"program"}, scripts={"postinst": script})


def text(entry: Entry) -> str:
    """The content of a generated file."""
    assert isinstance(entry.content, bytes)
    return entry.content.decode()


def test_merged_usr_links_follow_the_architecture() -> None:
    """/lib64 is there where the dynamic linker is in it, and only there."""
    archive = Archive()
    for architecture, wanted in (("amd64", ["bin", "lib", "lib64", "sbin"]), ("arm64", ["bin", "lib", "sbin"])):
        state = state_of(archive, [libc(archive, architecture)])
        links = {path: entry.target for path, entry in state.items() if entry.kind == "symlink" and "/" not in path}
        assert links == {name: f"usr/{name}" for name in wanted}
        assert {"usr/bin", "usr/lib", "usr/sbin"} <= state.keys()


def test_directories_have_their_modes() -> None:
    """Anyone may write to /tmp and /var/tmp, root's home is private, the rest is plain."""
    archive = Archive()
    state = state_of(archive, [libc(archive)])
    modes = {path: oct(state[path].mode) for path in ("tmp", "var/tmp", "root", "proc", "sys", "dev", "run", "home")}
    assert modes == {"tmp": "0o1777", "var/tmp": "0o1777", "root": "0o700"} | dict.fromkeys(
        ("proc", "sys", "dev", "run", "home"), "0o755"
    )


def test_accounts_are_root_nobody_and_the_user() -> None:
    """No other account, no password, no shell without a shell, and a home that belongs to the user."""
    archive = Archive()
    state = state_of(archive, [libc(archive)], user=User(name="app", uid=1234, gid=5678))
    assert text(state["etc/passwd"]) == (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        "app:x:1234:5678:app:/home/app:/usr/sbin/nologin\n"
    )
    assert text(state["etc/group"]) == "root:x:0:\nnogroup:x:65534:\napp:x:5678:\n"
    assert (state["home/app"].uid, state["home/app"].gid) == (1234, 5678)
    assert "etc/shadow" not in state


def test_a_root_user_adds_no_account() -> None:
    """The accounts that are there anyway are not listed twice."""
    archive = Archive()
    state = state_of(archive, [libc(archive)], user=User(name="root", uid=0, gid=0))
    assert text(state["etc/passwd"]).count("root") == 3
    assert "home/root" not in state


def test_certificates_are_joined_as_update_ca_certificates_does() -> None:
    """Sorted by path, each ending its last line, and found under OpenSSL's default name."""
    archive = Archive()
    certificates = archive.package(
        "ca-test",
        {
            "usr/share/ca-certificates/mozilla/b.crt": b"B without newline",
            "usr/share/ca-certificates/mozilla/a.crt": b"A\n",
            "usr/share/ca-certificates/mozilla/a.pem": b"not a certificate list\n",
        },
        architecture="all",
    )
    rule = Effect(kind="rule", package="ca-test", path="ca-certificates")
    state = state_of(archive, [libc(archive), certificates], [rule])
    assert text(state["etc/ssl/certs/ca-certificates.crt"]) == "A\nB without newline\n"
    assert state["usr/lib/ssl/cert.pem"].target == "/etc/ssl/certs/ca-certificates.crt"
    assert "etc/ssl/certs/ca-certificates.crt" not in state_of(archive, [libc(archive), certificates], [])


def test_an_empty_certificate_adds_nothing() -> None:
    """sed's `$a\\` adds no line to an empty file."""
    assert certificate_bundle([b"", b"x"]) == b"x\n"


def test_the_alternative_of_highest_priority_wins() -> None:
    """Links go through /etc/alternatives, followers follow the winner, manual pages are left out."""
    archive = Archive()
    debs = [libc(archive), awk(archive, "mawk", 5), awk(archive, "gawk-like", 10), awk(archive, "original-awk", 1)]
    state = state_of(archive, debs)
    links = {path: entry.target for path, entry in state.items() if "awk" in path}
    assert links == {
        "etc/alternatives/awk": "/usr/bin/gawk-like",
        "etc/alternatives/nawk": "/usr/bin/gawk-like",
        "usr/bin/awk": "/etc/alternatives/awk",
        "usr/bin/nawk": "/etc/alternatives/nawk",
    }
    assert state == state_of(archive, debs[::-1])


def test_an_alternative_without_its_program_is_no_candidate() -> None:
    """A candidate that is not in the image cannot win."""
    archive = Archive()
    script = AWK.format(target="/usr/bin/missing", priority=99, name="missing")
    debs = [libc(archive), awk(archive, "mawk", 5), archive.package("broken", {}, scripts={"postinst": script})]
    assert state_of(archive, debs)["etc/alternatives/awk"].target == "/usr/bin/mawk"


def test_effects_of_the_table_become_entries() -> None:
    """Directories, texts, links and copies of shipped files appear; a copy of nothing does not."""
    archive = Archive()
    debs = [libc(archive), archive.package("p", {"usr/share/p/default": b"settings"})]
    effects = [
        Effect(kind="directory", package="p", path="srv"),
        Effect(kind="file", package="p", path="etc/timezone", target="Etc/UTC\n"),
        Effect(kind="symlink", package="p", path="etc/localtime", target="/usr/share/zoneinfo/Etc/UTC"),
        Effect(kind="copy", package="p", path="etc/p", target="usr/share/p/default"),
        Effect(kind="copy", package="p", path="etc/q", target="usr/share/q/default"),
    ]
    state = state_of(archive, debs, effects)
    assert state["srv"].kind == "dir"
    assert text(state["etc/timezone"]) == "Etc/UTC\n"
    assert state["etc/localtime"].target == "/usr/share/zoneinfo/Etc/UTC"
    content = state["etc/p"].content
    assert content is not None
    assert archive.read(content) == b"settings"
    assert "etc/q" not in state


def test_what_a_package_ships_is_never_made_again() -> None:
    """A shipped file wins over every rule, and both layers together have no path with two meanings."""
    archive = Archive()
    shipped = {"etc/ld.so.conf": b"own\n", "etc/nsswitch.conf": b"own\n", "etc": DIRECTORY, "root": DIRECTORY}
    debs = [libc(archive), archive.package("p", shipped)]
    state = state_of(archive, debs)
    assert not {"etc/ld.so.conf", "etc/nsswitch.conf"} & state.keys()
    assert collisions({"os": compose(os_entries(debs)), "state": tuple(state.values())}) == ()


def test_files_that_a_script_would_have_compiled_are_refused() -> None:
    """A package that makes a cache out of other packages' files is fine only while there are none."""
    archive = Archive()
    rule = Effect(kind="absent", package="glib", path="usr/share/schemas/")
    empty = archive.package("glib", {"usr/share/schemas": DIRECTORY})
    filled = archive.package("desktop", {"usr/share/schemas/a.xml": b"<a/>"})
    assert state_of(archive, [libc(archive), empty], [rule])
    with pytest.raises(NnenvError) as caught:
        state_of(archive, [libc(archive), empty, filled], [rule])
    assert caught.value.code == "maintainer-script"
    assert caught.value.because == ("/usr/share/schemas/a.xml is shipped by desktop 1.0-1",)


def test_every_refused_package_is_reported_at_once() -> None:
    """One run names all packages whose scripts nobody has read."""
    archive = Archive()
    scripts = {"postinst": "#!/bin/sh\nadduser --system x\n"}
    debs = [archive.package(name, {}, scripts=scripts) for name in ("b", "a")]
    with pytest.raises(NnenvError) as caught:
        script_effects(debs)
    errors = getattr(caught.value, "errors", ())
    assert [error.where for error in errors] == ["a 1.0-1", "b 1.0-1"]


def test_status_lists_every_package_as_installed() -> None:
    """Scanners read name, version and status; the control file's own lines stay as they are."""
    archive = Archive()
    debs = [archive.package("b", {}, fields="Depends: a,\n c\n"), archive.package("a", {}, version="2:1-1")]
    assert package_status(debs).decode() == (
        "Package: a\nStatus: install ok installed\nVersion: 2:1-1\nArchitecture: amd64\nDescription: a\n"
        "\n"
        "Package: b\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\n"
        "Depends: a,\n c\nDescription: b\n"
    )


def test_the_environment_is_one_of_the_packaged_interpreter() -> None:
    """pyvenv.cfg names the interpreter's home and version, and bin/ leads to it under three names."""
    archive = Archive()
    python = archive.package("python3.11-minimal", {"usr/bin/python3.11": b""}, version="3.11.2-6+deb12u9")
    state = state_of(archive, [libc(archive), python], [])
    assert text(state["opt/nnenv/pyvenv.cfg"]) == (
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"
    )
    links = {path: entry.target for path, entry in state.items() if path.startswith("opt/nnenv/bin/")}
    assert links == {
        "opt/nnenv/bin/python": "python3.11",
        "opt/nnenv/bin/python3": "python3.11",
        "opt/nnenv/bin/python3.11": "/usr/bin/python3.11",
    }
    assert state["opt/nnenv/lib/python3.11/site-packages"].kind == "dir"
    assert not any(path.startswith("opt/nnenv") for path in state_of(archive, [libc(archive)]))


def test_the_linker_searches_the_multiarch_directory() -> None:
    """Without libc-bin the linker's configuration is ours, for the right machine."""
    archive = Archive()
    state = state_of(archive, [libc(archive, "arm64")])
    assert text(state["etc/ld.so.conf"]) == "include /etc/ld.so.conf.d/*.conf\n"
    assert "/usr/lib/aarch64-linux-gnu\n" in text(state["etc/ld.so.conf.d/aarch64-linux-gnu.conf"])


def test_the_release_names_the_distribution() -> None:
    """Scanners learn which advisories apply."""
    archive = Archive()
    state = state_of(archive, [libc(archive)])
    assert 'VERSION_ID="12"\nID=debian\n' in text(state["usr/lib/os-release"])
    assert state["etc/os-release"].target == "../usr/lib/os-release"


def test_packages_of_two_architectures_are_refused() -> None:
    """An image has one architecture."""
    archive = Archive()
    with pytest.raises(NnenvError, match="amd64 and arm64") as caught:
        state_of(archive, [libc(archive), archive.package("q", {}, architecture="arm64")])
    assert caught.value.code == "archive-refused"
