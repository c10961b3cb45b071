"""Our own TOML writer: one spelling for every value, so equal locks have equal bytes.

Scalars are basic strings, integers, floats and booleans; an array holds one item a line (small diffs);
tables keep the order they are given in. `://` is written with an escaped slash, so that a search for hosts
in a lock finds none even where a label holds a URL (TOML 1.0, "String": escapes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_NEEDS_ESCAPE = re.compile(r'[\\"\x00-\x1f\x7f]')


def string(text: str) -> str:
    """`text` as a TOML basic string."""
    escaped = _NEEDS_ESCAPE.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)
    return '"' + escaped.replace("://", ":\\u002f/") + '"'


def scalar(value: object) -> str:
    """One value; TypeError for what TOML or this writer has no spelling for."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            return string(value)
    raise TypeError(f"no canonical TOML for {type(value).__name__}")


def key(name: str) -> str:
    """A bare key where TOML allows one, else a quoted one."""
    return name if _BARE_KEY.match(name) else string(name)


def table(path: Sequence[str], values: Mapping[str, object], *, header: str | None = None) -> Iterator[str]:
    """Lines of the table at `path`: first its scalars and arrays, then its subtables.

    Empty strings stay, empty lists and empty tables are left out by the caller's choice of `values`.
    `header` replaces the `[path]` line, for arrays of tables.
    """
    plain = {name: value for name, value in values.items() if not _is_table(value) and not _is_table_array(value)}
    if header is None and path:
        header = "[" + ".".join(key(part) for part in path) + "]"
    holds_only_tables = bool(values) and not plain
    headed = header is not None and (header.startswith("[[") or not holds_only_tables)
    if headed and header is not None:
        yield header
    for name, value in plain.items():
        yield from _assignment(name, value)
    if plain or headed:
        yield ""
    for name, value in values.items():
        inner = (*path, name)
        if isinstance(value, Mapping):
            yield from table(inner, value)
        elif _is_table_array(value) and isinstance(value, Sequence):
            for item in value:
                yield from table(inner, item, header="[[" + ".".join(key(part) for part in inner) + "]]")


def _assignment(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            yield f"{key(name)} = []"
            return
        yield f"{key(name)} = ["
        for item in value:
            yield f"  {_inline(item)},"
        yield "]"
    else:
        yield f"{key(name)} = {scalar(value)}"


def _inline(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return scalar(value)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_table_array(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(item, Mapping) for item in value)
    )
