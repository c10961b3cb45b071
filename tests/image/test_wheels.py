"""Where a wheel's files go, checked against an installer that is not ours, and that a lying wheel makes no layer."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import tarfile
from pathlib import Path

import pytest
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile
from installer.utils import SCHEME_NAMES

from nnenv.errors import NnenvError
from nnenv.formats.wheel import EntryPoint, read_wheel
from nnenv.image.layers import read_layer, spliced_layer
from nnenv.image.tree import Entry, WheelMember, compose
from nnenv.image.wheels import launcher, place
from tests.image.memory_objects import MemoryObjects, wheel_bytes

FILENAME = "demo-1.0-py3-none-any.whl"
SITE = "opt/nnenv/lib/python3.11/site-packages"
FILES = {
    "demo/__init__.py": b"import sys\n" * 400,
    "demo/empty.py": b"",
    "demo/data, with comma.txt": b"comma",
    "demo/lib.so": b"\x7fELF" + bytes(90_000),
    "demo/stored.bin": bytes(range(256)) * 300,
    "demo/small-stored.bin": b"stored",
    "demo/__pycache__/old.cpython-311.pyc": b"compiled elsewhere",
    "demo/legacy.pyc": b"compiled elsewhere",
    "demo-1.0.data/purelib/pure.py": b"pure\n",
    "demo-1.0.data/platlib/plat.py": b"plat\n",
    "demo-1.0.data/headers/demo.h": b"#pragma once\n",
    "demo-1.0.data/scripts/tool": b"#!pythonw -E\nprint('tool')\n",
    "demo-1.0.data/scripts/native": b"\x7fELF native",
    "demo-1.0.data/scripts/shell": b"#!/bin/sh\n",
    "demo-1.0.data/data/share/demo.conf": b"a = 1\n",
    "demo-1.0.dist-info/INSTALLER": b"pip\n",
    "demo-1.0.dist-info/REQUESTED": b"",
    "demo-1.0.dist-info/direct_url.json": b"{}",
    "demo-1.0.dist-info/licenses/LICENSE": b"free\n",
}
ENTRY_POINTS = "[console_scripts]\ndemo = demo.cli:Main.run\n[gui_scripts]\ndemo-gui = demo.gui:main\n"


def demo(**changes) -> bytes:
    options = {
        "entry_points": ENTRY_POINTS,
        "executable": ("demo/lib.so",),
        "stored": ("demo/stored.bin", "demo/small-stored.bin"),
    }
    return wheel_bytes(FILES, **{**options, **changes})


def placed(data: bytes, objects: MemoryObjects, filename: str = FILENAME, python: str = "3.11.2") -> tuple[Entry, ...]:
    sha256 = objects.put(data)
    stream = io.BytesIO(data)
    return place(read_wheel(stream, filename), sha256=sha256, stream=stream, python=python)


def installed(data: bytes, filename: str = FILENAME) -> dict[str, tuple[bytes, bool]]:
    """Path -> (content, executable) as the files of the wheel's layer."""
    objects = MemoryObjects()
    layer = spliced_layer("demo", compose(placed(data, objects, filename)), objects)
    with tarfile.open(fileobj=io.BytesIO(b"".join(read_layer(layer, objects)))) as archive:
        return {m.name: (archive.extractfile(m).read(), bool(m.mode & 0o111)) for m in archive if m.isfile()}


