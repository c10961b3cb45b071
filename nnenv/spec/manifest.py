"""The manifest: `model.toml` as a value.

The field docstrings are the public documentation of the keys, and `schema` makes JSON Schema of them.
A field's metadata says how the key looks in TOML:
`key` its name where that differs from the field's, `schema` what JSON Schema says of a plain value,
`table`, `named` and `listed` the class behind `[x]`, `[x.NAME]` and `[[x]]`,
`outside` that the field is no key of its table, `or` the key that stands in its place: one of the two is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from nnenv.spec.artifact import Sha256
from nnenv.spec.model_source import (
    GIT,
    HUB,
    KAGGLE,
    OCI,
    TORCHHUB,
    WEB,
    WHEEL,
    ZOO,
    FileSource,
    ModelSource,
    read_source,
)

NAME: Final = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"
"""Names of projects, models and indexes."""
TARGET_NAME: Final = r"[a-z0-9-]+"
DISTRIBUTION: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
"""Python distribution names (PEP 508)."""
VERSION: Final = r"[0-9](?:[0-9A-Za-z]|[.+!_-](?=[0-9A-Za-z]))*"
"""What PEP 440 and semantic versions have in common: a digit, then words and separators."""
DEBIAN_PACKAGE: Final = r"[a-z0-9][a-z0-9+.-]+(?: \((?:<<|<=|=|>=|>>) [0-9][0-9A-Za-z.+:~-]*\))?"
"""A Debian package's name, and a relation to a version if wanted (Debian policy 5.6.1, 7.1)."""
USER: Final = r"[1-9][0-9]{0,8}(?::[1-9][0-9]{0,8})?"
VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"
LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
AGE: Final = r"(0|[1-9][0-9]{0,4}) (hour|day|week)s?"
MOMENT: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
"""RFC 3339 in UTC, whole seconds."""
SHA256: Final = r"[0-9a-f]{64}"
INDEX_URL: Final = r"(?:https?://[^\s/?#@]+(?:/[^\s?#]*)?|file:///[^\s?#]*)"
"""No user name, password, query or fragment: the file is committed, and secrets hide there."""
PROJECT_PATH: Final = r"(?!/)(?!(?:.*/)?\.\.(?:/|$))[^\u0000-\u001f\u007f\\]+"
"""Relative, no `..`, no backslash, no control characters."""
CAPABILITY: Final = r"[1-9][0-9]?\.[0-9]"
"""Compute capability of a GPU, as NVIDIA writes it: `8.6`, `12.0`."""
DRIVER: Final = r"(?:>=\s*)?[1-9][0-9]{2,3}(?:\.[0-9]{1,3}){0,2}"
"""The oldest driver of a fleet: a branch, or a version of NVIDIA's Linux driver (`535.104.05`)."""
ELSEWHERE: Final = "|".join((WEB, HUB, WHEEL, GIT, OCI, TORCHHUB, KAGGLE, ZOO))
"""Where models come from that are no files of the project."""
LONGEST_SOURCE: Final = 4096
"""Characters of a source; common servers refuse addresses of 8 kB."""
SOURCE: Final = rf"file:{PROJECT_PATH}|{ELSEWHERE}"
IMAGE_PATH: Final = r"/(?!(?:.*/)?\.\.(?:/|$))[^\u0000-\u001f\u007f\\]*"

