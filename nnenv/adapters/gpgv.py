"""The signed text of a clear-signed file, by gpgv: the only judge of signatures in nnenv."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nnenv.errors import NnenvError

_START: Final = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = b"-----BEGIN PGP SIGNATURE-----"
_END: Final = b"-----END PGP SIGNATURE-----"
_ARMOUR: Final = re.compile(rb"^-----(?:BEGIN|END) PGP [A-Z ]+-----[ \t\r]*$", re.MULTILINE)
_STRONG_HASHES: Final = ("8", "9", "10")
"""SHA-256, SHA-384 and SHA-512 in RFC 4880 9.4."""
_FATAL: Final = ("BADSIG", "REVKEYSIG", "EXPSIG")
_SECONDS: Final = 60


def signed_body(signed: bytes, keyring: Path, where: str) -> bytes:
    """What a key of `keyring` signed in the clear-signed `signed`, as gpgv writes it out.

    Raises NnenvError signature-invalid unless there is one signed block and nothing around it (CVE-2016-1252: what a
    reader takes and what was signed must be the same), at least one good signature with a strong hash, and none that
    is bad, revoked or expired. Signatures by keys that the keyring lacks are passed over, since Debian signs with
    the keys of two releases.
    """
    _refuse_other_shapes(signed, where)
    _refuse_armoured(keyring)
    status, body = _gpgv(signed, keyring, where)
    refuse_status(status, keyring, where)
    if not body:
        raise _invalid(where, ["gpgv wrote no signed text"])
    return body


def _gpgv(signed: bytes, keyring: Path, where: str) -> tuple[list[list[str]], bytes]:
    """(the words of each status line, the signed text); the exit code says less (2 for any unknown key).

    Neither is written to a disk, so nothing stays behind when nnenv is killed.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    # A file in memory takes any number of lines while nobody reads; standard error holds remarks for people.
    status = os.memfd_create("gpgv-status")
    try:
        options = ["--homedir", os.devnull, "--status-fd", str(status), "--keyring", str(keyring.absolute())]
        done = subprocess.run(
            ["gpgv", *options, "--output", "-", "-"],
            env=environment,
            input=signed,
            capture_output=True,
            pass_fds=(status,),
            timeout=_SECONDS,
            check=False,
        )
        said = os.pread(status, os.fstat(status).st_size, 0)
    except FileNotFoundError:
        raise NnenvError(
            "signature-invalid",
            "the signature of a Debian archive cannot be checked: there is no gpgv",
            where=where,
            because=["nnenv takes no Debian index whose signature it has not seen verified"],
            fix=["apt-get install gpgv"],
        ) from None
    except subprocess.TimeoutExpired:
        raise _invalid(where, [f"gpgv did not end within {_SECONDS} seconds"]) from None
    finally:
        os.close(status)
    lines = said.decode("utf-8", "replace").splitlines()
    words = [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ") and len(line.split()) > 1]
    return words, done.stdout


def refuse_status(status: Sequence[Sequence[str]], keyring: Path, where: str) -> None:
    """NnenvError signature-invalid unless gpgv's status lines, split into words, say what `signed_body` promises.

    Each good signature is one GOODSIG line and one VALIDSIG line (doc/DETAILS of GnuPG).
    """
    words = [line[0] for line in status]
    said = [" ".join(line[:3]) for line in status if line[0] not in ("NEWSIG", "PLAINTEXT", "PLAINTEXT_LENGTH")]
    fatal = [word for word in words if word in _FATAL]
    if fatal:
        raise _invalid(where, [f"gpgv said: {line}" for line in said])
    good, valid = words.count("GOODSIG"), [line for line in status if line[0] == "VALIDSIG"]
    if not good:
        raise _invalid(where, [f"no good signature by a key of {keyring}", *(f"gpgv said: {line}" for line in said)])
    if good != len(valid) or words.count("PLAINTEXT") > 1:
        raise _invalid(where, ["gpgv's report does not describe one signed text"])
    weak = [line for line in valid if len(line) < 10 or line[8] not in _STRONG_HASHES]
    if weak:
        raise _invalid(where, ["a signature uses a hash weaker than SHA-256"])


def _refuse_other_shapes(signed: bytes, where: str) -> None:
    if not signed.startswith(_START):
        raise _invalid(where, ["the file is not clear-signed: it does not start with a signed message"])
    armour = [line.strip() for line in _ARMOUR.findall(signed)]
    if armour != [_START, _SIGNATURE, _END] or not signed.rstrip().endswith(_END):
        raise _invalid(where, ["the file must be one signed message with one signature block and nothing around it"])


def _refuse_armoured(keyring: Path) -> None:
    try:
        with keyring.open("rb") as stream:
            start = stream.read(11)
    except OSError as error:
        raise _keyring_error(keyring, f"the keyring cannot be read: {error.strerror}", "apt-get install") from None
    if start.startswith(b"-----"):
        raise NnenvError(
            "signature-invalid",
            "the keyring is ASCII-armoured, which gpgv does not read",
            where=str(keyring),
            fix=[f"gpg --dearmor < {keyring} > debian.gpg, and point NNENV_DEBIAN_KEYRING at debian.gpg"],
        )


def _keyring_error(keyring: Path, what: str, verb: str) -> NnenvError:
    return NnenvError("signature-invalid", what, where=str(keyring), fix=[f"{verb} debian-archive-keyring"])


def _invalid(where: str, because: Sequence[str]) -> NnenvError:
    return NnenvError(
        "signature-invalid",
        "the Release file is not signed by a key of the distribution",
        where=where,
        because=because,
        fix=[
            "use another mirror, or look at what stands between you and this one",
            "apt-get install --only-upgrade debian-archive-keyring, if the release is newer than the keyring",
            "for an archive of your own, point NNENV_DEBIAN_KEYRING at its keys",
        ],
    )
