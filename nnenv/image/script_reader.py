"""Maintainer scripts, read as far as a first installation runs them.

A strict reader of the small part of `sh` that debhelper generates (debhelper's autoscripts, Debian policy 6.5).
It knows the arguments of a first installation (`preinst install`, `postinst configure ""`), so branches for
upgrades are dead and may hold anything; every line that runs, or may run, has to match a known harmless form.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ACTIONS: Final[Mapping[str, str]] = {"preinst": "install", "postinst": "configure"}
"""First argument of each script on a first installation (Debian policy 6.5); the second is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One name that `update-alternatives` manages: `path` leads to `target` by way of `/etc/alternatives/name`."""

    path: str
    name: str
    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One `update-alternatives --install`: a candidate for `link`, and the links that follow it."""

    link: Link
    priority: int
    slaves: tuple[Link, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptReading:
    """What one script would do on a first installation."""

    alternatives: tuple[Alternative, ...]
    unknown: tuple[str, ...]
    """`line N: text` of every reachable line that no form covers."""


class _Truth(Enum):
    """Whether a test holds, or a line runs, on a first installation."""

    YES = "yes"
    MAYBE = "maybe"
    NO = "no"


@dataclass(slots=True)
class _Branch:
    """An open `if` or `case`: whether its current arm runs, and what is known of the arms before."""

    closes_with: str
    outer: _Truth
    runs: _Truth = _Truth.NO
    taken: _Truth = _Truth.NO
    """Whether an arm before the current one runs."""
    between_arms: bool = False
    """True in a `case` where only an arm's pattern or `esac` may follow."""

    @property
    def alive(self) -> _Truth:
        """Whether what stands outside of any arm could run."""
        return _Truth.NO if self.outer is _Truth.NO else _Truth.MAYBE


_SHEBANG = re.compile(r"#!\s*/bin/(?:ba|da)?sh(?: -e)?\s*\Z")

# Words without expansion, substitution, redirection or separators.
_PLAIN = r"[^;|&`$<>()]*"
_QUIET = r"(?: *(?:>|1>|2>) *(?:/dev/null|&[12]))*"
_MAY_FAIL = r"(?: *\|\| *(?:true|:))?"

_HARMLESS: Final = tuple(
    re.compile(form + r"\Z")
    for form in (
        r"set [-+][eux]+",
        r":|true|exit [01]|exit",
        # Text for the person at the terminal.
        r"""echo(?: -[ne]+)?(?: (?:'[^']*'|"(?:[^"`$\\]|\\.|\$[1-9])*"|[\w.,:!/-]+))*(?: *1?>&2)?""",
        # Moves of files that an older version of the package left: there is none.
        rf"""dpkg-maintscript-helper (?:rm_conffile|mv_conffile|symlink_to_dir|dir_to_symlink) {_PLAIN} -- "\$@\"""",
        rf"update-alternatives(?: --quiet)? --remove(?:-all)? {_PLAIN}{_QUIET}{_MAY_FAIL}",
        # The cache is written with the image's last layer.
        r"(?:/sbin/)?ldconfig" + _MAY_FAIL,
        # Bytecode is made by the locked interpreter into a layer of its own.
        rf"(?:py3compile|pypy3compile|pycompile) {_PLAIN}{_QUIET}{_MAY_FAIL}",
        # Services: no init runs in the image.
        r"_dh_action=(?:start|restart|try-restart)",
        rf"(?:deb-systemd-helper|deb-systemd-invoke|systemctl|systemd-tmpfiles|update-rc\.d|invoke-rc\.d)"
        # One character a turn: a repeat inside the repeat would take exponential time to say no.
        rf" (?:[^;|&`$<>()]|\$_dh_action)*{_QUIET}(?:{_MAY_FAIL}| *\|\| *exit 1)",
        # Questions: none is asked, and a script that uses an answer does so on a line that no form covers.
        rf"\. /usr/share/debconf/confmodule{_MAY_FAIL}|db_(?:stop|purge|version 2\.0){_MAY_FAIL}",
        # Window manager menus.
        r"update-menus" + _MAY_FAIL,
    )
)

_IF = re.compile(r"(el)?if\s+(.+?)\s*;?\s*then\Z")
_CASE = re.compile(r"case\s+(\S+)\s+in\Z")
_ARM = re.compile(r"\(?\s*((?:[\w-]+|\*)(?:\s*\|\s*(?:[\w-]+|\*))*)\s*\)\s*(.*)\Z")

_WORD = r"\"?([\w.-]+)\"?"
_ARGUMENT = re.compile(r"(?:\[|test) \"?\$1\"? (=|!=) [\"']?([\w-]+)[\"']?(?: \])?\Z")
_SECOND = re.compile(r"(?:\[|test) (?:(-[nz]) \"\$2\"|\"\$2\" (=|!=) \"\")(?: \])?\Z")
_COMPARE = re.compile(r"dpkg --compare-versions (?:-- )?\"?\$2\"? ([a-z-]+) \S+\Z")
_UNDECIDED: Final = tuple(
    re.compile(form + r"\Z")
    for form in (
        rf"(?:command -v|which) {_WORD}{_QUIET}",
        rf"\[ -x \"?(?:\$DPKG_ROOT)?(?:\$\(command -v {_WORD}\)|`command -v {_WORD}`)\"? \]",
        r"\[ (?:! )?-[defhLrx] \"?/[\w./+-]+\"? \]",
        r"\[ -[nz] \"\$\{?DPKG_ROOT(?::-)?\}?\" \]",
        rf"deb-systemd-helper {_PLAIN}",
    )
)

# dpkg(1): an empty version is earlier than any, except for the `-nl` relations, where it is later.
_EMPTY_COMPARES: Final = {
    "lt": True, "le": True, "eq": False, "ne": True, "ge": False, "gt": False,
    "lt-nl": False, "le-nl": False, "ge-nl": True, "gt-nl": True,
}  # fmt: skip


def read_script(name: str, text: str) -> ScriptReading:
    """What the script `name` (`preinst` or `postinst`) does on a first installation."""
    reader = _Reader(action=ACTIONS[name])
    lines = list(_logical_lines(text))
    if not text.startswith("#!") or not _SHEBANG.match(text.split("\n", 1)[0]):
        return ScriptReading(alternatives=(), unknown=("line 1: not a shell script",))
    for number, line in lines:
        reader.read(number, line)
    if reader.open:
        reader.unknown.append("end: an if or case stays open")
    return ScriptReading(alternatives=tuple(reader.alternatives), unknown=tuple(reader.unknown))


@dataclass(slots=True)
class _Reader:
    """Follows the branches of one script line by line."""

    action: str
    open: list[_Branch] = field(default_factory=list)
    alternatives: list[Alternative] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def runs(self) -> _Truth:
        return self.open[-1].runs if self.open else _Truth.YES

    def read(self, number: int, line: str) -> None:
        """Take one logical line into account."""
        # Dead text still has to show its structure: quotes and here-documents could hide a `fi`.
        structured = "<<" not in line and _quotes_close(line)
        if not structured or not (self._branch(line) or self.runs is _Truth.NO or self._command(line)):
            self.unknown.append(f"line {number}: {line}")

    def _branch(self, line: str) -> bool:
        """Whether `line` opens, turns or closes a branch, and all of it is understood."""
        if match := _IF.match(line):
            return self._if(match[2]) if match[1] is None else self._elif(match[2])
        if match := _CASE.match(line):
            self.open.append(_Branch(closes_with="esac", outer=self.runs))
            self._end_arm()
            return match[1].strip('"') in ("$1", "${1}")
        if not self.open:
            return False
        if line == self.open[-1].closes_with:
            self.open.pop()
            return True
        if self.open[-1].closes_with == "esac":
            return self._arm(line) if self.open[-1].between_arms else self._last_of_arm(line)
        if line == "else":
            self._enter(_Truth.YES)
            return True
        return False

    def _if(self, condition: str) -> bool:
        value = self._value(condition)
        self.open.append(_Branch(closes_with="fi", outer=self.runs))
        self._enter(value or _Truth.MAYBE)
        return value is not None or self.open[-1].outer is _Truth.NO

    def _elif(self, condition: str) -> bool:
        if not self.open:
            return False
        value = self._value(condition)
        self._enter(value or _Truth.MAYBE)
        return value is not None or self.open[-1].outer is _Truth.NO

    def _enter(self, condition: _Truth) -> None:
        """Begin the next arm of the innermost branch: it runs when its condition holds and no earlier arm ran."""
        branch = self.open[-1]
        if _Truth.NO in (branch.outer, condition) or branch.taken is _Truth.YES:
            branch.runs = _Truth.NO
        elif _Truth.MAYBE in (branch.outer, condition, branch.taken):
            branch.runs = _Truth.MAYBE
        else:
            branch.runs = _Truth.YES
        if condition is not _Truth.NO and branch.taken is not _Truth.YES:
            branch.taken = condition

    def _arm(self, line: str) -> bool:
        """Whether `line` is `PATTERN) [COMMAND] [;;]` with plain words as patterns, and its command is known."""
        match = _ARM.match(line)
        if match is None:
            return False
        patterns = {pattern.strip() for pattern in match[1].split("|")}
        # `postinst triggered` follows a first installation too, when another package touches what it watches.
        watched = _Truth.MAYBE if "triggered" in patterns else _Truth.NO
        self._enter(_Truth.YES if patterns & {self.action, "*"} else watched)
        self.open[-1].between_arms = False
        return not match[2] or self._last_of_arm(match[2]) or self.runs is _Truth.NO or self._command(match[2])

    def _last_of_arm(self, line: str) -> bool:
        """Whether `line` ends the arm, and its command is known."""
        if not line.endswith(";;"):
            return False
        command = line.removesuffix(";;").strip()
        known = not command or self.runs is _Truth.NO or self._command(command)
        self._end_arm()
        return known

    def _end_arm(self) -> None:
        self.open[-1].between_arms = True
        self.open[-1].runs = self.open[-1].alive

    def _command(self, line: str) -> bool:
        if any(form.match(line) for form in _HARMLESS):
            return True
        alternative = _alternative(line)
        if alternative is None or self.runs is not _Truth.YES:
            return False
        self.alternatives.append(alternative)
        return True

    def _value(self, condition: str) -> _Truth | None:
        """Truth of tests joined by `&&` and `||`, which the shell takes from left to right; None if unreadable."""
        tests = re.split(r"\s*(&&|\|\|)\s*", condition)
        result = self._test(tests[0])
        for operator, text in zip(tests[1::2], tests[2::2], strict=True):
            value = self._test(text)
            if result is None or value is None:
                return None
            result = _both(result, value) if operator == "&&" else _either(result, value)
        return result

    def _test(self, test: str) -> _Truth | None:
        if match := _ARGUMENT.match(test):
            if match[2] == "triggered":
                return _Truth.MAYBE
            return _truth((match[2] == self.action) == (match[1] == "="))
        if match := _SECOND.match(test):
            return _truth(match[1] == "-z" or match[2] == "=")
        if match := _COMPARE.match(test):
            return _truth(_EMPTY_COMPARES[match[1]]) if match[1] in _EMPTY_COMPARES else None
        return _Truth.MAYBE if any(form.match(test) for form in _UNDECIDED) else None


def _truth(holds: bool) -> _Truth:
    return _Truth.YES if holds else _Truth.NO


def _both(left: _Truth, right: _Truth) -> _Truth:
    if _Truth.NO in (left, right):
        return _Truth.NO
    return _Truth.MAYBE if _Truth.MAYBE in (left, right) else _Truth.YES


def _either(left: _Truth, right: _Truth) -> _Truth:
    if _Truth.YES in (left, right):
        return _Truth.YES
    return _Truth.MAYBE if _Truth.MAYBE in (left, right) else _Truth.NO


def _alternative(line: str) -> Alternative | None:
    """The `update-alternatives --install` on this line, or None when it is anything else or says more."""
    line = re.sub(_MAY_FAIL + r"\Z", "", line)
    if re.search(r"[;|&`$<>()]", line):
        return None
    words = [word for word in shlex.split(line) if word not in ("--quiet", "--force")]
    if words[:2] != ["update-alternatives", "--install"] or len(words) < 6 or not words[5].isdigit():
        return None
    slaves = words[6:]
    if len(slaves) % 4 or any(word != "--slave" for word in slaves[::4]):
        return None
    return Alternative(
        link=Link(path=words[2], name=words[3], target=words[4]),
        priority=int(words[5]),
        slaves=tuple(
            Link(path=path, name=name, target=target)
            for path, name, target in zip(slaves[1::4], slaves[2::4], slaves[3::4], strict=True)
        ),
    )


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, text) without comments and blank lines; continued lines and a `then` on its own line are joined."""
    held, first = "", 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not held and (not line or line.startswith("#")):
            continue
        first = first if held else number
        held = f"{held} {line}".strip()
        if held.endswith("\\"):
            held = held[:-1].rstrip()
        elif not re.match(r"(?:el)?if\s(?!.*\bthen\b)", held):
            # debhelper prefixes a root directory when dpkg installs into one; here it is always empty.
            yield first, re.sub(r'\$\{DPKG_ROOT:\+--root="?\$DPKG_ROOT"?\} *', "", held)
            held = ""
    if held:
        yield first, held


def _quotes_close(line: str) -> bool:
    try:
        shlex.split(line)
    except ValueError:
        return False
    return True