SHAPE: Final = r"[1-9][0-9]{0,8}(?:x[1-9][0-9]{0,8})*"
PERCENT: Final = r"[1-9][0-9]{0,2}(?:\.[0-9]{1,3})?%"
STEP_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "quantize-dynamic": ("weights", "per-channel", "reduce-range", "exclude"),
    "quantize-static": (
        "calibration", "preset", "activations", "weights", "per-channel", "reduce-range", "method", "exclude",
    ),
    "float16": ("exclude",),
    "convert-opset": ("opset",),
    "simplify": (),
    "fix-shapes": ("shapes",),
    "prune": ("amount",),
    "run": ("script", "inputs", "changes-ports"),
}  # fmt: skip
"""Step of adaptation -> the keys that it takes beside those of every step."""
STEP_NEEDS: Final[Mapping[str, str]] = {
    "quantize-static": "calibration",
    "convert-opset": "opset",
    "fix-shapes": "shapes",
    "prune": "amount",
    "run": "script",
}
"""Step of adaptation -> the key that it cannot do without."""
STEPS: Final = tuple(STEP_OPTIONS)
PRESETS: Final = ("arm64", "no-vnni", "vnni")
INTEGERS: Final = ("int8", "uint8")
CALIBRATIONS: Final = ("entropy", "minmax", "percentile")
METRICS: Final = ("accuracy", "agreement", "cosine", "f1", "rmse", "top-k")
CPU_FEATURES: Final = ("avx512_vnni", "avx_vnni")
"""As /proc/cpuinfo names them."""
FORMATS: Final = ("gguf", "keras", "onnx", "pickle", "safetensors", "torch-export", "torchscript")
PLATFORMS: Final = ("linux/amd64", "linux/arm64")
SYSTEMS: Final = ("debian:12", "debian:13")
DEFAULT_USER: Final = "65532:65532"
MOST_ITEMS: Final = 1000
"""Elements of one array."""

_TEXT: Final[Mapping[str, object]] = {"type": "string"}
_LINE: Final[Mapping[str, object]] = {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f]*$"}
# JSON Schema knows no PEP 508: this is the shape of it, without direct URLs; the parser checks the rest.
_REQUIREMENT: Final = rf"\s*{DISTRIBUTION}\s*(?:\[[^\]]*\]\s*)?(?:[(<>=!~;].*)?"
_SPECIFIER: Final = r"\s*(?:[0-9]+(?:\.[0-9]+)*|(?:(?:~=|===?|!=|<=?|>=?)\s*[^\s,<>=!~]+\s*,?\s*)+)"


def _like(pattern: str) -> dict[str, object]:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def _list_of(item: Mapping[str, object], **more: object) -> dict[str, object]:
    return {"type": "array", "items": dict(item), "maxItems": MOST_ITEMS, **more}


