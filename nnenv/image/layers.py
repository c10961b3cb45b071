"""Layers: the bytes of a tree as a recipe of slices, so that a blob can be streamed again and need not be kept.

Two forms. A plain layer is an uncompressed tar. A spliced layer is a gzip file of many members (RFC 1952, 2.2):
each deflated member of a wheel is copied as it is, between members that hold the tar headers, so nothing is
compressed again and the blob depends on the wheel alone.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, Self

from nnenv.errors import NnenvError
from nnenv.formats.deflate import STORED_LIMIT, gzip_frame_head, gzip_frame_tail, gzip_member, stored_block_head
from nnenv.formats.tar_writer import END_OF_ARCHIVE, header, padding
from nnenv.formats.zip_gate import DEFLATED, inflate_chunks
from nnenv.image.tree import Content, Entry, Slice, WheelMember, content_size
from nnenv.spec.artifact import Sha256, sha256_of

TAR: Final = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

EPOCH: Final = 315532800
"""1980-01-01T00:00:00Z, the one mtime of all recipes: no earlier, because zip files inside the image could not say it;
constant, so that a layer stays equal when the lock moves."""

_CHUNK: Final = 1 << 20
_GATHERED: Final = 1 << 18
_RUN_LIMIT: Final = 1 << 15
"""Header bytes gathered in one gzip member before a new one begins; bounds the deflater's memory."""
_INLINE_LIMIT: Final = 4096
"""Contents up to this size share a gzip member with the headers; a member of their own would not be smaller."""
_LARGE: Final = 8 << 20
"""Contents above this are verified while they are read: a thread costs less than the time it saves."""
_RECORD_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer of an image: what it is called by, and where each of its bytes comes from."""

    title: str
    media_type: str
    """As in an OCI manifest."""
    diff_id: Sha256
    """Digest of the uncompressed tar."""
    diff_size: int
    """Bytes of the uncompressed tar."""
    digest: Sha256
    """Digest of the blob."""
    size: int
    """Bytes of the blob."""
    pieces: tuple[Slice, ...]
    """The blob is these, one after the other."""
    paths: int
    """Entries in the tar."""

    @property
    def objects(self) -> tuple[Sha256, ...]:
        """The store's objects that the pieces lie in, each once."""
        return tuple(dict.fromkeys(piece.sha256 for piece in self.pieces))


class ObjectWriter(Protocol):
    """A store object being written."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""
        ...

    def commit(self) -> tuple[Sha256, int]:
        """Make the object durable; returns its digest and size."""
        ...


class Objects(Protocol):
    """Where bytes are kept by their digest."""

    def open(self, sha256: Sha256, /) -> BinaryIO:
        """A seekable reader of verified bytes; the caller closes it."""
        ...

    def reading(self, sha256: Sha256, /) -> AbstractContextManager[BinaryIO]:
        """A seekable reader for a `with`; the bytes are known to be verified when that ends without an error."""
        ...

    def writer(self) -> AbstractContextManager[ObjectWriter]:
        """A new object, dropped unless committed."""
        ...


def plain_layer(title: str, entries: Sequence[Entry], objects: Objects, *, mtime: int = EPOCH) -> Layer:
    """The composed `entries` as an uncompressed tar.

    Slices are read once for the digest and stay where they are; everything else goes into one new object.
    Memory does not depend on any file's size. Raises `store-corrupt` or `wheel-refused` when contents lie.
    """
    with Sources(objects) as sources, objects.writer() as writer:
        blob = _Blob(writer)
        for entry in entries:
            blob.write(_header(entry, mtime))
            if isinstance(entry.content, Slice) and entry.content.length > _LARGE:
                with objects.reading(entry.content.sha256) as stream:
                    _refer(entry.content, blob, stream)
            else:
                _write_plain(entry.content, blob, sources)
            blob.write(padding(content_size(entry.content)))
        blob.write(END_OF_ARCHIVE)
        glue, _ = writer.commit()
    digest = blob.digest()
    return Layer(
        title=title,
        media_type=TAR,
        diff_id=digest,
        diff_size=blob.size,
        digest=digest,
        size=blob.size,
        pieces=blob.pieces(glue),
        paths=len(entries),
    )


def spliced_layer(title: str, entries: Sequence[Entry], objects: Objects, *, mtime: int = EPOCH) -> Layer:
    """The composed `entries` as a gzipped tar in which deflated members of wheels are copied, not recompressed.

    Each member is inflated once, to check its length, CRC and RECORD digest and to digest the tar.
    Uncompressed contents become stored blocks. Memory does not depend on any file's size.
    Raises `wheel-refused` for a member that is not what its wheel says, `store-corrupt` for a short object.
    """
    with Sources(objects) as sources, objects.writer() as writer:
        splice = _Splice(_Blob(writer), sources)
        for entry in entries:
            splice.tar(_header(entry, mtime))
            splice.content(entry.content)
            splice.tar(padding(content_size(entry.content)))
        splice.tar(END_OF_ARCHIVE)
        splice.flush()
        glue, _ = writer.commit()
    return Layer(
        title=title,
        media_type=TAR_GZIP,
        diff_id=splice.diff_id(),
        diff_size=splice.diff_size,
        digest=splice.blob.digest(),
        size=splice.blob.size,
        pieces=splice.blob.pieces(glue),
        paths=len(entries),
    )


def read_layer(layer: Layer, objects: Objects) -> Iterator[bytes]:
    """The layer's blob in chunks of 256 KiB to 1.25 MiB; raises `store-corrupt` if a piece is not all there."""
    gathered: list[bytes] = []
    length = 0
    for chunk in _pieces(layer, objects):
        gathered.append(chunk)
        length += len(chunk)
        if length >= _GATHERED:
            yield b"".join(gathered)
            gathered, length = [], 0
    if gathered:
        yield b"".join(gathered)


