"""`nnenv build`: from model.lock to an image."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from nnenv.cli.arguments import Parser, add_frozen, add_target, describe, targets_of
from nnenv.cli.output import emit, notice, palette
from nnenv.cli.render import Palette, bytes_text, counted, table, took
from nnenv.spec.names import LOCK_NAME
from nnenv.workflows.building import Built, Output, build_targets
from nnenv.workflows.healing import healed
from nnenv.workflows.session import Session


def add_arguments(parser: Parser, environment: Mapping[str, str]) -> None:
    """The arguments of `nnenv build`."""
    describe(
        parser,
        "Build the image of each target from model.lock, without daemon, root or resolving. The first build notes the\n"
        "image digest in model.lock; a later one that differs fails and names the layer.",
        "  nnenv build --target cpu                      # into the Docker engine, if one answers\n"
        "  nnenv build --target cpu --output oci:cpu.tar # one tar for `docker load` and OCI tools",
    )
    add_target(parser, environment)
    add_frozen(parser, environment)
    parser.add_argument(
        "-o", "--output", action="append", metavar="OUT", default=environment.get("NNENV_OUTPUT", "").split(),
        help="docker, oci:FILE or dir:PATH; may be repeated (default: docker if an engine answers)",
    )  # fmt: skip
    parser.add_argument(
        "--accept-new-image", action="store_true", help="note the digest that comes out, even if the lock has another"
    )


def run(session: Session, arguments: argparse.Namespace) -> int:
    """Build and deliver, and print digests and places."""
    outputs = [Output.parse(text) for text in arguments.output]
    built = healed(
        lambda: build_targets(
            session,
            targets_of(arguments),
            outputs,
            frozen=arguments.frozen,
            accept_new_image=arguments.accept_new_image,
        ),
        notice(arguments),
    )
    emit(arguments, "build", build_json(built), lambda: build_text(built, palette(arguments), session.elapsed))
    return 0


def build_json(built: Sequence[Built]) -> dict[str, Any]:
    """What `nnenv build --json` prints."""
    return {
        "ok": True,
        "images": [
            {
                "target": image.target,
                "reference": image.reference,
                "manifest": f"sha256:{image.image.manifest}",
                "config": f"sha256:{image.image.config}",
                "expected": image.expected,
                "layers": [
                    {"title": layer.title, "digest": f"sha256:{layer.digest}", "bytes": layer.size}
                    for layer in image.image.layers
                ],
                "left_out": {"files": image.left_out[0], "bytes": image.left_out[1]},
                "delivered": list(image.delivered),
            }
            for image in built
        ],
    }


def build_text(built: Sequence[Built], palette: Palette, seconds: float) -> str:
    """What `nnenv build` prints: a line a target, then its whole digests and where it is."""
    rows = [("target", "image", "layers", "size", "status")]
    for image in built:
        size = bytes_text(sum(layer.size for layer in image.image.layers))
        # The last column, since the escapes of colours have no width.
        status = palette("green", "as locked") if image.expected else palette("yellow", f"noted in {LOCK_NAME}")
        rows.append((image.target, image.reference, str(len(image.image.layers)), size, status))
    text = table(rows, right=frozenset({2, 3}))
    for image in built:
        places = image.delivered or ("the store only (no Docker engine answers; --output oci:FILE writes a tar)",)
        text += f"{palette('bold', image.target)}\n"
        text += f"  manifest  sha256:{image.image.manifest}\n  image ID  sha256:{image.image.config}\n"
        files, unpacked = image.left_out
        if files:
            text += f"  left out  {counted(files, 'file')} of CUDA that nothing here needs, {bytes_text(unpacked)}\n"
        text += "".join(f"  in        {place}\n" for place in places)
    return f"{text}built {counted(len(built), 'image')} {took(seconds)}\n"
