"""Facts of wheels in the store: read once, remembered, or shipped with nnenv."""

from __future__ import annotations

import gzip
import resource
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from nnenv.adapters.store import Store
from nnenv.data import content
from nnenv.errors import NnenvError
from nnenv.spec.artifact import Artifact, Kind, Sha256
from nnenv.spec.gpu import GpuCode
from nnenv.workflows.facts import (
    facts_key,
    known_wheel_facts,
    packed,
    shipped_facts,
    shipped_file,
    shipped_rows,
    unpacked,
    wheel_facts,
)
from tests.e2e.world import make_wheel, small_library
from tests.support.gpu_library import containers, with_section

MOST_SHIPPED = 1_000_000
"""Bytes: what the file may add to nnenv's own wheel."""


def artifact(filename: str, sha256: Sha256, size: int = 1) -> Artifact:
    """A wheel known by its digest."""
    return Artifact(
        kind=Kind.WHEEL, name="a", version="1", filename=filename, sha256=sha256, size=size, origin="python"
    )


def stored(store: Store, files: Mapping[str, bytes], tag: str = "py3-none-manylinux_2_28_x86_64") -> Artifact:
    """A wheel of these files in the store."""
    filename, data = make_wheel("a", "1", tag=tag, files=files)
    return artifact(filename, store.put(data), len(data))


def test_gpu_code_is_a_fact(tmp_path: Path) -> None:
    """Of the library that has some; the same from the bytes, and from what the store remembers of them."""
    plain = small_library()
    gpu = with_section(plain, containers([(2, "90a", (0, 0)), (1, "80", (8, 4))]))
    store = Store(tmp_path / "store")
    wheel = stored(store, {"a/g.so": gpu, "a/p.so": plain})
    found = wheel_facts(store, wheel)
    assert {fact.path: fact.gpu for fact in found} == {
        "a/g.so": GpuCode(sass=("90a",), ptx=(("80", "8.4"),)),
        "a/p.so": GpuCode(),
    }
    remembered = store.load("elf-facts", facts_key(wheel.sha256))
    assert remembered is not None
    assert remembered.count(b'"gpu"') == 1
    assert wheel_facts(Store(store.root), wheel) == found
    assert all("libc.so.6" in fact.needed for fact in found)


def test_libraries_of_all_sizes_keep_the_order_of_the_wheel(tmp_path: Path) -> None:
    """Several are read at once, some in memory and some from the disk; nothing of that shows."""
    plain = small_library()
    sizes = (0, 9 << 20, 3, 20 << 20, 100)
    files = {f"a/{number}.so": plain + bytes(size) for number, size in enumerate(sizes)}
    store = Store(tmp_path / "store")
    found = wheel_facts(store, stored(store, {**files, "a/text.so": b"no library", "a/empty.so": b""}))
    assert [fact.path for fact in found] == list(files)
    assert len({packed([fact]).replace(fact.path.encode(), b"") for fact in found}) == 1


def test_a_malformed_library_is_refused(tmp_path: Path) -> None:
    """With its name; no facts are remembered of such a wheel."""
    store = Store(tmp_path / "store")
    bad = with_section(small_library(), b"\xff" * 64)
    wheel = stored(store, {"a/g.so": small_library(), "a/bad.so": bad})
    with pytest.raises(NnenvError) as caught:
        wheel_facts(store, wheel)
    assert (caught.value.code, caught.value.where) == ("archive-refused", "a/bad.so")
    assert known_wheel_facts(store, wheel) is None


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A library that is too large for memory goes to the store's disk; where that takes no more, nothing is read."""
    store = Store(tmp_path / "store")
    wheel = stored(store, {"a/g.so": small_library() + bytes(12 << 20)})
    store.open(wheel.sha256).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        with pytest.raises(NnenvError) as caught:
            wheel_facts(store, wheel)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "disk-full"


def test_what_is_known_needs_no_bytes(tmp_path: Path) -> None:
    """A wheel for any machine has no facts; another's are unknown until they were read, and known from then on."""
    empty, store = Store(tmp_path / "empty"), Store(tmp_path / "store")
    assert known_wheel_facts(empty, artifact("a-1-py3-none-any.whl", Sha256("0" * 64))) == ()
    wheel = stored(store, {"a/p.so": small_library()})
    assert known_wheel_facts(store, wheel) is None
    found = wheel_facts(store, wheel)
    assert found
    store.path(wheel.sha256).unlink()
    assert known_wheel_facts(Store(store.root), wheel) == found
    assert known_wheel_facts(empty, wheel) is None


def test_shipped_facts_need_neither_bytes_nor_a_record(tmp_path: Path) -> None:
    """ONNX Runtime 1.23.0, whose PTX is for one GPU alone, and 1.23.2, which repaired that: pull request 26230."""
    rows = dict(shipped_rows(content("facts.gz")).keys())
    code = {}
    for version in ("1.23.0", "1.23.2"):
        name = f"onnxruntime_gpu-{version}-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"
        facts = wheel_facts(Store(tmp_path / version), artifact(name, rows[name]))
        assert facts == shipped_facts(rows[name])
        provider = next(fact for fact in facts if fact.path.endswith("/libonnxruntime_providers_cuda.so"))
        assert "libcudart.so.12" in provider.needed
        code[version] = provider.gpu.ptx
    assert code == {"1.23.0": (("90a", "8.2"),), "1.23.2": (("90", "8.2"),)}
    assert shipped_facts(Sha256("0" * 64)) is None


def test_the_shipped_file_is_in_order() -> None:
    """Small, of the version that is read, canonical, and every row can be read, found and packed to itself again."""
    data = content("facts.gz")
    assert len(data) <= MOST_SHIPPED
    rows = shipped_rows(data)
    assert len(rows) > 50
    assert gzip.decompress(shipped_file(rows)) == gzip.decompress(data)
    for (name, sha256), row in rows.items():
        assert name.endswith(".whl")
        assert packed(unpacked(row)) == row
        assert shipped_facts(sha256) == unpacked(row)


def test_a_file_of_shipped_facts_depends_on_its_rows_alone() -> None:
    """Not on their order; what another version wrote says nothing."""
    rows = {("b-1-py3-none-linux.whl", Sha256("1" * 64)): b"[]", ("a-1-py3-none-linux.whl", Sha256("2" * 64)): b"[]"}
    written = shipped_file(rows)
    assert written == shipped_file(dict(reversed(rows.items())))
    assert shipped_rows(written) == rows
    assert shipped_rows(shipped_file({})) == {}


def test_facts_of_another_version_are_not_read() -> None:
    """They lack what this one asks for, or mean something else by it."""
    text = gzip.decompress(shipped_file({("b-1.whl", Sha256("1" * 64)): b"[]"}))
    assert shipped_rows(gzip.compress(text)) != {}
    assert shipped_rows(gzip.compress(text.replace(b"nnenv facts ", b"nnenv facts 1", 1))) == {}
