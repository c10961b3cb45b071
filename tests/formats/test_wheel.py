"""Wheels: what is believed of one that describes itself truly, and each way of not doing so."""

from __future__ import annotations

import hashlib
import io

import pytest

from nnenv.errors import NnenvError
from nnenv.formats.wheel import EntryPoint, RecordRow, WheelContents, check_digest, hasher, read_wheel
from nnenv.formats.zip_gate import inflate
from tests.formats.archives import record_line, wheel, wheel_files

FILENAME = "demo-1.0-py3-none-any.whl"
INFO = "demo-1.0.dist-info"


def _read(files: dict[str, bytes], filename: str = FILENAME) -> WheelContents:
    return read_wheel(io.BytesIO(wheel(files)), filename)


def _refusal(files: dict[str, bytes], filename: str = FILENAME) -> str:
    with pytest.raises(NnenvError) as caught:
        _read(files, filename)
    assert caught.value.code == "wheel-refused"
    assert caught.value.where == filename
    assert filename in caught.value.what
    assert caught.value.fix
    return " ".join(caught.value.because)


def _with_record(change_from: str, change_to: str) -> dict[str, bytes]:
    """The honest wheel with one change in RECORD."""
    files = wheel_files()
    record = files[f"{INFO}/RECORD"].decode()
    assert change_from in record
    files[f"{INFO}/RECORD"] = record.replace(change_from, change_to, 1).encode()
    return files


def _with_metadata(name: str, content: bytes) -> dict[str, bytes]:
    """The honest wheel with another file in `.dist-info` and a RECORD that agrees with it."""
    files = wheel_files()
    honest = record_line(f"{INFO}/{name}", files[f"{INFO}/{name}"])
    files[f"{INFO}/{name}"] = content
    record = files[f"{INFO}/RECORD"].decode()
    files[f"{INFO}/RECORD"] = record.replace(honest, record_line(f"{INFO}/{name}", content)).encode()
    return files


def _with_entry_points(text: str) -> dict[str, bytes]:
    return wheel_files(entry_points=text)


def _without(name: str) -> dict[str, bytes]:
    files = wheel_files()
    del files[name]
    return files


def test_honest_wheel() -> None:
    """Name, version, tags, metadata and commands come out; every member has a row."""
    text = "[console_scripts]\nDemo.run = demo.cli : main [extra]\n\n[gui_scripts]\ndemo-gui=demo:App.start\n"
    contents = _read(_with_entry_points(text + "[other]\na = b\n"), "Demo-1.0.0-1-py2.py3-none-any.whl")
    assert (contents.name, contents.version, contents.dist_info) == ("demo", "1.0.0", INFO)
    assert contents.tags == ("py2-none-any", "py3-none-any")
    assert contents.root_is_purelib
    assert contents.metadata == wheel_files()[f"{INFO}/METADATA"]
    assert contents.console_scripts == (EntryPoint(name="Demo.run", module="demo.cli", attribute="main"),)
    assert contents.gui_scripts == (EntryPoint(name="demo-gui", module="demo", attribute="App.start"),)
    assert list(contents.record) == [member.name for member in contents.members]
    assert contents.pth_files == ()


def test_names_are_compared_after_normalising() -> None:
    """`.dist-info`, `.data` and METADATA may spell name and version in another way than the file name."""
    files = wheel_files({"De.Mo-1.0.0.data/scripts/run": b"#!python\n"}, dist_info="De.Mo-v1.0.dist-info")
    files["De.Mo-v1.0.dist-info/METADATA"] = b"Name: de_mo\nVersion: 1\n"
    lines = [record_line(name, content) for name, content in files.items() if not name.endswith("/RECORD")]
    files["De.Mo-v1.0.dist-info/RECORD"] = "".join(lines).encode()
    assert _read(files, "de_mo-1.0-py3-none-any.whl").name == "de-mo"


