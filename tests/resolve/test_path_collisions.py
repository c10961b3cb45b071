"""Files of two wheels at one path."""

from __future__ import annotations

from nnenv.resolve.path_collisions import installed_path, path_collisions
from nnenv.spec.gpu import WheelFile, WheelOutline


def outline(**files: int) -> WheelOutline:
    """A wheel with these files (`__` for `/`), by CRC."""
    return WheelOutline(
        files=tuple(WheelFile(path=path.replace("__", "/"), size=1, crc32=crc) for path, crc in files.items())
    )


def test_other_bytes_collide_and_the_same_do_not() -> None:
    """By distribution, with the paths."""
    found = path_collisions({"b": outline(x__y=1, x__z=2), "a": outline(x__y=1, x__z=3), "c": outline(other=9)})
    assert [(one.distributions, one.paths) for one in found] == [(("a", "b"), ("x/z",))]
    assert path_collisions({"a": outline(x=1), "b": outline(x=1)}) == ()


def test_one_wheel_cannot_collide_with_itself() -> None:
    """`purelib` and root may name one path in one wheel: the gate for wheels judges that."""
    files = (WheelFile(path="x", size=1, crc32=1), WheelFile(path="a.data/purelib/x", size=2, crc32=2))
    assert path_collisions({"a": WheelOutline(files=files)}) == ()


def test_where_members_go() -> None:
    """Schemes of `.data`, and bytecode, which is not installed."""
    assert installed_path("a-1.data/platlib/x/y.so") == "x/y.so"
    assert installed_path("a-1.data/purelib/x.py") == "x.py"
    assert installed_path("a-1.data/scripts/run") == "bin/run"
    assert installed_path("a-1.data/data/share/x") == "data/share/x"
    assert installed_path("a.data") == "a.data"
    assert installed_path("x/__pycache__/y.cpython-311.pyc") is None
