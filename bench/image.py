"""Suite `image`: from locked files to an image, against the builders that people use, in one interleaved run.

Every contestant starts from a ready base and local wheels; what is timed is the rest: wheels, model, and the image.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.container import NO_ENGINE, Docker, buildah_client, buildkit_client, engine_environment, insist
from bench.image_project import (
    BASE_IMAGE,
    IMAGE,
    MODEL_PLACE,
    PYTHON,
    Variant,
    Workshop,
    insist_on_ready_base,
    put_model,
    settle,
    without_engine,
    workshop,
)
from bench.peers import installer_environment
from bench.run import Run
from bench.tables import Aim, Table, comparison
from bench.timing import Contestant, ContestantFailed, Cost, Sample, Series, Turn, Unavailable, must

COLD, UNCHANGED, MODEL, LOCKED_MODEL, WHEEL, AGAIN = "cold", "unchanged", "model", "locked model", "wheel", "cold again"
SCENARIOS: Final = (COLD, UNCHANGED, MODEL, WHEEL, LOCKED_MODEL, AGAIN)
REFERENCE: Final = "BuildKit + uv"
ALONE, LOADED = "nnenv, no engine", "nnenv, into the engine"
TITLES: Final = {
    COLD: "Image, cold: wheels and model into layers",
    UNCHANGED: "Image, nothing changed",
    MODEL: "Image, another model",
    LOCKED_MODEL: "Image, another model, `nnenv lock` included",
    WHEEL: "Image, another version of one wheel (pillow)",
}
AIMS: Final = {
    COLD: {ALONE: Aim(at_most=0.6, of=REFERENCE), LOADED: Aim(at_most=1, of=REFERENCE)},
    UNCHANGED: {ALONE: Aim(at_most=0.15, unit="s")},
    MODEL: {ALONE: Aim(at_most=0.2, of=REFERENCE), LOADED: Aim(at_most=0.4, of=REFERENCE)},
    LOCKED_MODEL: {},
    WHEEL: {ALONE: Aim(at_most=0.3, of=REFERENCE), LOADED: Aim(at_most=1, of=REFERENCE)},
}
_UV: Final = (
    "UV_CACHE_DIR=/uv-cache UV_LINK_MODE=copy uv pip install --quiet --no-config --python {python} --no-index"
    " --find-links /wheels --require-hashes -r /requirements.txt"
)
_PIP: Final = (
    "{python} -m pip install --quiet --no-cache-dir --no-compile --no-index --find-links /wheels --require-hashes"
    " -r /requirements.txt"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Builder:
    """A peer: what its Dockerfile says, and how it is built."""

    name: str
    tag: str
    engine: str
    """`buildkit`, `classic` or `buildah`."""
    install: str
    """The command that installs the wheels."""
    cache: bool = False
    """Whether a cache mount keeps unpacked wheels between builds, as uv's manual advises."""

    def dockerfile(self, base: str, cache: str) -> str:
        """The Dockerfile; `cache` names the cache mount. Nothing is downloaded: base and wheels are there."""
        mount = f"--mount=type=cache,id={cache},target=/uv-cache " if self.cache else ""
        return (
            f"FROM {base}\nUSER 0\nCOPY requirements.txt /requirements.txt\n"
            f"RUN {mount}{self.install.format(python=PYTHON)}\nCOPY model.onnx {MODEL_PLACE}\n"
        )


BUILDERS: Final = (
    Builder(name=REFERENCE, tag="buildkit-uv", engine="buildkit", install=_UV, cache=True),
    Builder(
        name="BuildKit + uv, bytecode",
        tag="buildkit-uv-bytecode",
        engine="buildkit",
        install="UV_COMPILE_BYTECODE=1 " + _UV,
        cache=True,
    ),
    Builder(name="BuildKit + pip", tag="buildkit-pip", engine="buildkit", install=_PIP),
    Builder(name="classic builder + pip", tag="classic-pip", engine="classic", install=_PIP),
    Builder(name="buildah + uv", tag="buildah-uv", engine="buildah", install=_UV, cache=True),
)


def suite(run: Run) -> Iterator[Table]:
    """Cold, nothing changed, another model, another wheel; and whether two cold builds give one digest."""
    shop = workshop(run, 20 if run.quick else 100)
    try:
        docker: Docker | None = Docker.find()
    except Unavailable as reason:
        docker = None
        run.say(f"no peers: {reason}")
    if docker is None:
        yield from _tables(run, _contestants(run, shop, None))
        return
    with docker.clean():
        load_base(shop)
        yield from _tables(run, _contestants(run, shop, docker))


def load_base(shop: Workshop) -> None:
    """Bring the base into the engine: peers start from it, and nnenv's images share its bottom layers."""
    insist(shop.command(shop.base, shop.ready, "build", "--output", "docker"))