def _table_of(key: str, value: Mapping[str, object]) -> dict[str, object]:
    return {"type": "object", "propertyNames": _like(key), "additionalProperties": dict(value)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What this is called."""

    name: str = field(metadata={"schema": _like(NAME)})
    """Name of the project: lower-case letters, digits, and `.`, `_`, `-` between them."""
    version: str = field(metadata={"schema": _like(VERSION)})
    """Version of the project, as PEP 440 or semantic versioning writes it."""
    description: str = field(default="", metadata={"schema": _LINE})
    """One line that says what the project is for; becomes a label of the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseSpec:
    """One inference test of a model."""

    data: str = field(metadata={"schema": _like(PROJECT_PATH)})
    """Path of the directory, from the project, in ONNX's layout: `input_0.pb`, `output_0.pb` and so on."""
    tolerance: float | None = field(
        default=None, metadata={"schema": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}}
    )
    """Largest difference allowed, as a part of the largest expected value of each output; left out, by precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptSpec:
    """One step that makes another file of a model, once, when it is locked; steps follow each other in order."""

    step: str = field(metadata={"schema": {"enum": list(STEPS)}})
    """What is done: `quantize-dynamic`, `quantize-static`, `float16`, `convert-opset`, `simplify`, `fix-shapes`,
    `prune`, or `run` for a script of the project."""
    targets: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(TARGET_NAME), minItems=1, uniqueItems=True)}
    )
    """Targets that get the adapted model; left out, all that hold it. Sorted."""
    tools: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(_REQUIREMENT))})
    """Python packages that the step's own environment needs besides those it always has, as PEP 508 writes them."""
    max_drift: float | None = field(
        default=None, metadata={"schema": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}}
    )
    """Largest difference of any output to the model before the step, as a part of the largest value of that output."""
    calibration: str = field(default="", metadata={"schema": _like(PROJECT_PATH)})
    """Of `quantize-static`: an .npz file with one array per input, whose first axis counts the samples."""
    preset: str = field(default="", metadata={"schema": {"enum": list(PRESETS)}})
    """Of `quantize-static`: the processor to quantise for; left out, by the target's platform and `cpu-features`."""
    activations: str = field(default="", metadata={"schema": {"enum": list(INTEGERS)}})
    """Of `quantize-static`: type of activations, instead of the preset's."""
    weights: str = field(default="", metadata={"schema": {"enum": list(INTEGERS)}})
    """Of both quantisations: type of weights, instead of the preset's, or of `int8`."""
    per_channel: bool | None = field(default=None, metadata={"schema": {"type": "boolean"}})
    """Of both quantisations: whether each channel of a weight has a scale of its own; left out, only if static."""
    reduce_range: bool | None = field(default=None, metadata={"schema": {"type": "boolean"}})
    """Of both quantisations: whether weights use 7 bits, instead of as the preset says."""
    method: str = field(default="", metadata={"schema": {"enum": list(CALIBRATIONS)}})
    """Of `quantize-static`: how ranges are found; left out, `minmax`."""
    exclude: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_TEXT, minItems=1, uniqueItems=True)})
    """Of quantisations and `float16`: names of graph nodes to leave as they are. Sorted."""
    opset: int | None = field(default=None, metadata={"schema": {"type": "integer", "minimum": 7, "maximum": 99}})
    """Of `convert-opset`: version of ONNX's operator set to convert to."""
    amount: float | None = field(
        default=None, metadata={"schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}}
    )
    """Of `prune`: part of each weight's values, the smallest ones, that become zero."""
    shapes: tuple[tuple[str, str], ...] = field(
        default=(), metadata={"schema": _table_of(r"[^\u0000-\u001f\u007f]+", _like(SHAPE))}
    )
    """Of `fix-shapes`: shape of each input that has free dimensions, by its name: `x = "1x64"`."""
    script: str = field(default="", metadata={"schema": _like(PROJECT_PATH)})
    """Of `run`: a Python file of the project, called with the model's path and the path of the model to write."""
    inputs: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(PROJECT_PATH), minItems=1, uniqueItems=True)}
    )
    """Of `run`: files of the project that the script reads; they lie beside it, by their base names. Sorted."""
    changes_ports: bool | None = field(default=None, metadata={"schema": {"type": "boolean"}})
    """Of `run`: whether the model's inputs or outputs may change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSpec:
    """A measure of a model's quality or cost, and what it must reach."""

    metric: str = field(metadata={"schema": {"enum": list(METRICS)}})
    """What is measured: `accuracy`, `top-k`, `f1`, `rmse`, `cosine`, or `agreement` with the model before adaptation,
    which needs no labels."""
    data: str = field(metadata={"schema": _like(PROJECT_PATH)})
    """An .npz file with one array per input, whose first axis counts the samples, and the labels."""
    labels: str = field(default="", metadata={"schema": _LINE})
    """Name of the array of labels; left out, `labels`."""
    output: str = field(default="", metadata={"schema": _LINE})
    """Name of the output that is measured; left out, the first."""
    k: int | None = field(default=None, metadata={"schema": {"type": "integer", "minimum": 1, "maximum": 1000}})
    """Of `top-k`: how many of the largest values may hold the label; left out, 5."""
    targets: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(TARGET_NAME), minItems=1, uniqueItems=True)}
    )
    """Targets that it is measured on; left out, all that hold the model. Sorted."""
    minimum: float | None = field(default=None, metadata={"schema": {"type": "number"}})
    """Least value that passes; of `rmse`, the largest."""
    at_least: str = field(default="", metadata={"schema": _like(PERCENT)})
    """Least part, in percent, of what the model reached before adaptation, or as it was locked before: `99%`."""
    max_latency: float | None = field(default=None, metadata={"schema": {"type": "number", "exclusiveMinimum": 0}})
    """Budget of the fastest of several runs of one sample, in milliseconds; enforced on `hardware` alone."""
    max_memory: float | None = field(default=None, metadata={"schema": {"type": "number", "exclusiveMinimum": 0}})
    """Budget of the process' largest resident memory, in MiB; enforced on `hardware` alone."""
    max_size: float | None = field(default=None, metadata={"schema": {"type": "number", "exclusiveMinimum": 0}})
    """Budget of the model's files, in MiB."""
    hardware: str = field(default="", metadata={"schema": _LINE})
    """Part of the processor's name that the budgets of time and memory were set for, as /proc/cpuinfo has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One neural network."""

    name: str = field(metadata={"outside": True})
    version: str = field(metadata={"schema": _like(VERSION)})
    """The model's own version."""
    source: str = field(
        default="", metadata={"schema": {**_like(SOURCE), "maxLength": LONGEST_SOURCE}, "or": "sources"}
    )
    """Where the model file is: `file:` and a path from the project, an `https:` address, `hf:org/name@revision:path` on
    a model hub, `pypi:distribution==version/path` in a wheel, `git+https://host/repository@revision#path`,
    `oci:registry/repository:tag#path`, `torchhub:owner/repository@revision:entrypoint`,
    `kaggle:owner/model/framework/variation/version:path`, or `onnxzoo:` and the address of an archive."""
    sources: tuple[str, ...] = field(
        default=(),
        metadata={"schema": _list_of({**_like(ELSEWHERE), "maxLength": LONGEST_SOURCE}, minItems=1, uniqueItems=True)},
    )
    """Instead of `source`: several places of one file, tried in order."""
    format: str = field(default="", metadata={"schema": {"enum": list(FORMATS)}})
    """Format of the model file; left out, it is inferred."""
    sha256: Sha256 | None = field(default=None, metadata={"schema": _like(SHA256)})
    """Digest that the model file must have."""
    tests: tuple[CaseSpec, ...] = field(default=(), metadata={"listed": CaseSpec})
    """Inference tests, sorted by their data."""
    adapt: tuple[AdaptSpec, ...] = field(default=(), metadata={"listed": AdaptSpec})
    """Steps that adapt the model to targets, in order."""
    evaluations: tuple[EvalSpec, ...] = field(default=(), metadata={"key": "eval", "listed": EvalSpec})
    """Measures of quality and cost, in order."""

    def adapted_for(self, target: str) -> tuple[AdaptSpec, ...]:
        """The steps that lead to the model of a target, in order; none where it stays as it is."""
        return tuple(step for step in self.adapt if not step.targets or target in step.targets)

    @property
    def data_paths(self) -> tuple[str, ...]:
        """Files of the project that adaptation and evaluation read, sorted, each once."""
        read = [path for step in self.adapt for path in (step.calibration, step.script, *step.inputs)]
        return tuple(sorted({path for path in (*read, *(one.data for one in self.evaluations)) if path}))

    @property
    def places(self) -> tuple[ModelSource, ...]:
        """Where the model file is, in the order to try."""
        return tuple(map(read_source, self.sources or (self.source,)))

    @property
    def path(self) -> str:
        """Path of the model file, from the project; empty for one from elsewhere."""
        first = self.places[0]
        return first.path if isinstance(first, FileSource) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requires:
    """What every target needs."""

    python: str = field(default="", metadata={"schema": _like(_SPECIFIER)})
    """Versions of Python that will do: a PEP 440 range, or a plain version that names its family."""
    packages: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(_REQUIREMENT))})
    """Python packages, as PEP 508 writes them; direct URLs are refused. Normalised and sorted."""
    system: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(DEBIAN_PACKAGE))})
    """Debian packages, by name or as `name (>= version)`. Sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Additions:
    """What one target needs beyond `[requires]`."""

    packages: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(_REQUIREMENT))})
    """Python packages for this target only, as PEP 508 writes them."""
    system: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(DEBIAN_PACKAGE))})
    """Debian packages for this target only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """A named kind of machine to lock, build and verify for."""

    name: str = field(metadata={"outside": True})
    platform: str = field(default="linux/amd64", metadata={"schema": {"enum": list(PLATFORMS)}})
    """Operating system and processor architecture, as OCI writes them."""
    os: str = field(default="debian:12", metadata={"schema": {"enum": list(SYSTEMS)}})
    """Release of the operating system in the image."""
    python: str = field(default="", metadata={"schema": _like(_SPECIFIER)})
    """Versions of Python that will do on this target, besides `requires.python`; left out, the newest the OS offers."""
    cuda: str = field(default="", metadata={"schema": _like(_SPECIFIER)})
    """CUDA toolkits that the image may hold: a PEP 440 range, or a plain version that names its family."""
    cudnn: str = field(default="", metadata={"schema": _like(_SPECIFIER)})
    """Versions of cuDNN that the image may hold, written as `cuda`."""
    compute_capability: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(CAPABILITY), minItems=1, uniqueItems=True)}
    )
    """Compute capabilities of the GPUs that the image must have code for: `"8.6"`. Sorted by number."""
    driver: str = field(default="", metadata={"schema": _like(DRIVER)})
    """The oldest NVIDIA driver on the hosts: `>=535`; left out, the lock says which one the image needs."""
    cpu_features: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of({"enum": list(CPU_FEATURES)}, minItems=1, uniqueItems=True)}
    )
    """What all hosts' processors can do, of what quantised models depend on: `avx512_vnni`, `avx_vnni`. Sorted."""
    models: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(NAME), minItems=1, uniqueItems=True)}
    )
    """Names of the models in the image; left out, all of them. Sorted."""
    requires: Additions = field(default=Additions(), metadata={"table": Additions})
    """What this target needs beyond `[requires]`."""

    @property
    def has_accelerator(self) -> bool:
        """Whether it is for machines with a GPU: any of `cuda`, `cudnn`, `compute-capability` and `driver` says so."""
        return bool(self.cuda or self.cudnn or self.compute_capability or self.driver)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """What the image does when it is run, and what else is in it."""

    entrypoint: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_TEXT, minItems=1)})
    """Program and arguments that the image starts; left out, the standard inference test."""
    command: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_TEXT, minItems=1)})
    """Arguments that follow the entrypoint unless the user of the image gives others."""
    environment: tuple[tuple[str, str], ...] = field(
        default=(), metadata={"key": "env", "schema": _table_of(VARIABLE, _TEXT)}
    )
    """Environment variables, by name."""
    user: str = field(default=DEFAULT_USER, metadata={"schema": _like(USER)})
    """Numeric user, or `user:group`, that the image runs as; root, 0, is refused."""
    workdir: str = field(default="/", metadata={"schema": _like(IMAGE_PATH)})
    """Directory in the image that the entrypoint starts in."""
    labels: tuple[tuple[str, str], ...] = field(default=(), metadata={"schema": _table_of(LABEL, _LINE)})
    """Labels of the image, by name."""
    files: tuple[tuple[str, str], ...] = field(
        default=(), metadata={"schema": _table_of(PROJECT_PATH, _like(IMAGE_PATH))}
    )
    """Files and directories of the project to put into the image: its path there, by path in the project."""
    shell: bool = field(default=False, metadata={"schema": {"type": "boolean"}})
    """Whether the image holds a shell."""
    trim: bool | None = field(default=None, metadata={"schema": {"type": "boolean"}})
    """Whether CUDA's wheels are trimmed: false keeps all of them, true leaves out headers, static libraries and the
    libraries that nothing needs; left out, headers and static libraries alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the solver may choose from."""

    exclude_newer: str = field(default="", metadata={"schema": _like(MOMENT)})
    """Moment, RFC 3339 in UTC, after which an upload does not count: `2025-06-01T00:00:00Z`."""
    minimum_age: str = field(default="", metadata={"schema": _like(AGE)})
    """How long an upload must have been there to count: a number of hours, days or weeks, such as `7 days`."""
    constraints: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(_REQUIREMENT))})
    """Ranges that hold for a package if anything requires it."""
    overrides: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(_REQUIREMENT))})
    """Ranges that replace whatever packages require of a package."""
    allow_pickle: tuple[str, ...] = field(default=(), metadata={"schema": _list_of(_like(SHA256), uniqueItems=True)})
    """Digests of model files that may be locked though loading them runs code. Sorted."""
    allow_prereleases: tuple[str, ...] = field(
        default=(), metadata={"schema": _list_of(_like(DISTRIBUTION), uniqueItems=True)}
    )
    """Names of the packages whose pre-releases may be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """A Python package index that some names are bound to."""

    name: str = field(metadata={"schema": _like(NAME)})
    """Name of the index, which the lock remembers."""
    url: str = field(metadata={"schema": _like(INDEX_URL)})
    """Address of the index's simple API, without credentials; it never reaches the lock."""
    packages: tuple[str, ...] = field(metadata={"schema": _list_of(_like(DISTRIBUTION), minItems=1, uniqueItems=True)})
    """Names of the packages that come from this index and from no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What the user declares: models, the targets they run on, and what those need."""

    project: Project = field(metadata={"table": Project})
    """What this is called."""
    models: tuple[ModelSpec, ...] = field(default=(), metadata={"named": ModelSpec, "name": NAME})
    """The neural networks, by name. Sorted."""
    requires: Requires = field(default=Requires(), metadata={"table": Requires})
    """What every target needs."""
    targets: tuple[TargetSpec, ...] = field(metadata={"named": TargetSpec, "name": TARGET_NAME})
    """The kinds of machine, by name; at least one. Sorted."""
    image: ImageSpec = field(default=ImageSpec(), metadata={"table": ImageSpec})
    """What the image does when it is run, and what else is in it."""
    policy: Policy = field(default=Policy(), metadata={"table": Policy})
    """What the solver may choose from."""
    indexes: tuple[IndexSpec, ...] = field(default=(), metadata={"key": "index", "listed": IndexSpec})
    """Python package indexes that some names are bound to. Sorted by name."""
    filename: str = field(default="model.toml", compare=False, metadata={"outside": True})
    where: Mapping[tuple[str, ...], int] = field(
        default_factory=dict, compare=False, repr=False, metadata={"outside": True}
    )
    """Line of each key path; an element of an array is found by its index and by its value as it stands here:
    `("requires", "packages", "numpy>=1")`."""

    def position(self, *path: str) -> str:
        """`file:line` of a key path, or of the nearest key that holds it."""
        for length in range(len(path), 0, -1):
            line = self.where.get(path[:length])
            if line is not None:
                return f"{self.filename}:{line}"
        return f"{self.filename}:1"


