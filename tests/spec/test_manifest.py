"""The manifest: what it means, and how its mistakes are reported."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.spec import manifest_toml
from nnenv.spec.manifest import Manifest, TargetSpec, meaning, required_by
from nnenv.spec.manifest_toml import RuleError, normal_requirement, parse_manifest
from nnenv.spec.model_source import MODEL_ORIGINS

ROOT = Path(__file__).parents[2]

QUIET = settings(deadline=None, database=None)
"""No time limit for one example on a busy machine, and no files beside the tests."""

FULL = b"""\
[project]
name = "classifier"
version = "1.0.0"
description = "Sorts digits"

[models.resnet50]
version = "1.2.0"
source = "file:./models//resnet50.onnx"
[[models.resnet50.tests]]
data = "tests/b/"
[[models.resnet50.tests]]
data = "tests/a"
tolerance = 1e-5
[models.digits]
version = "2"
source = "file:digits.onnx"
format = "onnx"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

[requires]
python = ">=3.11, <4"
packages = [
    "onnxruntime >= 1.20",
    "Num_Py[Fast, a.b] <3, >=1.26",
    "pillow; sys_platform=='linux'",
]
system = ["openssl (>= 3.0)", "libgomp1"]

[targets.edge]
platform = "linux/arm64"
os = "debian:13"
python = "3.13"
models = ["digits"]
[targets.edge.requires]
packages = ["numpy>=2", "onnxruntime>=1.20"]
system = ["libgomp1"]
[targets.cpu]

[image]
entrypoint = ["python3", "-m", "b"]
command = ["z", "a"]
env = { B = "2", A = "1" }
user = "1000"
workdir = "/app/"
labels = { "org.example/x" = "y" }
files = { "./src" = "/app" }
shell = true

[policy]
exclude-newer = "2025-06-01T00:00:00Z"
minimum-age = "1 week"
constraints = ["protobuf < 6"]
overrides = ["numpy>=2"]
allow-prereleases = ["Onnx_Runtime"]

[[index]]
name = "ours"
url = "https://packages.example.org/simple/"
packages = ["Our_Pre", "a"]
"""

MEANING = {
    "project": {"name": "classifier", "version": "1.0.0", "description": "Sorts digits"},
    "models": {
        "digits": {
            "version": "2",
            "source": "file:digits.onnx",
            "format": "onnx",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        "resnet50": {
            "version": "1.2.0",
            "source": "file:models/resnet50.onnx",
            "tests": [{"data": "tests/a", "tolerance": 1e-05}, {"data": "tests/b"}],
        },
    },
    "requires": {
        "python": "<4,>=3.11",
        "packages": ["num-py[a-b,fast]<3,>=1.26", "onnxruntime>=1.20", 'pillow; sys_platform == "linux"'],
        "system": ["libgomp1", "openssl (>= 3.0)"],
    },
    "targets": {
        "cpu": {
            "platform": "linux/amd64",
            "os": "debian:12",
            "models": ["digits", "resnet50"],
        },
        "edge": {
            "platform": "linux/arm64",
            "os": "debian:13",
            "python": "==3.13.*",
            "models": ["digits"],
            "requires": {"packages": ["numpy>=2", "onnxruntime>=1.20"], "system": ["libgomp1"]},
        },
    },
    "image": {
        "entrypoint": ["python3", "-m", "b"],
        "command": ["z", "a"],
        "env": {"A": "1", "B": "2"},
        "user": "1000",
        "workdir": "/app",
        "labels": {"org.example/x": "y"},
        "files": {"src": "/app"},
        "shell": True,
    },
    "policy": {
        "exclude-newer": "2025-06-01T00:00:00Z",
        "minimum-age": "7 days",
        "constraints": ["protobuf<6"],
        "overrides": ["numpy>=2"],
        "allow-prereleases": ["onnx-runtime"],
    },
    "index": {"ours": {"packages": ["a", "our-pre"]}},
}

SMALLEST = b'[project]\nname = "p"\nversion = "1"\n[targets.cpu]\n'


def mistakes(text: str | bytes) -> list[str]:
    """Every mistake in `text`: place, code if it is not the usual one, what, and fix."""
    with pytest.raises(SeveralErrors) as caught:
        parse_manifest(text.encode() if isinstance(text, str) else text)
    return [
        f"{error.where}{'' if error.code == 'manifest-invalid' else f' [{error.code}]'} {error.what} -> "
        + "; ".join(error.fix)
        for error in caught.value.errors
    ]


def test_meaning_of_every_key() -> None:
    """Defaults are applied, spellings are normal, and neither positions nor addresses are left."""
    assert meaning(parse_manifest(FULL)) == MEANING


def test_smallest_manifest_takes_every_default() -> None:
    """`[targets.cpu]` alone is a target: amd64, Debian 12, all models, a user that is not root."""
    manifest = parse_manifest(SMALLEST)
    assert manifest.targets == (TargetSpec(name="cpu"),)
    assert manifest.image.user == "65532:65532"
    assert (manifest.models, manifest.requires.packages, manifest.indexes) == ((), (), ())


def test_target_without_models_key_has_all_of_them() -> None:
    """Models are named in each target's value, whether the file names them or not."""
    models = {target.name: target.models for target in parse_manifest(FULL).targets}
    assert models == {"cpu": ("digits", "resnet50"), "edge": ("digits",)}


