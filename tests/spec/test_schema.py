"""The JSON Schema of model.toml, its file, and the documentation of every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import tomlkit

from nnenv.errors import NnenvError
from nnenv.spec.manifest import Manifest, meaning
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.schema import SCHEMAS, key_paths, schema_of, schema_text, write_schemas

ROOT = Path(__file__).parents[2]
DOCUMENTATION = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCUMENTATION, re.DOTALL)

VALIDATOR = jsonschema.Draft202012Validator(schema_of(Manifest))

MODEL = 'version = "1"\nsource = "file:m.onnx"\n'
SHA = "0" * 64

ACCEPTED = [
    "",
    "[models]",
    f"[models.a]\n{MODEL}",
    f'[models."a.b_c-1"]\n{MODEL}',
    f'[models.a]\n{MODEL}format = "onnx"\nsha256 = "{SHA}"',
    f'[models.a]\n{MODEL}[[models.a.tests]]\ndata = "t"\ntolerance = 1e-3\n[[models.a.tests]]\ndata = "u"',
    f'[models.a]\n{MODEL}[[models.a.tests]]\ndata = "t"\ntolerance = 0',
    '[models.a]\nversion = "1"\nsource = "https://h.example/x"',
    '[models.a]\nversion = "1"\nsources = ["hf:o/n@main:x.onnx", "pypi:a>=1/b/x.onnx", "https://h.example/x?y"]',
    f'[models.a]\n{MODEL}tests = [{{ data = "t" }}]',
    '[requires]\npython = "3.11"',
    '[requires]\npython = "  >= 3.11 , < 4 "',
    '[requires]\npython = "~=3.11"',
    '[requires]\npackages = ["a", "B.c >= 1 , < 2", "d[e, f]==1.*", "g; python_version<\'4\'", "h (>=1)", "i===x"]',
    '[requires]\nsystem = ["libgomp1", "g++", "openssl (>= 3.0~rc1-1)"]',
    "[requires]\npackages = []\nsystem = []",
    '[targets.t-1]\nplatform = "linux/arm64"\nos = "debian:13"\npython = ">3"\nrequires.packages = ["a"]',
    f'[models.a]\n{MODEL}[targets.t]\nmodels = ["a"]\nrequires = {{ system = ["libc6"] }}',
    '[image]\nentrypoint = ["a", ""]\ncommand = ["b\\nc"]\nuser = "1"\nworkdir = "/"\nshell = true',
    '[image]\nuser = "1000:1000"\nenv = { A_1 = "x\\ny", _b = "" }\nlabels = { "org.example/a-b" = "x" }',
    '[image]\nfiles = { src = "/app", "a/b.c" = "/x/y z" }\nworkdir = "/a/..b"',
    '[policy]\nexclude-newer = "2025-06-01T00:00:00Z"\nminimum-age = "0 days"',
    '[policy]\nminimum-age = "1 week"\nconstraints = ["a<2"]\noverrides = ["a>1"]\nallow-prereleases = ["A.b"]',
    '[[index]]\nname = "a"\nurl = "https://h.example/simple/"\npackages = ["a"]\n'
    '[[index]]\nname = "b"\nurl = "file:///srv/x"\npackages = ["b"]\n'
    '[[index]]\nname = "c"\nurl = "http://h.example:8080"\npackages = ["c"]',
]

REFUSED = [
    "x = 1",
    "models = 1",
    "[models.A]\n" + MODEL,
    "[models.'-a']\n" + MODEL,
    "[models.a]",
    "models.a = 1",
    '[models.a]\nversion = "1"',
    '[models.a]\nsource = "file:x"',
    '[models.a]\nversion = 1\nsource = "file:x"',
    '[models.a]\nversion = "one"\nsource = "file:x"',
    '[models.a]\nversion = "1..0"\nsource = "file:x"',
    *(
        f'[models.a]\nversion = "1"\nsource = "{source}"'
        for source in ("", "x", "file:", "file:/x", "file:../x", "file:x/..", "file:a/../b", "file:a\\\\b")
    ),
    '[models.a]\nversion = "1"\nsource = "file:a\\u0000b"',
    '[models.a]\nversion = "1"\nsource = "file:a\\tb"',
    '[models.a]\nversion = "1"\nsource = "https://u:p@h.example/x"',
    '[models.a]\nversion = "1"\nsource = "oci:h.example/x"',
    f'[models.a]\nversion = "1"\nsource = "https://h.example/{"x" * 4096}"',
    '[models.a]\nversion = "1"\nsources = []',
    '[models.a]\nversion = "1"\nsources = ["file:x"]',
    f'[models.a]\n{MODEL}sources = ["https://h.example/x"]',
    f'[models.a]\n{MODEL}format = "tflite"',
    f'[models.a]\n{MODEL}format = ""',
    f'[models.a]\n{MODEL}sha256 = "{SHA.replace("0", "A")}"',
    f"[models.a]\n{MODEL}adapt = [{{}}]",
    f"[models.a]\n{MODEL}eval = {{}}",
    f"[models.a]\n{MODEL}tests = {{}}",
    f"[models.a]\n{MODEL}tests = [1]",
    f"[models.a]\n{MODEL}tests = [{{}}]",
    *(f'[models.a]\n{MODEL}tests = [{{ data = "t", tolerance = {bad} }}]' for bad in ("1", "-1", "true", "'1'", "inf")),
    "requires = []",
    '[requires]\nrequires = "3"',
    *(f'[requires]\npython = "{bad}"' for bad in ("", "three", ">=", "3.11 3.12", "=>3", "3.*")),
    "[requires]\npython = 3.11",
    '[requires]\npackages = "a"',
    "[requires]\npackages = [1]",
    *(f'[requires]\npackages = ["{bad}"]' for bad in ("", "a b", "-a", "a @ https://h.example/a.whl", "a-")),
    *(
        f'[requires]\nsystem = ["{bad}"]'
        for bad in ("", "A", "a", "ab:amd64", "ab>=1", "ab (> 1)", "ab  (>= 1)", "a b")
    ),
    *(f"[targets.t]\n{key} = '1'" for key in ("compute-capability", "driver", "Platform")),
    *(f"[targets.t]\n{key} = 12" for key in ("cuda", "cudnn", "compute-capability", "driver")),
    *(f"[targets.t]\n{key} = '12.x'" for key in ("cuda", "cudnn")),
    *(f"[targets.t]\ncompute-capability = [{bad}]" for bad in ("", "8.0", "'sm_80'", "'8'", "'8.0', '8.0'")),
    *(f"[targets.t]\ndriver = '{bad}'" for bad in ("<600", "53", "535.x", ">535", ">=535,<600")),
    '[targets.t]\nplatform = "linux/x86_64"',
    '[targets.t]\nos = "debian:bookworm"',
    "[targets.t]\nmodels = []",
    "[targets.t]\nrequires.python = '3'",
    "[targets.'a.b']",
    "[targets.A]",
    "[targets.'']",
    '[image]\nentrypoint = "a"',
    "[image]\nentrypoint = []",
    *(f'[image]\nuser = "{bad}"' for bad in ("0", "0:0", "1000:0", "root", "", "01", "1:", ":1", "99999999999")),
    "[image]\nuser = 1000",
    *(f'[image]\nworkdir = "{bad}"' for bad in ("", "a", "/a/..", "/../a", "/a\\\\b")),
    *(f"[image]\nenv = {bad}" for bad in ("{ 1a = 'x' }", "{ 'a b' = 'x' }", "{ a = 1 }", "['a']", "{ '' = 'x' }")),
    "[image]\nlabels = { ' ' = 'x' }",
    '[image]\nlabels = { a = "x\\ny" }',
    *(f"[image]\nfiles = {bad}" for bad in ("{ '../a' = '/a' }", "{ a = 'b' }", "{ '/a' = '/a' }", "{ '' = '/a' }")),
    "[image]\nshell = 1",
    *(
        f'[policy]\nexclude-newer = "{bad}"'
        for bad in ("", "2025-06-01", "2025-06-01T00:00:00", "2025-06-01t00:00:00z")
    ),
    *(f'[policy]\nminimum-age = "{bad}"' for bad in ("", "7", "7d", "-1 days", "1.5 days", "7  days", "123456 days")),
    '[policy]\nallow-prereleases = ["a>1"]',
    '[policy]\nlicences = ["MIT"]',
    '[policy]\nlicenses = ["MIT"]',
    "[index]",
    '[[index]]\nname = "a"\nurl = "https://h.example/"',
    '[[index]]\nname = "a"\nurl = "https://h.example/"\npackages = []',
    *(
        f'[[index]]\nname = "a"\nurl = "{url}"\npackages = ["a"]'
        for url in ("", "h.example", "ftp://h.example/", "https://u:p@h.example/", "https://h.example/?a", "https://")
    ),
]

PARSER_ONLY = [
    '[requires]\npackages = ["numpy>=1", "NumPy"]',
    '[requires]\npackages = ["a>=one"]',
    "[requires]\npackages = [\"a; python_verse<'3'\"]",
    '[requires]\nsystem = ["libc6", "libc6 (>= 2)"]',
    '[targets.t]\nmodels = ["missing"]',
    f'[models.a]\n{MODEL}tests = [{{ data = "t" }}, {{ data = "./t" }}]',
    '[image]\nfiles = { "." = "/app" }',
    '[image]\nfiles = { a = "/proc/x" }',
    '[image]\nenv = { a = "\\u0000" }',
    '[policy]\nexclude-newer = "2025-02-30T00:00:00Z"',
    '[policy]\nconstraints = ["a[b]<2"]',
    '[[index]]\nname = "a"\nurl = "https://h.example/"\npackages = ["a"]\n'
    '[[index]]\nname = "a"\nurl = "https://i.example/"\npackages = ["b"]',
    '[[index]]\nname = "a"\nurl = "https://h.example/"\npackages = ["a"]\n'
    '[[index]]\nname = "b"\nurl = "https://i.example/"\npackages = ["A"]',
]
"""What JSON Schema cannot say."""


def complete(text: str) -> str:
    """`text` with the tables every manifest needs, where it has none."""
    targets = "" if "[targets." in text else "targets.cpu = {}\n"
    return f'project = {{ name = "p", version = "1" }}\n{targets}{text}'


def schema_accepts(text: str) -> bool:
    return bool(VALIDATOR.is_valid(tomllib.loads(text)))


def parser_accepts(text: str) -> bool:
    try:
        parse_manifest(text.encode())
    except NnenvError:
        return False
    return True


@pytest.mark.parametrize("text", [complete(text) for text in ACCEPTED])
def test_schema_and_parser_accept_the_same(text: str) -> None:
    """A right manifest is right for both."""
    assert (schema_accepts(text), parser_accepts(text)) == (True, True)


@pytest.mark.parametrize(
    "text",
    [complete(text) for text in REFUSED]
    + ['project.name = "p"\ntargets.cpu = {}', "targets.cpu = {}", 'project = { name = "p", version = "1" }']
    + ['project = { name = "P", version = "1" }\ntargets.cpu = {}']
    + ['project = { name = "p", version = "1", description = "a\\nb" }\ntargets.cpu = {}']
    + ['project = { name = "p", version = "1" }\ntargets = {}', "project = 1\ntargets.cpu = {}"],
)
def test_schema_and_parser_refuse_the_same(text: str) -> None:
    """A wrong manifest is wrong for both."""
    assert (schema_accepts(text), parser_accepts(text)) == (False, False)


@pytest.mark.parametrize("text", [complete(text) for text in PARSER_ONLY])
def test_parser_knows_more(text: str) -> None:
    """The parser refuses what the schema cannot describe."""
    assert (schema_accepts(text), parser_accepts(text)) == (True, False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_file_is_up_to_date(name: str) -> None:
    """`python -m nnenv.spec.schema` has been run since the dataclasses changed."""
    assert (ROOT / "schemas" / name).read_bytes() == schema_text(SCHEMAS[name]).encode()


def test_schema_is_one(tmp_path: Path) -> None:
    """What is written is valid JSON Schema, and holds a description of every key."""
    assert [path.name for path in write_schemas(tmp_path)] == list(SCHEMAS)
    schema = schema_of(Manifest)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert undescribed(schema) == []


def undescribed(schema: object, path: str = "") -> list[str]:
    """Paths of the properties in `schema` that have no description."""
    if isinstance(schema, list):
        return [found for element in schema for found in undescribed(element, path)]
    if not isinstance(schema, dict):
        return []
    properties = schema.get("properties", {})
    missing = [f"{path}.{key}" for key, value in properties.items() if not value.get("description")]
    return missing + [found for key, value in schema.items() for found in undescribed(value, f"{path}.{key}")]


def test_every_key_has_a_heading() -> None:
    """docs/manifest.md describes every key, in the order of the dataclasses, and no key that is not there."""
    assert re.findall(r"^###? `(.*)`$", DOCUMENTATION, re.MULTILINE) == key_paths(Manifest)


def test_every_key_has_an_example() -> None:
    """Every key is in an example of docs/manifest.md."""
    shown = {path for example in EXAMPLES for path in shown_paths(tomllib.loads(example))}
    assert set(key_paths(Manifest)) - shown == set()


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_right(example: str) -> None:
    """Each example of docs/manifest.md parses, with the tables that it leaves out."""
    whole = {"project": {"name": "p", "version": "1"}, "targets": {"cpu": {}}} | tomllib.loads(example)
    manifest = parse_manifest(tomlkit.dumps(whole).encode())
    assert meaning(manifest)


def test_defaults_of_the_schema_are_the_parsers() -> None:
    """A default that the schema states is what the parser takes for an absent key."""
    plain = meaning(parse_manifest(complete("").encode()))
    properties = schema_of(Manifest)["properties"]
    assert isinstance(properties, dict)
    for table in ("requires", "image", "policy"):
        for key, schema in properties[table]["properties"].items():
            if "default" in schema:
                # the meaning leaves out what is empty or false
                assert plain.get(table, {}).get(key, type(schema["default"])()) == schema["default"]  # type: ignore[attr-defined]
    for key, schema in properties["targets"]["additionalProperties"]["properties"].items():
        if "default" in schema:
            assert plain["targets"]["cpu"].get(key, "") == schema["default"]  # type: ignore[index]


def shown_paths(values: dict[str, object], path: str = "") -> set[str]:
    """Key paths in `values` as the headings have them: `NAME` for the name of a model or target."""
    found = set()
    for key, value in values.items():
        name = "NAME" if path in ("models.", "targets.") else key
        found.add(path + name)
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict):
                found |= shown_paths(table, f"{path}{name}.")
    return found
