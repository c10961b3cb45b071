"""The projects behind the image suites, locked and fetched, with a store where the base is ready and the rest is cold.

The product is onnxruntime, numpy and pillow with one model of a given size; it comes in variants: another model,
another pillow. The base is an image with the same operating system and interpreter, and with pip, uv, a shell and the
wheels' files, for the peers to start from.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.container import NO_ENGINE, PREFIX, engine_environment, insist
from bench.onnx_file import write_model
from bench.run import Run
from bench.timing import ContestantFailed, Finished, must

BASE_IMAGE: Final = f"{PREFIX}-base:1-cpu"
IMAGE: Final = f"{PREFIX}-image:1-cpu"
MODEL_PLACE: Final = "/opt/nnenv/models/dense/model.onnx"
PYTHON: Final = "/opt/nnenv/bin/python3"
"""In the base and in the product."""
READY_LAYERS: Final = 3
"""OS packages, OS state, the interpreter's bytecode: what peers find in their base image."""
SHELL: Final = ("dash", "coreutils")
"""What `RUN` needs; in the product as well, so that both have one operating system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One state of the product: manifest, lock and model belong together."""

    manifest: str
    lock: bytes
    model: Path
    pillow: str

    def requirements(self) -> str:
        """The locked wheels as pip's and uv's requirements file, with hashes."""
        return requirements(tomllib.loads(self.lock.decode()))

    def enter(self, project: Path) -> None:
        """Put this state into the project folder. The model is a hard link: nobody writes into it."""
        project.mkdir(exist_ok=True)
        (project / "model.toml").write_text(self.manifest)
        (project / "model.lock").write_bytes(self.lock)
        put_model(project, self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """All that the image suites start from."""

    nnenv: Path
    """The command."""
    ready: Path
    """A store with everything fetched and the base built; copied for each turn, never built in."""
    base: Path
    """The base's project, built in `ready`."""
    first: Variant
    other_model: Variant
    """The first with another model."""
    other_wheel: Variant
    """The one with the other model, with another pillow."""
    third_model: Path
    """In no lock and no store."""

    def command(self, project: Path, store: Path, *words: str) -> list[str | Path]:
        """A command of nnenv on that project."""
        return [self.nnenv, *words, "-C", project, "--store", store]

    def copy_store(self, place: Path) -> Path:
        """A store in which the base is ready and the product's layers are cold."""
        insist(["cp", "-a", "--reflink=auto", self.ready, place])
        return place


def workshop(run: Run, megabytes: int) -> Workshop:
    """Lock, fetch and build the base; once a run and size. Raises Unavailable or ContestantFailed."""
    key = (run.scratch, megabytes)
    if key not in _WORKSHOPS:
        _WORKSHOPS[key] = _prepared(run, megabytes)
    return _WORKSHOPS[key]


_WORKSHOPS: dict[tuple[Path, int], Workshop] = {}


def without_engine(command: Sequence[str | Path], folder: Path, limit: float = 900.0) -> Finished:
    """Run nnenv where no engine answers, measured; ContestantFailed unless it succeeds."""
    return must(command, cwd=folder, environment=engine_environment(DOCKER_HOST=NO_ENGINE), limit=limit)


def settle() -> None:
    """Have everything on the disk: preparations must not burden the next measurement, which may sync."""
    os.sync()


def put_model(project: Path, model: Path) -> None:
    """Make `model` the project's model."""
    place = project / "model.onnx"
    place.unlink(missing_ok=True)
    os.link(model, place)


def manifest(name: str, *, packages: Sequence[str], system: Sequence[str], more: str = "") -> str:
    """A model.toml with one target, `cpu`."""
    return f"""[project]
name = "{PREFIX}-{name}"
version = "1"

[requires]
packages = {_list(packages)}
system = {_list(system)}

[targets.cpu]

{more}"""


def requirements(lock: Mapping[str, Any]) -> str:
    """A requirements file of the lock's wheels, each with its hash."""
    wheels = of_kind(lock, "wheel")
    return "".join(f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n" for wheel in wheels)


def layer_digests(lock: Mapping[str, Any]) -> list[str]:
    """The digests of the layers that a build noted in the lock of one target, bottom to top."""
    layers = lock["target"][0]["image"]["layers"]
    return [str(layer["digest"]) for layer in layers]


def insist_on_ready_base(shop: Workshop, project: Path) -> None:
    """ContestantFailed if a product's bottom layers were not those of the base: then they were not ready."""
    base, product = (tomllib.loads((folder / "model.lock").read_text()) for folder in (shop.base, project))
    if layer_digests(base)[:READY_LAYERS] != layer_digests(product)[:READY_LAYERS]:
        raise ContestantFailed("the product's operating system is not that of the base")


MODEL: Final = """[models.dense]
version = "1"
source = "file:model.onnx"
"""
CASE: Final = """
[[models.dense.tests]]
data = "case"
"""


def _prepared(run: Run, megabytes: int) -> Workshop:
    run.say(f"preparing projects with a model of {megabytes} MB")
    nnenv = run.nnenv() / "bin" / "nnenv"
    folder = run.folder("workshop")
    models = [folder / f"model{number}.onnx" for number in (1, 2, 3)]
    for number, model in enumerate(models, 1):
        write_model(model, megabytes, seed=number)
    ready, project = folder / "store", folder / "project"
    newest = _locked(nnenv, project, ready, models[0], "pillow")
    newer = _version(newest, "pillow")
    older = _version(_locked(nnenv, project, ready, models[0], f"pillow<{newer}"), "pillow")
    first = _variant(nnenv, project, ready, models[0], older)
    other_model = _variant(nnenv, project, ready, models[1], older)
    other_wheel = _variant(nnenv, project, ready, models[1], newer)
    return Workshop(
        nnenv=nnenv,
        ready=ready,
        base=_base(run, nnenv, folder, ready, [first, other_wheel]),
        first=first,
        other_model=other_model,
        other_wheel=other_wheel,
        third_model=models[2],
    )


def _locked(nnenv: Path, project: Path, store: Path, model: Path, pillow: str) -> dict[str, Any]:
    project.mkdir(exist_ok=True)
    (project / "model.toml").write_text(_product(pillow))
    put_model(project, model)
    without_engine([nnenv, "lock", "-C", project, "--store", store], project)
    return tomllib.loads((project / "model.lock").read_text())


def _product(pillow: str) -> str:
    more = MODEL + "\n[image]\nshell = true\n"
    return manifest("image", packages=["onnxruntime", "numpy", pillow], system=SHELL, more=more)


def _variant(nnenv: Path, project: Path, store: Path, model: Path, pillow: str) -> Variant:
    _locked(nnenv, project, store, model, f"pillow=={pillow}")
    without_engine([nnenv, "fetch", "-C", project, "--store", store], project)
    return Variant(
        manifest=_product(f"pillow=={pillow}"),
        lock=(project / "model.lock").read_bytes(),
        model=model,
        pillow=pillow,
    )


def _base(run: Run, nnenv: Path, folder: Path, store: Path, variants: Sequence[Variant]) -> Path:
    """The base's project, locked, fetched and built: the operating system of the product, pip, uv, wheels' files."""
    project = folder / "base"
    (project / "wheels").mkdir(parents=True)
    locks = [tomllib.loads(variant.lock.decode()) for variant in variants]
    for lock in locks:
        for wheel in of_kind(lock, "wheel"):
            digest = wheel["sha256"]
            shutil.copyfile(store / "objects" / "sha256" / digest[:2] / digest, project / "wheels" / wheel["filename"])
    system = sorted({str(deb["name"]) for lock in locks for deb in of_kind(lock, "deb")})
    image = '[image]\nshell = true\n\n[image.files]\n"wheels" = "/wheels"\n'
    (project / "model.toml").write_text(manifest("base", packages=["pip", "uv"], system=system, more=image))
    for words in (["lock"], ["fetch"], ["build"]):
        without_engine([nnenv, *words, "-C", project, "--store", store], project)
    lock = tomllib.loads((project / "model.lock").read_text())
    run.versions.update({f"{name} (in the base image)": _version(lock, name) for name in ("pip", "uv")})
    run.versions.update({name: _version(locks[-1], name) for name in ("onnxruntime", "numpy", "pillow")})
    return project


def of_kind(lock: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return [artifact for artifact in lock["artifact"] if artifact["kind"] == kind]


def _version(lock: Mapping[str, Any], name: str) -> str:
    return next(str(wheel["version"]) for wheel in of_kind(lock, "wheel") if wheel["name"] == name)


def _list(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