def test_record_leads_a_splicer_to_the_truth() -> None:
    """A member's hash, fed chunk by chunk, is accepted if it is RECORD's and refused if one byte differs."""
    contents = _read(wheel_files())
    stream = io.BytesIO(wheel(wheel_files()))
    for member in contents.members:
        row = contents.record[member.name]
        digest = hasher(row)
        for chunk in inflate(stream, member):
            if digest:
                digest.update(chunk)
        check_digest(FILENAME, member.name, row, digest)
    row = contents.record["demo/__init__.py"]
    assert row == RecordRow(algorithm="sha256", digest_hex=hashlib.sha256(b"answer = 42\n").hexdigest(), size=12)
    with pytest.raises(NnenvError) as caught:
        check_digest(FILENAME, "demo/__init__.py", row, hashlib.sha256(b"answer = 43\n"))
    assert caught.value.because == ("'demo/__init__.py': its content does not have the sha256 that RECORD states",)
    with pytest.raises(NnenvError):
        check_digest(FILENAME, "demo/__init__.py", row, None)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_strong_hashes_are_accepted(algorithm: str) -> None:
    """RECORD may use sha256 or a stronger relative, and leave the size out."""
    files = wheel_files()
    honest = record_line("demo/__init__.py", files["demo/__init__.py"])
    other = record_line("demo/__init__.py", files["demo/__init__.py"], algorithm).replace(",12\n", ",\n")
    row = _read(_with_record(honest, other)).record["demo/__init__.py"]
    assert row == RecordRow(
        algorithm=algorithm, digest_hex=hashlib.new(algorithm, b"answer = 42\n").hexdigest(), size=None
    )


def test_signatures_need_no_row() -> None:
    """RECORD.jws and RECORD.p7s are made after RECORD, so they have no hash; RECORD may leave itself out."""
    files = {**_with_record(f"{INFO}/RECORD,,\n", ""), f"{INFO}/RECORD.jws": b"{}", f"{INFO}/RECORD.p7s": b"x"}
    record = _read(files).record
    assert [hasher(record[f"{INFO}/RECORD{suffix}"]) for suffix in ("", ".jws", ".p7s")] == [None] * 3


def test_quoted_names_in_record() -> None:
    """RECORD is CSV: a name with comma and quotes is one field."""
    files = wheel_files()
    files['a,"b".txt'] = b"x"
    files[f"{INFO}/RECORD"] += b'"a,""b"".txt"' + record_line("", b"x").encode()
    assert _read(files).record['a,"b".txt'].size == 1


def test_start_up_files_are_listed() -> None:
    """`.pth` files that land in site-packages are named; those deeper down are ordinary."""
    files = wheel_files(
        {
            "evil.pth": b"import os\n",
            "demo/data.pth": b"weights",
            "demo-1.0.data/purelib/b.pth": b"",
            "demo-1.0.data/platlib/c.pth": b"",
            "demo-1.0.data/data/d.pth": b"",
        }
    )
    assert _read(files).pth_files == ("evil.pth", "demo-1.0.data/purelib/b.pth", "demo-1.0.data/platlib/c.pth")


def test_a_file_may_be_named_like_a_data_directory() -> None:
    """Only directories are install schemes."""
    assert _read(wheel_files({"weights.data": b"x"})).name == "demo"


def test_vendored_distributions_are_content() -> None:
    """A `.dist-info` directory below a package, as in setuptools' vendored ones, is no second distribution."""
    assert _read(wheel_files({"demo/_vendor/other-2.0.dist-info/METADATA": b"x"})).name == "demo"


WRONG_HASH = record_line("demo/__init__.py", b"answer = 43\n")
HONEST_LINE = record_line("demo/__init__.py", b"answer = 42\n")
HONEST_HASH = HONEST_LINE.split(",")[1]

