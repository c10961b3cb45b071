"""`model.toml` with requirements added, replaced or removed, and every other byte as it was.

For manifests that `parse_manifest` has accepted.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from nnenv.spec.toml_array import ArrayText, quoted
from nnenv.spec.toml_gate import KeyPath
from nnenv.spec.toml_places import Form, Place, places

PACKAGES: Final = "packages"
SYSTEM: Final = "system"
"""The two kinds of requirements, by the keys that list them."""

Key = Callable[[str], str]
"""What of a requirement is compared with another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One requirement that came, went or changed."""

    array: str
    """Key path of the array: `requires.packages`, `targets.gpu.requires.system`."""
    before: str
    """As it was written; "" if it was not there."""
    after: str
    """As it is written now; "" if it is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edited:
    """A manifest after its edits."""

    data: bytes
    edits: tuple[Edit, ...]


def array_path(target: str, kind: str) -> KeyPath:
    """Where requirements of a kind are listed: in `[requires]`, or for the one target that is named."""
    return ("targets", target, "requires", kind) if target else ("requires", kind)


def listed(data: bytes, path: KeyPath) -> list[str]:
    """The requirements in the array at `path`, as they are written; none if there is no such array."""
    found: Any = tomllib.loads(data.decode())
    for key in path:
        found = found.get(key, {})
    return [str(item) for item in found]


def with_requirements(data: bytes, path: KeyPath, wanted: Sequence[str], same: Key, order: Key) -> Edited:
    """The manifest with each wanted requirement in the array at `path`.

    One that is the `same` as one there replaces it. Another goes to its place if the array is sorted by `order`, else
    to its end. The array, and the table that it stands in, are made if they are missing.
    """
    items = listed(data, path)
    text = _with_array(_lines(data), path)
    place = _place(text, path)
    array = ArrayText(text[place.value : place.end])
    edits = []
    for requirement in wanted:
        position = next((at for at, item in enumerate(items) if same(item) == same(requirement)), None)
        if position is None:
            position = _position(items, requirement, order)
            array.insert(position, requirement)
            items.insert(position, requirement)
            edits.append(Edit(array=".".join(path), before="", after=requirement))
        elif items[position] != requirement:
            edits.append(Edit(array=".".join(path), before=items[position], after=requirement))
            array.replace(position, requirement)
            items[position] = requirement
    return Edited(data=_written(data, text, place, array, path, items) if edits else data, edits=tuple(edits))


def without_requirements(data: bytes, path: KeyPath, names: Collection[str], name_of: Key) -> Edited:
    """The manifest without the requirements in the array at `path` that have one of the names; others stay."""
    items = listed(data, path)
    gone = [at for at, item in enumerate(items) if name_of(item) in names]
    if not gone:
        return Edited(data=data, edits=())
    text = _lines(data)
    place = _place(text, path)
    array = ArrayText(text[place.value : place.end])
    for position in reversed(gone):
        array.remove(position)
    edits = tuple(Edit(array=".".join(path), before=items[at], after="") for at in gone)
    kept = [item for at, item in enumerate(items) if at not in gone]
    return Edited(data=_written(data, text, place, array, path, kept), edits=edits)


def with_value(data: bytes, path: KeyPath, value: str) -> Edited:
    """The manifest with another value, written as TOML, at a key that it has; without the key if `value` is empty.

    KeyError for a key that is not there in so many words.
    """
    text = _lines(data)
    found = next((place for place in places(text) if place.path == path), None)
    if found is None or (not value and found.form is not Form.PAIR):
        raise KeyError(".".join(path))
    before = text[found.value : found.end]
    if value:
        edited = text[: found.value] + value + text[found.end :]
    else:
        edited = text[: found.start] + text[text.find("\n", found.end) + 1 or len(text) :]
    edited = _with_line_ends_of(data.decode(), edited)
    expected = tomllib.loads(data.decode())
    table = expected
    for part in path[:-1]:
        table = table[part]
    del table[path[-1]]
    if value:
        table[path[-1]] = tomllib.loads(f"x = {value}")["x"]
    assert tomllib.loads(edited) == expected, f"{'.'.join(path)} of model.toml cannot be edited"
    return Edited(data=edited.encode(), edits=(Edit(array=".".join(path), before=before, after=value),))


def with_test(data: bytes, model: str, folder: str) -> bytes | None:
    """The manifest with `[[models.MODEL.tests]]` for a folder of test cases, below what it says of the model.

    None where the model or its tests are not written under headers.
    """
    text = _lines(data)
    found = list(places(text))
    homes = ((Form.HEADER, ("models", model)), (Form.LISTED, ("models", model, "tests")))
    sections = [at for at, place in enumerate(found) if (place.form, place.path) in homes]
    if not sections or ("models", model, "tests") in {place.path for place in found if place.form is not Form.LISTED}:
        return None
    end = text.find("\n", _section_end(found, sections[-1]).end) + 1 or len(text)
    while text.startswith("#", end):  # a comment right below belongs to the model
        end = text.find("\n", end) + 1 or len(text)
    key = model if re.fullmatch("[a-z0-9_-]+", model) else quoted(model)
    section = f"\n[[models.{key}.tests]]\ndata = {quoted(folder)}\n"
    lead = "" if text[:end].endswith("\n") else "\n"
    edited = _with_line_ends_of(data.decode(), f"{text[:end]}{lead}{section}{text[end:]}")
    expected = tomllib.loads(data.decode())
    expected["models"][model].setdefault("tests", []).append({"data": folder})
    assert tomllib.loads(edited) == expected, f"models.{model}.tests of model.toml cannot be edited"
    return edited.encode()


