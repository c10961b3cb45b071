"""model.lock: canonical bytes, its checksum, its references, and its JSON Schema."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import random
import re
import tomllib
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.spec import lock_toml
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.lock_toml import SIZE_LIMIT, manifest_text, read_lock, write_lock
from nnenv.spec.lockfile import (
    LOCK_VERSION,
    CaseLock,
    DerivationLock,
    EvaluationLock,
    FileLock,
    GpuLock,
    ImageLock,
    LayerLock,
    Lockfile,
    ModelLock,
    ReleaseLock,
    StepLock,
    TargetLock,
)
from nnenv.spec.schema import key_paths, schema_of

VALIDATOR = jsonschema.Draft202012Validator(schema_of(Lockfile))


def digest(name: str) -> Sha256:
    """The sha256 of `name`: a digest that looks like one."""
    return Sha256(hashlib.sha256(name.encode()).hexdigest())


def artifact(kind: Kind, name: str, version: str, filename: str, **more: Any) -> Artifact:
    """An artifact whose digest is that of its file name."""
    origin = {Kind.WHEEL: "python", Kind.DEB: f"debian:bookworm:pool/{filename}"}.get(kind, f"file:{filename}")
    return Artifact(
        kind=kind, name=name, version=version, filename=filename, sha256=digest(filename), size=7, origin=origin, **more
    )


NUMPY = artifact(
    Kind.WHEEL, "numpy", "2.1.0", "numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.whl", requires_python=">=3.10"
)
RUNTIME = artifact(
    Kind.WHEEL,
    "onnxruntime",
    "1.20.0",
    "onnxruntime-1.20.0-cp311-cp311-manylinux_2_27_x86_64.whl",
    requires=("numpy>=1.21.6", "extra @ https://h.example/x.whl"),
)
LIBC = artifact(
    Kind.DEB,
    "libc6",
    "2.36-9",
    "libc6_2.36-9_amd64.deb",
    architecture="amd64",
    requires=("Pre-Depends: libgcc-s1", "Depends: libcrypt1 (>= 1:4.4)"),
)
TOOL = artifact(
    Kind.DEB, "python3.11-minimal", "3.11.2-6", "python3.11-minimal_3.11.2-6_amd64.deb", architecture="amd64"
)
MODEL = artifact(Kind.MODEL, "digits", "1.0", "digits.onnx")
ADAPTED = artifact(Kind.MODEL, "digits", "1.0", "adapted.onnx")
WEIGHTS = artifact(Kind.MODEL, "digits", "1.0", "weights.bin")
DATA = artifact(Kind.CASE, "data/held_out.npz", "", "held_out.npz")
INPUT = artifact(Kind.CASE, "tests/digits", "", "input_0.pb")
OUTPUT = artifact(Kind.CASE, "tests/digits", "", "output_0.pb")
SETTINGS = artifact(Kind.CASE, "tests/digits", "", "case.toml")
SOURCE = artifact(Kind.FILE, "src/app.py", "", "app.py")

TARGET = TargetLock(
    name="cpu",
    platform="linux/arm64",
    os="debian:12",
    python="3.11.2",
    moment="2026-01-10T00:00:00Z",
    glibc="2.36",
    models=("digits",),
    wheels=(NUMPY.sha256, RUNTIME.sha256),
    debs=(LIBC.sha256,),
    tools=(TOOL.sha256,),
    sonames=(("libgomp.so.1", "libgomp1"),),
    omitted=("ca-certificates: openssl (nnenv writes the bundle)",),
    gpu=GpuLock(
        cuda="12.9.1",
        cudnn="9.10.2.21",
        driver="525.60.13",
        driver_reason="CUDA 12 runs from this driver on",
        capabilities=(("7.5", "sass"), ("12.0", "ptx 8.4")),
        lazy=(("libcufft.so.11", "nvidia-cufft-cu12"),),
        driver_sonames=("libcuda.so.1",),
    ),
    image=ImageLock(
        recipe=1,
        manifest=digest("manifest"),
        config=digest("config"),
        layers=(LayerLock(title="os debian:12", diff_id=digest("diff"), digest=digest("blob"), size=9),),
    ),
)

CASE = CaseLock(
    name="tests/digits/test_data_set_0",
    inputs=(INPUT.sha256,),
    expected=(OUTPUT.sha256,),
    settings=SETTINGS.sha256,
    tolerance=1e-05,
    against=MODEL.sha256,
)

SAMPLE = Lockfile(
    notices=("see https://h.example/notice",),
    manifest={"project": {"name": "p", "version": "1"}, "targets": {"cpu": {"models": ["digits"]}}},
    releases=(
        ReleaseLock(suite="bookworm", architecture="amd64", date="2026-01-10T00:00:00Z", sha256=digest("Release")),
    ),
    targets=(TARGET,),
    models=(
        ModelLock(
            name="digits",
            version="1.0",
            format="onnx",
            file=MODEL.sha256,
            revision="0123abc",
            licence="mit",
            opsets=("ai.onnx:17",),
            needs=("onnxruntime>=1.20",),
            cases=(CASE,),
            files=(("weights.bin", WEIGHTS.sha256),),
            data=(("data/held_out.npz", DATA.sha256),),
        ),
    ),
    toolchains=(dataclasses.replace(TARGET, name="adapt-cpu"),),
    derivations=(
        DerivationLock(
            model="digits",
            targets=("cpu",),
            parent=MODEL.sha256,
            file=ADAPTED.sha256,
            toolchain="adapt-cpu",
            host="x86_64 avx2",
            opsets=("ai.onnx:17",),
            steps=(StepLock(step="float16", key=digest("key"), output=ADAPTED.sha256, size=ADAPTED.size, drift=0.001),),
            cases=(CASE,),
        ),
    ),
    evaluations=(
        EvaluationLock(
            model="digits",
            number=0,
            file=ADAPTED.sha256,
            value=0.97,
            baseline=0.98,
            baseline_file=MODEL.sha256,
            labels=OUTPUT.sha256,
        ),
    ),
    files=(FileLock(path="app/app.py", sha256=SOURCE.sha256, executable=True),),
    artifacts=(LIBC, TOOL, NUMPY, RUNTIME, MODEL, WEIGHTS, ADAPTED, DATA, INPUT, OUTPUT, SETTINGS, SOURCE),
)
"""A lock that has every key."""

BYTES = write_lock(SAMPLE)
EMPTY = Lockfile(manifest={}, releases=(), targets=(), models=(), artifacts=())


def sealed(text: str) -> bytes:
    """A lock whose body is `text`, under a head with the right checksum: what a careful forger would write."""
    head = BYTES.split(b"\n", 3)[0].decode()
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return f'{head}\nlock-version = {LOCK_VERSION}\nchecksum = "{checksum}"\n{text}'.encode()


BODY = BYTES.split(b"\n", 3)[3].decode()


def refusal(data: bytes) -> NnenvError:
    """The refusal of `data`; the test fails if there is none."""
    with pytest.raises(NnenvError) as caught:
        read_lock(data)
    return caught.value


# Reading and writing


def test_what_is_written_comes_back() -> None:
    """Reading gives the value that was written, with every key set."""
    assert dataclasses.replace(SAMPLE, artifacts=tuple(read_lock(BYTES).artifacts)) == read_lock(BYTES)
    assert set(SAMPLE.artifacts) == set(read_lock(BYTES).artifacts)


def test_an_empty_lock_comes_back() -> None:
    """A lock without targets is one too."""
    assert read_lock(write_lock(EMPTY)) == EMPTY


def test_the_bytes_never_change() -> None:
    """Format 1 has these bytes for ever: committed locks must stay what nnenv writes."""
    assert hashlib.sha256(BYTES).hexdigest() == "451dc31a12d3057958cb10ee9ef359438a27138c381a58804eaba63f5ed33d01"
    as_before = dataclasses.replace(
        SAMPLE,
        targets=tuple(dataclasses.replace(target, gpu=None) for target in SAMPLE.targets),
        toolchains=(),
        derivations=(),
        evaluations=(),
        models=tuple(
            dataclasses.replace(
                model,
                revision="",
                licence="",
                needs=(),
                files=(),
                data=(),
                cases=tuple(dataclasses.replace(case, against=None) for case in model.cases),
            )
            for model in SAMPLE.models
        ),
        artifacts=tuple(one for one in SAMPLE.artifacts if one not in (ADAPTED, DATA, WEIGHTS)),
    )
    digest_of_old = hashlib.sha256(write_lock(as_before)).hexdigest()
    assert digest_of_old == "1d2a50223a809818c62fccc9f0e68294d55cf262b17ed5d768a6eff84586e7a2"


def test_order_of_artifacts_never_shows() -> None:
    """The list is sorted when it is written, whatever order it was found in."""
    artifacts = list(SAMPLE.artifacts)
    for seed in range(10):
        random.Random(seed).shuffle(artifacts)
        assert write_lock(dataclasses.replace(SAMPLE, artifacts=tuple(artifacts))) == BYTES


def test_the_text_is_utf8_with_unix_line_ends() -> None:
    """No carriage return, no byte order mark, one line end at the end."""
    assert b"\r" not in BYTES
    assert BYTES.startswith(b"# model.lock")
    assert BYTES.endswith(b"\n")
    assert not BYTES.endswith(b"\n\n")


def test_labels_are_for_people() -> None:
    """A diff shows which package a digest is."""
    assert f'  ["{NUMPY.sha256}", "numpy 2.1.0"],\n' in BYTES.decode()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    notices=st.lists(TEXTS, max_size=2),
    suite=TEXTS,
    title=TEXTS,
    requires=st.lists(TEXTS, max_size=3),
    tolerance=st.none() | st.floats(0, 1, exclude_max=True),
    executable=st.booleans(),
    size=st.integers(0, 1 << 62),
)
def test_any_texts_and_numbers_come_back(
    notices: list[str],
    suite: str,
    title: str,
    requires: list[str],
    tolerance: float | None,
    executable: bool,
    size: int,
) -> None:
    """Whatever Unicode a source puts into a lock, reading gives it back, and the schema accepts it."""
    (target,) = SAMPLE.targets
    (model,) = SAMPLE.models
    assert target.image is not None
    layer = dataclasses.replace(target.image.layers[0], title=title)
    lockfile = dataclasses.replace(
        SAMPLE,
        notices=tuple(notices),
        releases=(dataclasses.replace(SAMPLE.releases[0], suite=suite),),
        targets=(dataclasses.replace(target, image=dataclasses.replace(target.image, layers=(layer,))),),
        models=(dataclasses.replace(model, cases=(dataclasses.replace(model.cases[0], tolerance=tolerance),)),),
        files=(dataclasses.replace(SAMPLE.files[0], executable=executable),),
        artifacts=tuple(
            dataclasses.replace(one, requires=tuple(requires), size=size) if one == NUMPY else one
            for one in read_lock(BYTES).artifacts
        ),
    )
    data = write_lock(lockfile)
    assert read_lock(data) == lockfile
    assert b"://" not in data
    assert list(VALIDATOR.iter_errors(tomllib.loads(data.decode()))) == []


def test_addresses_are_escaped_and_restored() -> None:
    """A notice or requirement that holds an address keeps it, and a search for `://` in the file finds nothing."""
    assert b"://" not in BYTES
    assert BYTES.count(b":\\u002f/h.example") == 2
    back = read_lock(BYTES)
    assert back.notices == ("see https://h.example/notice",)
    assert back.by_digest[RUNTIME.sha256].requires[1] == "extra @ https://h.example/x.whl"


def test_an_unescaped_address_is_refused() -> None:
    """A lock in which somebody wrote an address plainly is not what nnenv wrote, even with the right checksum."""
    assert "canonical" in refusal(sealed(BODY.replace(":\\u002f/", "://"))).because[0]


# The checksum


def test_every_flipped_bit_is_found() -> None:
    """Any one bit of any byte, head and introduction included: refused, never a traceback, never believed."""
    believed = []
    for position in range(len(BYTES)):
        for bit in range(8):
            damaged = bytearray(BYTES)
            damaged[position] ^= 1 << bit
            try:
                read_lock(bytes(damaged))
            except NnenvError as error:
                assert error.code in {"lock-edited", "lock-version"}
            else:
                believed.append((position, bit))
    assert believed == []


def test_every_cut_is_found() -> None:
    """A lock that was torn at any byte is refused."""
    for length in range(len(BYTES)):
        assert refusal(BYTES[:length]).code == "lock-edited"


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (lambda data: b"", "first lines"),
        (lambda data: b"\xef\xbb\xbf" + data, "first lines"),
        (lambda data: data.replace(b"\n", b"\r\n"), "first lines"),
        (lambda data: data.replace(b'python = "3.11.2"\n', b'python = "3.11.2"\r\n'), "checksum"),
        (lambda data: b"<<<<<<< HEAD\n" + data, "first lines"),
        (lambda data: data.replace(b"checksum", b"<<<<<<< HEAD\nchecksum"), "checksum"),
        (lambda data: data.replace(b"[[target]]", b"<<<<<<< a\n[[target]]\n=======\n>>>>>>> b"), "checksum"),
        (lambda data: data.replace(b"2.1.0", b"2.1.1"), "checksum"),
        (lambda data: data + b"\n", "checksum"),
        (lambda data: data + b"# a comment\n", "checksum"),
        (lambda data: data.replace(b"lock-version = 1", b"lock-version = one"), "lock-version"),
        (lambda data: data.replace(b"lock-version = 1", b"lock-version = -1"), "lock-version"),
        (lambda data: data.replace(b"lock-version = 1", b"lock-version = " + b"9" * 5000), "lock-version"),
        (lambda data: data.replace(b"lock-version = 1", b"lock-version = 0"), "canonical"),
        (lambda data: data.replace(b"lock-version = 1", b"lock-version = 01"), "canonical"),
        (lambda data: data.replace(b'checksum = "', b"checksum = '"), "checksum"),
        (lambda data: data.replace(b'checksum = "', b"checksum =  "), "checksum"),
    ],
)
def test_what_tools_and_people_do_to_files_is_found(damage: Callable[[bytes], bytes], because: str) -> None:
    """Line ends, byte order marks, merge markers, edits and additions: the refusal says which, and what to do."""
    damaged = damage(BYTES)
    assert damaged != BYTES
    error = refusal(damaged)
    assert error.code == "lock-edited"
    assert because in error.because[0]
    assert "nnenv lock" in error.fix[0]


def test_a_newer_format_is_named() -> None:
    """A lock of a later nnenv is not called damaged: the fix is another nnenv."""
    error = refusal(BYTES.replace(b"lock-version = 1\n", b"lock-version = 2\n"))
    assert (error.code, error.where, error.fix) == ("lock-version", "model.lock:2", ("install a newer nnenv",))


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    """Beyond 64 MiB nothing is hashed or parsed; a file of exactly 64 MiB still is."""
    huge = bytes(SIZE_LIMIT + 1)
    assert SIZE_LIMIT == 64 << 20
    assert f"more than {SIZE_LIMIT}" in refusal(huge).because[0]
    assert "first lines" in refusal(huge[:-1]).because[0]


def test_the_refusal_names_the_file() -> None:
    """`where` is the name that the caller gives, so that a lock in a bundle is told from the project's."""
    with pytest.raises(NnenvError) as caught:
        read_lock(BYTES[:-1], "bundle/model.lock")
    assert caught.value.where == "bundle/model.lock:3"


