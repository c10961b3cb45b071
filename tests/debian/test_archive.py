"""The signed archive: what is accepted, and each way in which it can be wrong (reliability, T6)."""

from __future__ import annotations

import hashlib
import lzma
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from nnenv.adapters.debian_archive import find_keyring
from nnenv.errors import NnenvError
from nnenv.resolve.debian import close
from tests.debian.archive import (
    MAIN,
    NOW,
    OTHER,
    PACKAGES,
    SECURITY,
    TWO_MIRRORS,
    MemoryCache,
    Servers,
    Signer,
    bookworm,
    open_archive,
    release_text,
    suite_files,
)

IN_RELEASE = f"{MAIN}/dists/bookworm/InRelease"
XZ = "main/binary-amd64/Packages.xz"


def refusal(servers: Servers, signer: Signer, **options: object) -> NnenvError:
    """What reading the archive raises."""
    with pytest.raises(NnenvError) as caught:
        open_archive(servers, signer, **options).releases()  # type: ignore[arg-type]
    assert caught.value.fix, "a refusal names a fix"
    return caught.value


def test_records_of_all_suites(signer: Signer) -> None:
    """Candidates come from every suite, newest first; one file in two suites is one candidate, of the first suite."""
    archive = open_archive(bookworm(signer), signer)
    assert [(r.version, r.suite) for r in archive.candidates("libc6")] == [
        ("2.36-9+deb12u1", "bookworm-security"),
        ("2.36-9", "bookworm"),
    ]
    (record,) = archive.candidates("libstdc++6")
    assert (record.suite, record.path) == ("bookworm", "pool/main/g/gcc-12/libstdc++6_12.2.0-14_amd64.deb")
    assert (record.size, record.multi_arch, record.depends) == (20, "same", "libc6 (>= 2.36)")
    assert archive.providers("libstdc++") == (record,)
    assert archive.candidates("nothing") == ()


def test_facts_of_the_release(signer: Signer) -> None:
    """The facts hold date and digest of the signed text; an -updates suite that is nowhere is left out."""
    releases = open_archive(bookworm(signer), signer).releases()
    assert [(r.suite, r.date) for r in releases] == [
        ("bookworm", "2026-11-21T10:00:00Z"),
        ("bookworm-security", "2026-11-21T10:00:00Z"),
    ]
    body = release_text("bookworm", PACKAGES).encode()
    assert releases[0].sha256 == hashlib.sha256(body).hexdigest()


def test_closure_over_the_archive(signer: Signer) -> None:
    """The archive is a catalog for the resolver."""
    closure = close(["libstdc++6"], open_archive(bookworm(signer), signer))
    assert [f"{r.name} {r.version}" for r in closure.packages] == ["libc6 2.36-9+deb12u1", "libstdc++6 12.2.0-14"]


def test_tampered_release(signer: Signer) -> None:
    """One changed character in the signed text is a bad signature."""
    servers = bookworm(signer)
    signed = servers.pages[IN_RELEASE] or b""
    servers.pages[IN_RELEASE] = signed.replace(b"contrib", b"kontrib")
    error = refusal(servers, signer)
    assert error.code == "signature-invalid"
    assert any("BADSIG" in line for line in error.because)


def test_unsigned_release(signer: Signer) -> None:
    """A Release without a signature is refused before gpgv sees it."""
    servers = bookworm(signer)
    servers.pages[IN_RELEASE] = release_text("bookworm", PACKAGES).encode()
    error = refusal(servers, signer)
    assert error.code == "signature-invalid"
    assert "not clear-signed" in error.because[0]


def test_unknown_key(signer: Signer, stranger: Signer) -> None:
    """A signature by a key outside the keyring counts for nothing."""
    servers = bookworm(signer)
    servers.pages[IN_RELEASE] = stranger.clear_sign(release_text("bookworm", PACKAGES))
    error = refusal(servers, signer)
    assert error.code == "signature-invalid"
    assert "no good signature" in error.because[0]


@pytest.mark.parametrize("place", ["before", "after", "twice"])
def test_text_around_the_signed_block(signer: Signer, place: str) -> None:
    """Anything beside the one signed block is refused: readers have disagreed on what was signed (CVE-2016-1252)."""
    servers = bookworm(signer)
    signed = servers.pages[IN_RELEASE] or b""
    evil = b"Codename: bookworm\n"
    servers.pages[IN_RELEASE] = {"before": evil + signed, "after": signed + evil, "twice": signed + signed}[place]
    assert refusal(servers, signer).code == "signature-invalid"