def _contestants(run: Run, shop: Workshop, docker: Docker | None) -> list[Contestant]:
    peers = [builder for builder in BUILDERS if not run.quick or builder.name == REFERENCE]
    return [
        Contestant(name=ALONE, turn=lambda: _nnenv_turn(run, shop, None)),
        Contestant(name=LOADED, turn=lambda: _nnenv_turn(run, shop, _engine(docker))),
        *(Contestant(name=peer.name, turn=_peer_turn(run, shop, docker, peer)) for peer in peers),
    ]


def _engine(docker: Docker | None) -> Docker:
    if docker is None:
        raise Unavailable("no Docker engine answers")
    return docker


def _tables(run: Run, contestants: Sequence[Contestant]) -> Iterator[Table]:
    found = run.race(contestants, scenarios=SCENARIOS, rounds=run.rounds_or(5))
    for scenario, title in TITLES.items():
        series = found[scenario]
        if scenario == LOCKED_MODEL:
            series = [one for one in series if one.samples]
            series += [one for one in found[MODEL] if one.name == REFERENCE]
        yield comparison(title, series, against=REFERENCE, aims=AIMS[scenario], notes=NOTES)
    yield digests(found[AGAIN])


NOTES: Final = (
    "CPU and memory are those of the command and its children: what a peer's engine does in its daemon is not in them.",
)


def digests(series: Sequence[Series]) -> Table:
    """How often the second cold build gave the image of the first."""
    rows = []
    for one in series:
        equal = sum(sample.note == "same" for sample in one.samples)
        said = f"{equal} of {len(one.samples)}" if one.samples else one.absent
        rows.append((one.name, said))
    return Table(
        title="Two cold builds of the same inputs: how often they gave the same image",
        columns=("contestant", "same image ID"),
        rows=tuple(rows),
    )


# nnenv


def _nnenv_turn(run: Run, shop: Workshop, docker: Docker | None) -> Mapping[str, Sample]:
    folder = run.folder("nnenv")
    try:
        return _nnenv_scenarios(shop, folder, docker)
    finally:
        if docker is not None:
            docker.remove(IMAGE)
        shutil.rmtree(folder, ignore_errors=True)


def _nnenv_scenarios(shop: Workshop, folder: Path, docker: Docker | None) -> Mapping[str, Sample]:
    project = folder / "project"
    environment = engine_environment() if docker else engine_environment(DOCKER_HOST=NO_ENGINE)
    output = ["--output", "docker"] if docker else []
    made: list[str] = []

    def timed(store: Path, *commands: Sequence[str]) -> Sample:
        settle()
        costs = []
        for words in commands:
            finished = must(
                shop.command(project, store, *words, "--json", "--quiet"), cwd=project, environment=environment
            )
            costs.append(finished.cost)
        image = json.loads(finished.out)["images"][0]["config"]
        if docker:
            _insist_same(image, docker.image_id(IMAGE))
            made.append(image)
        return Sample(cost=total(costs), note=image)

    build = ["build", *output]
    store = shop.copy_store(folder / "store")
    shop.first.enter(project)
    samples = {COLD: timed(store, build)}
    insist_on_ready_base(shop, project)
    samples[UNCHANGED] = timed(store, build)
    _insist_same(samples[COLD].note, samples[UNCHANGED].note)
    shop.other_model.enter(project)
    samples[MODEL] = timed(store, build)
    shop.other_wheel.enter(project)
    samples[WHEEL] = timed(store, build)
    if docker:
        check_image(docker, IMAGE, shop.other_wheel)
    put_model(project, shop.third_model)
    samples[LOCKED_MODEL] = timed(store, ["lock"], build)
    if docker:
        docker.remove(*made)
    shutil.rmtree(project)
    shop.first.enter(project)
    again = timed(shop.copy_store(folder / "other-store"), build)
    samples[AGAIN] = compared(again, samples[COLD])
    if docker:
        docker.remove(*made)
    return {scenario: replace(s, note="" if scenario != AGAIN else s.note) for scenario, s in samples.items()}


def _insist_same(first: str, second: str) -> None:
    if first != second:
        raise ContestantFailed(f"two names for one image: {first or 'none'} and {second or 'none'}")