def test_required_by_joins_the_target_to_the_rest() -> None:
    """A target needs what all need and its own additions, each once."""
    manifest = parse_manifest(FULL)
    edge = required_by(manifest, manifest.targets[1])
    assert edge.python == "<4,==3.13.*,>=3.11"
    assert edge.packages == (
        "num-py[a-b,fast]<3,>=1.26",
        "numpy>=2",
        "onnxruntime>=1.20",
        'pillow; sys_platform == "linux"',
    )
    assert edge.system == ("libgomp1", "openssl (>= 3.0)")


def test_positions_of_keys_and_requirements() -> None:
    """Later errors can point at a key, at an element of an array, or at a requirement as it is spelled in the value."""
    manifest = parse_manifest(FULL, "dir/model.toml")
    assert manifest.position("models", "digits", "sha256") == "dir/model.toml:18"
    assert manifest.position("requires", "packages", "num-py[a-b,fast]<3,>=1.26") == "dir/model.toml:24"
    assert manifest.position("requires", "packages", "2") == "dir/model.toml:25"
    assert manifest.position("image", "files", "src") == "dir/model.toml:46"
    assert manifest.position("policy", "nothing") == "dir/model.toml:49"
    assert manifest.position("nothing") == "dir/model.toml:1"


def test_positions_do_not_make_manifests_differ() -> None:
    """Two manifests are equal when their declarations are, wherever those stand."""
    assert parse_manifest(FULL) == parse_manifest(b"# moved down\n\n" + FULL, "other.toml")
    assert parse_manifest(FULL) != parse_manifest(FULL.replace(b'"1.2.0"', b'"1.2.1"'))


def shuffled(values: Any, order: random.Random) -> Any:
    """`values` with the keys of every table in another order."""
    if isinstance(values, dict):
        keys = list(values)
        order.shuffle(keys)
        return {key: shuffled(values[key], order) for key in keys}
    if isinstance(values, list):
        return [shuffled(value, order) for value in values]
    return values


