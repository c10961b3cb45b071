"""Which format a model file is in, by its first bytes; its name decides only what bytes leave open."""

from __future__ import annotations

from typing import BinaryIO, Final

from nnenv.formats.pickles import is_raw_pickle

_BY_NAME: Final = {
    ".onnx": "onnx", ".ort": "ort", ".safetensors": "safetensors", ".keras": "keras", ".pb": "saved-model",
    ".gguf": "gguf", ".h5": "hdf5", ".hdf5": "hdf5", ".pt2": "torch", ".pt": "torch", ".pth": "torch", ".ckpt": "torch",
    ".pkl": "pickle", ".pickle": "pickle", ".joblib": "pickle",
}  # fmt: skip


def sniff(stream: BinaryIO, filename: str) -> str:
    """`onnx`, `safetensors`, `keras`, `saved-model`, `torch`, `pickle`, `gguf`, `hdf5`, `ort`, or "" if nothing tells.

    `stream` (seekable) is at its begin afterwards.
    """
    by_name = next((kind for end, kind in _BY_NAME.items() if filename.lower().endswith(end)), "")
    stream.seek(0)
    head = stream.read(16)
    stream.seek(0)
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "keras" if by_name == "keras" else "torch"
    if is_raw_pickle(stream):
        return "torch" if by_name == "torch" else "pickle"
    if by_name in {"keras", "torch", "gguf", "hdf5", "safetensors"}:
        return by_name
    return "saved-model" if filename.endswith("saved_model.pb") else by_name
