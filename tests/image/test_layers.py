"""Trees and layers: what may stand together, and that a layer's bytes are a function of its tree alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.image.layers import (
    EPOCH,
    TAR,
    TAR_GZIP,
    layer_from_json,
    layer_to_json,
    plain_layer,
    read_layer,
    read_layer_tar,
    spliced_layer,
)
from nnenv.image.tree import Entry, Slice, collisions, compose, disagree, linked_file, meanings, normalised_mode
from nnenv.spec.artifact import Sha256
from tests.image.memory_objects import MemoryObjects


def file(path: str, content: bytes | Slice = b"x", *, mode: int = 0o644, owner: str = "one.whl") -> Entry:
    return Entry(path=path, kind="file", mode=mode, content=content, owner=owner)


def link(path: str, target: str, *, owner: str = "one.whl") -> Entry:
    return Entry(path=path, kind="symlink", mode=0o777, target=target, owner=owner)


def hard(path: str, target: str) -> Entry:
    return Entry(path=path, kind="hardlink", mode=0o644, target=target, owner="one.deb")


def directory(path: str, mode: int = 0o755, owner: str = "one.deb") -> Entry:
    return Entry(path=path, kind="dir", mode=mode, owner=owner)


# Trees


def test_parents_are_added_and_come_first():
    """Every directory on the way is there, and paths are sorted as bytes."""
    tree = compose([file("b/é"), file("b/z"), file("a-b"), file("a/c/d"), file("B")])
    assert [entry.path for entry in tree] == ["B", "a", "a-b", "a/c", "a/c/d", "b", "b/z", "b/é"]
    assert {(entry.path, entry.mode) for entry in tree if entry.kind == "dir"} == {
        ("a", 0o755),
        ("a/c", 0o755),
        ("b", 0o755),
    }


def test_a_stated_directory_wins_over_an_implied_one():
    """/tmp keeps its mode in whichever order it and its content are given."""
    for entries in ([directory("tmp", 0o1777), file("tmp/a")], [file("tmp/a"), directory("tmp", 0o1777)]):
        assert compose(entries)[0].mode == 0o1777


def test_the_same_bytes_may_come_twice():
    """Identical files collapse to one, executable if one of them is; so do slices of one place."""
    there = Slice(sha256=Sha256("0" * 64), offset=3, length=9)
    tree = compose([file("a"), file("a", mode=0o755, owner="two.whl"), file("s", there), file("s", replace(there))])
    assert [(entry.path, entry.mode, entry.owner) for entry in tree] == [
        ("a", 0o755, "one.whl"),
        ("s", 0o644, "one.whl"),
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [file("p/a", b"1"), file("p/a", b"2", owner="two.whl")],
        [file("p/a"), link("p/a", "b", owner="two.whl")],
        [link("p/a", "b"), link("p/a", "c", owner="two.whl")],
        [file("p/a"), file("p/a/b", owner="two.whl")],
        [link("p/a", "q"), file("p/a/b/c", owner="two.whl")],
        [file("p/a/b", owner="two.whl"), link("p/a", "q")],
        [directory("p/a"), directory("p/a", 0o700, owner="two.whl")],
        [
            file("p/a", Slice(sha256=Sha256("0" * 64), offset=0, length=1)),
            file("p/a", Slice(sha256=Sha256("0" * 64), offset=1, length=1), owner="two.whl"),
        ],
    ],
)
def test_a_path_with_two_meanings_is_refused_by_name(entries):
    """Other bytes, another kind, another target, or something below what is no directory: both owners are named."""
    with pytest.raises(NnenvError) as caught:
        compose(entries)
    assert caught.value.code == "layer-collision"
    assert caught.value.where == "/p/a"
    evidence = "\n".join(caught.value.because)
    assert all(entry.owner in evidence for entry in entries)


def test_all_collisions_are_told_at_once():
    """Two bad paths give two errors, in the order of paths."""
    entries = [file("b", b"1"), file("a", b"1"), file("a", b"2"), file("b", b"2")]
    with pytest.raises(SeveralErrors) as caught:
        compose(entries)
    assert [error.where for error in caught.value.errors] == ["/a", "/b"]


def test_collisions_across_layers_name_the_layers():
    """Two layers that disagree are found; agreeing files, and directories implied by both, are not."""
    trees = {
        "os": compose([file("usr/lib/a", b"1", owner=""), file("same"), link("lib", "usr/lib")]),
        "wheel": compose([file("usr/lib/a", b"2", owner=""), file("same")]),
        "below a link": compose([file("lib/b", owner="")]),
    }
    found = collisions(trees)
    assert [error.where for error in found] == ["/lib", "/usr/lib/a"]
    assert [line.partition(":")[0] for line in found[1].because] == ["layer os", "layer wheel"]
    del trees["below a link"], trees["wheel"]
    assert collisions(trees) == ()


SAME_PATH = [
    Entry(path="a", kind="file", mode=0o644, content=b"one"),
    Entry(path="a", kind="file", mode=0o755, content=b"one"),
    Entry(path="a", kind="file", mode=0o644, content=b"two"),
    Entry(path="a", kind="file", mode=0o644, content=Slice(sha256=Sha256("1" * 64), offset=0, length=3)),
    Entry(path="a", kind="file", mode=0o644, content=Slice(sha256=Sha256("1" * 64), offset=1, length=3)),
    Entry(path="a", kind="file", mode=0o644, content=b"one", uid=1),
    Entry(path="a", kind="symlink", mode=0o777, target="b"),
    Entry(path="a", kind="symlink", mode=0o777, target="c"),
    Entry(path="a", kind="dir", mode=0o755),
    Entry(path="a", kind="dir", mode=0o700),
    Entry(path="a/b", kind="file", mode=0o644, content=b"below"),
]
"""Entries that claim one path, or something below it."""


@pytest.mark.parametrize("first", range(len(SAME_PATH)))
@pytest.mark.parametrize("second", range(len(SAME_PATH)))
def test_meanings_stand_in_for_entries(first: int, second: int) -> None:
    """Two trees disagree by their meanings exactly if they collide by their entries."""
    trees = {"lower": compose([SAME_PATH[first]]), "upper": compose([SAME_PATH[second]])}
    assert disagree(meanings(tree) for tree in trees.values()) == bool(collisions(trees))


def test_links_lead_to_files() -> None:
    """Links of both kinds are followed, in chains too; not to directories, to nothing, or in circles."""
    file = Entry(path="etc/conf", kind="file", mode=0o644, content=b"")
    links = {"a": "etc/conf", "lib/b": "../etc/conf", "lib/c": "/etc/conf", "d": "lib/b", "e": "etc"}
    links |= {"f": "g", "g": "f"}
    tree = compose(
        [
            file,
            Entry(path="lib/hard", kind="hardlink", mode=0o644, target="etc/conf"),
            *(Entry(path=path, kind="symlink", mode=0o777, target=target) for path, target in links.items()),
        ]
    )
    entries = {entry.path: entry for entry in tree}
    found = {path for path in entries if linked_file(path, entries) == file}
    assert found == {"etc/conf", "a", "lib/b", "lib/c", "d", "lib/hard"}
    assert linked_file("e", entries) is None
    assert linked_file("f", entries) is None


def test_a_layer_may_not_change_the_mode_of_a_directory_below_it():
    """An implied /tmp of 0755 above an OS with 1777 would take away everybody's right to write there."""
    trees = {"os": compose([directory("tmp", 0o1777)]), "app": compose([file("tmp/a")])}
    assert [error.where for error in collisions(trees)] == ["/tmp"]


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", ".", "a/./b", "../a", "a/..", "a\0", "a\nb", "\x7f", "\udc80"),
        *(".wh.a", "d/.wh..wh..opq", "n" * 256, "é" * 128, "d/" * 2100 + "e"),
    ],
)
def test_a_path_that_an_image_cannot_hold_is_refused(path):
    """Escapes, control characters, whiteouts and overlong names never reach a tar."""
    with pytest.raises(NnenvError) as caught:
        compose([file(path)])
    assert caught.value.code == "path-refused"
    assert caught.value.where == "one.whl"


