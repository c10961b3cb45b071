"""One file out of archives that others made: what comes out is what tar would unpack, or nothing does."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.errors import NnenvError
from nnenv.formats.oci import MEDIA_LAYER_TAR, ManifestLayer, image_manifest
from nnenv.formats.oci_artifact import Manifest, choose_layers, read_manifest
from nnenv.formats.packed_model import NoMember, member_chunks, only_member, packing_of
from nnenv.formats.tar_writer import END_OF_ARCHIVE, header, padding
from nnenv.spec.artifact import Sha256
from tests.formats.archives import pax, tar, tar_entry, tar_header

DATA = b"model" * 300


def member(archive: bytes, path: str = "m/net.onnx") -> bytes:
    """The file, from an archive that says itself whether it is compressed."""
    return b"".join(member_chunks(io.BytesIO(archive), packing_of(archive[:2]), "a.tar", path))


def refusal(archive: bytes, path: str = "m/net.onnx") -> str:
    """Why nothing comes out."""
    with pytest.raises((NoMember, NnenvError)) as caught:
        member(archive, path)
    error = caught.value
    return error.because[0] if isinstance(error, NnenvError) else str(error)


@pytest.mark.parametrize("form", ["ustar", "gnu", "pax", "oldgnu"])
@pytest.mark.parametrize("zipped", [False, True])
def test_archives_of_gnu_tar(tmp_path: Path, form: str, zipped: bool) -> None:
    """In its formats, with long names, links and a folder for each file."""
    deep = tmp_path / "m" / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / "net.onnx").write_bytes(DATA)
    (tmp_path / "m" / "net.onnx").write_bytes(DATA[1:])
    (tmp_path / "m" / "link").symlink_to("net.onnx")
    (tmp_path / "m" / "z").hardlink_to(tmp_path / "m" / "net.onnx")
    words = ["tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", tmp_path, "./m"]
    subprocess.run(words, check=True)
    archive = (tmp_path / "a.tar").read_bytes()
    archive = gzip.compress(archive) if zipped else archive
    assert member(archive, f"m/{'d' * 90}/{'e' * 60}/net.onnx") == DATA
    with pytest.raises(NoMember, match="not one model but 2"):
        only_member(io.BytesIO(archive), packing_of(archive[:2]), "a.tar")


def test_what_other_tools_add() -> None:
    """Extended attributes, comments and devices say nothing of names and contents."""
    entry = tar_entry(b"m/net.onnx", DATA)
    attributes = pax({"SCHILY.xattr.user.x": "a\nb", "LIBARCHIVE.creationtime": "1"})
    assert member(tar(attributes, entry)) == DATA
    device = tar_header(b"dev/null", typeflag=b"3")
    assert member(tar(device, entry)) == DATA
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "commit"}
    ) as archive:
        info = tarfile.TarInfo("m/net.onnx")
        info.size, info.mtime = len(DATA), 1.5  # type: ignore[assignment]
        archive.addfile(info, io.BytesIO(DATA))
    assert member(buffer.getvalue()) == DATA


def test_what_is_refused() -> None:
    """Whatever two readers could take for two files."""
    entry = tar_entry(b"m/net.onnx", DATA)
    assert "twice" in refusal(tar(entry, entry))
    assert "as a folder" in refusal(tar(tar_header(b"m/net.onnx", typeflag=b"5")))
    assert "it has no m/net.onnx" in refusal(tar(tar_entry(b"m/other.onnx", DATA)))
    sparse = pax({"GNU.sparse.major": "1"})
    assert "which has no rule here" in refusal(tar(sparse, entry))
    assert "absolute" in refusal(tar(tar_entry(b"m/../net.onnx", DATA)))
    assert "cut off" in refusal(tar(entry)[:700])
    assert "after its end mark" in refusal(tar(entry) + b"x" * 512)
    assert "gzip stream is broken" in refusal(gzip.compress(tar(entry))[:-9])
    with pytest.raises(NoMember, match="which is not read here"):
        list(member_chunks(io.BytesIO(b""), "tar+zstd", "a.tar", "x"))


@pytest.mark.parametrize("whiteout", [".wh.m", "m/.wh.net.onnx", "m/.wh..wh..opq"])
def test_what_a_layer_removes(whiteout: str) -> None:
    """No layer below has it any more."""
    with pytest.raises(NoMember, match=r"removes m/net\.onnx") as caught:
        member(tar(tar_entry(whiteout.encode())))
    assert caught.value.hidden
    with pytest.raises(NoMember) as caught:
        member(tar(tar_entry(b"m/.wh.other", b"")))
    assert not caught.value.hidden


def test_the_only_model() -> None:
    """The one file that ends in .onnx, else the one file."""
    for files, found in ((["a.txt", "m/x.onnx"], "m/x.onnx"), (["m/weights"], "m/weights")):
        assert only_member(io.BytesIO(tar(*(tar_entry(one.encode(), b"1") for one in files))), "tar", "a") == found


def test_our_own_images() -> None:
    """A layer of an image that nnenv makes: an uncompressed tar, with a title that is no file's name."""
    head = header("opt/models/net/net.onnx", "file", mode=0o644, size=len(DATA), mtime=0)
    layer = head + DATA + padding(len(DATA)) + END_OF_ARCHIVE
    row = ManifestLayer(media_type=MEDIA_LAYER_TAR, digest=Sha256("0" * 64), size=len(layer), title="model net")
    manifest = read_manifest(image_manifest(config_digest=Sha256("1" * 64), config_size=1, layers=[row]))
    assert isinstance(manifest, Manifest)
    assert [one.packing for one in choose_layers(manifest, "opt/models/net/net.onnx")] == ["tar"]
    assert member(layer, "opt/models/net/net.onnx") == DATA


def test_a_large_file_is_streamed() -> None:
    """48 MiB pass through 8 MiB."""
    info = tarfile.TarInfo("big.onnx")
    info.size = 48 << 20
    archive = gzip.compress(info.tobuf() + bytes(info.size) + bytes(1024), 1)
    tracemalloc.start()
    size = sum(map(len, member_chunks(io.BytesIO(archive), "tar+gzip", "a.tar", "big.onnx")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 48 << 20
    assert peak < 8 << 20


WHOLE = tar(tar_entry(b"m/net.onnx", DATA), tar_entry(b"x", b"1"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_damage_raises_nothing_of_its_own(position: int, patch: bytes, zipped: bool) -> None:
    """The file's bytes, or a refusal."""
    archive = gzip.compress(WHOLE, 1) if zipped else WHOLE
    position %= len(archive)
    changed = archive[:position] + patch + archive[position + len(patch) :]
    with suppress(NoMember, NnenvError):
        b"".join(member_chunks(io.BytesIO(changed), packing_of(archive[:2]), "a.tar", "m/net.onnx"))