@QUIET
@given(st.randoms(use_true_random=False))
def test_order_and_spelling_do_not_change_the_meaning(order: random.Random) -> None:
    """Keys in any order and written by another program mean the same, to the bytes of the lock's echo."""
    text = tomlkit.dumps(shuffled(tomllib.loads(FULL.decode()), order))
    assert repr(meaning(parse_manifest(text.encode()))) == repr(meaning(parse_manifest(FULL)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"# x", b"#  y  "),
        (b'name = "classifier"', b"'name'='classifier'  # comment"),
        (b"[targets.cpu]\n", b'[ targets . "cpu" ]\n'),
        (b'"onnxruntime >= 1.20",', b"\t'ONNXruntime>=1.20'  ,"),
        (b"<3, >=1.26", b">=1.26,<3,>=1.26"),
        (b"[Fast, a.b]", b"[a_b,fast]"),
        (b"sys_platform=='linux'", b"sys_platform == 'linux'"),
        (b'"1 week"', b'"168 hours"'),
        (b"\n", b"\r\n"),
        (b'system = ["openssl (>= 3.0)", "libgomp1"]', b'system = ["libgomp1", "openssl (>= 3.0)"]'),
        (b"packages.example.org", b"mirror.example.net"),
    ],
)
def test_spelling_has_no_meaning(before: bytes, after: bytes) -> None:
    """Comments, quotes, white space, line ends, order in arrays of names and addresses of indexes are not in it."""
    assert before == b"# x" or before in FULL
    assert meaning(parse_manifest((b"# x\n" + FULL).replace(before, after))) == MEANING


