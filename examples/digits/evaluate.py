"""Accuracy, and precision and recall of each digit, on the held-out images; needs numpy and onnxruntime."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def held_out(path: Path) -> tuple[Array, Array]:
    """Images [n, 1, 8, 8] and labels [n] of the .npz file at `path`; exits with an error if it holds none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {path} holds no held-out images: {error}\nfix: write it again with train.py")
    if images.shape != (len(labels), 1, 8, 8) or images.dtype != np.float32 or not len(labels):
        sys.exit(f"error: {path} holds no float32 images [n, 1, 8, 8] with n labels\nfix: write it again with train.py")
    return images, labels


def predictions(model: Path, images: Array) -> Array:
    """The digit with the largest logit for each image, by onnxruntime on the CPU."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        sys.exit("error: evaluation needs the Python package onnxruntime\nfix: install onnxruntime")
    try:
        session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
        logits: Array = session.run(["logits"], {"image": images})[0]
    except OSError as error:
        sys.exit(f"error: {model} cannot be read: {error.strerror}\nfix: write it again with train.py")
    except Exception as error:  # onnxruntime's errors have no common class but this
        sys.exit(f"error: {model} is not the digits network: {error}\nfix: write it again with train.py")
    return np.asarray(logits.argmax(axis=1))


def table(labels: Array, predicted: Array) -> str:
    """Accuracy, then one line a digit: precision, recall (`-` where nothing was predicted or asked), and images."""
    right = int((labels == predicted).sum())
    lines = [f"accuracy {right / len(labels):.4f} ({right} of {len(labels)})", "", "digit  precision  recall  images"]
    for digit in range(10):
        both = int(((labels == digit) & (predicted == digit)).sum())
        asked, answered = int((labels == digit).sum()), int((predicted == digit).sum())
        lines.append(f"{digit:5}  {_ratio(both, answered):>9}  {_ratio(both, asked):>6}  {asked:6}")
    return "\n".join(lines)


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def main(arguments: list[str] | None = None) -> None:
    """Print the table for the model and the images beside this file, or for those named."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Measure the digits network on its held-out images.")
    parser.add_argument("--model", type=Path, default=here / "model.onnx", help="default: model.onnx beside me")
    parser.add_argument("--data", type=Path, default=here / "data/held_out.npz", help="default: data/held_out.npz")
    options = parser.parse_args(arguments)
    images, labels = held_out(options.data)
    print(table(labels, predictions(options.model, images)))


if __name__ == "__main__":
    main()