def total(costs: Sequence[Cost]) -> Cost:
    """What several commands took, one after the other."""
    return Cost(
        wall=sum(cost.wall for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        peak=max(cost.peak for cost in costs),
    )


def compared(again: Sample, first: Sample) -> Sample:
    """`again`, noting whether its image is that of `first`."""
    return replace(again, note="same" if again.note == first.note else "another")


# Peers


def _peer_turn(run: Run, shop: Workshop, docker: Docker | None, peer: Builder) -> Turn:
    def turn() -> Mapping[str, Sample]:
        engine = _engine(docker)
        folder = run.folder("peer")
        builds = _Buildah(peer, folder, shop) if peer.engine == "buildah" else DockerBuild(peer, engine)
        try:
            return _peer_scenarios(peer, shop, folder / "context", builds)
        finally:
            builds.remove()
            shutil.rmtree(folder, ignore_errors=True)

    return turn


def _peer_scenarios(
    peer: Builder, shop: Workshop, context: Path, builds: DockerBuild | _Buildah
) -> Mapping[str, Sample]:
    # Names a cache mount that nobody has used: a cold build must not find unpacked wheels.
    cache = uuid.uuid4().hex

    def state(variant: Variant) -> None:
        context.mkdir(exist_ok=True)
        put_model(context, variant.model)
        # The turn's own name: else BuildKit remembers the steps of the turn before, which had the same content.
        (context / "requirements.txt").write_text(f"{variant.requirements()}# {cache}\n")
        (context / "Dockerfile").write_text(peer.dockerfile(builds.base, cache))

    def build(*options: str) -> Sample:
        settle()
        finished = must([*builds.command, *options, "."], cwd=context, environment=builds.environment)
        return Sample(cost=finished.cost, note=builds.image_id())

    state(shop.first)
    first = build("--no-cache")
    samples = {COLD: first, UNCHANGED: build()}
    state(shop.other_model)
    samples[MODEL] = build()
    state(shop.other_wheel)
    samples[WHEEL] = build()
    builds.check(shop.other_wheel)
    # The same inputs to the byte; that uv has unpacked wheels now is of no matter, since only images are compared.
    state(shop.first)
    samples[AGAIN] = compared(build("--no-cache"), first)
    return {scenario: replace(s, note="" if scenario != AGAIN else s.note) for scenario, s in samples.items()}


class DockerBuild:
    """A peer whose images lie in the Docker engine."""

    base = BASE_IMAGE

    def __init__(self, peer: Builder, docker: Docker) -> None:
        self._docker = docker
        self._tag = f"nnenv-bench-{peer.tag}:1"
        self._made: list[str] = []
        buildkit = peer.engine == "buildkit"
        client = buildkit_client() if buildkit else docker.command
        # Without a network for RUN: nothing is downloaded, and no bridge has to be set up.
        self.command: list[str | Path] = [client, "build", "--quiet", "--network", "none", "--tag", self._tag]
        self.environment = engine_environment(DOCKER_BUILDKIT="1" if buildkit else "0")

    def image_id(self) -> str:
        made = self._docker.image_id(self._tag)
        self._made.append(made)
        return made

    def check(self, variant: Variant) -> None:
        check_image(self._docker, self._tag, variant)

    def remove(self) -> None:
        self._docker.remove(self._tag, *self._made)


class _Buildah:
    """A peer whose images lie in a storage of their own."""

    def __init__(self, peer: Builder, folder: Path, shop: Workshop) -> None:
        if os.geteuid() != 0:
            raise Unavailable("buildah is measured as root, with overlay storage")
        self._tag = f"nnenv-bench-{peer.tag}:1"
        places: list[str | Path] = ["--root", folder / "storage", "--runroot", folder / "run"]
        self._buildah = [buildah_client(), *places, "--storage-driver", "overlay"]
        self.base = f"localhost/{BASE_IMAGE}"
        self.command: list[str | Path] = [
            *self._buildah, "bud", "--quiet", "--layers", "--pull=false", "--isolation", "chroot", "--tag", self._tag,
        ]  # fmt: skip
        # Cache mounts lie below TMPDIR (buildah-build(1)).
        temporary = folder / "temporary"
        temporary.mkdir(parents=True)
        self.environment = {**installer_environment(), "TMPDIR": str(temporary)}
        archive = folder / "base.tar"
        without_engine(shop.command(shop.base, shop.ready, "build", "--output", f"oci:{archive}"), shop.base)
        insist([*self._buildah, "pull", "--quiet", f"docker-archive:{archive}"])
        archive.unlink()

    def image_id(self) -> str:
        return insist([*self._buildah, "images", "--quiet", "--no-trunc", self._tag]).strip()

    def check(self, variant: Variant) -> None:
        """Run the image's interpreter; ContestantFailed unless it finds what was installed."""
        container = insist([*self._buildah, "from", "--pull-never", self._tag]).strip()
        try:
            run = [*self._buildah, "run", "--isolation", "chroot", container, "--"]
            _judge(insist([*run, PYTHON, "-c", PROGRAM]), variant)
        finally:
            insist([*self._buildah, "rm", container])

    def remove(self) -> None:
        insist([*self._buildah, "rmi", "--all", "--force"])


PROGRAM: Final = f"""
import os, numpy, onnxruntime, PIL
print(PIL.__version__, os.path.getsize({MODEL_PLACE!r}))
"""
"""What the image must be able to do."""


def check_image(docker: Docker, tag: str, variant: Variant) -> None:
    """Import everything in the image; ContestantFailed unless it holds the variant's pillow and model."""
    isolated = ["run", "--rm", "--network", "none", "--read-only", "--entrypoint", PYTHON]
    _judge(insist([docker.command, *isolated, tag, "-c", PROGRAM]), variant)


def _judge(said: str, variant: Variant) -> None:
    expected = f"{variant.pillow} {variant.model.stat().st_size}"
    if said.strip() != expected:
        raise ContestantFailed(f"the image says `{said.strip()}`, expected is `{expected}`")