def leaves(values: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all plain values in `values`."""
    if isinstance(values, dict):
        return [leaf for key, value in values.items() for leaf in leaves(value, (*path, key))]
    if isinstance(values, list):
        return [leaf for index, value in enumerate(values) for leaf in leaves(value, (*path, index))]
    return [path]


OTHER_VALUES = {
    "tolerance": 1e-6,
    "shell": False,
    "source": "file:other",
    "data": "other",
    "sha256": "1" * 64,
    "os": "debian:12",
    "platform": "linux/amd64",
    "python": ">=3.12",
    "user": "1001",
    "workdir": "/other",
    "src": "/other",
    "exclude-newer": "2024-06-01T00:00:00Z",
    "minimum-age": "2 days",
    "models": "resnet50",
    "version": "9",
}


def test_every_value_that_a_lock_depends_on_is_in_the_meaning() -> None:
    """Changing any value of the file, but an index's address and a format that would be inferred, changes it."""
    for path in leaves(tomllib.loads(FULL.decode())):
        if path[-1] in ("url", "format"):
            continue
        document = tomlkit.parse(FULL.decode()).unwrap()
        table: Any = document
        for key in path[:-1]:
            table = table[key]
        named = [key for key in path if isinstance(key, str)][-1]
        key = path[-1]
        if key == "./src":
            table[key] = "/other"
        else:
            table[key] = OTHER_VALUES.get(named, "other")
        assert meaning(parse_manifest(tomlkit.dumps(document).encode())) != MEANING, path


EVERYTHING_WRONG = """\
[projekt]
[project]
nam = "x"
version = 1
[models.A]
[models.b]
source = "file:../x"
sourc = "y"
adapt = "x"
[[models.b.tests]]
data = "/abs"
tolerance = 2
[target.cpu]
[targets.gpu]
cuda = "12.x"
compute-capability = ["sm_80", "9.0", "9.0"]
driver = "<600"
os = "bookworm"
platform = "amd64"
models = ["c"]
[requires]
packages = ["numpy>=1", "Numpy", "a b",
  "x @ https://h.example/x.whl",
  3]
system = "libgomp1"
python = "three"
[image]
user = "0"
files = {"../a" = "/app", b = "c"}
[policy]
constraint = []
exclude-newer = 2025-01-01
minimum-age = "7d"
[index]
"""


def test_all_mistakes_at_once() -> None:
    """One run names every mistake with its line, its key, the rule and the fix."""
    assert mistakes(EVERYTHING_WRONG) == [
        "model.toml:1 projekt: unknown key -> did you mean project?",
        "model.toml:2 project.name: the key is missing -> add name: it is required here",
        "model.toml:3 project.nam: unknown key -> did you mean name?",
        "model.toml:4 project.version: expected a string, not an integer -> write a string",
        "model.toml:5 models.A: 'A' is not a name -> use lower-case letters, digits and - "
        "(in models' names also . and _)",
        "model.toml:6 models.b.version: the key is missing -> add version: it is required here",
        "model.toml:7 [path-escapes] models.b.source: '../x' holds .. -> write the path without ..",
        "model.toml:8 models.b.sourc: unknown key -> did you mean source?",
        "model.toml:9 models.b.adapt: expected an array of tables, not a string -> write [[models.b.adapt]] above each",
        "model.toml:11 [path-escapes] models.b.tests[0].data: '/abs' is an absolute path -> "
        "write the path from the project's directory",
        "model.toml:12 models.b.tests[0].tolerance: 2 is no tolerance -> "
        "write a number from 0 to below 1, such as 1e-4",
        "model.toml:13 target: unknown key -> did you mean targets?",
        "model.toml:15 targets.gpu.cuda: '12.x' is not a range of versions -> write it as PEP 440 has it, such as "
        '">=3.11"',
        "model.toml:16 targets.gpu.compute-capability[0]: 'sm_80' is not a compute capability -> write \"8.0\"",
        "model.toml:16 targets.gpu.compute-capability[2]: '9.0' repeats '9.0' -> keep one of the two",
        "model.toml:17 targets.gpu.driver: '<600' does not say which driver the hosts have at least -> "
        'write the oldest driver of the hosts, such as ">=535" or ">=535.104.05" (nvidia-smi prints it)',
        "model.toml:18 targets.gpu.os: 'bookworm' is not known here -> did you mean \"debian:12\"?",
        "model.toml:19 targets.gpu.platform: 'amd64' is not known here -> did you mean \"linux/amd64\"?",
        "model.toml:20 targets.gpu.models[0]: 'c' is not known here -> choose one of b",
        "model.toml:22 requires.packages[1]: 'Numpy' repeats 'numpy>=1' -> keep one of the two",
        "model.toml:22 requires.packages[2]: 'a b' is not a requirement -> "
        'write it as PEP 508 has it, such as "numpy>=1.26,<3"',
        "model.toml:23 requires.packages[3]: 'x @ https://h.example/x.whl' names a URL; a lock holds no addresses -> "
        "name the package alone, and bind it to an [[index]] if it is not on the usual one",
        "model.toml:24 requires.packages[4]: expected a string, not an integer -> put it in quotes",
        "model.toml:25 requires.system: expected an array of strings, not a string -> write an array of strings",
        "model.toml:26 requires.python: 'three' is not a range of versions -> "
        'write it as PEP 440 has it, such as ">=3.11"',
        "model.toml:28 image.user: '0' is not a numeric user other than root -> "
        'write a user number, or user:group, above 0, such as "65532:65532"',
        "model.toml:29 [path-escapes] image.files.'../a': '../a' holds .. -> write the path without ..",
        "model.toml:29 image.files.b: 'c' is not an absolute path -> write the path in the image, starting with /",
        "model.toml:31 policy.constraint: unknown key -> did you mean constraints?",
        "model.toml:32 policy.exclude-newer: expected a string, not a date or time -> write a string",
        "model.toml:33 policy.minimum-age: '7d' is not an age -> "
        'write a number of hours, days or weeks, such as "7 days"',
        "model.toml:34 index: expected an array of tables, not a table -> write [[index]] above each",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[project]\nname = "p"\nversion = "1"',
            ["model.toml:1 targets: no target is defined -> add a line [targets.cpu]: the defaults make it a target"],
        ),
        ("[targets.cpu]", ["model.toml:1 project: the key is missing -> add project: it is required here"]),
    ],
)
def test_what_must_be_there(text: str, expected: list[str]) -> None:
    """A manifest has a project and a target; the absence of a table is one mistake."""
    assert mistakes(text) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("m.onnx", "'m.onnx' has no scheme -> write file: and the path of the model file from the project"),
        ("fil:m.onnx", "'fil' is no scheme of a source -> did you mean file:?"),
        (
            "x:m.onnx",
            "'x' is no scheme of a source -> download the model into the project and write file: and its path",
        ),
        *(
            (f"{scheme}:m", f"'{scheme}:m' is no {scheme}: source -> write {form}")
            for scheme, form in (
                ("https", "https://host/path, without user name, password and fragment"),
                ("git+https", "git+https://host/repository@revision#path/of/file"),
                ("hf", "hf:org/name@revision:path/of/file"),
                ("pypi", "pypi:distribution==version/path/in/wheel"),
                ("oci", "oci:registry/repository:tag or oci:registry/repository@sha256:digest, and #path/of/file"),
                ("torchhub", "torchhub:owner/repository@revision:entrypoint"),
                ("kaggle", "kaggle:owner/model/framework/variation/version:path/of/file"),
                ("tfhub", "tfhub:owner/model/framework/variation/version:path/of/file"),
                ("onnxzoo", "onnxzoo:https://host/path/model.tar.gz or onnxzoo:file:path/of/model.tar.gz"),
            )
        ),
        ("file:", f"'' is no path -> write a path of 1 to {manifest_toml._LONGEST_PATH} characters"),
        ("file:.", "'.' is the whole project -> name a file or directory inside it"),
    ],
)
def test_sources(source: str, expected: str) -> None:
    """Each scheme has its form; those of the design that are still to come are named as such."""
    text = SMALLEST + f'[models.m]\nversion = "1"\nsource = "{source}"'.encode()
    assert mistakes(text) == [f"model.toml:7 models.m.source: {expected}"]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "//x", "..", "a/../../b", "a/..", "a\\\\..\\\\b", "a\\u0000b", "a\\nb", "a\\u202eb", "a\\u007f"],
)
def test_paths_that_may_leave_the_project(path: str) -> None:
    """Absolute paths, `..`, backslashes and invisible characters are refused wherever a project path stands."""
    text = SMALLEST.decode() + (
        f'[models.m]\nversion = "1"\nsource = "file:{path}"\n[[models.m.tests]]\ndata = "{path}"\n'
        f'[image]\nfiles = {{ "{path}" = "/app" }}'
    )
    found = mistakes(text)
    assert [line.partition(" [path-escapes]")[0] for line in found] == ["model.toml:7", "model.toml:9", "model.toml:11"]