# What a right checksum does not excuse

TABLES = re.split(r"(?m)^(?=\[\[artifact\]\])", BODY)


def without(table: int) -> str:
    """The body without the artifact of that number."""
    return "".join(TABLES[:table] + TABLES[table + 1 :])


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (BODY, ""),
        (TABLES[0] + "".join(reversed(TABLES[1:])), "canonical"),
        (TABLES[0] + TABLES[2] + TABLES[1] + "".join(TABLES[3:]), "canonical"),
        (without(1), "do not match"),
        (BODY + BODY[BODY.rindex("[[artifact]]") :].replace(RUNTIME.sha256, digest("stray")), "do not match"),
        (BODY + BODY[BODY.rindex("[[artifact]]") :], "two artifacts have one sha256"),
        (BODY.replace(f'["{NUMPY.sha256}"', f'["{digest("unknown")}"'), "do not match"),
        (BODY.replace(f'file = "{MODEL.sha256}"', f'file = "{digest("unknown")}"'), "do not match"),
        (BODY.replace(f'settings = "{SETTINGS.sha256}"', f'settings = "{digest("unknown")}"'), "do not match"),
        (BODY.replace('models = [\n  "digits",\n]\nwheels', 'models = [\n  "absent",\n]\nwheels'), "a model that"),
        (BODY.replace('"numpy 2.1.0"', '"numpy 9.9.9"'), "canonical"),
        (BODY.replace('[[release]]\nsuite = "bookworm"\n', "[[release]]\n"), "release[0].suite"),
        (BODY.replace("size = 7", "size = -7", 1), "size is not a whole number"),
        (BODY.replace("size = 7", "size = true", 1), "size is not a whole number"),
        (BODY.replace("size = 7", "size = 7.0", 1), "size is not a whole number"),
        (BODY.replace("executable = true", "executable = 1"), "executable is not a boolean"),
        (BODY.replace("tolerance = 1e-05", "tolerance = 1"), "tolerance"),
        (BODY.replace("tolerance = 1e-05", "tolerance = inf"), "tolerance"),
        (BODY.replace("tolerance = 1e-05", "tolerance = nan"), "tolerance"),
        (BODY.replace('kind = "wheel"', 'kind = "egg"', 1), "egg"),
        (BODY.replace('filename = "app.py"', 'filename = "../app.py"'), "not a base name"),
        (BODY.replace('filename = "app.py"', 'filename = ".."'), "not a base name"),
        (BODY.replace(NUMPY.sha256, NUMPY.sha256.upper()), "not a sha256"),
        (BODY.replace("recipe = 1", 'recipe = "1"'), "recipe is not a whole number"),
        (BODY.replace("opsets = [\n", "opsets = [\n  1,\n"), "opsets is not a list of strings"),
        (BODY.replace('  ["libgomp.so.1", "libgomp1"],', '  ["libgomp.so.1"],'), "other than pairs"),
        (BODY.replace("[[target]]", "[target]", 1), "cannot be understood"),
        (BODY.replace('name = "p"', "name = 2026-01-01", 1), "no canonical TOML"),
        (BODY.replace('name = "p"', 'name = "p"\nname = "p"', 1), "cannot be understood"),
        (BODY.replace('name = "p"', 'name = "p" # a comment', 1), "canonical"),
        (BODY.replace('name = "p"', "name = 'p'", 1), "canonical"),
        (BODY + "\n[surprise]\nx = 1\n", "canonical"),
        (BODY.replace("[[release]]", "[[release]]\nsurprise = 1", 1), "canonical"),
        ("x = " + "[" * 100_000, "cannot be understood"),
        ("\x00", "cannot be understood"),
    ],
)
def test_a_right_checksum_excuses_nothing(body: str, because: str) -> None:
    """A forger can write the checksum anew; order, references, types and spelling must hold all the same."""
    if not because:
        assert read_lock(sealed(body)) == read_lock(BYTES)
        return
    assert body != BODY
    error = refusal(sealed(body))
    assert error.code == "lock-edited"
    assert because in error.because[0]


