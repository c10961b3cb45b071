"""What maintainer scripts make: generated forms understood, reviewed texts by digest, everything else refused."""

from __future__ import annotations

import re
import time

import pytest

from nnenv.data import table
from nnenv.errors import NnenvError
from nnenv.image.maintainer_scripts import Effect, effects, normalised, reviewed_row, script_digest
from nnenv.image.script_reader import Alternative, Link, read_script

# Two short scripts as Debian 12 ships them: texts that the table knows.
READLINE_COMMON = """#! /bin/sh -e

install_from_default() {
  if [ ! -f $2 ]; then
    cp -p $1 $2
  fi
}

if [ "$1" = "configure" ] && [ "$2" = "" ]; then
  install_from_default /usr/share/readline/inputrc /etc/inputrc
fi


"""


def script(*lines: str) -> str:
    """A shell script of these lines."""
    return "\n".join(["#!/bin/sh", "set -e", *lines, ""])


def unknown(*lines: str, name: str = "postinst") -> tuple[str, ...]:
    """The lines that the reader does not know."""
    return read_script(name, script(*lines)).unknown


def test_a_reviewed_text_has_the_effects_of_its_row() -> None:
    """The table answers for exactly the text that was reviewed."""
    assert effects("readline-common", "8.2-1.3", {"postinst": READLINE_COMMON}) == (
        Effect(kind="copy", package="readline-common", path="etc/inputrc", target="usr/share/readline/inputrc"),
    )


def test_a_changed_text_is_refused() -> None:
    """One more line in a reviewed script, and it counts as unread; the same text of another package too."""
    with pytest.raises(NnenvError) as caught:
        effects("readline-common", "8.2-1.3", {"postinst": READLINE_COMMON + "wget attacker\n"})
    assert caught.value.code == "maintainer-script"
    assert caught.value.where == "readline-common 8.2-1.3"
    with pytest.raises(NnenvError):
        effects("other", "1", {"postinst": READLINE_COMMON})


def test_a_refusal_names_the_lines() -> None:
    """The person sees which lines nobody has judged, script by script."""
    scripts = {
        "preinst": script("useradd app"),
        "postinst": script("ldconfig", "setcap cap_net_raw+ep /usr/bin/ping"),
        "triggers": "# comment\ninterest-noawait x\nactivate-noawait ldconfig\nactivate y\n",
        "postrm": "never read",
    }
    with pytest.raises(NnenvError) as caught:
        effects("p", "1", scripts)
    assert caught.value.because == (
        "preinst, line 3: useradd app",
        "postinst, line 4: setcap cap_net_raw+ep /usr/bin/ping",
        "triggers: activate y",
    )
    assert "p 1" in caught.value.what
    assert caught.value.fix


def test_a_package_without_scripts_has_no_effects() -> None:
    """Most packages only wake ldconfig."""
    assert effects("libz", "1", {"triggers": "activate-noawait ldconfig\n"}) == ()


def test_normalisation_forgets_version_architecture_and_debhelper() -> None:
    """A rebuild of the same script for another machine or version has the same digest, another script has not."""
    one = (
        '# Automatically added by dh_x/13.1\ncase /usr/lib/x86_64-linux-gnu:amd64 in "2.36-9") x;; 12.36-9) y;; esac\n'
    )
    other = (
        one.replace("x86_64", "aarch64")
        .replace("amd64", "arm64")
        .replace('"2.36-9', '"2.41-1')
        .replace("13.1", "13.24~bpo1")
    )
    assert normalised(one, "2.36-9") == normalised(other, "2.41-1")
    assert script_digest(one, "2.36-9") != script_digest(one + "x", "2.36-9")
    assert "12.36-9" in normalised(one, "2.36-9")


def test_every_row_of_the_table_is_well_formed() -> None:
    """Each row names a package, a script that is read, digests, known effects and a reason; no text has two rows."""
    seen = set()
    for raw in table("maintainer_scripts")["script"]:
        row = reviewed_row(raw)
        assert row.script in ("preinst", "postinst")
        assert row.reason.endswith(".")
        assert row.texts
        for digest in row.texts:
            assert re.fullmatch(r"[0-9a-f]{64}", digest)
            assert (row.package, row.script, digest) not in seen
            seen.add((row.package, row.script, digest))
        for effect in row.effects:
            assert effect.path
            assert not effect.path.startswith("/") or effect.kind == "alternative"
            assert effect.kind not in ("copy", "symlink", "file") or effect.target


