"""`nnenv verify`: four verdicts on a target's image, and the report that binds them to digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nnenv import __version__
from nnenv.adapters.files import refusing_writes, write_atomically
from nnenv.errors import NnenvError
from nnenv.formats.model_file import RUNTIMES
from nnenv.formats.oci import document_digest
from nnenv.image.archive import ImageDocuments
from nnenv.image.plan import model_files, model_path, plan_layers, site_packages
from nnenv.spec.artifact import Sha256
from nnenv.spec.lockfile import Lockfile, ModelLock, TargetLock
from nnenv.verify.closure import NOT_ACCELERATED, ClosureReport, ImageElf, check_closure
from nnenv.verify.evaluate import (
    Evaluation,
    ModelUnderTest,
    answer_of,
    evaluate,
    harness_digest,
    reference_check,
    requests_for,
    weak_evidence,
)
from nnenv.verify.ladder import Verdict, status
from nnenv.verify.load_report import DEFAULT_IMPORTS, LoadRequest, load_check
from nnenv.verify.protocols import Limits, Run, Runner
from nnenv.verify.report import Check, Finding, Report
from nnenv.verify.statement import statement
from nnenv.workflows.accelerators import AcceleratorImage
from nnenv.workflows.building import ENVIRONMENT, SELF_TEST, assemble, checked_lock, load_into
from nnenv.workflows.cases import bound_case
from nnenv.workflows.layering import LayerMaker, harness_files
from nnenv.workflows.session import Session
from nnenv.workflows.targets import chosen_targets

if TYPE_CHECKING:
    from nnenv.adapters.docker_engine import DockerRunner
    from nnenv.adapters.sandbox import SandboxRunner

REPORTS = Path(".nnenv") / "reports"
"""Where statements lie, in the project folder."""

RUNNERS = ("auto", "docker", "sandbox")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What the user asked of `nnenv verify`."""

    runner: str = "auto"
    frozen: bool = False
    limits: Limits = field(default_factory=Limits)
    evaluate: bool = False
    """Whether the models' measures of quality and cost are taken, too."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One target's report, and where its statement was written."""

    report: Report
    statement: Path | None
    """None for `--here`, where nothing is written."""


def verify_targets(session: Session, names: Sequence[str], options: VerifyOptions) -> list[Verified]:
    """Build what is not built (never resolving), then check; one report per target, whatever the outcome."""
    lockfile = checked_lock(session, frozen=options.frozen)
    return [_verify(session, lockfile, target, options) for target in chosen_targets(lockfile, names)]


class ImageContents(Protocol):
    """An image as verification reads it: from the artifacts that it is made of, or from its own files."""

    @property
    def lockfile(self) -> Lockfile:
        """The lock that it was made from."""
        ...

    @property
    def target(self) -> TargetLock:
        """Its target in that lock."""
        ...

    def elves(self) -> list[ImageElf]:
        """Every ELF file, at its place."""
        ...

    def links(self) -> Mapping[str, str]:
        """Path of each symbolic link -> target as written; no leading slashes."""
        ...

    def linker_directories(self) -> tuple[str, ...]:
        """The directories that /etc/ld.so.conf.d names, without leading slashes."""
        ...

    def brings(self, path: str) -> bool:
        """Whether some wheel brings a file, by its path in the image without leading slash."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageUnderTest:
    """An image, its cases, and by which digests the report names it."""

    contents: ImageContents
    models: tuple[ModelUnderTest, ...]
    manifest_digest: Sha256
    """Empty where nobody knows it: inside of the image itself."""
    config_digest: Sha256
    lock_sha256: Sha256
    harness_sha256: Sha256
    is_around_us: bool = False
    """Whether this process runs in it: then the container runtime has put the host's driver inside."""


def _verify(session: Session, lockfile: Lockfile, target: TargetLock, options: VerifyOptions) -> Verified:
    maker, documents = assemble(session, lockfile, target)
    image = ImageUnderTest(
        contents=maker,
        models=models_under_test(session, lockfile, target),
        manifest_digest=documents.manifest_digest,
        config_digest=documents.config_digest,
        lock_sha256=document_digest(maker.lock_copy()),
        harness_sha256=harness_digest(harness_files()),
    )
    with open_runner(session, maker, documents, options.runner) as runner, _told(session, target):
        report = verdicts(image, runner, options.limits)
        if options.evaluate:
            from nnenv.workflows.evaluating import evaluated

            report = replace(report, evaluations=evaluated(session, lockfile, target, runner, options.limits))
    path = session.project / REPORTS / f"{target.name}.intoto.json"
    with refusing_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, statement(report))
    return Verified(report=report, statement=path)


