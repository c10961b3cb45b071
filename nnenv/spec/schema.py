"""JSON Schema of our file formats, made from the dataclasses that hold them.

`python -m nnenv.spec.schema` writes `schemas/`; a test compares. Editors read the result, nnenv itself does not:
the parsers are stricter, since JSON Schema knows neither PEP 508 nor references between keys, and no checksum.

What a key may hold is said by its field's metadata (`manifest`: people write it, so patterns matter), else by the
field's type (`lockfile`: only nnenv writes it).
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, get_args, get_origin, get_type_hints

from nnenv.spec.artifact import Sha256
from nnenv.spec.lockfile import Lockfile, LockHead
from nnenv.spec.manifest import SHA256, Manifest

SCHEMAS: Final[dict[str, type]] = {"model.schema.json": Manifest, "model.lock.schema.json": Lockfile}
"""File in `schemas/` -> the dataclass it describes."""

_HEADS: Final[Mapping[type, type]] = {Lockfile: LockHead}
"""Dataclass -> the one whose keys stand before its own in the file."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DIGEST: Final[Mapping[str, object]] = {"type": "string", "pattern": f"^{SHA256}$"}
_TYPES: Final[Mapping[object, Mapping[str, object]]] = {
    Sha256: _DIGEST,
    bool: {"type": "boolean"},
    float: {"type": "number"},
    int: {"type": "integer", "minimum": 0},
    str: {"type": "string"},
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Key:
    """One key of a table."""

    name: str
    """As the file spells it."""
    field: dataclasses.Field[object]
    hint: object
    """The field's type, without None."""
    description: str


def schema_of(root: type) -> dict[str, object]:
    """JSON Schema (2020-12) of the TOML file that the dataclass `root` holds, as plain values."""
    return {"$schema": _DIALECT, **_table(root)}


def schema_text(root: type) -> str:
    """`schema_of(root)` as the file in `schemas/` spells it."""
    return json.dumps(schema_of(root), indent=2, ensure_ascii=False) + "\n"


def key_paths(root: type, prefix: str = "") -> list[str]:
    """Every key of the file, tables included, as the documentation names it: `models.NAME.source`, `index.url`."""
    paths = []
    for key in _keys(root):
        path = prefix + key.name
        paths.append(path)
        inner = _inner(key)
        if inner is not None:
            paths += key_paths(inner, f"{path}.NAME." if "named" in key.field.metadata else f"{path}.")
    return paths


def write_schemas(directory: Path) -> list[Path]:
    """Write every file of `SCHEMAS` into `directory`; the paths written."""
    written = []
    for name, root in SCHEMAS.items():
        path = directory / name
        path.write_text(schema_text(root), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def _table(cls: type) -> dict[str, object]:
    """The schema of a table: an object that has the dataclass's keys and no others."""
    keys = _keys(cls)
    table: dict[str, object] = {"type": "object", "description": _first_line(cls)}
    required = [key.name for key in keys if _is_required(key)]
    if required:
        table["required"] = required
    choices = [(key.name, str(key.field.metadata["or"])) for key in keys if "or" in key.field.metadata]
    for names in choices:
        table["oneOf"] = [{"required": [name]} for name in names]
    table["properties"] = {key.name: {"description": key.description, **_value(key)} for key in keys}
    table["additionalProperties"] = False
    return table


def _keys(cls: type) -> list[_Key]:
    """The key of each field that has one, in the order of the class."""
    hints = get_type_hints(cls)
    descriptions = _field_docstrings(cls)
    own = [
        _Key(
            name=field.metadata.get("key", field.name.replace("_", "-")),
            field=field,
            hint=_without_none(hints[field.name]),
            description=descriptions[field.name],
        )
        for field in dataclasses.fields(cls)
        if not field.metadata.get("outside")
    ]
    return [*_keys(_HEADS[cls]), *own] if cls in _HEADS else own


def _value(key: _Key) -> dict[str, object]:
    """What the schema says of one key, besides its description."""
    metadata = key.field.metadata
    inner = _inner(key)
    if inner is None:
        return {**(metadata["schema"] if "schema" in metadata else _plain(key)), **_default(key)}
    table = _table(inner)
    if "named" in metadata:
        named: dict[str, object] = {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{metadata['name']})$"},
            "additionalProperties": table,
        }
        return {**named, "minProperties": 1} if _is_required(key) else named
    if "listed" in metadata or get_origin(key.hint) is tuple:
        return {"type": "array", "items": table}
    del table["description"]
    return table


def _inner(key: _Key) -> type | None:
    """The dataclass behind a table, or None for a plain value."""
    for shape in ("table", "named", "listed"):
        if shape in key.field.metadata:
            inner: type = key.field.metadata[shape]
            return inner
    if "schema" in key.field.metadata:
        return None
    item = get_args(key.hint)[0] if get_origin(key.hint) is tuple else key.hint
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _plain(key: _Key) -> dict[str, object]:
    """The schema of a value's type. An empty string or array is never there: its key is left out."""
    if key.field.metadata.get("labelled"):
        return _array_of(_row(_DIGEST, _TYPES[str]))
    if get_origin(key.hint) is tuple:
        item = get_args(key.hint)[0]
        return _array_of(_row(*map(_of_type, get_args(item))) if get_origin(item) is tuple else _of_type(item))
    return {**_of_type(key.hint), "minLength": 1} if key.hint is str else _of_type(key.hint)


def _of_type(hint: object) -> dict[str, object]:
    if hint in _TYPES:
        return dict(_TYPES[hint])
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [member.value for member in hint]}
    assert get_origin(hint) is Mapping, hint
    return {"type": "object"}


def _array_of(item: dict[str, object]) -> dict[str, object]:
    return {"type": "array", "items": item, "minItems": 1}


def _row(*cells: Mapping[str, object]) -> dict[str, object]:
    """An array with exactly these elements."""
    return {"type": "array", "prefixItems": [dict(cell) for cell in cells], "items": False, "minItems": len(cells)}


def _without_none(hint: object) -> object:
    parts = get_args(hint)
    return next(part for part in parts if part is not type(None)) if type(None) in parts else hint


def _is_required(key: _Key) -> bool:
    field = key.field
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return not has_default and not field.metadata.get("absent")


def _default(key: _Key) -> dict[str, object]:
    """The default, where it is a value that the file could hold; an empty one means that the key is left out."""
    default = key.field.default
    return {"default": default} if isinstance(default, bool | str) and default != "" else {}


def _field_docstrings(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass: its documentation; Python itself forgets it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    found = {}
    for statement, below in itertools.pairwise(body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[statement.target.id] = " ".join(str(below.value.value).split())
    return found


def _first_line(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    for path in write_schemas(Path(__file__).parents[2] / "schemas"):
        print(f"wrote {path.name}")
