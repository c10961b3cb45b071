"""What a PyTorch file is: an exported program, TorchScript, or a pickle. Nothing is loaded.

PyTorch's zip files: torch/csrc/jit/serialization/docs (TorchScript), torch/export/pt2_archive (exported programs).
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from nnenv.errors import NnenvError
from nnenv.formats.onnx_model import unsafe_location
from nnenv.formats.pickles import LIMIT, is_raw_pickle, pickle_globals

_MOST_MEMBERS: Final = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchFacts:
    """Static facts of one file."""

    kind: str
    """`torch-export`, `torchscript` or `pickle`."""
    pickles: tuple[str, ...]
    """Members that are pickles, sorted; empty for a file that is one itself."""
    imports: tuple[str, ...]
    """What the pickles would import, `module.name`, sorted."""


def read_torch(stream: BinaryIO, what: str) -> TorchFacts:
    """The facts of the file in `stream` (seekable); NnenvError `model-invalid` if it is none of PyTorch's."""
    if is_raw_pickle(stream):
        found = pickle_globals(stream.read(LIMIT))
        if found is None:
            raise _invalid(what, "it begins like a pickle, and is none")
        return TorchFacts(kind="pickle", pickles=(), imports=found)
    try:
        with zipfile.ZipFile(stream) as archive:
            return _of_archive(archive, what)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _invalid(what, str(error)[:200] or "it is no zip file") from None


def _of_archive(archive: zipfile.ZipFile, what: str) -> TorchFacts:
    names = archive.namelist()
    if len(names) > _MOST_MEMBERS:
        raise _invalid(what, f"it has {len(names)} members")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _invalid(what, f"the member {name[:100]!r} stands twice")
        seen.add(name)
        if rule := unsafe_location(name.rstrip("/")):
            raise _invalid(what, f"member {name[:100]!r}: {rule}")
    kind = _kind(names, what)
    pickles: list[str] = []
    imports: set[str] = set()
    for name in sorted(names):
        data = _begin(archive, name)
        if data == b"PK" and name.endswith((".pt", ".pth")):
            with zipfile.ZipFile(io.BytesIO(_whole(archive, name))) as nested:
                imports.update(_of_archive(nested, what).imports)
            pickles.append(name)
        elif name.endswith(".pkl") or data in _PICKLES:
            found = pickle_globals(_whole(archive, name))
            if found is None and name.endswith(".pkl"):
                raise _invalid(what, f"the member {name[:100]!r} is no pickle")
            if found is not None:
                pickles.append(name)
                imports.update(found)
    return TorchFacts(kind=kind, pickles=tuple(pickles), imports=tuple(sorted(imports)))


_PICKLES: Final = frozenset(bytes((0x80, version)) for version in range(2, 6))
"""How pickles of protocol 2 and later begin."""


def _kind(names: Sequence[str], what: str) -> str:
    """What the members make of the archive."""
    inner = {name.partition("/")[2] or name for name in names}
    if any(name.startswith("models/") and name.endswith(".json") for name in inner) or (
        "serialized_exported_program.json" in {posixpath.basename(name) for name in names}
    ):
        return "torch-export"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "pickle"
    raise _invalid(what, "it is a zip file, but none of PyTorch's")


def _begin(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(2)


def _whole(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(LIMIT)


def _invalid(what: str, because: str) -> NnenvError:
    return NnenvError(
        "model-invalid",
        f"{what} is not a PyTorch file that can be used",
        where=what,
        because=[because],
        fix=["export the model with `torch.export.save`, or its weights with safetensors"],
    )