def verdicts(image: ImageUnderTest, runner: Runner, limits: Limits) -> Report:
    """The four verdicts on an image, run by `runner`."""
    closure = closure_check(image.contents, has_driver=image.is_around_us)
    load = load_request(image.contents)
    completed = runner.run(_asking(requests_for(image.models, load=load), limits))
    accelerator = _accelerator(image.contents.target, image.models, load.provider, runner, limits)
    evaluation = evaluate(image.models, answer_of(completed), load=True)
    return _report(image, closure, load, accelerator, evaluation, runner)


@contextmanager
def _told(session: Session, target: TargetLock) -> Iterator[None]:
    """Say that the target is being verified, for as long as the `with` lasts."""
    task = session.progress.start(f"verify {target.name}")
    try:
        yield
    finally:
        task.finish()


def closure_check(contents: ImageContents, *, has_driver: bool = False) -> Check:
    """The first verdict: static, from bytes. With `has_driver` the host's driver is inside, and may be."""
    target = contents.target
    image = accelerator_image(contents)
    found = check_closure(
        contents.elves(),
        contents.links(),
        machine=target.machine,
        directories=contents.linker_directories() if image else (),
        accelerated=image.accelerated if image else NOT_ACCELERATED,
    )
    if has_driver:
        found = replace(found, stray=())
    findings = (*_closure_findings(found), *(image.findings() if image else ()))
    return Check(
        verdict=Verdict.FAILED if findings else Verdict.PASSED,
        findings=findings,
        note="" if findings else _closed(found, target),
    )


def _closed(found: ClosureReport, target: TargetLock) -> str:
    """What the closure covers, for a report without findings."""
    files = f"{found.files} ELF files, all {target.machine}"
    if target.gpu is None:
        return files
    from_driver = ", ".join(target.gpu.driver_sonames)
    return f"{files}; from the host's driver: {from_driver}" if from_driver else files


def accelerator_image(contents: ImageContents) -> AcceleratorImage | None:
    """What is particular to the image of a target with an accelerator; None for a CPU target."""
    target = contents.target
    if target.gpu is None:
        return None
    return AcceleratorImage(contents.lockfile, target, target.gpu, contents.elves())


def _closure_findings(found: ClosureReport) -> tuple[Finding, ...]:
    return (
        *(Finding(code="soname-missing", what=text) for text in found.missing),
        *(
            Finding(code="foreign-machine", what="an ELF file for another machine", where=path)
            for path in found.foreign
        ),
        *(Finding(code="library-unreachable", what=text) for text in found.unreachable),
        *(Finding(code="driver-library-inside", what=text) for text in found.stray),
    )


def load_request(contents: ImageContents) -> LoadRequest:
    """What the harness is to load of the target's image."""
    image = accelerator_image(contents)
    if image is None:
        return LoadRequest(imports=runtime_modules(contents), libraries=wheel_libraries(contents))
    return LoadRequest(
        imports=runtime_modules(contents),
        libraries=tuple(path for path in wheel_libraries(contents) if not image.is_provider(path)),
        provider=image.provider(),
        cuda=image.versions(),
        driver=image.accelerated.driver,
        optional=image.optional(),
    )


def runtime_modules(contents: ImageContents) -> tuple[str, ...]:
    """Those of the modules that run models which the target's wheels bring; a target without models may have none."""
    library = site_packages(contents.target.python)
    return tuple(name for name in DEFAULT_IMPORTS if contents.brings(f"{library}/{name}/__init__.py"))


def wheel_libraries(contents: ImageContents) -> tuple[str, ...]:
    """Absolute paths of the shared libraries that wheels bring, for the harness to open."""
    return tuple(
        sorted(f"/{elf.path}" for elf in contents.elves() if elf.path.startswith("opt/") and ".so" in elf.path)
    )


def models_under_test(session: Session, lockfile: Lockfile, target: TargetLock) -> tuple[ModelUnderTest, ...]:
    """The target's models with their bound cases, all read from the store by digest."""
    return tuple(
        ModelUnderTest(
            name=model.name,
            path="/" + model_path(model.name, lockfile.by_digest[model.file]),
            sha256=model.file,
            format=model.format,
            beside=_beside(lockfile, model),
            cases=tuple(bound_case(session.store, lockfile.by_digest, model, case) for case in model.cases),
        )
        for model in lockfile.models_of(target)
    )


def _runtimes(models: Sequence[ModelUnderTest]) -> list[str]:
    """Names of what runs the models, sorted; onnxruntime where there is no model."""
    return sorted({RUNTIMES[model.format] for model in models if model.format in RUNTIMES} or {"onnxruntime"})


def _beside(lockfile: Lockfile, model: ModelLock) -> dict[str, Sha256]:
    _, *others = model_files(lockfile, model).items()
    return {f"/{path}": digest for path, digest in others}