def test_a_body_that_is_no_utf8_is_refused() -> None:
    """Bytes that are no text are named like any other damage."""
    body = BODY.encode() + b"\xff"
    head = BYTES.split(b"\n", 3)
    stated = b'checksum = "' + hashlib.sha256(body).hexdigest().encode() + b'"'
    assert refusal(b"\n".join([head[0], head[1], stated, body])).code == "lock-edited"


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, len(BODY)))
def test_any_bytes_are_a_lock_or_a_refusal(data: bytes, cut: int) -> None:
    """Arbitrary text spliced into the body, under a right checksum: a refusal, never another exception."""
    text = BODY[:cut] + data.decode("latin-1") + BODY[cut:]
    try:
        read_lock(sealed(text))
    except NnenvError as error:
        assert error.code == "lock-edited"


def test_the_canonical_form_is_what_makes_it_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the comparison of bytes a reordered lock is believed."""
    reordered = sealed(TABLES[0] + "".join(reversed(TABLES[1:])))
    monkeypatch.setattr(lock_toml, "write_lock", lambda lockfile: reordered)
    assert read_lock(reordered).targets == SAMPLE.targets


# The part of a lock that goes into an image, and small questions


def test_the_copy_for_an_image_is_a_lock() -> None:
    """`for_image` keeps one target without its expected image, and all that it refers to."""
    other = dataclasses.replace(SAMPLE.targets[0], name="other", tools=(), image=None)
    both = dataclasses.replace(SAMPLE, targets=(*SAMPLE.targets, other))
    copied = read_lock(write_lock(both.for_image("other")))
    assert [target.name for target in copied.targets] == ["other"]
    assert TOOL.sha256 not in copied.by_digest
    assert write_lock(both.for_image("cpu")) == write_lock(SAMPLE.for_image("cpu"))
    assert copied.releases == ()


def test_the_echo_of_the_manifest_answers_by_key_path() -> None:
    """A string of the manifest that was locked, or "" for what it does not hold."""
    assert manifest_text(SAMPLE, "project", "name") == "p"
    assert manifest_text(SAMPLE, "project", "absent", "deeper") == ""
    assert manifest_text(SAMPLE, "targets") == ""


# The schema


def test_the_schema_accepts_what_is_written() -> None:
    """A lock with every key, and the copy for an image, are right for the schema."""
    jsonschema.Draft202012Validator.check_schema(schema_of(Lockfile))
    for lockfile in (SAMPLE, SAMPLE.for_image("cpu")):
        assert list(VALIDATOR.iter_errors(tomllib.loads(write_lock(lockfile).decode()))) == []


def written_paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Key paths of a written lock, each once, in the order of the file; the manifest's own keys are not the lock's."""
    found: dict[str, None] = {}
    for key, value in values.items():
        found[prefix + key] = None
        tables = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
        if key != "manifest" or prefix:
            inner = [path for table in tables for path in written_paths(table, f"{prefix}{key}.")]
            found.update(dict.fromkeys(inner))
    return list(found)