def test_an_index_owns_its_packages() -> None:
    """No package is bound to two indexes, however it is spelled, and no two indexes share a name."""
    index = '[[index]]\nname = "{}"\nurl = "https://h.example/"\npackages = ["{}"]\n'
    found = mistakes(SMALLEST.decode() + index.format("a", "My.Pkg") + index.format("b", "my-pkg"))
    assert found == [
        "model.toml:12 index[1].packages.my-pkg: my-pkg is bound to index 'a' already -> bind each package to one index"
    ]
    found = mistakes(SMALLEST.decode() + index.format("a", "x") + index.format("a", "y"))
    assert found == ["model.toml:10 index[1].name: 'a' is the name of two indexes -> give each index a name of its own"]


@pytest.mark.parametrize("user", ["https://user@h.example/", "https://user:secret@h.example/", "https://h/?token=x"])
def test_secrets_are_kept_out(user: str) -> None:
    """An address with credentials is refused: the manifest is committed."""
    text = SMALLEST + f'[[index]]\nname = "a"\nurl = "{user}"\npackages = ["x"]'.encode()
    assert "credentials belong to pip's configuration" in mistakes(text)[0]


def test_a_test_case_stands_once() -> None:
    """The same data under two spellings is one case, named twice."""
    text = SMALLEST + b'[models.m]\nversion = "1"\nsource = "file:m"\ntests = [{ data = "t" }, { data = "./t/" }]'
    assert mistakes(text) == [
        "model.toml:8 models.m.tests[1].data: 't' is a test of this model already -> keep one of the two"
    ]