def required_by(manifest: Manifest, target: TargetSpec) -> Requires:
    """What `target` needs in all: `[requires]` and its own additions, sorted, each once."""
    return Requires(
        python=",".join(_merged(manifest.requires.python.split(","), target.python.split(","))),
        packages=_merged(manifest.requires.packages, target.requires.packages),
        system=_merged(manifest.requires.system, target.requires.system),
    )


def meaning(manifest: Manifest) -> dict[str, object]:
    """What the lock depends on, as plain values with defaults applied: equal when two manifests mean the same.

    Keys are those of `model.toml`. What is empty or not set is left out, so that a lock does not go stale when a later
    nnenv knows one key more. No positions, and no addresses of indexes: the same lock may come from a mirror.
    """
    everything: dict[str, object] = {
        "project": _project(manifest.project),
        "models": {model.name: _model(model) for model in manifest.models},
        "requires": {
            "python": manifest.requires.python,
            "packages": list(manifest.requires.packages),
            "system": list(manifest.requires.system),
        },
        "targets": {target.name: _target(target) for target in manifest.targets},
        "image": _image(manifest.image),
        "policy": _policy(manifest.policy),
        "index": {index.name: {"packages": list(index.packages)} for index in manifest.indexes},
    }
    return _without_empty(everything)