def test_weak_hash(signer: Signer) -> None:
    """A signature over SHA-1 is no signature."""
    servers = bookworm(signer)
    text = release_text("bookworm", PACKAGES)
    servers.pages[IN_RELEASE] = signer.clear_sign(text, "--digest-algo", "SHA1", "--allow-weak-digest-algos")
    assert refusal(servers, signer).code == "signature-invalid"


def test_expired_signature(signer: Signer) -> None:
    """A signature that has expired by itself is not good."""
    servers = bookworm(signer)
    servers.pages[IN_RELEASE] = signer.clear_sign(
        release_text("bookworm", PACKAGES), "--default-sig-expire", "seconds=1"
    )
    time.sleep(2)
    error = refusal(servers, signer)
    assert error.code == "signature-invalid"
    assert any("EXPSIG" in line for line in error.because)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"Codename": "trixie"}, "is for trixie, not for bookworm"),
        ({"Codename": "bookworm-security"}, "is for bookworm-security, not for bookworm"),
        ({"Valid_Until": "Sun, 22 Nov 2026 10:00:00 UTC"}, "has expired"),
        ({"Date": "Thu, 26 Nov 2026 10:00:00 UTC"}, "comes from the future"),
        ({"Architectures": "arm64"}, "has no architecture amd64"),
    ],
)
def test_signed_but_not_acceptable(signer: Signer, changes: dict[str, str], what: str) -> None:
    """A good signature does not make a Release the right one: suite, age and architecture are checked."""
    servers = bookworm(signer)
    servers.serve(MAIN, "bookworm", suite_files(signer, "bookworm", PACKAGES, **changes))
    error = refusal(servers, signer)
    assert error.code == "clock-or-release"
    assert what in error.what


def test_rollback(signer: Signer) -> None:
    """A Release older than the locked one is refused, whether it was read already or not; the same one is fine."""
    archive = open_archive(bookworm(signer), signer)
    archive.not_before({"bookworm": "2026-11-21T10:00:00Z"})
    assert archive.releases()
    with pytest.raises(NnenvError, match="older than the locked one"):
        archive.not_before({"bookworm": "2026-11-22T10:00:00Z"})
    fresh = open_archive(bookworm(signer), signer)
    fresh.not_before({"bookworm-security": "2026-11-22T10:00:00Z"})
    with pytest.raises(NnenvError, match="older than the locked one") as caught:
        fresh.releases()
    assert caught.value.code == "clock-or-release"


@pytest.mark.parametrize("tamper", [lambda body: body[:-1] + b"!", lambda body: body[:-1], lambda body: b""])
def test_tampered_packages(signer: Signer, tamper: Callable[[bytes], bytes]) -> None:
    """A Packages file that is altered or cut is refused under every name it has."""
    servers = bookworm(signer)
    for url, body in servers.pages.items():
        if f"{MAIN}/dists/bookworm/main" in url:
            servers.pages[url] = tamper(body or b"")
    error = refusal(servers, signer)
    assert error.code == "digest-mismatch"


def test_longer_packages(signer: Signer) -> None:
    """Of a Packages file that is longer than signed no more than the signed size is read."""
    servers = bookworm(signer)
    for url, body in servers.pages.items():
        if f"{MAIN}/dists/bookworm/main" in url:
            servers.pages[url] = (body or b"") + b"!"
    assert refusal(servers, signer).code == "index-unreachable"


def test_by_hash_survives_a_mirror_in_the_middle_of_an_update(signer: Signer) -> None:
    """The file by digest is asked for first, so a newer file under the plain name does no harm."""
    servers = bookworm(signer)
    servers.pages[f"{MAIN}/dists/bookworm/{XZ}"] = b"newer"
    assert open_archive(servers, signer).releases()
    assert f"{MAIN}/dists/bookworm/{XZ}" not in servers.asked


def test_plain_name_when_there_is_no_file_by_hash(signer: Signer) -> None:
    """A mirror that promises by-hash and lacks the file is asked by name."""
    servers = bookworm(signer)
    servers.pages = {url: body for url, body in servers.pages.items() if "by-hash" not in url}
    assert open_archive(servers, signer).releases()


def test_no_by_hash_without_promise(signer: Signer) -> None:
    """Without Acquire-By-Hash the digest path is not tried."""
    servers = bookworm(signer)
    servers.serve(MAIN, "bookworm", suite_files(signer, "bookworm", PACKAGES, Acquire_By_Hash=""))
    open_archive(servers, signer).releases()
    assert not [url for url in servers.asked if url.startswith(MAIN + "/") and "by-hash" in url]