@contextmanager
def open_runner(
    session: Session, maker: LayerMaker, documents: ImageDocuments, wanted: str
) -> Iterator[DockerRunner | SandboxRunner]:
    """A place to run the image: an engine where one answers and can run this CPU, else the sandbox.

    Raises NnenvError `engine-unavailable`, `sandbox-unavailable` or `emulator-missing`.
    """
    from nnenv.adapters.host import machine

    foreign = machine() != maker.target.machine
    if wanted == "docker" or (wanted == "auto" and not foreign):
        from nnenv.adapters.docker_engine import DockerRunner

        try:
            engine, _ = load_into(session, documents)
        except NnenvError as error:
            if wanted == "docker" or error.code != "engine-unavailable":
                raise
        else:
            yield DockerRunner(engine, f"sha256:{documents.config_digest}")
            return
    with _sandbox(session, maker) as sandbox:
        yield sandbox


@contextmanager
def _sandbox(session: Session, maker: LayerMaker) -> Iterator[SandboxRunner]:
    from nnenv.adapters.host import find_emulator, machine
    from nnenv.adapters.sandbox import SandboxRunner, compose_root

    target = maker.target.machine
    trees = [maker.tree(maker.layer(plan)) for plan in plan_layers(maker.lockfile, maker.target)]
    with session.store.scratch() as scratch:
        root = scratch / "root"
        compose_root(trees, root)
        emulator = None if machine() == target else find_emulator(target)
        yield SandboxRunner(root, machine=target, environment=ENVIRONMENT, emulator=emulator)


def _asking(request: bytes, limits: Limits, *, gpu: bool = False) -> Run:
    """The harness of the image, with a request."""
    argv = (*SELF_TEST, "serve-request")
    return Run(argv=argv, environment=ENVIRONMENT, stdin=request, limits=limits, gpu=gpu)


def _accelerator(
    target: TargetLock, models: Sequence[ModelUnderTest], provider: str, runner: Runner, limits: Limits
) -> Check:
    """The fourth verdict; not run where there is no GPU to run on, or nothing to run."""
    if target.gpu is None:
        return Check(verdict=Verdict.NOT_RUN, note="a CPU target has none")
    why = runner.why_no_gpu() or _nothing_to_run(models, provider)
    if why:
        driver = f" and driver {target.gpu.driver} or newer" if target.gpu.driver else ""
        unproven = "not proven: kernels on the GPU, the host's driver, the GPU's memory"
        how = f"`nnenv verify --target {target.name}` on a host with such a GPU{driver} proves them"
        return Check(verdict=Verdict.NOT_RUN, note=f"{why}; {unproven}; {how}")
    from nnenv.verify.accelerator import accelerated_requests, accelerator_check

    precise, production, placement = (
        answer_of(runner.run(_asking(request, limits, gpu=True))) for request in accelerated_requests(models, provider)
    )
    return accelerator_check(models, (precise, production, placement), provider)


def _nothing_to_run(models: Sequence[ModelUnderTest], provider: str) -> str:
    """Why no model can show that the accelerator works; empty if one can."""
    if not provider:
        return "no ONNX Runtime with a GPU provider is locked"
    without = [model.name for model in models if not model.cases]
    if not models or without:
        return f"no case for {', '.join(without)}" if without else "the target has no model"
    return ""


def _report(
    image: ImageUnderTest,
    closure: Check,
    load: LoadRequest,
    accelerator: Check,
    evaluation: Evaluation,
    runner: Runner,
) -> Report:
    target = image.contents.target
    wheels = image.contents.lockfile.wheels_of(target)
    versions: Mapping[str, str] = {wheel.name: wheel.version for wheel in wheels}
    assert evaluation.loaded is not None
    loading = load_check(load, evaluation.loaded, versions, evaluation.models)
    reference = reference_check(evaluation.models)
    vacuous, self_made = weak_evidence(evaluation.models)
    return Report(
        target=target.name,
        status=status(
            closure.verdict,
            loading.verdict,
            reference.verdict,
            vacuous=vacuous,
            self_made=self_made,
            accelerator_required=target.gpu is not None,
            accelerator=accelerator.verdict,
        ),
        checks={
            "closure": closure,
            "load": loading,
            "reference": reference,
            "accelerator": accelerator,
        },
        manifest_digest=image.manifest_digest,
        config_digest=image.config_digest,
        lock_sha256=image.lock_sha256,
        harness_sha256=image.harness_sha256,
        runner=runner.name,
        emulated=runner.emulated or evaluation.emulated,
        host=evaluation.host,
        runtime={
            "python": evaluation.loaded.python,
            **{name: evaluation.loaded.versions.get(name, "") for name in ("numpy", *_runtimes(image.models))},
        },
        models=evaluation.models,
        nnenv_version=__version__,
        network=getattr(runner, "network", "none"),
        extra={"isolation": getattr(runner, "mode", "engine")},
    )
