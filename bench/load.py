"""Suite `load`: what it takes to bring a changed top layer into a Docker engine, against the whole image.

Layers are ready in the store before anything is timed, so that a build costs its checks and the load.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.container import NO_ENGINE, Docker, engine_environment
from bench.image_project import IMAGE, Workshop, put_model, settle, without_engine, workshop
from bench.run import Run
from bench.tables import MEGA, Aim, Table, number, ratio
from bench.timing import Contestant, ContestantFailed, Sample, Series, must

STORE, WHOLE, AGAIN, TOP, MODEL, TAR = (
    "nnenv build, no engine: what the rows below cost without the load",
    "nnenv build, the engine has nothing of the image",
    "nnenv build, the engine has the image",
    "nnenv build, the engine has all but a changed application file",
    "nnenv build, the engine has all but a changed model",
    "docker load of a whole tar",
)
STEPS: Final = (STORE, WHOLE, AGAIN, TOP, MODEL, TAR)
AIM: Final = Aim(at_most=0.1, of="the whole image")
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FILES: Final = '\n[image.files]\n"application.py" = "/srv/application.py"\n'


def suite(run: Run) -> Iterator[Table]:
    """Bytes and seconds of a load, by how much the engine has already."""
    docker = Docker.find()
    shop = workshop(run, 20 if run.quick else 100)
    contestant = Contestant(name="load", turn=lambda: _turn(run, shop, docker))
    with docker.clean():
        found = run.race([contestant], scenarios=STEPS, rounds=run.rounds_or(5))
    yield table({step: found[step][0] for step in STEPS})


def table(series: Mapping[str, Series]) -> Table:
    """Rows by step; ratios against loading the whole image. The note of a sample is the number of bytes sent."""
    alone, whole = series[STORE], series[WHOLE]
    rows: list[tuple[str, ...]] = []
    for step, one in series.items():
        if not one.samples or not whole.samples:
            rows.append((step, *[""] * 5, one.absent or whole.absent))
            continue
        sent, all_sent = _sent(one), _sent(whole)
        bare = alone.median if step != TAR else 0.0
        load, whole_load = one.median - bare, whole.median - alone.median
        rows.append(
            (
                step,
                number(one.median),
                number(max(load, 0.0)) if step != STORE else "",
                number(sent / MEGA),
                ratio(one.median / whole.median),
                ratio(max(load, 0.0) / whole_load) if step != STORE else "",
                ratio(sent / all_sent),
            )
        )
    columns = ("step", "s", "load s", "sent MB", "s x whole", "load s x whole", "bytes x whole")
    notes = ["`load s` is the time less that of the first row; nothing is subtracted from `docker load`."]
    if series[TOP].samples and whole.samples:
        figures = {
            "bytes": _sent(series[TOP]) / _sent(whole),
            "load": (series[TOP].median - alone.median) / (whole.median - alone.median),
            "whole command": series[TOP].median / whole.median,
        }
        notes += [f"Aim for a changed top layer, {what}: {AIM.verdict(figure)}." for what, figure in figures.items()]
        if series[TAR].samples and _sent(whole) < 0.95 * _sent(series[TAR]):
            notes.append(
                "The engine held images of others that share layers with this one: less than the whole was sent."
            )
    return Table(title="Loading into the Docker engine", columns=columns, rows=tuple(rows), notes=tuple(notes))


def sent_bytes(delivered: Sequence[str]) -> int:
    """The bytes in `Docker engine: NAME (12.3 MiB sent)`, to the three digits that are shown; 0 for `already there`."""
    found = re.search(r"\(([\d.]+) (B|KiB|MiB|GiB) sent\)", " ".join(delivered))
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def _sent(series: Series) -> int:
    return int(series.samples[-1].note)


@dataclass(kw_only=True)
class _Loads:
    """One turn's project, and the images it left in the engine."""

    shop: Workshop
    docker: Docker
    project: Path
    store: Path
    made: list[str] = field(default_factory=list)

    def state(self, text: str, model: Path) -> None:
        """Give the project this application and model, lock it, and make its layers."""
        (self.project / "application.py").write_text(text)
        put_model(self.project, model)
        for word in ("lock", "build"):
            without_engine(self.shop.command(self.project, self.store, word), self.project)

    def build(self, *, engine: bool) -> Sample:
        """A measured build."""
        environment = engine_environment() if engine else engine_environment(DOCKER_HOST=NO_ENGINE)
        output = ["--output", "docker"] if engine else []
        command = self.shop.command(self.project, self.store, "build", *output, "--json", "--quiet")
        settle()
        finished = must(command, cwd=self.project, environment=environment)
        image = json.loads(finished.out)["images"][0]
        if engine:
            self._insist(image["config"])
        return Sample(cost=finished.cost, note=str(sent_bytes(image["delivered"])))

    def load_tar(self, tar: Path) -> Sample:
        """A measured `docker load`."""
        settle()
        finished = must(
            [self.docker.command, "load", "--quiet", "--input", tar], cwd=self.project, environment=engine_environment()
        )
        self._insist(self.docker.image_id(IMAGE))
        return Sample(cost=finished.cost, note=str(tar.stat().st_size))

    def forget(self) -> None:
        """Remove what this turn loaded, and the base with which it shares layers."""
        self.docker.remove(*self.docker.ours(), *self.made)
        self.made.clear()

    def _insist(self, image: str) -> None:
        if not image or self.docker.image_id(IMAGE) != image:
            raise ContestantFailed(f"the engine does not hold the image {image}")
        self.made.append(image)


def _turn(run: Run, shop: Workshop, docker: Docker) -> Mapping[str, Sample]:
    folder = run.folder("load")
    project = folder / "project"
    shop.first.enter(project)
    (project / "model.toml").write_text(shop.first.manifest + _FILES)
    loads = _Loads(shop=shop, docker=docker, project=project, store=shop.copy_store(folder / "store"))
    try:
        loads.forget()
        loads.state("print(1)\n", shop.first.model)
        samples = {STORE: loads.build(engine=False), WHOLE: loads.build(engine=True), AGAIN: loads.build(engine=True)}
        loads.state("print(2)\n", shop.first.model)
        samples[TOP] = loads.build(engine=True)
        loads.state("print(2)\n", shop.other_model.model)
        samples[MODEL] = loads.build(engine=True)
        tar = folder / "image.tar"
        without_engine(shop.command(project, loads.store, "build", "--output", f"oci:{tar}"), project)
        loads.forget()
        samples[TAR] = loads.load_tar(tar)
        return samples
    finally:
        loads.forget()
        shutil.rmtree(folder, ignore_errors=True)