@pytest.mark.parametrize("fault", ["silent", "absent", "tampered", "older", "unsigned", "foreign"])
def test_fallback_to_another_mirror(signer: Signer, stranger: Signer, fault: str) -> None:
    """A mirror that fails a check is passed over; its .debs are then asked of the good one first."""
    servers = bookworm(signer)
    good = suite_files(signer, "bookworm", PACKAGES)
    old = suite_files(signer, "bookworm", PACKAGES, Date="Wed, 01 Jul 2026 10:00:00 UTC")
    faulty: dict[str, dict[str, bytes]] = {
        "silent": {},
        "absent": {},
        "tampered": good | {"InRelease": good["InRelease"].replace(b"contrib", b"kontrib")},
        "older": old,
        "unsigned": good | {"InRelease": release_text("bookworm", PACKAGES).encode()},
        "foreign": suite_files(stranger, "bookworm", PACKAGES),
    }
    servers.serve(OTHER, "bookworm", faulty[fault])
    if fault == "silent":
        servers.pages[f"{OTHER}/dists/bookworm/InRelease"] = None
    archive = open_archive(servers, signer, sources=TWO_MIRRORS)
    archive.not_before({"bookworm": "2026-11-21T10:00:00Z"})
    assert archive.releases()[0].date == "2026-11-21T10:00:00Z"
    assert archive.locate("pool/main/a.deb", "bookworm")[0] == f"{MAIN}/pool/main/a.deb"


def test_fallback_is_checked_too(signer: Signer) -> None:
    """When the first mirror is silent and the second is tampered with, nothing is read (CVE-2018-0501)."""
    servers = bookworm(signer)
    servers.pages[f"{OTHER}/dists/bookworm/InRelease"] = None
    servers.pages[IN_RELEASE] = (servers.pages[IN_RELEASE] or b"").replace(b"contrib", b"kontrib")
    assert refusal(servers, signer, sources=TWO_MIRRORS).code == "signature-invalid"


def test_packages_from_another_mirror(signer: Signer) -> None:
    """An index that one mirror spoils is taken from the next, under the same digest."""
    servers = bookworm(signer)
    files = suite_files(signer, "bookworm", PACKAGES)
    servers.serve(OTHER, "bookworm", dict.fromkeys(files, b"spoilt") | {"InRelease": files["InRelease"]})
    assert open_archive(servers, signer, sources=TWO_MIRRORS).candidates("libc6")


def test_suite_that_no_mirror_has(signer: Signer) -> None:
    """Main and security must be there: a mirror that hides security updates is not obeyed."""
    servers = bookworm(signer)
    del servers.pages[f"{SECURITY}/dists/bookworm-security/InRelease"]
    error = refusal(servers, signer)
    assert error.code == "index-unreachable"
    assert "bookworm-security" in error.what


def test_updates_that_do_not_answer(signer: Signer) -> None:
    """An -updates suite is left out when it is absent, not when its server is silent."""
    servers = bookworm(signer)
    servers.pages[f"{MAIN}/dists/bookworm-updates/InRelease"] = None
    assert refusal(servers, signer).code == "index-unreachable"


def test_warm_reads_only_the_releases(signer: Signer) -> None:
    """With the cache of an earlier run only Release files are fetched, and the records are the same."""
    cache, servers = MemoryCache(), bookworm(signer)
    cold = open_archive(servers, signer, cache=cache).candidates("libc6")
    servers.asked.clear()
    assert open_archive(servers, signer, cache=cache).candidates("libc6") == cold
    assert all(url.endswith("/InRelease") for url in servers.asked)


def test_index_of_another_nnenv_is_made_again(signer: Signer) -> None:
    """A cached index in another format is not an error."""
    cache, servers = MemoryCache(), bookworm(signer)
    cold = open_archive(servers, signer, cache=cache).candidates("libc6")
    cache.records = {key: b"other" if key[0] == "debian-packages" else v for key, v in cache.records.items()}
    assert open_archive(servers, signer, cache=cache).candidates("libc6") == cold


def test_offline_from_the_cache(signer: Signer) -> None:
    """Offline asks no server, gives the same records, and accepts a Release that expired since it was saved."""
    cache, servers = MemoryCache(), bookworm(signer)
    cold = open_archive(servers, signer, cache=cache).candidates("libc6")
    servers.asked.clear()
    later = open_archive(servers, signer, cache=cache, offline=True, now=NOW + timedelta(days=90))
    assert later.candidates("libc6") == cold
    assert servers.asked == []


