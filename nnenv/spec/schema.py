"""JSON Schema of our file formats, made from the dataclasses that hold them.

`python -m nnenv.spec.schema` writes `schemas/`; a test compares. Editors read the result, nnenv itself does not:
the parser is stricter, since JSON Schema knows neither PEP 508 nor references between keys.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from pathlib import Path
from typing import Final

from nnenv.spec.manifest import Manifest

SCHEMAS: Final[dict[str, type]] = {"model.schema.json": Manifest}
"""File in `schemas/` -> the dataclass it describes."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema_of(root: type) -> dict[str, object]:
    """JSON Schema (2020-12) of the TOML file that the dataclass `root` holds, as plain values."""
    return {"$schema": _DIALECT, **_table(root)}


def schema_text(root: type) -> str:
    """`schema_of(root)` as the file in `schemas/` spells it."""
    return json.dumps(schema_of(root), indent=2, ensure_ascii=False) + "\n"


def key_paths(root: type, prefix: str = "") -> list[str]:
    """Every key of the file, tables included, as the documentation names it: `models.NAME.source`, `index.url`."""
    paths = []
    for key, field in _keys(root):
        path = prefix + key
        paths.append(path)
        inner = _inner(field)
        if inner is not None:
            paths += key_paths(inner, f"{path}.NAME." if "named" in field.metadata else f"{path}.")
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
    descriptions = _field_docstrings(cls)
    table: dict[str, object] = {"type": "object", "description": _first_line(cls)}
    required = [key for key, field in _keys(cls) if _is_required(field)]
    if required:
        table["required"] = required
    table["properties"] = {key: {"description": descriptions[field.name], **_value(field)} for key, field in _keys(cls)}
    table["additionalProperties"] = False
    return table


def _keys(cls: type) -> list[tuple[str, dataclasses.Field[object]]]:
    """The TOML key of each field that has one, in the order of the class."""
    return [
        (field.metadata.get("key", field.name.replace("_", "-")), field)
        for field in dataclasses.fields(cls)
        if not field.metadata.get("outside")
    ]


def _value(field: dataclasses.Field[object]) -> dict[str, object]:
    """What the schema says of one key, besides its description."""
    inner = _inner(field)
    if inner is None:
        return {**field.metadata["schema"], **_default(field)}
    table = _table(inner)
    if "named" in field.metadata:
        named: dict[str, object] = {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{field.metadata['name']})$"},
            "additionalProperties": table,
        }
        return {**named, "minProperties": 1} if _is_required(field) else named
    if "listed" in field.metadata:
        return {"type": "array", "items": table}
    del table["description"]
    return table


def _inner(field: dataclasses.Field[object]) -> type | None:
    """The dataclass behind a table, or None for a plain value."""
    for shape in ("table", "named", "listed"):
        if shape in field.metadata:
            inner: type = field.metadata[shape]
            return inner
    return None


def _is_required(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[object]) -> dict[str, object]:
    """The default, where it is a value that the file could hold; an empty one means that the key is left out."""
    return {"default": field.default} if isinstance(field.default, bool | str) and field.default != "" else {}


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
