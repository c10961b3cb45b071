"""`nnenv init`: a model.toml that fits the models that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nnenv.adapters.files import compare_and_swap, open_inside, refusing_writes
from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import read_onnx
from nnenv.spec.manifest import PROJECT_PATH, Manifest
from nnenv.spec.manifest_toml import parse_manifest
from nnenv.spec.names import MANIFEST_NAME
from nnenv.spec.schema import schema_text
from nnenv.workflows.session import Session
from nnenv.workflows.starter import SCHEMA_NAME, StarterModel, name_from, runtime_floor, starter_text

_FOLDERS: Final = ("", "models/")
"""Where models are looked for when none is named, from the project."""
_MOST_MODELS: Final = 100
_FALLBACK_NAME: Final = "my-model"
"""Of a project whose folder has no letter that a name may hold."""


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """What the user asked of `nnenv init`."""

    directory: str = "."
    """The new project's folder, from the session's; it is made if it is missing."""
    models: tuple[str, ...] = ()
    """Paths of model files, from the session's folder; without any, those in the project are taken."""
    name: str = ""
    """Of the project; without it, that of the folder."""
    targets: tuple[str, ...] = ("cpu",)
    schema: bool = False
    """Whether the JSON Schema is put beside model.toml."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """What was made."""

    project: Path
    wrote: tuple[str, ...]
    models: tuple[StarterModel, ...]
    notes: tuple[str, ...]
    """What may go wrong, one sentence each."""


def start_project(session: Session, options: InitOptions) -> Started:
    """Write model.toml, and with `schema` also model.schema.json; where a model.toml is, only the latter.

    Raises NnenvError `manifest-exists`, `path-escapes` for a model outside of the project, `model-invalid`,
    `file-unreadable`, `disk-full`.
    """
    project = session.project / options.directory
    if os.path.lexists(project / MANIFEST_NAME):
        if not options.schema:
            raise _exists(project)
        _write_schema(project)
        return Started(project=project, wrote=(SCHEMA_NAME,), models=(), notes=_schema_notes(project))
    name = options.name or name_from(project.resolve().name) or _FALLBACK_NAME
    paths = [_inside(session.project / path, project) for path in options.models] or list(_found(project))
    models = tuple(_models(project, name, list(dict.fromkeys(paths))))
    text = starter_text(name, models, options.targets, with_schema=options.schema)
    parse_manifest(text.encode())
    with refusing_writes(project):
        project.mkdir(parents=True, exist_ok=True)
    if options.schema:
        _write_schema(project)
    compare_and_swap(project / MANIFEST_NAME, text.encode(), None)
    wrote = (MANIFEST_NAME, SCHEMA_NAME) if options.schema else (MANIFEST_NAME,)
    return Started(project=project, wrote=wrote, models=models, notes=runtime_floor(models).notes)


def _exists(project: Path) -> NnenvError:
    return NnenvError(
        "manifest-exists",
        f"there is a {MANIFEST_NAME} here already, and nothing was written",
        where=str(project),
        fix=[
            "change it with an editor, `nnenv add` and `nnenv remove`",
            "name another folder: nnenv init DIR",
        ],
    )


def _write_schema(project: Path) -> None:
    """Put the schema of this nnenv there, in place of an older one."""
    path = project / SCHEMA_NAME
    with refusing_writes(path):
        old = path.read_bytes() if path.exists() else None
    compare_and_swap(path, schema_text(Manifest).encode(), old)


def _schema_notes(project: Path) -> tuple[str, ...]:
    line = f"#:schema ./{SCHEMA_NAME}"
    with open_inside(project, MANIFEST_NAME) as stream:
        head = stream.readline(200).decode(errors="replace")
    if head.strip() == line:
        return ()
    return (f"{MANIFEST_NAME} is as it was; for editors that follow it, make this its first line: {line}",)


# Models and their tests


def _found(project: Path) -> Iterator[str]:
    """Paths of the model files in the project, sorted."""
    for folder in _FOLDERS:
        yield from sorted(f"{folder}{path.name}" for path in (project / folder).glob("*.onnx") if path.is_file())


def _inside(path: Path, project: Path) -> str:
    """A named model as a path from the project; NnenvError `path-escapes` if it is outside."""
    top = project.resolve()
    whole = Path(os.path.normpath(path.absolute()))
    for root in (Path(os.path.normpath(project.absolute())), top):
        if whole.is_relative_to(root) and whole != root:
            return whole.relative_to(root).as_posix()
    raise NnenvError(
        "path-escapes",
        f"{path} is not in the project's folder",
        where="--model",
        because=[f"the project is {project}; an image is made from what is in there"],
        fix=[f"move or copy the file into {project}, and name it there"],
    )


def _models(project: Path, project_name: str, paths: Sequence[str]) -> Iterator[StarterModel]:
    if len(paths) > _MOST_MODELS:
        raise NnenvError(
            "usage",
            f"there are {len(paths)} models here; a starter names at most {_MOST_MODELS}",
            fix=["name those that you mean with --model"],
            exit_code=2,
        )
    taken: set[str] = set()
    for path in paths:
        _insist_on_a_path(path)
        with open_inside(project, path) as stream:
            facts = read_onnx(stream, path)
        name = _unused(_model_name(path, project_name), taken)
        taken.add(name)
        yield StarterModel(name=name, path=path, facts=facts, tests=_tests(project, name, path))


def _insist_on_a_path(path: str) -> None:
    """The file's path must be one that model.toml can hold."""
    if not re.fullmatch(PROJECT_PATH, path) or not path.isprintable():
        raise NnenvError(
            "path-escapes",
            f"model.toml cannot name {path!r}",
            where="--model",
            because=["a path holds no backslash and no control character"],
            fix=["rename the file"],
        )


def _model_name(path: str, project_name: str) -> str:
    """The stem of the file; of `resnet50/model.onnx`, as in model zoos, the folder; of `model.onnx` the project."""
    pure = PurePosixPath(path)
    stem = pure.stem
    if stem == "model":
        stem = pure.parent.name if pure.parent.name not in {"", "models"} else project_name
    return name_from(stem) or project_name


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(other for number in range(2, len(taken) + 3) if (other := f"{name}-{number}") not in taken)


def _tests(project: Path, name: str, path: str) -> tuple[str, ...]:
    """Inference tests in the ONNX layout: in tests/NAME, or beside a model that is alone in its folder."""
    if _data_sets(project / "tests" / name):
        return (f"tests/{name}",)
    folder = PurePosixPath(path).parent
    place = project / folder
    sets = _data_sets(place)
    if not sets or len(list(place.glob("*.onnx"))) > 1:
        return ()
    # A test that names a folder also takes the .npz files in it, and the whole project cannot be one.
    if folder == PurePosixPath() or list(place.glob("*.npz")):
        return tuple((folder / one).as_posix() for one in sets)
    return (folder.as_posix(),)


def _data_sets(folder: Path) -> list[str]:
    """Names of the folders `test_data_set_N` that hold an output, by their numbers."""
    names = [path.parent.name for path in folder.glob("test_data_set_*/output_0.pb")]
    numbered = [name for name in names if name.removeprefix("test_data_set_").isdecimal()]
    return sorted(numbered, key=lambda name: int(name.removeprefix("test_data_set_")))