def test_the_default_closure_has_been_reviewed() -> None:
    """The packages of every image's interpreter have rows for the scripts that do more than debhelper's."""
    rows = {(raw["package"], raw["script"]) for raw in table("maintainer_scripts")["script"]}
    assert {
        ("libc6", "preinst"),
        ("libc6", "postinst"),
        ("python3.11-minimal", "postinst"),
        ("python3.13-minimal", "postinst"),
        ("ca-certificates", "postinst"),
        ("tzdata", "postinst"),
    } <= rows


def test_alternatives_are_read_with_their_followers() -> None:
    """A continued `update-alternatives --install` gives link, name, target, priority and slaves."""
    reading = read_script(
        "postinst",
        script(
            'if [ "$1" = "configure" ] || [ "$1" = "abort-upgrade" ]; then',
            "  update-alternatives --quiet --install /usr/lib/libblas.so.3 libblas.so.3-x86 \\",
            "    /usr/lib/openblas/libblas.so.3 100 \\",
            "    --slave /usr/bin/nawk nawk /usr/bin/mawk || true",
            "fi",
        ),
    )
    link = Link(path="/usr/lib/libblas.so.3", name="libblas.so.3-x86", target="/usr/lib/openblas/libblas.so.3")
    slave = Link(path="/usr/bin/nawk", name="nawk", target="/usr/bin/mawk")
    assert reading.unknown == ()
    assert reading.alternatives == (Alternative(link=link, priority=100, slaves=(slave,)),)


@pytest.mark.parametrize(
    "line",
    [
        "update-alternatives --install /usr/bin/a a /usr/bin/b $prio",
        "update-alternatives --install /usr/bin/a a /usr/bin/b 10; rm -rf /",
        "update-alternatives --install /usr/bin/a a /usr/bin/b 10 --follower x",
        "update-alternatives --set a /usr/bin/b",
        "echo hello > /etc/motd",
        "echo $(id)",
        "echo `id`",
        'echo "$(id)"',
        "ldconfig; useradd x",
        "ldconfig && useradd x",
        "rm -f /etc/x",
        "ln -s a /usr/b",
        "mkdir -p /var/lib/x",
        "db_get p/question",
        "py3compile -p x | sh",
        "systemctl start $(id)",
        "dpkg-divert --add /usr/bin/x",
        "for x in a b; do",
        "while true; do",
        "f() {",
        ". /usr/share/p/functions",
        "exec /usr/bin/x",
        "cat <<EOF",
    ],
)
def test_lines_with_effects_of_their_own_are_unknown(line: str) -> None:
    """No form lets a command through that makes, removes, expands, redirects or chains something."""
    assert unknown(line) == (f"line 3: {line}",)


@pytest.mark.parametrize(
    "lines",
    [
        (
            'case "$1" in',
            "configure|reconfigure)",
            "ldconfig",
            ";;",
            "*)",
            'echo "unknown \\`$1\'" >&2',
            "exit 1",
            ";;",
            "esac",
        ),
        ('dpkg-maintscript-helper rm_conffile /etc/x 1.0~ p -- "$@"',),
        ("if command -v py3compile >/dev/null 2>&1; then", "py3compile -p p", "fi"),
        ("if which py3compile >/dev/null 2>&1; then", "py3compile -p p /usr/share/p:3.9- || true", "fi"),
        (
            'if [ "$1" = "configure" ] ; then',
            'if [ -x "$(command -v systemd-tmpfiles)" ]; then',
            'systemd-tmpfiles ${DPKG_ROOT:+--root="$DPKG_ROOT"} --create p.conf || true',
            "fi",
            "fi",
        ),
        (
            "if deb-systemd-helper --quiet was-enabled 'p.service'; then",
            "deb-systemd-helper enable 'p.service' >/dev/null || true",
            "fi",
        ),
        (". /usr/share/debconf/confmodule", "db_stop"),
        (
            'if [ -z "${DPKG_ROOT:-}" ] && [ -x "/etc/init.d/x11-common" ]; then',
            "invoke-rc.d --skip-systemd-native x11-common restart || exit 1",
            "fi",
        ),
        ("# rm -rf /", "", ":", "exit 0"),
        ('if [ "$1" = configure ]', "then", "ldconfig || true", "fi"),
    ],
)
def test_generated_forms_are_known(lines: tuple[str, ...]) -> None:
    """What debhelper's snippets look like passes without a row in the table."""
    assert unknown(*lines) == ()