def installed_by_oracle(data: bytes, place: Path) -> dict[str, tuple[bytes, bool]]:
    """The same from the `installer` library, written to disk."""
    root = place / "opt/nnenv"
    library = str(root / "lib/python3.11/site-packages")
    schemes = dict.fromkeys(SCHEME_NAMES, library) | {
        "scripts": str(root / "bin"),
        "headers": str(root / "include/site/python3.11/demo"),
        "data": str(root),
    }
    (place / FILENAME).write_bytes(data)
    with WheelFile.open(place / FILENAME) as source:
        destination = SchemeDictionaryDestination(schemes, interpreter="/opt/nnenv/bin/python3", script_kind="posix")
        install(source, destination, additional_metadata={"INSTALLER": b"nnenv\n"})
    return {
        path.relative_to(place).as_posix(): (path.read_bytes(), bool(path.stat().st_mode & 0o111))
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.filterwarnings("ignore:Skip installing")
def test_the_layer_holds_what_an_installer_would_write(tmp_path: Path):
    """Paths, contents and x bits equal those of the `installer` library, save for the differences named here."""
    # The oracle refuses its own INSTALLER where the wheel ships one, so it gets a wheel without.
    shipped = {"demo-1.0.dist-info/INSTALLER", "demo-1.0.dist-info/REQUESTED", "demo-1.0.dist-info/direct_url.json"}
    data = wheel_bytes(
        {path: content for path, content in FILES.items() if path not in shipped},
        entry_points=ENTRY_POINTS,
        # The oracle leaves a script that zip does not call executable as it is; ours always are.
        executable=("demo/lib.so", "demo-1.0.data/scripts/native", "demo-1.0.data/scripts/shell"),
    )
    ours, theirs = installed(data), installed_by_oracle(data, tmp_path)
    dropped = {path for path in theirs if path.endswith(".pyc")}
    own_words = {f"{SITE}/demo-1.0.dist-info/RECORD", "opt/nnenv/bin/demo", "opt/nnenv/bin/demo-gui"}
    assert set(ours) == set(theirs) - dropped
    for path in set(ours) - own_words - {"opt/nnenv/bin/tool"}:
        assert ours[path] == theirs[path], path
    # We drop what follows `#!pythonw`; the oracle keeps options.
    assert ours["opt/nnenv/bin/tool"] == (b"#!/opt/nnenv/bin/python3\nprint('tool')\n", True)


def test_where_everything_goes():
    """Every member has its place, and what tells about another installation or interpreter is left out."""
    found = installed(demo())
    assert sorted(found) == [
        "opt/nnenv/bin/demo",
        "opt/nnenv/bin/demo-gui",
        "opt/nnenv/bin/native",
        "opt/nnenv/bin/shell",
        "opt/nnenv/bin/tool",
        "opt/nnenv/include/site/python3.11/demo/demo.h",
        f"{SITE}/demo-1.0.dist-info/INSTALLER",
        f"{SITE}/demo-1.0.dist-info/METADATA",
        f"{SITE}/demo-1.0.dist-info/RECORD",
        f"{SITE}/demo-1.0.dist-info/WHEEL",
        f"{SITE}/demo-1.0.dist-info/entry_points.txt",
        f"{SITE}/demo-1.0.dist-info/licenses/LICENSE",
        f"{SITE}/demo/__init__.py",
        f"{SITE}/demo/data, with comma.txt",
        f"{SITE}/demo/empty.py",
        f"{SITE}/demo/lib.so",
        f"{SITE}/demo/small-stored.bin",
        f"{SITE}/demo/stored.bin",
        f"{SITE}/plat.py",
        f"{SITE}/pure.py",
        "opt/nnenv/share/demo.conf",
    ]
    assert found[f"{SITE}/demo-1.0.dist-info/INSTALLER"][0] == b"nnenv\n"
    assert {path for path, (_, executable) in found.items() if executable} == {
        *(f"opt/nnenv/bin/{name}" for name in ("demo", "demo-gui", "native", "shell", "tool")),
        f"{SITE}/demo/lib.so",
    }


def test_record_is_true_and_sorted():
    """Each installed file has its row with its hash and size; RECORD's own row has none."""
    found = installed(demo())
    record = found[f"{SITE}/demo-1.0.dist-info/RECORD"][0].decode()
    rows = list(csv.reader(io.StringIO(record)))
    assert rows == sorted(rows)
    assert ["demo-1.0.dist-info/RECORD", "", ""] in rows
    expected = {f"{SITE}/demo-1.0.dist-info/RECORD": ("", "")}
    for path, (content, _) in found.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        expected.setdefault(path, (f"sha256={digest}", str(len(content))))
    seen = {str((Path("/") / SITE / path).resolve()).lstrip("/"): (digest, size) for path, digest, size in rows}
    assert seen == expected
    assert "../../../bin/tool," in record


def test_launchers_are_python_and_call_the_function():
    """A command's program imports the module, calls the dotted attribute and passes on its result."""
    text = launcher(EntryPoint(name="demo", module="os.path", attribute="supports.unicode"))
    assert text.startswith(b"#!/opt/nnenv/bin/python3\nimport sys\nfrom os.path import supports\n")
    compile(text, "demo", "exec")
    ending = launcher(EntryPoint(name="demo", module="builtins", attribute="int.__call__")).replace(b"__call__", b"mro")
    with pytest.raises(SystemExit) as caught:
        exec(compile(ending, "demo", "exec"), {"__name__": "__main__"})
    assert caught.value.code == int.mro()


def test_deflated_members_are_copied_and_not_compressed_again():
    """The wheel's own compressed bytes are in the blob, and the glue holds none of the content."""
    data = demo()
    objects = MemoryObjects()
    entries = placed(data, objects)
    layer = spliced_layer("demo", compose(entries), objects)
    assert objects.opened == {hashlib.sha256(data).hexdigest(): 1}
    blob = b"".join(read_layer(layer, objects))
    members = [e.content.member for e in entries if isinstance(e.content, WheelMember) and e.content.member.method == 8]
    assert len(members) > 5
    for member in members:
        assert data[member.data_offset : member.data_offset + member.compressed_size] in blob
    (glue,) = {piece.sha256 for piece in layer.pieces} - {hashlib.sha256(data).hexdigest()}
    assert len(objects.objects[glue]) < 9000


def test_one_layer_may_hold_several_wheels():
    """Grouped wheels share directories and equal files; a file they disagree about is refused with both names."""
    objects = MemoryObjects()
    one, two, rival = (
        placed(wheel_bytes(files, name=name), objects, f"{name}-1.0-py3-none-any.whl")
        for name, files in {
            "one": {"shared/__init__.py": b"", "shared/a.py": b"1"},
            "two": {"shared/__init__.py": b"", "shared/b.py": b"2"},
            "rival": {"shared/a.py": b"3"},
        }.items()
    )
    layer = spliced_layer("both", compose([*one, *two]), objects)
    assert layer == spliced_layer("both", compose([*two, *one]), objects)
    with pytest.raises(NnenvError, match=re.escape("shared/a.py has two meanings")) as caught:
        compose([*one, *rival])
    assert [line.partition(":")[0] for line in caught.value.because] == [
        "one-1.0-py3-none-any.whl",
        "rival-1.0-py3-none-any.whl",
    ]


@pytest.mark.parametrize("path", ["demo/lib.so", "demo/stored.bin", "demo/small-stored.bin", "demo/empty.py"])
def test_content_that_is_not_what_record_states_makes_no_layer(path):
    """RECORD is checked for every member that goes into a layer, in each form of storage."""
    objects = MemoryObjects()
    entries = placed(demo(record_lies={path: b"something else"}), objects)
    with pytest.raises(NnenvError) as caught:
        spliced_layer("demo", compose(entries), objects)
    assert caught.value.code == "wheel-refused"
    assert path in caught.value.where
    assert len(objects.objects) == 1


def test_a_rewritten_script_is_checked_too():
    """A script that is read for its first line must be the one RECORD lists."""
    with pytest.raises(NnenvError) as caught:
        placed(demo(record_lies={"demo-1.0.data/scripts/tool": b"#!python\nother"}), MemoryObjects())
    assert caught.value.code == "wheel-refused"


def test_a_flipped_bit_in_a_member_makes_no_layer():
    """Compressed bytes that inflate to something else, or not at all, are refused before anything is committed."""
    data = bytearray(demo())
    member = next(m for m in read_wheel(io.BytesIO(data), FILENAME).members if m.name == "demo/__init__.py")
    data[member.data_offset + member.compressed_size // 2] ^= 4
    objects = MemoryObjects()
    entries = placed(bytes(data), objects)
    with pytest.raises(NnenvError) as caught:
        spliced_layer("demo", compose(entries), objects)
    assert caught.value.code == "wheel-refused"
    assert len(objects.objects) == 1


def test_the_python_version_decides_the_directory():
    """Another interpreter of the image means another site-packages, and nothing else."""
    paths = {entry.path for entry in placed(demo(), MemoryObjects(), python="3.13.5")}
    assert "opt/nnenv/lib/python3.13/site-packages/demo/lib.so" in paths
    assert "opt/nnenv/include/site/python3.13/demo/demo.h" in paths


def test_a_wheels_layer_never_changes():
    """The golden bytes of recipe 1 for a wheel without compression, which no zlib can alter."""
    objects = MemoryObjects()
    described = [f"demo-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")]
    data = demo(stored=(*FILES, *described))
    layer = spliced_layer("demo", compose(placed(data, objects)), objects)
    assert layer.diff_id == "06b12087d6e0fa5bf69076a6d1307d7195d05953d8b2976a3e4988d5d3fa5c17"
    assert layer.digest == "05be43b57b5ef4845378c9672e03847a419d4f5fac62479ecef2c8adf921c0b9"
