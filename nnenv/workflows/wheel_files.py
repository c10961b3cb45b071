"""A wheel of the store as files of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import read_metadata
from nnenv.formats.wheel import read_wheel
from nnenv.image.tree import Entry
from nnenv.image.wheels import destination, place
from nnenv.spec.artifact import Artifact


def wheel_entries(
    store: Store, wheel: Artifact, python: str, leaves_out: Callable[[str], bool] = lambda path: False
) -> tuple[Entry, ...]:
    """What installing the wheel gives in an image with `python` (full version), but what `leaves_out` says of a path.

    Raises NnenvError `wheel-refused`, or `metadata-mismatch` if the wheel asks for other packages than its index said.
    """
    with store.open(wheel.sha256) as stream:
        contents = read_wheel(stream, wheel.filename)
        _insist_on_locked_metadata(contents.metadata, wheel)
        return place(contents, sha256=wheel.sha256, stream=stream, python=python, leaves_out=leaves_out)


def wheel_places(store: Store, wheel: Artifact, python: str) -> Mapping[str, str]:
    """Member of the wheel -> its path in the image, for all that are installed."""
    with store.open(wheel.sha256) as stream:
        contents = read_wheel(stream, wheel.filename)
    placed = {member.name: destination(member.name, contents, python) for member in contents.members}
    return {name: path for name, path in placed.items() if path is not None}


def wheel_sizes(store: Store, wheel: Artifact, python: str) -> Mapping[str, int]:
    """Path in the image -> bytes, for all files that are installed."""
    places = wheel_places(store, wheel, python)
    with store.open(wheel.sha256) as stream:
        contents = read_wheel(stream, wheel.filename)
    return {places[member.name]: member.size for member in contents.members if member.name in places}


def _insist_on_locked_metadata(metadata: bytes, wheel: Artifact) -> None:
    """The requirements that the solver saw must be those in the wheel: an index can serve other metadata beside it."""
    inside = read_metadata(metadata, wheel.filename)
    if inside.requires != wheel.requires:
        difference = sorted({*inside.requires} ^ {*wheel.requires})
        raise NnenvError(
            "metadata-mismatch",
            f"{wheel.filename} asks for other packages than its index said when it was locked",
            where=wheel.filename,
            because=difference[:6],
            fix=[f"tell whoever runs the index; choose another version of {wheel.name}"],
        )