def evaluations_in(echo: Mapping[str, object], model: str) -> tuple[EvalSpec, ...]:
    """The measures of a model as a manifest's meaning has them, in order; none if it knows no such model."""
    listed = _echoed(echo, "models", model).get("eval", [])
    names = {one.name for one in fields(EvalSpec)}
    found = []
    for item in listed:
        given: dict[str, Any] = {key.replace("-", "_"): value for key, value in item.items()}
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in names
        }
        found.append(EvalSpec(**known))
    return tuple(found)


def adaptation_in(echo: Mapping[str, object], model: str, target: str) -> tuple[TargetSpec, tuple[AdaptSpec, ...]]:
    """(the target as far as adaptation asks, the steps that lead to its model), as a manifest's meaning has them."""
    place = _echoed(echo, "targets", target)
    spec = TargetSpec(
        name=target,
        platform=place.get("platform", "linux/amd64"),
        os=place.get("os", "debian:12"),
        cpu_features=tuple(place.get("cpu-features", ())),
    )
    names = {one.name for one in fields(AdaptSpec)}
    steps = []
    for item in _echoed(echo, "models", model).get("adapt", []):
        given: dict[str, Any] = {key.replace("-", "_"): value for key, value in item.items()}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        if "shapes" in given:
            given["shapes"] = tuple(sorted(given["shapes"].items()))
        step = AdaptSpec(**{name: value for name, value in given.items() if name in names})
        if not step.targets or target in step.targets:
            steps.append(step)
    return spec, tuple(steps)


