"""`model.lock` as a value: the chosen files per target, and what was derived from them.

The field docstrings are the documentation of the keys; fields stand in the order of the file. `schema` makes JSON
Schema of the types. A field's metadata says where the file differs: `key` its name, `labelled` that each digest has a
label beside it, `absent` that an empty value is left out though the class demands one, `outside` that it is no key.
An empty string or array is never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nnenv.spec.artifact import Artifact, Kind, Sha256

LOCK_VERSION = 1
"""Format of the file; every older format stays readable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockHead:
    """What the file states before anything else."""

    lock_version: int = field(metadata={"schema": {"const": LOCK_VERSION}})
    """Format of the file; a lock of a newer format is refused, every older one stays readable."""
    checksum: Sha256
    """sha256 of every byte after this line: an edited, merged or torn lock is found before anything trusts it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseLock:
    """One signed Debian Release file that was read."""

    suite: str
    """`bookworm`, `bookworm-security`, ..."""
    architecture: str
    """Debian's name of the architecture that was asked for: `amd64`."""
    date: str
    """The Release file's own Date, RFC 3339 UTC; later locks refuse an older one."""
    sha256: Sha256
    """Digest of the signed body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseLock:
    """One inference test case: files in the ONNX test layout, or one .npz."""

    name: str
    """Unique within the model: `tests/digits/test_data_set_0`."""
    inputs: tuple[Sha256, ...] = field(metadata={"absent": True})
    """Artifacts that hold inputs, in index order."""
    expected: tuple[Sha256, ...]
    """Artifacts that hold expected outputs, in index order."""
    settings: Sha256 | None = None
    """Artifact that holds `case.toml`, when the case has one."""
    tolerance: float | None = None
    """Limit of max|a-e|/max|e| that the manifest sets; absent means the policy's."""
    against: Sha256 | None = None
    """Of an adapted model: the file before adaptation whose outputs are expected, within a loose tolerance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLock:
    """One model: its file and its cases."""

    name: str
    """As the manifest calls it."""
    version: str
    """The model's own version, from the manifest."""
    format: str
    """`onnx`, `keras`, `safetensors`, `gguf`, `torch-export`, `torchscript` or `pickle`."""
    file: Sha256
    """Artifact that is the model file."""
    revision: str = ""
    """What the name of its source came to: a commit, the version of a wheel, the digest of a manifest; empty for files
    and addresses."""
    licence: str = ""
    """As its source states it; empty if it does not."""
    opsets: tuple[str, ...] = ()
    """`domain:version` of each operator set the model imports, `ai.onnx` for the default domain."""
    needs: tuple[str, ...] = ()
    """What the model file asks of its runtime, as requirements: `keras>=3.12`."""
    files: tuple[tuple[str, Sha256], ...] = ()
    """(path from the model file's directory, artifact) of each further file that holds its weights, by path."""
    data: tuple[tuple[str, Sha256], ...] = ()
    """(path in the project, artifact) of each file that adaptation and evaluation read, by path."""
    cases: tuple[CaseLock, ...] = ()
    """Its test cases, in the order of the manifest and of the numbers in their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLock:
    """One step of an adaptation, as it was done."""

    step: str
    """As the manifest calls it."""
    key: Sha256
    """Digest of all that decides the step's output: its input files, options, tools, and nnenv's own part."""
    output: Sha256
    """Digest of the model that the step made."""
    size: int
    """Bytes of that model."""
    drift: float
    """Largest max|a-e|/max|e| of an output to the model before the step, on the model's inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivationLock:
    """A model as some targets get it: made from the model's file by steps, once."""

    model: str
    """The model's name."""
    targets: tuple[str, ...]
    """Targets that get it, sorted."""
    parent: Sha256
    """The model's own file, an artifact."""
    file: Sha256
    """Artifact that is the adapted file."""
    toolchain: str
    """Name of the toolchain whose tools did it."""
    host: str
    """Architecture and instruction sets of the processor that did it: `x86_64 avx2 fma`."""
    opsets: tuple[str, ...] = ()
    """`domain:version` of each operator set that the adapted model imports."""
    steps: tuple[StepLock, ...] = ()
    """In order."""
    cases: tuple[CaseLock, ...] = ()
    """Cases of the adapted file: what it answered itself when it was made, then those of the model it was made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationLock:
    """What a model file measured when it was locked."""

    model: str
    """The model's name."""
    number: int
    """Which of the model's `eval` tables, from 0."""
    file: Sha256
    """Digest of the model file that was measured."""
    value: float
    """What it measured."""
    baseline: float | None = None
    """What it must not lose: of the model before adaptation, or of the file that was locked before."""
    baseline_file: str = ""
    """Digest of that file."""
    labels: Sha256 | None = None
    """Of `agreement`: artifact that holds the classes that the model before adaptation answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLock:
    """One project file that `[image] files` puts into the image."""

    path: str
    """Path in the image, without the leading slash."""
    sha256: Sha256
    """Artifact that is the file."""
    executable: bool
    """Whether it gets mode 0755 instead of 0644."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerLock:
    """One expected image layer, so that a differing build can say which."""

    title: str
    """What the layer holds: `os debian:12`, `numpy 2.4.6`, `model digits 1.0.0`."""
    diff_id: Sha256
    """Digest of the uncompressed tar (OCI image-spec, config.md)."""
    digest: Sha256
    """Digest of the blob as stored."""
    size: int
    """Bytes of the blob."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLock:
    """The image that the target's lock must build to."""

    recipe: int
    """Version of the rules that turn a lock into bytes."""
    manifest: Sha256
    """Manifest digest."""
    config: Sha256
    """Config digest, which Docker calls the image ID."""
    layers: tuple[LayerLock, ...]
    """Bottom to top."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLock:
    """What was derived for a target with an accelerator, from the bytes of its wheels."""

    cuda: str = field(metadata={"absent": True})
    """Release of the CUDA toolkit in the image, `12.9.1`, or its family where components are of no one release."""
    cudnn: str = field(metadata={"absent": True})
    """Version of cuDNN in the image; empty without one."""
    driver: str = field(metadata={"absent": True})
    """The oldest driver that runs the image, `525.60.13`."""
    driver_reason: str = field(metadata={"absent": True})
    """What sets that floor."""
    capabilities: tuple[tuple[str, str], ...] = field(default=())
    """(compute capability, how the weakest library covers it) of the declared ones, or of
    all known ones that every library has code for: `sass`, or `ptx 8.4`."""
    lazy: tuple[tuple[str, str], ...] = field(default=())
    """(soname, distribution that holds it) of the libraries that a framework loads by name."""
    driver_sonames: tuple[str, ...] = field(default=())
    """Libraries that come with the driver of the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetLock:
    """Everything that goes into one target's image."""

    name: str
    """As the manifest calls it."""
    platform: str
    """`linux/amd64` or `linux/arm64`."""
    os: str
    """`debian:12` or `debian:13`."""
    python: str
    """Full version of the locked interpreter: `3.11.2`."""
    moment: str
    """Newest date that the chosen sources state (Release dates, upload times), RFC 3339 UTC: the image is `created`
    then. It comes from the sources, never from a clock, so equal sources give equal bytes."""
    glibc: str
    """Version of the locked libc6, `2.36`: the floor wheels may rely on."""
    models: tuple[str, ...] = ()
    """Names of the models in the image."""
    wheels: tuple[Sha256, ...] = field(metadata={"labelled": True, "absent": True})
    """The Python distributions, by name; each with its name and version, for people."""
    debs: tuple[Sha256, ...] = field(metadata={"labelled": True})
    """The Debian packages, by name; each with its name and version, for people."""
    tools: tuple[Sha256, ...] = field(default=(), metadata={"labelled": True})
    """.debs of an interpreter for the build machine, of the same version, where the target's own cannot run."""
    sonames: tuple[tuple[str, str], ...] = ()
    """(soname, package that provides it) for every library a wheel needs from outside the wheels."""
    omitted: tuple[str, ...] = ()
    """Debian dependencies not followed, `package: dependency (reason)`."""
    gpu: GpuLock | None = None
    """Present where the target has an accelerator."""
    image: ImageLock | None = None
    """Present once the target was built."""

    @property
    def machine(self) -> str:
        """CPU architecture as `uname -m` says it."""
        return {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[self.platform]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lockfile:
    """The whole of `model.lock`."""

    notices: tuple[str, ...] = ()
    """What a person should know about the choice."""
    manifest: Mapping[str, object]
    """The manifest's meaning that was locked, as plain values with every default filled in."""
    releases: tuple[ReleaseLock, ...] = field(metadata={"key": "release", "absent": True})
    """The signed Debian Release files that were read, by architecture and suite."""
    targets: tuple[TargetLock, ...] = field(metadata={"key": "target"})
    """What goes into each image, by the target's name."""
    toolchains: tuple[TargetLock, ...] = field(default=(), metadata={"key": "toolchain"})
    """What adaptation ran in: locked as a target is, and in no image."""
    models: tuple[ModelLock, ...] = field(metadata={"key": "model", "absent": True})
    """The models with their test cases."""
    derivations: tuple[DerivationLock, ...] = field(default=(), metadata={"key": "derivation"})
    """Models that were adapted to targets, by model and target."""
    evaluations: tuple[EvaluationLock, ...] = field(default=(), metadata={"key": "evaluation"})
    """What models measured when they were locked, by model, number and file."""
    files: tuple[FileLock, ...] = field(default=(), metadata={"key": "file"})
    """Project files of every image, sorted by path."""
    artifacts: tuple[Artifact, ...] = field(metadata={"key": "artifact"})
    """Every file once, sorted by (kind, name, version, filename, sha256)."""
    by_digest: Mapping[Sha256, Artifact] = field(init=False, repr=False, compare=False, metadata={"outside": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_digest", {artifact.sha256: artifact for artifact in self.artifacts})

    def target(self, name: str) -> TargetLock | None:
        """The target of that name, or None."""
        return next((target for target in self.targets if target.name == name), None)

    def model(self, name: str) -> ModelLock:
        """The model of that name; KeyError if the lock has none."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def wheels_of(self, target: TargetLock) -> tuple[Artifact, ...]:
        """The target's wheels, by name."""
        return tuple(self.by_digest[digest] for digest in target.wheels)

    def debs_of(self, target: TargetLock) -> tuple[Artifact, ...]:
        """The target's Debian packages, by name."""
        return tuple(self.by_digest[digest] for digest in target.debs)

    def tools_of(self, target: TargetLock) -> tuple[Artifact, ...]:
        """The build machine's Debian packages for the target's bytecode, by name."""
        return tuple(self.by_digest[digest] for digest in target.tools)

    def models_of(self, target: TargetLock) -> tuple[ModelLock, ...]:
        """The target's models, by name; an adapted one with the file and cases that the target gets."""
        return tuple(self._adapted(model, target) for model in self.models if model.name in target.models)

    def derivation(self, model: str, target: str) -> DerivationLock | None:
        """How the model is adapted to the target; None if it is not."""
        return next((one for one in self.derivations if one.model == model and target in one.targets), None)

    def toolchain(self, name: str) -> TargetLock:
        """The toolchain of that name; KeyError if the lock has none."""
        for toolchain in self.toolchains:
            if toolchain.name == name:
                return toolchain
        raise KeyError(name)

    def _adapted(self, model: ModelLock, target: TargetLock) -> ModelLock:
        one = self.derivation(model.name, target.name)
        return model if one is None else replace(model, file=one.file, files=(), opsets=one.opsets, cases=one.cases)

    def artifacts_of(self, target: TargetLock) -> tuple[Artifact, ...]:
        """Every file that building and verifying the target needs; evaluation needs its data besides."""
        models = [replace(model, data=()) for model in self.models_of(target)]
        wanted = digests_used((target,), models, self.files)
        return tuple(artifact for artifact in self.artifacts if artifact.sha256 in wanted)

    def with_image(self, name: str, image: ImageLock) -> Lockfile:
        """This lock, expecting `image` for target `name`."""
        targets = (replace(target, image=image) if target.name == name else target for target in self.targets)
        return replace(self, targets=tuple(targets))

    def for_image(self, name: str) -> Lockfile:
        """The part of this lock that decides the bytes of target `name`: no other target, no expected image.

        The copy inside the image is this one: an image cannot hold its own digest.
        """
        target = self.target(name)
        assert target is not None
        artifacts = self.artifacts_of(target)
        kept = {artifact.sha256 for artifact in artifacts}
        return Lockfile(
            manifest=_only_target(self.manifest, target),
            releases=(),
            artifacts=tuple(a for a in self.artifacts if a.sha256 in kept),
            models=tuple(replace(model, data=()) for model in self.models_of(target)),
            targets=(replace(target, image=None),),
            derivations=tuple(replace(one, targets=(name,)) for one in self.derivations if name in one.targets),
            files=self.files,
        )


def digests_used(
    targets: Iterable[TargetLock],
    models: Iterable[ModelLock],
    files: Iterable[FileLock],
    derivations: Iterable[DerivationLock] = (),
    evaluations: Iterable[EvaluationLock] = (),
) -> set[Sha256]:
    """Every artifact that these targets, models, files, derivations and evaluations refer to."""
    used = {digest for target in targets for digest in (*target.wheels, *target.debs, *target.tools)}
    used.update(file.sha256 for file in files)
    used.update(one.labels for one in evaluations if one.labels)
    cases: list[CaseLock] = []
    for model in models:
        used.add(model.file)
        used.update(digest for _, digest in (*model.files, *model.data))
        cases += model.cases
    for derivation in derivations:
        used.add(derivation.file)
        cases += derivation.cases
    for case in cases:
        used.update(case.inputs, case.expected, [case.settings] if case.settings else [])
    return used


def artifact_order(artifact: Artifact) -> tuple[Kind, str, str, str, str]:
    """Sort key of the lock's artifact list."""
    return (artifact.kind, artifact.name, artifact.version, artifact.filename, artifact.sha256)


def _only_target(meaning: Mapping[str, object], target: TargetLock) -> Mapping[str, object]:
    """The part of the manifest's meaning that concerns one target."""
    kept = {"targets": {target.name}, "models": set(target.models)}
    return {
        key: {name: inner for name, inner in value.items() if name in kept[key]}
        if key in kept and isinstance(value, Mapping)
        else value
        for key, value in meaning.items()
    }