def _position(items: Sequence[str], requirement: str, order: Key) -> int:
    """Where a new requirement goes: to its place among sorted ones, else to the end."""
    keys = [order(item) for item in items]
    if keys != sorted(keys):
        return len(items)
    return next((at for at, key in enumerate(keys) if key > order(requirement)), len(items))


def _place(text: str, path: KeyPath) -> Place:
    return next(place for place in places(text) if place.path == path)


# Making a missing array


def _with_array(text: str, path: KeyPath) -> str:
    """The text with an array at `path`, an empty one if there was none.

    It goes where the nearest table above it is: into its braces, under its header, or beside its dotted keys.
    """
    found = list(places(text))
    if any(place.path == path for place in found):
        return text
    for length in range(len(path) - 1, 0, -1):
        home = path[:length]
        for made in (_in_table(text, found, path, home), _beside(text, found, path, home)):
            if made is not None:
                return made
    return _new_section(text, found, path)


def _in_table(text: str, found: Sequence[Place], path: KeyPath, home: KeyPath) -> str | None:
    """The text with the array in the table `home`, if that has braces or a header."""
    for position, place in enumerate(found):
        if place.path != home or place.form is Form.LISTED:
            continue
        if place.form is not Form.HEADER:
            return _into_braces(text, place, found, _empty(path, home))
        last = _section_end(found, position)
        return _below(text, last.end, _indent(text, last.start) + _empty(path, home))
    return None


def _section_end(found: Sequence[Place], header: int) -> Place:
    """The last pair under a header, or the header if it has none."""
    inside = takewhile(lambda later: later.form in {Form.PAIR, Form.MEMBER}, found[header + 1 :])
    return [found[header], *(later for later in inside if later.form is Form.PAIR)][-1]


def _beside(text: str, found: Sequence[Place], path: KeyPath, home: KeyPath) -> str | None:
    """The text with the array beside the last dotted key that makes the table `home`, if one does."""
    makers = [place for place in found if place.path[: len(home)] == home and len(place.table) < len(home)]
    if not makers or makers[-1].form in {Form.HEADER, Form.LISTED}:
        return None
    last = makers[-1]
    line = _empty(path, last.table)
    if last.form is Form.MEMBER:
        return f"{text[: last.end]}, {line}{text[last.end :]}"
    return _below(text, last.end, _indent(text, last.start) + line)


def _empty(path: KeyPath, table: KeyPath) -> str:
    """The line that makes an empty array at `path`, seen from a table; names of targets are bare keys."""
    return f"{'.'.join(path[len(table) :])} = []"


def _into_braces(text: str, table: Place, found: Sequence[Place], line: str) -> str:
    """The text with a member more at the end of an inline table."""
    members = [place for place in found if place.form is Form.MEMBER and place.table == table.path]
    if not members:
        return f"{text[: table.value]}{{ {line} }}{text[table.end :]}"
    end = members[-1].end
    return f"{text[:end]}, {line}{text[end:]}"


def _below(text: str, position: int, line: str) -> str:
    """The text with a line more below the one of `position`."""
    end = text.find("\n", position)
    return f"{text}\n{line}\n" if end < 0 else f"{text[: end + 1]}{line}\n{text[end + 1 :]}"


def _indent(text: str, position: int) -> str:
    """The white space that the line of `position` begins with."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]


def _new_section(text: str, found: Sequence[Place], path: KeyPath) -> str:
    """The text with a table of its own for the array, before the targets if they have headers, else at the end."""
    section = f"[{'.'.join(path[:-1])}]\n{path[-1]} = []\n"
    targets = next((place for place in found if place.form is Form.HEADER and place.key[0] == "targets"), None)
    if targets is None:
        return text + "\n" * (not text.endswith("\n")) + "\n" + section
    start = text.rfind("\n", 0, targets.start) + 1
    while start and text[text.rfind("\n", 0, start - 1) + 1 : start].startswith("#"):  # the comment above belongs to it
        start = text.rfind("\n", 0, start - 1) + 1
    return f"{text[:start]}{section}\n{text[start:]}"


# Bytes to text and back


def _lines(data: bytes) -> str:
    """The manifest with `\\n` for every end of line."""
    return data.decode().replace("\r\n", "\n")


def _written(data: bytes, text: str, place: Place, array: ArrayText, path: KeyPath, items: Sequence[str]) -> bytes:
    """The manifest with the array in its place; asserts that it now means just what was asked for."""
    line_start = text.rfind("\n", 0, place.value) + 1
    if place.form is Form.PAIR:
        array.spread(place.value - line_start, _indent(text, place.start))
    edited = _with_line_ends_of(data.decode(), f"{text[: place.value]}{array}{text[place.end :]}")
    expected = tomllib.loads(data.decode())
    table = expected
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = list(items)
    assert tomllib.loads(edited) == expected, f"{'.'.join(path)} of model.toml cannot be edited"
    return edited.encode()


def _with_line_ends_of(original: str, edited: str) -> str:
    """The edited text with the line ends that its lines had; changed lines end as the first of them did before."""
    if "\r\n" not in original:
        return edited
    old, new = original.split("\n"), edited.split("\n")
    bare = [line.removesuffix("\r") for line in old]
    head = min(_equal_at_start(bare, new), len(old) - 1)  # the last line had no end
    tail = min(_equal_at_start(bare[::-1], new[::-1]), len(old) - head, len(new) - head)
    end = "\r" if old[min(head, len(old) - 2)].endswith("\r") else ""
    changed = [line + end for line in new[head : len(new) - tail]]
    if tail == 0:
        changed[-1] = changed[-1].removesuffix(end)  # no line end follows the last line
    return "\n".join([*old[:head], *changed, *old[len(old) - tail :]])


def _equal_at_start(first: Sequence[str], second: Sequence[str]) -> int:
    """How many elements two sequences have in common before they differ."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))