def test_markers_tell_requirements_apart() -> None:
    """One name may stand twice if its markers differ."""
    text = SMALLEST + b"[requires]\npackages = [\"a<2; python_version<'3.12'\", \"a>=2; python_version>='3.12'\"]"
    assert len(parse_manifest(text).requires.packages) == 2


def test_mistakes_are_bounded() -> None:
    """A file of thousands of mistakes is refused after a hundred, soon."""
    started = time.process_time()
    assert len(mistakes(SMALLEST + "".join(f"projekt{i} = 1\n" for i in range(19_000)).encode())) == 100
    assert time.process_time() - started < 1.0


HOSTILE = {
    "marker-parentheses": f'packages = ["a; {"(" * 400}"]',
    "closed-parentheses": f"packages = [\"a; {'(' * 240}os_name>'a'{')' * 240}\"]",
    "many-packages": "packages = [" + ",".join(f'"a{i}"' for i in range(90_000)) + "]",
    "long-package": f'packages = ["{"a." * 400_000}"]',
    "long-system": f'system = ["{"a" * 900_000} (>= 1"]',
    "long-range": f'python = "{">=1," * 200_000}"',
    "long-version": f'python = "{"1." * 400_000}"',
    "many-digits": f'packages = ["a>={"9" * 5000}"]',
    "many-digits-in-marker": f"packages = [\"a; python_version > '{'9' * 5000}'\"]",
    "moving-cursor": 'packages = ["\\u001b[2J\\u202e"]',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_refused_soon(name: str) -> None:
    """No value makes a pattern, packaging or a message explode."""
    started = time.process_time()
    found = mistakes(SMALLEST.decode() + "[requires]\n" + HOSTILE[name])
    assert time.process_time() - started < 1.0
    assert all(len(line) < 1000 and line.isprintable() for line in found)


@QUIET
@given(st.binary(max_size=32), st.integers(0, len(FULL)), st.integers(0, 16))
def test_any_change_gives_a_manifest_or_an_error(inserted: bytes, at: int, removed: int) -> None:
    """No change of the bytes gives a traceback; every mistake has a place and a fix or is self-evident."""
    try:
        manifest = parse_manifest(FULL[:at] + inserted + FULL[at + removed :])
    except NnenvError as error:
        assert error.where is not None
        assert re.fullmatch(r"model\.toml(:\d+){0,2}", error.where)
    else:
        assert isinstance(manifest, Manifest)


NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,6}", fullmatch=True)
SPACE = st.sampled_from(["", "", " ", "  ", "\t"])
VERSIONS = st.from_regex(r"[0-9]{1,2}(\.[0-9*]{1,2}){0,3}(a|b|rc|\.post|\.dev|\.\*|c|-|\+)?[0-9]?", fullmatch=True)
CLAUSES = st.tuples(
    SPACE, st.sampled_from(["==", "!=", "<=", ">=", "<", ">", "~=", "===", "=", "!"]), SPACE, VERSIONS, SPACE
).map("".join)
RANGES = st.lists(CLAUSES, max_size=3).map(",".join)
EXTRAS = st.one_of(
    st.just(""),
    st.lists(st.tuples(SPACE, NAMES, SPACE).map("".join), max_size=3).map(lambda extras: f"[{','.join(extras)}]"),
)
REQUIREMENTS = st.one_of(
    st.tuples(SPACE, NAMES, SPACE, EXTRAS, SPACE, RANGES, SPACE).map("".join),
    st.text("ab1.-_[],<>=~! ;@()'", max_size=14),
)


def by_packaging(text: str) -> str | None:
    """Our spelling of a requirement by way of packaging; None if packaging refuses it, or it names a URL."""
    try:
        return manifest_toml._odd_requirement(text)
    except RuleError:
        return None