def _echoed(echo: Mapping[str, object], table: str, name: str) -> Mapping[str, Any]:
    """`[table.name]` of a manifest's meaning; empty if it has none."""
    tables = echo.get(table, {})
    found = tables.get(name, {}) if isinstance(tables, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _without_empty(values: Mapping[str, object]) -> dict[str, object]:
    pruned = {name: _without_empty(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in pruned.items() if value not in ("", [], {}, None)}


def _project(project: Project) -> dict[str, object]:
    return {"name": project.name, "version": project.version, "description": project.description}


def _model(model: ModelSpec) -> dict[str, object]:
    plain: dict[str, object] = {"version": model.version, "format": model.format}
    # An address tells a host, so its digest stands for it: another address is another meaning all the same.
    identities = [place.identity for place in model.places]
    plain["source" if len(identities) == 1 else "sources"] = identities[0] if len(identities) == 1 else identities
    if model.sha256 is not None:
        plain["sha256"] = model.sha256
    plain["tests"] = [_case(case) for case in model.tests]
    plain["adapt"] = [_plain(step) for step in model.adapt]
    plain["eval"] = [_plain(one) for one in model.evaluations]
    return plain


def _plain(item: AdaptSpec | EvalSpec) -> dict[str, object]:
    """A step or a measure as it stands in model.toml, without what is left out."""
    plain: dict[str, object] = {}
    for one in fields(item):
        value = getattr(item, one.name)
        if one.name == "shapes":
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[one.name.replace("_", "-")] = value
    return _without_empty(plain)


def _case(case: CaseSpec) -> dict[str, object]:
    if case.tolerance is None:
        return {"data": case.data}
    return {"data": case.data, "tolerance": case.tolerance}


def _target(target: TargetSpec) -> dict[str, object]:
    return {
        "platform": target.platform,
        "os": target.os,
        "python": target.python,
        "cuda": target.cuda,
        "cudnn": target.cudnn,
        "compute-capability": list(target.compute_capability),
        "driver": target.driver,
        "cpu-features": list(target.cpu_features),
        "models": list(target.models),
        "requires": {"packages": list(target.requires.packages), "system": list(target.requires.system)},
    }


def _image(image: ImageSpec) -> dict[str, object]:
    return {
        "entrypoint": list(image.entrypoint),
        "command": list(image.command),
        "env": dict(image.environment),
        "user": image.user,
        "workdir": image.workdir,
        "labels": dict(image.labels),
        "files": dict(image.files),
        "shell": image.shell or None,
        "trim": image.trim,
    }


def _policy(policy: Policy) -> dict[str, object]:
    return {
        "exclude-newer": policy.exclude_newer,
        "minimum-age": policy.minimum_age,
        "constraints": list(policy.constraints),
        "overrides": list(policy.overrides),
        "allow-pickle": list(policy.allow_pickle),
        "allow-prereleases": list(policy.allow_prereleases),
    }


def _merged(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({text for text in (*first, *second) if text}))
