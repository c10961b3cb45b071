"""A hostile corpus: model files that break a rule of their format, each beside a benign twin that is taken."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nnenv.errors import NnenvError
from nnenv.formats.gguf import read_gguf
from nnenv.formats.keras_archive import read_keras
from nnenv.formats.model_file import read_model
from nnenv.formats.model_format import sniff
from nnenv.formats.protobuf import BYTES
from nnenv.formats.safetensors_file import read_safetensors
from nnenv.formats.saved_model import check_saved_model_files, read_saved_model
from nnenv.formats.torch_archive import read_torch

Reader = Callable[[Any, str], Any]


def safetensors(header: Mapping[str, Any] | bytes, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A file with that header, said to have `length` bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int = 0, end: int = 8, **more: Any) -> dict[str, Any]:
    """Two floats."""
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, end], **more}


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def keras(*layers: Mapping[str, Any], config: Mapping[str, Any] | None = None, **members: bytes) -> bytes:
    """A .keras file of these layers after an input."""
    first = {"module": "keras.layers", "class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, 4]}}
    inner = {"name": "m", "layers": [first, *layers], "input_layers": [["x", 0, 0]], "output_layers": [["d", 0, 0]]}
    whole = {"module": "keras", "class_name": "Functional", "config": inner, "registered_name": "Functional"}
    files = {
        "metadata.json": json.dumps({"keras_version": "3.8.0", "date_saved": "x"}).encode(),
        "config.json": json.dumps(config or whole).encode(),
        "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(32),
        **{name.replace("__", "."): data for name, data in members.items()},
    }
    return zipped(files)


DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d", "units": 3}}


def field(number: int, value: bytes | str) -> bytes:
    """A protobuf field of bytes."""
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | BYTES]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A protobuf number."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def saved_model(*operators: str, asset: str = "vocabulary.txt", function: str = "MatMul") -> bytes:
    """A saved_model.pb with these operators in its graph, one in its library, and an asset."""
    graph = b"".join(field(1, field(1, f"n{i}") + field(2, name)) for i, name in enumerate(operators or ("Relu",)))
    library = field(2, field(1, field(3, field(2, function))))
    port = field(1, "x:0") + bytes([2 << 3, 1]) + field(3, field(2, bytes([1 << 3]) + varint(4)))
    signature = field(1, "serving_default") + field(2, field(1, field(1, "x") + field(2, port)))
    meta = field(1, field(4, "serve") + field(5, "2.21.0"))
    return bytes([1 << 3, 1]) + field(
        2, meta + field(2, graph + library) + field(5, signature) + field(6, field(2, asset))
    )


def gguf(*, tensors: int = 1, keys: int = 1, offset: int = 0, version: int = 3, data: int = 64) -> bytes:
    """A GGUF file with one key and one tensor, and what it says of their number."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys)
    body = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    body += text("w") + struct.pack("<IQIQ", 1, 4, 0, offset)
    return (head + body).ljust(-(-len(head + body) // 32) * 32, b"\0") + bytes(data)


class Evil:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("true",)


BAD: dict[str, tuple[Reader, bytes, str]] = {
    "safetensors: a key twice": (read_safetensors, safetensors(b'{"a":{},"a":{}}'), "stands twice"),
    "safetensors: overlap": (
        read_safetensors, safetensors({"a": tensor(), "b": tensor(4, 12)}, bytes(12)), "overlaps another"
    ),
    "safetensors: hole": (read_safetensors, safetensors({"a": tensor(8, 16)}, bytes(16)), "leaves a hole"),
    "safetensors: bytes left": (read_safetensors, safetensors({"a": tensor()}, bytes(9)), "9 bytes are there"),
    "safetensors: a huge header": (read_safetensors, safetensors({}, length=1 << 63), "is said to have"),
    "safetensors: 200 MB of header": (read_safetensors, safetensors({}, length=200_000_000), "is said to have"),
    "safetensors: negative size": (read_safetensors, safetensors({"a": tensor(shape=[-2])}), "no whole numbers"),
    "safetensors: other size": (read_safetensors, safetensors({"a": tensor(shape=[3])}), "do not give"),
    "safetensors: unknown type": (read_safetensors, safetensors({"a": tensor(dtype="X")}), "unknown type"),
    "safetensors: no object": (read_safetensors, safetensors(b"[]"), "does not begin with {"),
    "safetensors: deep": (read_safetensors, safetensors(b'{"a":' * 100_000), ""),
    "keras: lambda": (read_keras, keras({**DENSE, "class_name": "Lambda"}), "holds a Lambda"),
    "keras: a function by bytes": (read_keras, keras({**DENSE, "config": {"f": {"class_name": "__lambda__"}}}), "code"),
    "keras: no weights": (read_keras, zipped({"metadata.json": b"{}", "config.json": b"{}"}), "holds no model.weights"),
    "keras: traversal": (read_keras, keras(DENSE, **{"../x": b""}), ".."),
    "keras: no zip": (read_keras, b"PK\x03\x04" + bytes(60), ""),
    "saved model: asset outside": (read_saved_model, saved_model(asset="../../etc/passwd"), "it holds .."),
    "saved model: absolute asset": (read_saved_model, saved_model(asset="/etc/passwd"), "absolute path"),
    "saved model: runs Python": (read_saved_model, saved_model("PyFunc"), "PyFunc"),
    "saved model: writes in a function": (read_saved_model, saved_model(function="WriteFile"), "WriteFile"),
    "torch: traversal": (read_torch, zipped({"m/data.pkl": pickle.dumps(1), "../x": b""}), "it holds .."),
    "torch: no PyTorch": (read_torch, zipped({"a": b"b"}), "none of PyTorch's"),
    "gguf: many tensors": (read_gguf, gguf(tensors=1 << 60), "is said to have"),
    "gguf: many keys": (read_gguf, gguf(keys=1 << 40), "is said to have"),
    "gguf: outside": (read_gguf, gguf(offset=1 << 20), "outside of the file"),
    "gguf: not aligned": (read_gguf, gguf(offset=7), "alignment allows"),
    "gguf: version": (read_gguf, gguf(version=9), "version 9"),
}  # fmt: skip

GOOD: dict[str, tuple[Reader, bytes]] = {
    "safetensors": (read_safetensors, safetensors({"a": tensor(), "__metadata__": {"format": "pt"}})),
    "safetensors of two": (read_safetensors, safetensors({"b": tensor(8, 16), "a": tensor()}, bytes(16))),
    "keras": (read_keras, keras(DENSE)),
    "saved model": (read_saved_model, saved_model("Relu", "MatMul")),
    "torch": (read_torch, zipped({"m/data.pkl": pickle.dumps([1]), "m/data/0": bytes(8)})),
    "gguf": (read_gguf, gguf()),
}


@pytest.mark.parametrize("name", BAD)
def test_the_hostile_are_refused(name: str) -> None:
    """With the file's name, the rule, and what to do."""
    reader, data, rule = BAD[name]
    with pytest.raises(NnenvError) as caught:
        reader(io.BytesIO(data), "net.bin")
    assert caught.value.code == "model-invalid"
    assert caught.value.where == "net.bin"
    assert rule in " ".join(caught.value.because)
    assert caught.value.fix


@pytest.mark.parametrize("name", GOOD)
def test_their_benign_twins_are_taken(name: str) -> None:
    """Files without the fault."""
    reader, data = GOOD[name]
    reader(io.BytesIO(data), "net.bin")


@pytest.mark.parametrize("name", GOOD)
def test_damage_gives_a_refusal_and_nothing_else(name: str) -> None:
    """Cut at every byte, and with seeded wrong bytes: taken or refused, never another exception."""
    reader, data = GOOD[name]
    generator = random.Random(20260101)
    damaged = [data[:length] for length in range(len(data))]
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        damaged.append(bytes(changed))
    refused = 0
    for one in damaged:
        try:
            reader(io.BytesIO(one), "net.bin")
        except NnenvError:
            refused += 1
    assert refused >= len(data) // 2


def test_a_pickle_is_told_by_what_it_would_import() -> None:
    """Raw, and inside of a .pt file; nothing is run."""
    raw = read_torch(io.BytesIO(pickle.dumps(Evil())), "net.pt")
    inside = read_torch(io.BytesIO(zipped({"m/data.pkl": pickle.dumps(Evil()), "m/version": b"3"})), "net.pt")
    for facts in (raw, inside):
        assert facts.kind == "pickle"
        assert facts.imports == ("posix.system",)
    facts = read_model(io.BytesIO(pickle.dumps(Evil(), protocol=4)), "net.pkl")
    assert (facts.format, facts.imports) == ("pickle", ("posix.system",))


def test_what_pytorch_writes_is_told_apart() -> None:
    """Exported programs, TorchScript, and exported programs with a pickle inside."""
    exported = zipped({"p/archive_format": b"pt2", "p/models/model.json": b"{}", "p/data/weights/w0": bytes(4)})
    assert read_model(io.BytesIO(exported), "net.pt2").imports is None
    script = zipped({"m/data.pkl": pickle.dumps(1), "m/constants.pkl": pickle.dumps(()), "m/code/x.py": b""})
    facts = read_model(io.BytesIO(script), "net.pt")
    assert facts.format == "torchscript"
    assert "deprecated" in facts.notice
    mixed = zipped({"p/models/model.json": b"{}", "p/data/sample_inputs/model.pt": pickle.dumps(Evil())})
    assert read_model(io.BytesIO(mixed), "net.pt2").imports == ("posix.system",)


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"], ""),
        (["saved_model.pb", "assets/vocabulary.txt", "fingerprint.pb"], ""),
        (["saved_model.pb", "../x"], "it holds .."),
        (["saved_model.pb", "run.sh"], "no file of a SavedModel"),
        (["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00002"], "not complete"),
        (["variables/variables.index"], "holds no saved_model.pb"),
    ],
)
def test_files_of_a_saved_model(names: list[str], rule: str) -> None:
    """Only what belongs to one, and all of it."""
    if not rule:
        check_saved_model_files(names, "net")
        return
    with pytest.raises(NnenvError) as caught:
        check_saved_model_files(names, "net")
    assert rule in caught.value.because[0]


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (GOOD["gguf"][1], "x", "gguf"),
        (GOOD["safetensors"][1], "x", "safetensors"),
        (GOOD["keras"][1], "x.keras", "keras"),
        (GOOD["torch"][1], "x.pt", "torch"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "x.keras", "hdf5"),
        (pickle.dumps(1), "x.bin", "pickle"),
        (b"\x08\x08", "x.onnx", "onnx"),
        (b"\x08\x01", "a/saved_model.pb", "saved-model"),
        (b"text", "x", ""),
    ],
)
def test_formats_are_told_by_bytes_then_by_name(data: bytes, name: str, kind: str) -> None:
    """What the first bytes say wins."""
    assert sniff(io.BytesIO(data), name) == kind
