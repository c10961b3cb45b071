"""Where a wheel's files lie in the image, and what an installer adds to them.

Source of the rules: the binary distribution format, recording installed projects and entry points specifications
of the Python packaging user guide (PEP 427, 376, 491, 610). Nothing is unpacked: contents stay in the wheel.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

from nnenv.formats.wheel import EntryPoint, WheelContents, check_digest, hasher
from nnenv.formats.zip_gate import ZipMember, inflate, read_member
from nnenv.image.plan import site_packages
from nnenv.image.tree import Entry, WheelMember, normalised_mode
from nnenv.spec.artifact import Sha256

PREFIX: Final = "opt/nnenv"
"""The virtual environment of the image, without the leading slash."""
INTERPRETER: Final = f"/{PREFIX}/bin/python3"
"""What console scripts are run by."""
INSTALLER: Final = b"nnenv\n"

_SCRIPT_LIMIT: Final = 16 << 20
_PLACEHOLDER: Final = b"#!python"
_REPLACED: Final = frozenset({"RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json"})
"""Files of `.dist-info` that tell about one installation (or sign its RECORD), so the wheel's own are left out."""


def place(
    wheel: WheelContents,
    *,
    sha256: Sha256,
    stream: BinaryIO,
    python: str,
    leaves_out: Callable[[str], bool] = lambda path: False,
) -> tuple[Entry, ...]:
    """The files that installing the wheel into the image's virtual environment gives, sorted by path.

    `sha256` names the wheel in the store, `stream` reads it, `python` is the image's version (`3.11` or longer).
    What `leaves_out` says of a path in the image is left out, and RECORD does not name it.
    Directories are left to `tree.compose`. Only scripts that begin with `#!python` are read; other contents are
    checked by whoever makes the layer. Bytecode in the wheel is dropped, ours has a layer of its own.
    Raises `wheel-refused` for a script that is not what RECORD states.
    """
    placed = [
        _placed(member, path, wheel, sha256, stream)
        for member in wheel.members
        if (path := destination(member.name, wheel, python)) is not None and not leaves_out(path)
    ]
    placed += [
        Entry(
            path=f"{PREFIX}/bin/{command.name}",
            kind="file",
            mode=normalised_mode(True),
            content=launcher(command),
            owner=wheel.filename,
        )
        for command in (*wheel.console_scripts, *wheel.gui_scripts)
    ]
    dist_info = f"{site_packages(python)}/{wheel.dist_info}"
    placed.append(_generated(f"{dist_info}/INSTALLER", INSTALLER, wheel))
    placed.append(_generated(f"{dist_info}/RECORD", _record(placed, f"{dist_info}/RECORD", python), wheel))
    return tuple(sorted(placed, key=lambda entry: entry.path))


def destination(name: str, wheel: WheelContents, python: str) -> str | None:
    """The image path of the wheel's member `name`, without the leading slash; None for what is not installed."""
    top, _, rest = name.partition("/")
    if _is_bytecode(name) or (top == wheel.dist_info and rest in _REPLACED):
        return None
    if not (top.endswith(".data") and rest):
        return f"{site_packages(python)}/{name}"
    scheme, _, path = rest.partition("/")
    return f"{_scheme_directory(scheme, wheel.name, python)}/{path}"


def launcher(command: EntryPoint) -> bytes:
    """The program text of one console or GUI command."""
    imported = command.attribute.partition(".")[0]
    return (
        f"#!{INTERPRETER}\n"
        "import sys\n"
        f"from {command.module} import {imported}\n"
        'if __name__ == "__main__":\n'
        f"    sys.exit({command.attribute}())\n"
    ).encode()


def _is_bytecode(name: str) -> bool:
    return name.endswith((".pyc", ".pyo")) or "__pycache__" in name.split("/")[:-1]


def _scheme_directory(scheme: str, distribution: str, python: str) -> str:
    """Where a directory of `NAME.data/` goes; `read_wheel` admits no scheme but these five."""
    library = site_packages(python)
    directories = {
        "purelib": library,
        "platlib": library,
        "scripts": f"{PREFIX}/bin",
        "headers": f"{PREFIX}/include/site/{library.split('/')[-2]}/{distribution}",
        "data": PREFIX,
    }
    return directories[scheme]


def _placed(member: ZipMember, path: str, wheel: WheelContents, sha256: Sha256, stream: BinaryIO) -> Entry:
    """One member at its path; a script that names `#!python` becomes bytes of its own."""
    is_script = _is_script(member.name)
    row = wheel.record[member.name]
    content: bytes | WheelMember = WheelMember(
        wheel=sha256, filename=wheel.filename, member=member, algorithm=row.algorithm, digest_hex=row.digest_hex
    )
    if is_script and _begins(stream, member, wheel, _PLACEHOLDER):
        content = _with_interpreter(_verified(stream, member, wheel))
    return Entry(
        path=path,
        kind="file",
        mode=normalised_mode(is_script or member.executable),
        content=content,
        owner=wheel.filename,
    )


def _is_script(name: str) -> bool:
    directories = name.split("/")[:-1]
    return len(directories) > 1 and directories[0].endswith(".data") and directories[1] == "scripts"


def _begins(stream: BinaryIO, member: ZipMember, wheel: WheelContents, prefix: bytes) -> bool:
    """Whether the member's content begins with `prefix`; reads one chunk, whatever its size."""
    return next(inflate(stream, member, wheel.filename), b"").startswith(prefix)


def _verified(stream: BinaryIO, member: ZipMember, wheel: WheelContents) -> bytes:
    content = read_member(stream, member, _SCRIPT_LIMIT, wheel.filename)
    row = wheel.record[member.name]
    digest = hasher(row)
    if digest:
        digest.update(content)
    check_digest(wheel.filename, member.name, row, digest)
    return content


def _with_interpreter(script: bytes) -> bytes:
    """The script with its first line replaced; `#!pythonw` and options go too, as other installers do it."""
    _, newline, rest = script.partition(b"\n")
    return b"#!" + INTERPRETER.encode() + newline + rest


def _generated(path: str, content: bytes, wheel: WheelContents) -> Entry:
    return Entry(path=path, kind="file", mode=normalised_mode(False), content=content, owner=wheel.filename)


def _record(placed: Iterable[Entry], own_path: str, python: str) -> bytes:
    """RECORD for the placed files: paths relative to site-packages, sorted, its own row without a hash."""
    rows = [(_relative(entry.path, python), *_hash_and_size(entry)) for entry in placed]
    rows.append((_relative(own_path, python), "", ""))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(sorted(rows))
    return text.getvalue().encode()


def _relative(path: str, python: str) -> str:
    """`path` as RECORD spells it, seen from site-packages."""
    library = site_packages(python)
    if path.startswith(f"{library}/"):
        return path.removeprefix(f"{library}/")
    climb = "../" * (library.count("/") - PREFIX.count("/"))
    return climb + path.removeprefix(f"{PREFIX}/")


def _hash_and_size(entry: Entry) -> tuple[str, str]:
    """The two last fields of a RECORD row: unpadded urlsafe base64 digest, and size."""
    match entry.content:
        case WheelMember() as content:
            return _hash(content.algorithm, bytes.fromhex(content.digest_hex)), str(content.member.size)
        case bytes() as content:
            return _hash("sha256", hashlib.sha256(content).digest()), str(len(content))
        case _:
            raise AssertionError("a wheel gives no other content")


def _hash(algorithm: str, digest: bytes) -> str:
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