def test_the_schema_has_exactly_the_keys_that_are_written() -> None:
    """The writer and the dataclasses name the same keys, in the same order: neither can gain one alone."""
    paths = written_paths(tomllib.loads(BYTES.decode()))
    assert sorted(paths) == sorted(key_paths(Lockfile))
    for table in (
        "",
        "release.",
        "target.",
        "target.image.",
        "target.image.layers.",
        "model.",
        "model.cases.",
        "toolchain.",
        "derivation.",
        "derivation.steps.",
        "derivation.cases.",
        "evaluation.",
        "file.",
    ):
        assert direct(paths, table) == direct(key_paths(Lockfile), table)


def direct(paths: list[str], table: str) -> list[str]:
    """The keys that stand in `table` itself, in order."""
    return [path for path in paths if path.startswith(table) and "." not in path.removeprefix(table)]


def mutations() -> list[tuple[str, dict[str, Any]]]:
    """The sample with each key renamed, given a value of another type, or, where it must be there, left out."""
    document = tomllib.loads(BYTES.decode())
    found: list[tuple[str, dict[str, Any]]] = []

    def visit(node: Any, path: tuple[str | int, ...]) -> None:
        if path[:1] == ("manifest",):
            return
        items = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
        for key, value in list(items):
            here = (*path, key)
            label = ".".join(map(str, here))
            found.append((f"{label} as another type", changed(document, here, {"wrong": 1})))
            if isinstance(node, dict):
                found.append((f"{label} renamed", renamed(document, here)))
            visit(value, here)

    visit(document, ())
    return [(label, value) for label, value in found if label != "manifest as another type"]


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of `document` with another value at `path`."""
    whole = copy.deepcopy(document)
    node: Any = whole
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return whole


def renamed(document: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """A copy of `document` with the key at `path` spelled differently."""
    whole = copy.deepcopy(document)
    node: Any = whole
    for part in path[:-1]:
        node = node[part]
    node[f"{path[-1]}s"] = node.pop(path[-1])
    return whole


MUTATIONS = mutations()


def test_there_are_mutations_of_every_key() -> None:
    """Each key of the lock is in the list below."""
    labels = "\n".join(re.sub(r"\.\d+", "", label) for label, _ in MUTATIONS)
    assert [path for path in key_paths(Lockfile) if path != "manifest" and f"{path} as" not in labels] == []


def test_the_schema_refuses_every_mutation() -> None:
    """A renamed key and a value of another type are wrong, wherever they stand."""
    assert [label for label, document in MUTATIONS if VALIDATOR.is_valid(document)] == []


@pytest.mark.parametrize("key", ["lock-version", "checksum", "manifest", "target", "artifact"])
def test_the_schema_demands_what_every_lock_has(key: str) -> None:
    """The tables without which a lock says nothing are required."""
    document = tomllib.loads(BYTES.decode())
    del document[key]
    assert not VALIDATOR.is_valid(document)


def test_two_targets_of_one_name_are_refused() -> None:
    """A name must lead to one target: else two readers could build different ones."""
    (target,) = SAMPLE.targets
    twice = dataclasses.replace(SAMPLE, targets=(target, dataclasses.replace(target, python="3.11.9")))
    assert "one name" in refusal(write_lock(twice)).because[0]
