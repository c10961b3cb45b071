"""The image of a CUDA 12 target from its wheels, against BuildKit with uv and the classic builder with pip.

As in suite `image` everybody starts from a ready base and local wheels, which for the peers lie in the base.
"""

from __future__ import annotations

import os
import shutil
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.container import NO_ENGINE, Docker, engine_environment, insist
from bench.image import ALONE, BUILDERS, NOTES, REFERENCE, Builder, DockerBuild
from bench.image_project import SHELL, manifest, of_kind, requirements, settle
from bench.run import Run
from bench.tables import Aim, Table, comparison
from bench.timing import Contestant, Sample, Unavailable, must

CLASSIC: Final = "classic builder + pip"
_TARGET: Final = "[targets.cpu]"
_FILES: Final = '[image]\nshell = true\n\n[image.files]\n"wheels" = "/wheels"\n'


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A store in which the base is ready and the wheels are fetched, and the two projects."""

    nnenv: Path
    store: Path
    product: Path
    base: Path
    known: Path
    """What the store had derived when the base was ready."""

    def command(self, project: Path, store: Path, *words: str) -> list[str | Path]:
        return [self.nnenv, *words, "-C", project, "--store", store]


def tables(run: Run, folder: Path, store: Path, wanted: list[str], target: str) -> Iterator[Table]:
    """One table; `store` must not know the layers, `target` is the table of model.toml that stands for the GPU."""
    try:
        docker: Docker | None = Docker.find()
    except Unavailable as reason:
        docker = None
        run.say(f"no peers: {reason}")
    place = _prepared(run, folder, store, wanted, target)
    contestants = [Contestant(name=ALONE, turn=lambda: _ours(run, place))]
    if docker is None:
        yield _table(run, contestants)
        return
    with docker.clean():
        insist(place.command(place.base, store, "build", "--output", "docker"), limit=1800)
        for peer in BUILDERS:
            if peer.name in (REFERENCE, CLASSIC):
                contestants.append(Contestant(name=peer.name, turn=_peer(run, place, docker, peer)))
        yield _table(run, contestants)


def _table(run: Run, contestants: list[Contestant]) -> Table:
    run.say("the image")
    return comparison(
        "CUDA 12 image from its wheels, cold",
        run.race(contestants, rounds=run.rounds_or(2))[""],
        against=REFERENCE,
        aims={ALONE: Aim(at_most=1 / 3, of=REFERENCE)},
        notes=(*NOTES, "The second aim is a sixth of the classic builder with pip."),
    )


def _prepared(run: Run, folder: Path, store: Path, wanted: list[str], target: str) -> _Place:
    run.say("preparing a base with the wheels in it")
    place = _Place(
        nnenv=run.nnenv() / "bin" / "nnenv",
        store=store,
        product=folder / "product",
        base=folder / "base",
        known=folder / "known",
    )
    place.product.mkdir(parents=True)
    text = manifest("gpu", packages=wanted, system=SHELL, more="[image]\nshell = true\n").replace(_TARGET, target)
    (place.product / "model.toml").write_text(text)
    for words in ("lock", "fetch"):
        _unmeasured(place.command(place.product, store, words), place.product)
    lock = _lock(place.product)
    wheels = place.base / "wheels"
    wheels.mkdir(parents=True)
    for wheel in of_kind(lock, "wheel"):
        os.link(store / "objects" / "sha256" / wheel["sha256"][:2] / wheel["sha256"], wheels / wheel["filename"])
    system = sorted(str(deb["name"]) for deb in of_kind(lock, "deb"))
    text = manifest("base", packages=["pip", "uv"], system=system, more=_FILES)
    (place.base / "model.toml").write_text(text)
    for words in ("lock", "fetch", "build"):
        _unmeasured(place.command(place.base, store, words), place.base)
    insist(["cp", "-a", store / "derived", place.known])
    return place


def _lock(project: Path) -> Mapping[str, Any]:
    return tomllib.loads((project / "model.lock").read_text())


def _unmeasured(command: list[str | Path], folder: Path) -> None:
    # With the user's own index and archive; without an engine, which would only take copies.
    must(command, cwd=folder, environment={**os.environ, "DOCKER_HOST": NO_ENGINE}, limit=1800)


def _ours(run: Run, place: _Place) -> Mapping[str, Sample]:
    """The build where the wheels were fetched, with all that was derived from them forgotten.

    Not in a copy: whoever fetched an object has read it, and a copy is another file, to be read once more.
    """
    derived = place.store / "derived"
    shutil.rmtree(derived)
    insist(["cp", "-a", place.known, derived])
    settle()
    command = place.command(place.product, place.store, "build", "--json", "--quiet")
    finished = must(command, cwd=place.product, environment=engine_environment(DOCKER_HOST=NO_ENGINE))
    return {"": Sample(cost=finished.cost)}


def _peer(run: Run, place: _Place, docker: Docker, peer: Builder) -> Any:
    def turn() -> Mapping[str, Sample]:
        context = run.folder("context")
        builds = DockerBuild(peer, docker)
        try:
            cache = uuid.uuid4().hex
            (context / "model.onnx").write_bytes(b"")
            (context / "requirements.txt").write_text(f"{requirements(_lock(place.product))}# {cache}\n")
            (context / "Dockerfile").write_text(peer.dockerfile(builds.base, cache))
            settle()
            command = [*builds.command, "--no-cache", "."]
            finished = must(command, cwd=context, environment=builds.environment, limit=1800)
            builds.image_id()
            return {"": Sample(cost=finished.cost)}
        finally:
            builds.remove()
            shutil.rmtree(context, ignore_errors=True)

    return turn