def read_layer_tar(layer: Layer, objects: Objects) -> Iterator[bytes]:
    """The layer's uncompressed tar in chunks of at most 1 MiB; raises `store-corrupt` if it cannot be had."""
    return _pieces(layer, objects) if layer.media_type == TAR else _gunzipped(_pieces(layer, objects), layer.title)


def entries_tar(entries: Sequence[Entry], objects: Objects, *, mtime: int = EPOCH) -> Iterator[bytes]:
    """The composed `entries` as an uncompressed tar, in chunks, without making a layer of them."""
    with Sources(objects) as sources:
        for entry in entries:
            yield _header(entry, mtime)
            yield from content_chunks(entry.content, sources)
            yield padding(content_size(entry.content))
        yield END_OF_ARCHIVE


def content_chunks(content: Content | None, sources: Sources) -> Iterator[bytes]:
    """A file's content in chunks of at most 1 MiB.

    Raises `wheel-refused` at the end of a member that is not what its wheel says, `store-corrupt` for a short object.
    """
    match content:
        case None:
            return
        case bytes():
            yield content
        case Slice():
            for _, chunk in sources.chunks(content):
                yield chunk
        case WheelMember():
            yield from _verified_chunks(content, sources)


def layer_to_json(layer: Layer) -> bytes:
    """The layer as canonical JSON; pieces are one flat list of object number, offset and length."""
    numbers: dict[Sha256, int] = {}
    flat: list[int] = []
    for piece in layer.pieces:
        flat += (numbers.setdefault(piece.sha256, len(numbers)), piece.offset, piece.length)
    record = {
        "version": _RECORD_VERSION,
        "title": layer.title,
        "media_type": layer.media_type,
        "diff_id": layer.diff_id,
        "diff_size": layer.diff_size,
        "digest": layer.digest,
        "size": layer.size,
        "paths": layer.paths,
        "objects": list(numbers),
        "pieces": flat,
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def layer_from_json(data: bytes) -> Layer:
    """The layer that `layer_to_json` wrote; raises `store-corrupt` for anything else."""
    try:
        record = json.loads(data)
        layer = _layer_of(record)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _corrupt("a layer record", f"it cannot be read: {error}") from error
    if layer_to_json(layer) != data or sum(piece.length for piece in layer.pieces) != layer.size:
        raise _corrupt(f"the record of layer {layer.title!r}", "it is not what nnenv wrote")
    return layer


def _layer_of(record: dict[str, object]) -> Layer:
    """The parsed record as a value; ValueError, TypeError or KeyError if it is none."""
    if record["version"] != _RECORD_VERSION or record["media_type"] not in {TAR, TAR_GZIP}:
        raise ValueError("unknown version or media type")
    objects = [sha256_of(_text(name)) for name in _sequence(record["objects"])]
    flat = [_natural(number) for number in _sequence(record["pieces"])]
    if len(flat) % 3 or any(number >= len(objects) for number in flat[::3]):
        raise ValueError("pieces do not fit objects")
    return Layer(
        title=_text(record["title"]),
        media_type=_text(record["media_type"]),
        diff_id=sha256_of(_text(record["diff_id"])),
        diff_size=_natural(record["diff_size"]),
        digest=sha256_of(_text(record["digest"])),
        size=_natural(record["size"]),
        pieces=tuple(
            Slice(sha256=objects[number], offset=offset, length=length)
            for number, offset, length in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ),
        paths=_natural(record["paths"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a natural number")
    return value


def _sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


class Sources:
    """Readers of store objects, each opened once; use it in a `with`, which closes them all."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._open: dict[Sha256, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stream(self, sha256: Sha256) -> BinaryIO:
        """The object's reader, positioned anywhere."""
        if sha256 not in self._open:
            self._open[sha256] = self._stack.enter_context(self._objects.open(sha256))
        return self._open[sha256]

    def read(self, content: Slice) -> bytes:
        """The whole slice; raises `store-corrupt` if the object ends before."""
        return _exactly(content.sha256, self.stream(content.sha256), content.offset, content.length)

    def chunks(self, content: Slice, limit: int = _CHUNK) -> Iterator[tuple[int, bytes]]:
        """The slice's bytes as (offset in the object, chunk), no chunk longer than `limit`."""
        return _chunks(content, self.stream(content.sha256), limit)


def _chunks(content: Slice, stream: BinaryIO, limit: int = _CHUNK) -> Iterator[tuple[int, bytes]]:
    end = content.offset + content.length
    for offset in range(content.offset, end, limit):
        yield offset, _exactly(content.sha256, stream, offset, min(limit, end - offset))


def _exactly(sha256: Sha256, stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise _corrupt(f"store object {sha256}", f"it ends before byte {offset + length}")
    return data


class _Blob:
    """A blob under construction: digested as it grows, remembered as places and not as bytes."""

    def __init__(self, writer: ObjectWriter) -> None:
        self.size = 0
        self._writer = writer
        self._glue_size = 0
        self._digest = hashlib.sha256()
        self._pieces: list[tuple[Sha256 | None, int, int]] = []

    def write(self, data: bytes) -> None:
        """Append bytes that are nowhere else: they go into the glue object."""
        self._writer.write(data)
        self._append(None, self._glue_size, data)
        self._glue_size += len(data)

    def refer(self, sha256: Sha256, offset: int, data: bytes) -> None:
        """Append `data`, which lies at `offset` of a store object and stays there."""
        self._append(sha256, offset, data)

    def digest(self) -> Sha256:
        """The digest of everything so far."""
        return Sha256(self._digest.hexdigest())

    def pieces(self, glue: Sha256) -> tuple[Slice, ...]:
        """Where everything lies, once the glue object has a name."""
        return tuple(
            Slice(sha256=glue if sha256 is None else sha256, offset=offset, length=length)
            for sha256, offset, length in self._pieces
        )

    def _append(self, sha256: Sha256 | None, offset: int, data: bytes) -> None:
        if not data:
            return
        self._digest.update(data)
        self.size += len(data)
        if self._pieces:
            last, start, length = self._pieces[-1]
            if last == sha256 and start + length == offset:
                self._pieces[-1] = (last, start, length + len(data))
                return
        self._pieces.append((sha256, offset, len(data)))


class _Splice:
    """A gzip file under construction: header members between members with contents, and the tar's digest."""

    def __init__(self, blob: _Blob, sources: Sources) -> None:
        self.blob = blob
        self.diff_size = 0
        self._sources = sources
        self._tar_digest = hashlib.sha256()
        self._run = bytearray()

    def diff_id(self) -> Sha256:
        """The digest of the tar so far."""
        return Sha256(self._tar_digest.hexdigest())

    def tar(self, data: bytes) -> None:
        """Append a few tar bytes to the run of headers."""
        self._count(data)
        self._run += data
        if len(self._run) >= _RUN_LIMIT:
            self.flush()

    def flush(self) -> None:
        """End the run of headers: one gzip member, or nothing for an empty run."""
        if self._run:
            self.blob.write(gzip_member(bytes(self._run)))
            self._run.clear()

    def content(self, content: Content | None) -> None:
        """Append a file's content in the form that suits it."""
        match content:
            case None:
                return
            case WheelMember():
                self._wheel_member(content)
            case Slice() if content.length > _INLINE_LIMIT:
                self._stored(content.length, self._sources.chunks(content, STORED_LIMIT), content.sha256)
            case Slice():
                self.tar(self._sources.read(content))
            case bytes() if len(content) > _INLINE_LIMIT:
                self._stored(len(content), _blocks(content), None)
            case bytes():
                self.tar(content)

    def _wheel_member(self, content: WheelMember) -> None:
        member = content.member
        if member.size == 0 or member.method != DEFLATED:
            # What is stored in the zip has to be read once more, as a slice; wheels hold few such members.
            for _ in _verified_chunks(content, self._sources):
                pass
            self.content(Slice(sha256=content.wheel, offset=member.data_offset, length=member.size))
            return
        self.flush()
        self.blob.write(gzip_frame_head())
        for chunk in _verified(content, self._copied(content)):
            self._count(chunk)
        self.blob.write(gzip_frame_tail(member.crc32, member.size))

    def _copied(self, content: WheelMember) -> Iterator[bytes]:
        """The member's deflate stream, which goes into the blob as it is, chunk by chunk."""
        member = content.member
        compressed = Slice(sha256=content.wheel, offset=member.data_offset, length=member.compressed_size)
        for offset, chunk in self._sources.chunks(compressed):
            self.blob.refer(content.wheel, offset, chunk)
            yield chunk

    def _stored(self, length: int, blocks: Iterator[tuple[int, bytes]], sha256: Sha256 | None) -> None:
        """One gzip member of stored blocks; `sha256` names the object where the blocks lie already, if any."""
        self.flush()
        self.blob.write(gzip_frame_head())
        crc32, remaining = 0, length
        for offset, block in blocks:
            remaining -= len(block)
            self.blob.write(stored_block_head(len(block), last=not remaining))
            if sha256 is None:
                self.blob.write(block)
            else:
                self.blob.refer(sha256, offset, block)
            self._count(block)
            crc32 = zlib.crc32(block, crc32)
        self.blob.write(gzip_frame_tail(crc32, length))

    def _count(self, data: bytes) -> None:
        self._tar_digest.update(data)
        self.diff_size += len(data)


def _header(entry: Entry, mtime: int) -> bytes:
    return header(
        entry.path,
        entry.kind,
        size=content_size(entry.content),
        mode=entry.mode,
        target=entry.target,
        uid=entry.uid,
        gid=entry.gid,
        mtime=mtime,
    )


def _write_plain(content: Content | None, blob: _Blob, sources: Sources) -> None:
    match content:
        case None:
            return
        case bytes():
            blob.write(content)
        case Slice():
            _refer(content, blob, sources.stream(content.sha256))
        case WheelMember():
            for chunk in _verified_chunks(content, sources):
                blob.write(chunk)


def _refer(content: Slice, blob: _Blob, stream: BinaryIO) -> None:
    for offset, chunk in _chunks(content, stream):
        blob.refer(content.sha256, offset, chunk)


def _verified_chunks(content: WheelMember, sources: Sources) -> Iterator[bytes]:
    """The member's content in chunks of at most 1 MiB; raises `wheel-refused` at the end if it is not RECORD's."""
    member = content.member
    compressed = Slice(sha256=content.wheel, offset=member.data_offset, length=member.compressed_size)
    return _verified(content, (chunk for _, chunk in sources.chunks(compressed)))


def _verified(content: WheelMember, compressed: Iterator[bytes]) -> Iterator[bytes]:
    digest = hashlib.new(content.algorithm)
    for chunk in inflate_chunks(compressed, content.member, content.filename):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != content.digest_hex:
        raise NnenvError(
            "wheel-refused",
            f"{content.filename} holds a file that is not the one its RECORD lists",
            where=f"{content.filename}: {content.member.name}",
            because=[
                f"RECORD: {content.algorithm}={content.digest_hex}",
                f"content: {content.algorithm}={digest.hexdigest()}",
            ],
            fix=["choose another version, or ask the publisher for a wheel that is whole"],
        )


def _blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The bytes as (offset, block), no block longer than a stored block can be."""
    for offset in range(0, len(content), STORED_LIMIT):
        yield offset, content[offset : offset + STORED_LIMIT]


def _pieces(layer: Layer, objects: Objects) -> Iterator[bytes]:
    """The blob in the pieces of its recipe, none longer than 1 MiB."""
    with Sources(objects) as sources:
        for piece in layer.pieces:
            for _, chunk in sources.chunks(piece):
                yield chunk


def _gunzipped(chunks: Iterator[bytes], title: str) -> Iterator[bytes]:
    """What a gzip file of any number of members holds, in chunks of at most 1 MiB."""
    member = zlib.decompressobj(zlib.MAX_WBITS + 16)
    begun = False
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                begun = True
                plain = member.decompress(rest, _CHUNK)
                if plain:
                    yield plain
                rest = member.unconsumed_tail
                if member.eof:
                    rest = member.unused_data
                    member, begun = zlib.decompressobj(zlib.MAX_WBITS + 16), False
    except zlib.error as error:
        raise _corrupt(f"layer {title!r}", f"it is not the gzip file it was: {error}") from error
    if begun:
        raise _corrupt(f"layer {title!r}", "it ends inside a gzip member")


def _corrupt(what: str, rule: str) -> NnenvError:
    return NnenvError(
        "store-corrupt",
        f"{what} in the store is damaged: {rule}",
        fix=["run the command again; the store makes or fetches it anew"],
    )