@QUIET
@given(REQUIREMENTS)
def test_short_cut_accepts_nothing_that_packaging_refuses(text: str) -> None:
    """What the short pattern knows, packaging reads to the same spelling."""
    simple = manifest_toml._simple_requirement(text)
    if simple is not None:
        assert simple == by_packaging(text)


@QUIET
@given(RANGES)
def test_short_cut_of_ranges_agrees_with_packaging(text: str) -> None:
    """The short pattern for ranges takes only PEP 440, and means the same."""
    clauses = manifest_toml._simple_clauses(text)
    if clauses is not None:
        assert sorted(set(clauses)) == sorted({str(clause) for clause in SpecifierSet(text)})


@pytest.mark.parametrize(
    "text",
    ["a", "a-b_c.D", "a>=1", "a >= 1.2 , <2", "a[b,c]~=1.4", "a==1.*", "a!=1.2.*,>1", "a==1.0rc1", "a>=1.0.post1.dev0"],
)
def test_common_requirements_take_the_short_cut(text: str) -> None:
    """The usual forms do not need packaging."""
    assert manifest_toml._simple_requirement(text) is not None


@QUIET
@given(REQUIREMENTS)
def test_spelling_of_a_requirement_is_normal(text: str) -> None:
    """A spelled requirement stays as it is, and is equal to what was written."""
    try:
        spelled = normal_requirement(text)
    except RuleError:
        return
    assert normal_requirement(spelled) == spelled
    assert Requirement(spelled) == Requirement(text)


@pytest.mark.parametrize("text", ["a_", "a[b_]", "a.; python_version>'3'"])
def test_names_are_those_of_pep_508(text: str) -> None:
    """packaging lets a name end in `_` or `.`, which PEP 508 does not."""
    with pytest.raises(RuleError):
        normal_requirement(text)


def test_requirements_that_packaging_refuses_are_refused() -> None:
    """The parser asks packaging for everything that the short pattern does not know."""
    for text in ("a>=x", "a-", "a ==1.*.1", "a~=1", ">=1", "a[", "a;b", "a>=1.*", "a,b", "a [b"):
        with pytest.raises(InvalidRequirement):
            Requirement(text)
        with pytest.raises(RuleError):
            normal_requirement(text)


@pytest.mark.parametrize("text", [">=3.*", "3.11 3.12", ">=three", "=>3"])
def test_ranges_that_packaging_refuses_are_refused(text: str) -> None:
    """The range of Python is PEP 440, with plain versions besides."""
    with pytest.raises(InvalidSpecifier):
        SpecifierSet(text)
    assert "is not a range" in mistakes(SMALLEST.decode() + f'[requires]\npython = "{text}"')[0]


def test_imports_are_light() -> None:
    """The value costs neither tomllib nor packaging, and a plain manifest is read without packaging."""
    script = (
        "import sys, nnenv.spec.manifest\n"
        "heavy = {'tomllib', 'packaging', 'packaging.requirements', 'difflib', 'numpy', 'tomlkit', 'jsonschema'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "from nnenv.spec.manifest_toml import parse_manifest\n"
        f"parse_manifest({FULL.replace(b'; sys_platform==', b'#')!r}.replace(b\"#'linux'\", b''))\n"
        "assert heavy & sys.modules.keys() == {'tomllib'}, heavy & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "source",
    [
        "https://user:secret@h.example/m.onnx",
        "https://h.example/m.onnx#part",
        "https://h.example",
        "hf:name@main:m.onnx",
        "hf:org/name:m.onnx",
        "hf:org/name@main:../m.onnx",
        "hf:org/name@main:/m.onnx",
        "pypi:name==1",
        "pypi:name==1/../m.onnx",
        "pypi:name==1/a/./m.onnx",
    ],
)
def test_sources_that_are_refused(source: str) -> None:
    """Secrets, and paths that lead out."""
    (mistake,) = mistakes(SMALLEST + f'[models.m]\nversion = "1"\nsource = "{source}"'.encode())
    assert "models.m.source" in mistake