@pytest.mark.parametrize(
    "entry",
    [
        *(link("a", "b\nc"), link("a", "\udc80"), link("a", ""), hard("a", "../b"), hard("a", "gone"), hard("a", "a")),
        *(file("a", mode=0o10000), replace(file("a"), content=None), replace(directory("a"), content=b"")),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(entry):
    """A link without target, a hard link to nothing, a directory with content and the like."""
    with pytest.raises(NnenvError) as caught:
        compose([entry])
    assert caught.value.code == "path-refused"


def test_hard_links_point_backwards():
    """In a sorted tar the first name holds the bytes, whichever the package called the original."""
    tree = compose([file("usr/bin/perl", b"p", mode=0o755), hard("usr/bin/a", "usr/bin/perl"), hard("z", "usr/bin/a")])
    files = [(e.path, e.kind, e.target, e.mode) for e in tree if e.kind != "dir"]
    assert files == [
        ("usr/bin/a", "file", "", 0o755),
        ("usr/bin/perl", "hardlink", "usr/bin/a", 0o755),
        ("z", "hardlink", "usr/bin/a", 0o755),
    ]
    assert compose(tree) == tree


def test_the_executable_bit_is_all_that_counts():
    """Two modes, whatever the umask or the archive said."""
    assert (normalised_mode(True), normalised_mode(False)) == (0o755, 0o644)


# Layers

NOISE = random.Random(7).randbytes(200_000)


def sample(objects: MemoryObjects) -> tuple[Entry, ...]:
    """A tree with every kind of entry and with contents on both sides of every limit."""
    return compose(
        [
            directory("tmp", 0o1777),
            link("lib", "usr/lib"),
            file("usr/lib/empty", b""),
            file("usr/lib/small", b"small"),
            file("usr/lib/large", NOISE[:70_000]),
            file("opt/slice", objects.slice(NOISE)),
            file("opt/exact", objects.slice(NOISE[:131_070])),
            file("opt/little-slice", objects.slice(b"little"), mode=0o755),
            file("opt/nothing", objects.slice(b"")),
            file("x/" * 60 + "long", b"deep"),
            file("usr/share/模型", b"model"),
            hard("usr/lib/second", "usr/lib/large"),
        ]
    )


@pytest.mark.parametrize(("make", "media_type"), [(plain_layer, TAR), (spliced_layer, TAR_GZIP)])
def test_a_layer_is_the_tar_it_says(make, media_type, tmp_path: Path):
    """Blob and tar have the stated digests and sizes, and other programs find the tree in them."""
    objects = MemoryObjects()
    tree = sample(objects)
    layer = make("sample", tree, objects)
    blob, tar = b"".join(read_layer(layer, objects)), b"".join(read_layer_tar(layer, objects))
    assert (hashlib.sha256(blob).hexdigest(), len(blob)) == (layer.digest, layer.size)
    assert (hashlib.sha256(tar).hexdigest(), len(tar)) == (layer.diff_id, layer.diff_size)
    assert (gzip.decompress(blob) if media_type == TAR_GZIP else blob) == tar
    assert (layer.media_type, layer.paths) == (media_type, len(tree))
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [entry.path for entry in tree]
        assert [member.mode for member in members] == [entry.mode for entry in tree]
        assert {member.mtime for member in members} == {EPOCH}
        assert archive.extractfile("opt/slice").read() == NOISE
        assert archive.extractfile("usr/lib/second").read() == NOISE[:70_000]
    archive_file = tmp_path / "layer.tar"
    archive_file.write_bytes(blob)
    listed = subprocess.run(["tar", "-tf", archive_file], check=True, capture_output=True).stdout
    assert listed.count(b"\n") == len(tree)


def test_both_forms_hold_one_tar():
    """Image identity is over uncompressed layers, so the form of a layer must not show in it."""
    objects = MemoryObjects()
    tree = sample(objects)
    assert plain_layer("a", tree, objects).diff_id == spliced_layer("b", tree, objects).diff_id


def test_the_digests_never_change():
    """The golden image bytes of recipe 1: a change here is a new recipe."""
    objects = MemoryObjects()
    layer = spliced_layer("sample", sample(objects), objects)
    assert layer.diff_id == "8dca45f8b6099c78141c78967fafd7f6253725bbfafb134d41943309a5d963cb"
    assert layer.digest == "021153d545752efe785958279f0585bc7abf4ede9514784809cb56bc3edfdd33"


def test_slices_stay_where_they_are():
    """The glue object holds headers only; large contents are referred to, and each object is opened once."""
    objects = MemoryObjects()
    content = objects.slice(NOISE)
    tree = compose([file("opt/a", content), file("opt/b", content)])
    for make in (plain_layer, spliced_layer):
        objects.opened.clear()
        layer = make("model", tree, objects)
        glue = {piece.sha256 for piece in layer.pieces} - {content.sha256}
        assert len(glue) == 1
        assert len(objects.objects[glue.pop()]) < 4096
        assert objects.opened == {content.sha256: 1}


def test_a_slice_beyond_its_object_is_refused():
    """A damaged object never becomes a layer, nor a blob."""
    objects = MemoryObjects()
    content = objects.slice(NOISE)
    layer = plain_layer("model", compose([file("a", content)]), objects)
    objects.objects[content.sha256] = objects.objects[content.sha256][:1000]
    for act in (
        lambda: plain_layer("m", compose([file("a", content)]), objects),
        lambda: spliced_layer("m", compose([file("a", content)]), objects),
        lambda: list(read_layer(layer, objects)),
    ):
        with pytest.raises(NnenvError) as caught:
            act()
        assert caught.value.code == "store-corrupt"


def test_a_damaged_blob_is_refused():
    """A flipped bit in the glue, or a blob that was cut, is told and not passed on as a tar."""
    objects = MemoryObjects()
    layer = spliced_layer("a", compose([file("a", b"1" * 100)]), objects)
    (piece,) = layer.pieces
    good = objects.objects[piece.sha256]
    objects.objects[piece.sha256] = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
    cut = replace(layer, pieces=(replace(piece, length=piece.length - 4),))
    for damaged in (layer, cut):
        with pytest.raises(NnenvError) as caught:
            list(read_layer_tar(damaged, objects))
        assert caught.value.code == "store-corrupt"


def test_many_headers_are_split_into_members_of_bounded_size():
    """Thousands of empty files need no memory for all their headers at once, and still are one tar."""
    objects = MemoryObjects()
    tree = compose(file(f"d/{number:05}", b"") for number in range(3000))
    layer = spliced_layer("many", tree, objects)
    blob = b"".join(read_layer(layer, objects))
    assert blob.count(bytes.fromhex("1f8b08000000000000ff")) > 40
    assert len(gzip.decompress(blob)) == layer.diff_size == 3001 * 512 + 1024


contents = st.one_of(
    st.binary(max_size=300), st.integers(4000, 4200).map(bytes), st.integers(65_500, 65_600).map(bytes)
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[a-c]{1,2}(/[a-c]{1,2}){0,2}\Z"), contents, max_size=5), st.randoms())
def test_order_of_input_never_shows(files, shuffler):
    """Any order of entries gives one layer, which holds exactly the given files."""
    entries = [file(path + ".f", content) for path, content in files.items()]
    objects = MemoryObjects()
    layer = spliced_layer("any", compose(entries), objects)
    shuffler.shuffle(entries)
    assert spliced_layer("any", compose(entries), objects) == layer
    with tarfile.open(fileobj=io.BytesIO(b"".join(read_layer(layer, objects)))) as archive:
        found = {m.name.removesuffix(".f"): archive.extractfile(m).read() for m in archive if m.isfile()}
    assert found == files


# Records


def test_a_layer_record_comes_back_the_same():
    """The JSON form loses nothing and has one spelling."""
    objects = MemoryObjects()
    layer = spliced_layer("numpy 2.4 – é", sample(objects), objects)
    record = layer_to_json(layer)
    assert layer_from_json(record) == layer
    assert layer_to_json(layer_from_json(record)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"size": -1},
        {"size": 12345},
        {"size": True},
        {"paths": "3"},
        {"digest": "A" * 64},
        {"media_type": "text/plain"},
        {"objects": []},
        {"pieces": [0, 0]},
        {"pieces": {}},
        {"title": None},
        {"extra": 1},
    ],
)
def test_a_record_that_is_not_ours_is_refused(change):
    """Whatever a damaged record says, the answer is an error with a code, never a traceback or a wrong layer."""
    objects = MemoryObjects()
    record = json.loads(layer_to_json(plain_layer("a", compose([file("a")]), objects)))
    for data in (
        json.dumps({**record, **change}, sort_keys=True, separators=(",", ":")).encode(),
        b"[]",
        b"\xff",
        b"{",
    ):
        with pytest.raises(NnenvError) as caught:
            layer_from_json(data)
        assert caught.value.code == "store-corrupt"