@pytest.mark.parametrize(
    "condition",
    [
        '[ "$1" = "upgrade" ]',
        '[ "$1" = "upgrade" ] && dpkg --compare-versions "$2" lt 2',
        '[ -n "$2" ]',
        '[ "$2" != "" ]',
        'dpkg --compare-versions "$2" lt-nl 2',
        'dpkg --compare-versions "$2" gt 2',
    ],
)
def test_branches_of_an_upgrade_are_dead(condition: str) -> None:
    """Code for an older version's remains does not run on a first installation, and its `else` does."""
    assert unknown(f"if {condition}; then", "rm -rf /var/lib/p", "fi") == ()
    assert unknown(f"if {condition}; then", ":", "else", "useradd p", "fi") == ("line 6: useradd p",)


@pytest.mark.parametrize(
    "condition",
    [
        '[ "$1" = "configure" ]',
        '[ -z "$2" ]',
        'dpkg --compare-versions "$2" lt 2',
        '[ "$1" = upgrade ] || [ -z "$2" ]',
        "[ -x /usr/bin/p ]",
        '[ "$1" = triggered ]',
    ],
)
def test_branches_that_run_or_may_run_are_read(condition: str) -> None:
    """dpkg(1) calls an empty version earlier than any, so `lt` holds; files may exist; triggers may come."""
    assert unknown(f"if {condition}; then", "useradd p", "fi") == ("line 4: useradd p",)


def test_a_condition_that_cannot_be_read_is_unknown() -> None:
    """A test on a variable or command is not guessed."""
    assert unknown('if [ "$TYPE" = x ]; then', "ldconfig", "fi") == ('line 3: if [ "$TYPE" = x ]; then',)
    assert unknown("if grep -q x /etc/x; then", ":", "fi") == ("line 3: if grep -q x /etc/x; then",)
    assert unknown("case $2 in", "old)", ":", ";;", "esac") == ("line 3: case $2 in",)
    assert unknown('case "$1" in', "conf*)", "useradd x", ";;", "esac")[:2] == ("line 4: conf*)", "line 5: useradd x")


def test_arms_after_the_action_are_dead() -> None:
    """`*)` runs only when no arm before names the script's action; an upgrade's arm never."""
    arms = ("upgrade|abort-upgrade)", "rm -rf /old", ";;", "*)", "rm -rf /other", ";;", "esac")
    assert unknown('case "$1" in', "configure)", ":", ";;", *arms) == ()
    assert unknown('case "$1" in', *arms) == ("line 8: rm -rf /other",)
    assert unknown('case "$1" in', "install)", "useradd x", ";;", "esac", name="preinst") == ("line 5: useradd x",)


def test_commands_beside_an_arm_are_read() -> None:
    """An arm's command on the line of its pattern, or of its end, is judged like any other."""
    assert unknown('case "$1" in', "configure) useradd x ;;", "esac") == ("line 4: configure) useradd x ;;",)
    assert unknown('case "$1" in', "configure) :", "useradd x ;;", "esac") == ("line 5: useradd x ;;",)
    assert unknown('case "$1" in', "configure) ldconfig ;;", "upgrade) useradd x ;;", "esac") == ()


def test_an_alternative_that_may_not_be_registered_is_unknown() -> None:
    """A real effect below an undecided condition is not assumed to happen."""
    install = "update-alternatives --install /usr/bin/a a /usr/bin/b 10"
    assert unknown("if [ -e /usr/bin/x ]; then", install, "fi") == (f"line 4: {install}",)
    assert read_script("postinst", script('if [ "$1" = upgrade ]; then', install, "fi")).alternatives == ()


@pytest.mark.parametrize("lines", [("x='", "fi"), ("cat <<EOF", "fi", "EOF"), ('echo "', "fi", '"')])
def test_dead_code_cannot_hide_its_end(lines: tuple[str, ...]) -> None:
    """A `fi` inside a string or here-document does not end the dead branch unseen."""
    assert unknown('if [ "$1" = upgrade ]; then', *lines, "useradd x", "fi") != ()


def test_open_branches_and_other_languages_are_unknown() -> None:
    """A script that does not end, or is no shell script, is not understood."""
    assert unknown('if [ "$1" = upgrade ]; then') == ("end: an if or case stays open",)
    for text in ("#!/usr/bin/perl\n1;\n", "#!/usr/bin/python3\n", "\x7fELF\udcff", ""):
        assert read_script("postinst", text).unknown == ("line 1: not a shell script",)


def test_an_unknown_line_is_refused_in_no_time() -> None:
    """mariadb-server's script calls systemctl on a long line that no form covers: saying so must not take for ever."""
    line = "systemctl " + "is-active --quiet mysql.service " * 40 + "; rm -rf /var/lib/mysql"
    started = time.process_time()
    with pytest.raises(NnenvError):
        effects("hostile", "1", {"postinst": f"#!/bin/sh\nset -e\n{line}\n"})
    assert time.process_time() - started < 5