def test_several_places() -> None:
    """In their order; a wheel's name and range in normal spelling."""
    text = (
        SMALLEST
        + b"""[models.m]
version = "1"
sources = ["https://h.example/m.onnx?x=1", "hf:Org/Name@refs/pr/1:onnx/m.onnx", "pypi:My_Net >=1 , <2/net/m.onnx"]
"""
    )
    (model,) = parse_manifest(text).models
    web, hub, wheel = model.places
    assert (web.url, web.filename) == ("https://h.example/m.onnx?x=1", "m.onnx")
    assert (hub.repository, hub.revision, hub.path) == ("Org/Name", "refs/pr/1", "onnx/m.onnx")
    assert (wheel.distribution, wheel.specifier, wheel.path) == ("my-net", "<2,>=1", "net/m.onnx")
    said = meaning(parse_manifest(text))["models"]["m"]["sources"]
    assert said[1:] == ["hf:Org/Name@refs/pr/1:onnx/m.onnx", "pypi:my-net<2,>=1/net/m.onnx"]
    assert said[0].startswith("web:")
    assert "h.example" not in said[0]
    other = parse_manifest(text.replace(b"?x=1", b"?x=2"))
    assert meaning(other) != meaning(parse_manifest(text))


SHA = "0" * 64
ELSEWHERE = '[project]\nname = "p"\nversion = "1"\n[targets.cpu]\n[models.a]\nversion = "1"\nsource = "file:m.onnx"\n'


@pytest.mark.parametrize(
    "source",
    [
        "oci:h.example/net:v1",
        "oci:h.example:5000/zoo/a-b__c/net:v1.0_x#deep/net.onnx",
        f"oci:localhost/net@sha256:{SHA}",
        f"oci:[::1]:5000/net@sha256:{SHA}#net.onnx",
        "oci:registry:5000/net:latest",
        "torchhub:owner/repo.x@v0.1/x:entry_1",
        "kaggle:who/net/onnx/small/3",
        "tfhub:who/net/tfLite/v1.0/12:deep/net.onnx",
        "onnxzoo:https://h.example/net.tar.gz?download=1",
        "onnxzoo:file:zoo/net.tar.gz",
    ],
)
def test_sources_inside_of_something(source: str) -> None:
    """They are read, and the place that is meant says no host."""
    manifest = parse_manifest(ELSEWHERE.replace("file:m.onnx", source).encode())
    (place,) = manifest.models[0].places
    assert "h.example" not in place.identity
    assert place.identity.startswith(MODEL_ORIGINS)
    assert getattr(place, "shown", source) == source


@pytest.mark.parametrize(
    "source",
    [
        "oci:net:v1",
        "oci:zoo/net:v1",
        "oci:h.example/net",
        "oci:h.example/Net:v1",
        "oci:u:p@h.example/net:v1",
        f"oci:h.example/net@sha256:{SHA[1:]}",
        f"oci:h.example/net:v1@sha256:{SHA}",
        "oci:h.example/net:v1#../x",
        "oci:h.example/net:v1#/x",
        "oci:h.example/../net:v1",
        "oci:h.example/net:-v1",
        "torchhub:owner/repo:entry",
        "torchhub:owner/repo@main:entry-point",
        "kaggle:who/net/onnx/small",
        "kaggle:who/net/onnx/small/0",
        "kaggle:who/net/onnx/../3",
        "kaggle:who/net/onnx/small/3:/x",
        "onnxzoo:resnet50",
        "onnxzoo:file:../x.tar",
        "onnxzoo:https://u:p@h.example/x.tar",
    ],
)
def test_sources_that_are_none(source: str) -> None:
    """Each is told the form of its scheme."""
    (mistake,) = mistakes(ELSEWHERE.replace("file:m.onnx", source))
    assert f"is no {source.partition(':')[0]}: source -> write " in mistake