def test_offline_verifies_again(signer: Signer) -> None:
    """A Release in the cache is checked like any other."""
    cache, servers = MemoryCache(), bookworm(signer)
    open_archive(servers, signer, cache=cache).releases()
    key = ("debian-release", "bookworm")
    cache.records[key] = cache.records[key].replace(b"contrib", b"kontrib")
    assert refusal(servers, signer, cache=cache, offline=True).code == "signature-invalid"


def test_offline_without_cache(signer: Signer) -> None:
    """Offline with an empty store says what is missing."""
    error = refusal(bookworm(signer), signer, offline=True)
    assert error.code == "offline"
    assert "bookworm" in error.what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("Filename: pool/main/g/glibc/libc6", "Filename: pool/../../etc/libc6", "no path in the pool"),
        ("Filename: pool/main/g/glibc/libc6", "Filename: /etc/libc6", "no path in the pool"),
        ("Size: 10", "Size: ten", "malformed"),
        ("SHA256: 1111", "SHA256: xxxx", "malformed"),
        ("Size: 10\n", "", "Size is missing"),
        ("Architecture: amd64", "Architecture: arm64", "not amd64"),
        ("Version: 2.36-9", "Version: 2_36", "not a Debian version"),
    ],
)
def test_record_that_breaks_the_format(signer: Signer, old: str, new: str, what: str) -> None:
    """Even what Debian signed is held to the format before it names a file or a URL."""
    servers = bookworm(signer)
    servers.serve(MAIN, "bookworm", suite_files(signer, "bookworm", PACKAGES.replace(old, new)))
    with pytest.raises(NnenvError, match=what) as caught:
        open_archive(servers, signer).candidates("libc6")
    assert caught.value.code == "debian-index-invalid"


@pytest.mark.parametrize("size", [100, len(PACKAGES) - 1])
def test_index_that_inflates_to_more_than_was_signed(signer: Signer, size: int) -> None:
    """Inflating stops at the size in the Release: an index cannot fill the memory."""
    servers = bookworm(signer)
    signed = release_text("bookworm", PACKAGES)
    plain = f"{len(PACKAGES)} main/binary-amd64/Packages\n"
    assert plain in signed
    servers.pages[IN_RELEASE] = signer.clear_sign(signed.replace(plain, f"{size} main/binary-amd64/Packages\n"))
    error = refusal(servers, signer)
    assert error.code == "debian-index-invalid"
    assert f"{size} bytes or fewer" in error.what


@pytest.mark.parametrize("body", [b"no xz", lzma.compress(PACKAGES.encode()) + b"more"])
def test_index_that_is_no_single_xz_stream(signer: Signer, body: bytes) -> None:
    """Another format, or bytes after the end of the stream, are refused though they were signed."""
    servers = bookworm(signer)
    signed = signer.clear_sign(release_text("bookworm", PACKAGES, body, Acquire_By_Hash=""))
    servers.serve(MAIN, "bookworm", {"InRelease": signed, XZ: body})
    assert refusal(servers, signer).code == "debian-index-invalid"


def test_locate(signer: Signer) -> None:
    """A .deb is asked of every mirror of its archive, with what is special in URLs escaped."""
    archive = open_archive(bookworm(signer), signer, sources=TWO_MIRRORS)
    path = "pool/main/g/gcc-12/libstdc++6_12~1_amd64.deb"
    escaped = "pool/main/g/gcc-12/libstdc%2B%2B6_12~1_amd64.deb"
    assert archive.locate(path, "bookworm") == (f"{OTHER}/{escaped}", f"{MAIN}/{escaped}")
    assert archive.locate(path, "bookworm-security") == (f"{SECURITY}/{escaped}",)


def test_without_gpgv(signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gpgv nothing is believed, and the message says what to install."""
    servers = bookworm(signer)
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refusal(servers, signer)
    assert error.code == "signature-invalid"
    assert error.fix == ("apt-get install gpgv",)


def test_armoured_keyring(signer: Signer, tmp_path: Path) -> None:
    """gpgv reads binary keyrings only; an armoured one is named with the command that converts it."""
    servers = bookworm(signer)
    armoured = tmp_path / "keys.asc"
    armoured.write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", encoding="utf-8")
    archive = open_archive(servers, signer)
    archive._keyring = armoured
    with pytest.raises(NnenvError, match="armoured") as caught:
        archive.releases()
    assert "--dearmor" in caught.value.fix[0]


def test_keyring_of_the_environment(tmp_path: Path) -> None:
    """NNENV_DEBIAN_KEYRING names the keys for an archive of one's own."""
    assert find_keyring({"NNENV_DEBIAN_KEYRING": str(tmp_path / "mine.gpg")}) == tmp_path / "mine.gpg"