HOSTILE = {
    "no .dist-info": ({"demo.py": b""}, FILENAME, "0 .dist-info directories"),
    "a file named like one": ({"demo-1.0.dist-info": b""}, FILENAME, "0 .dist-info directories"),
    "two .dist-info": (wheel_files({"evil-1.0.dist-info/METADATA": b""}), FILENAME, "2 .dist-info directories"),
    "a second one in capitals": (wheel_files({"evil-1.0.DIST-INFO/x": b""}), FILENAME, "2 .dist-info directories"),
    "the only one in capitals": (wheel_files(dist_info="demo-1.0.DIST-INFO"), FILENAME, "another distribution"),
    "another name": (wheel_files(), "other-1.0-py3-none-any.whl", "another distribution"),
    "another version": (wheel_files(), "demo-1.1-py3-none-any.whl", "another distribution"),
    "no version": (wheel_files(dist_info="demo.dist-info"), FILENAME, "another distribution"),
    "a file name without tags": (wheel_files(), "demo-1.0.whl", "file name breaks the rules"),
    "a file name with a bad version": (wheel_files(), "demo-one-py3-none-any.whl", "file name breaks the rules"),
    "no METADATA": (_without(f"{INFO}/METADATA"), FILENAME, "METADATA is missing"),
    "no WHEEL": (_without(f"{INFO}/WHEEL"), FILENAME, "WHEEL is missing"),
    "no RECORD": (_without(f"{INFO}/RECORD"), FILENAME, "RECORD is missing"),
    "METADATA of another name": (
        _with_metadata("METADATA", b"Name: evil\nVersion: 1.0\n"),
        FILENAME,
        "METADATA describes 'evil' '1.0'",
    ),
    "METADATA of another version": (
        _with_metadata("METADATA", b"Name: demo\nVersion: 2.0\n"),
        FILENAME,
        "METADATA describes 'demo' '2.0'",
    ),
    "METADATA with two names": (
        _with_metadata("METADATA", b"Name: demo\nName: evil\nVersion: 1.0\n"),
        FILENAME,
        "states Name 2 times",
    ),
    "METADATA without version": (_with_metadata("METADATA", b"Name: demo\n"), FILENAME, "states Version 0 times"),
    "a future wheel version": (
        _with_metadata("WHEEL", b"Wheel-Version: 2.0\nRoot-Is-Purelib: true\n"),
        FILENAME,
        "Wheel-Version '2.0'",
    ),
    "a WHEEL without root": (_with_metadata("WHEEL", b"Wheel-Version: 1.0\n"), FILENAME, "Root-Is-Purelib 0 times"),
    "a WHEEL with an unknown root": (
        _with_metadata("WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: maybe\n"),
        FILENAME,
        "Root-Is-Purelib 'maybe'",
    ),
    "a file that RECORD does not list": ({**wheel_files(), "extra.py": b""}, FILENAME, "not in RECORD"),
    "a file that only RECORD lists": (_without("demo/__init__.py"), FILENAME, "not in the archive"),
    "a signature that only RECORD lists": (
        _with_record(f"{INFO}/RECORD,,\n", f"{INFO}/RECORD,,\n{INFO}/RECORD.jws,,\n"),
        FILENAME,
        "not in the archive",
    ),
    "a row twice": (_with_record(HONEST_LINE, HONEST_LINE + WRONG_HASH), FILENAME, "in RECORD twice"),
    "a row without hash": (_with_record(HONEST_HASH, ""), FILENAME, "not a sha256, sha384 or sha512"),
    "md5": (_with_record(HONEST_HASH, "md5=oxMg1ZVR8qMFKLzRyBJgVQ"), FILENAME, "not a sha256, sha384 or sha512"),
    "hexadecimal": (_with_record(HONEST_HASH, "sha256=" + "ab" * 32), FILENAME, "not a sha256, sha384 or sha512"),
    "a padded hash": (_with_record(HONEST_HASH, HONEST_HASH + "="), FILENAME, "not a sha256, sha384 or sha512"),
    "a hash that is no base64": (_with_record(HONEST_HASH, "sha256=ä"), FILENAME, "not a sha256, sha384 or sha512"),
    "another size": (_with_record(",12\n", ",13\n"), FILENAME, "has 12 bytes and RECORD states 13"),
    "a negative size": (_with_record(",12\n", ",-1\n"), FILENAME, "states the size '-1'"),
    "a hash of RECORD": (_with_record("/RECORD,,", f"/RECORD,{HONEST_HASH},"), FILENAME, "cannot be true"),
    "a line of two fields": (_with_record(f"{INFO}/RECORD,,", f"{INFO}/RECORD,"), FILENAME, "line of 2 fields"),
    "an unfinished quote": (_with_record(f"{INFO}/RECORD", f'"{INFO}/RECORD'), FILENAME, "RECORD cannot be read"),
    "a RECORD that is not UTF-8": ({**wheel_files(), f"{INFO}/RECORD": b"\xff,,\n"}, FILENAME, "cannot be read"),
    "METADATA changed after RECORD": (
        {**wheel_files(), f"{INFO}/METADATA": wheel_files()[f"{INFO}/METADATA"].replace(b"Text", b"Evil")},
        FILENAME,
        "does not have the sha256",
    ),
    "a .data of another name": (wheel_files({"evil-1.0.data/data/x": b""}), FILENAME, "another distribution"),
    "a .data in capitals": (wheel_files({"demo-1.0.DATA/data/x": b""}), FILENAME, "another distribution"),
    "an unknown scheme": (wheel_files({"demo-1.0.data/etc/passwd": b""}), FILENAME, "may lie in"),
    "a file in place of a scheme": (wheel_files({"demo-1.0.data/scripts": b""}), FILENAME, "may lie in"),
    "an entry point that climbs": (
        _with_entry_points("[console_scripts]\n../../x = a:b\n"),
        FILENAME,
        "is not a command name",
    ),
    "an entry point named ..": (_with_entry_points("[console_scripts]\n.. = a:b\n"), FILENAME, "not a command name"),
    "an entry point with a backslash": (_with_entry_points("[gui_scripts]\na\\b = a:b\n"), FILENAME, "command name"),
    "an entry point with a control character": (
        _with_entry_points("[gui_scripts]\na\x01b = a:b\n"),
        FILENAME,
        "not a command name",
    ),
    "an entry point with a very long name": (
        _with_entry_points(f"[gui_scripts]\n{'a' * 256} = a:b\n"),
        FILENAME,
        "not a command name",
    ),
    "an entry point that is code": (
        _with_entry_points("[console_scripts]\nx = os:system('evil')\n"),
        FILENAME,
        "not `module:function`",
    ),
    "an entry point without function": (_with_entry_points("[console_scripts]\nx = a\n"), FILENAME, "`module:func"),
    "an entry point with an empty part": (_with_entry_points("[console_scripts]\nx = a..b:c\n"), FILENAME, "`modul"),
    "one command twice": (
        _with_entry_points("[console_scripts]\nx = a:b\nx = c:d\n"),
        FILENAME,
        "entry_points.txt cannot be read",
    ),
    "one command as both kinds": (
        _with_entry_points("[console_scripts]\nx = a:b\n[gui_scripts]\nx = a:b\n"),
        FILENAME,
        "console and as GUI",
    ),
    "entry points that are no INI": (_with_entry_points("x = a:b\n"), FILENAME, "entry_points.txt cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wheel_that_lies_is_refused(case: str) -> None:
    """Each contradiction is refused, by the rule made for it."""
    files, filename, rule = HOSTILE[case]
    assert rule in _refusal(files, filename)


def test_zip_rules_hold_for_wheels() -> None:
    """A wheel passes the zip gate first: bytes behind its end are refused."""
    with pytest.raises(NnenvError) as caught:
        read_wheel(io.BytesIO(wheel(wheel_files()) + b"x"), FILENAME)
    assert "zip gate" in caught.value.what
