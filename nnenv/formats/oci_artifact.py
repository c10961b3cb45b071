"""What the manifest of an artifact in a registry says of its files, strictly, for the conventions that models come in.

Sources: OCI image-spec 1.1 (manifest.md, image-index.md, annotations.md); CNCF model-spec 0.0.7 (media types and
`org.cncf.model.filepath`); KitOps' ModelKit 1.0; Docker's model-runner (media types); ORAS (title and unpack).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from nnenv.formats.oci import ANNOTATION_TITLE, MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER_TAR, MEDIA_MANIFEST
from nnenv.spec.artifact import Sha256

Packing = Literal["raw", "tar", "tar+gzip", "tar+zstd"]

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES: Final = (MEDIA_MANIFEST, MEDIA_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
"""What to ask a registry for."""

_ANNOTATION_LICENCE: Final = "org.opencontainers.image.licenses"
_PATHS: Final = ("org.cncf.model.filepath", "org.cnai.model.filepath", ANNOTATION_TITLE)
"""Annotations of a layer that name its file; the second is the first's older name."""
_UNPACK: Final = "io.deis.oras.content.unpack"
_ATTESTATION: Final = ("vnd.docker.reference.type", "attestation-manifest")
"""What BuildKit puts beside an image in its index."""
_IMAGE_CONFIGS: Final = (MEDIA_CONFIG, "application/vnd.docker.container.image.v1+json")
_TAR: Final = re.compile(r".*[./+]tar(?:[.+](gzip|zstd))?")
_WEIGHT: Final = re.compile(
    r"application/vnd\.(?:(?:cncf|cnai)\.model\.weight\.v1\..*|kitops\.modelkit\.model\.v1.*"
    r"|docker\.ai\.(?:gguf\.v[0-9]+|safetensors|dduf))"
)
_BESIDE: Final = re.compile(
    r"application/vnd\.(?:(?:cncf|cnai)\.model\.(?:weight\.config|doc|code|dataset)\..*"
    r"|kitops\.modelkit\.(?:modelpart|dataset|code|docs|prompt|config)\..*|docker\.ai\.(?!model\.file).*)"
)
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


class ArtifactError(ValueError):
    """A manifest that is none, or that does not name the one file that is wanted; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactLayer:
    """One blob of an artifact."""

    media_type: str
    digest: Sha256
    size: int
    """Bytes."""
    path: str
    """Of the file that the blob is, or that was packed, as annotations say; empty if they do not."""
    packing: Packing


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One artifact or image."""

    layers: tuple[ArtifactLayer, ...]
    image: bool
    """Its layers are a file system, in which later ones win."""
    licence: str
    """As its annotation says; empty if it does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A list of artifacts."""

    manifests: tuple[Sha256, ...]


def read_manifest(document: bytes) -> Manifest | Index:
    """What the document says; it is one of the two by what it holds, whatever it calls itself.

    Raises ArtifactError: no JSON, neither or both of the two (CVE-2021-41190), a digest that is not sha256.
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        raise ArtifactError("its manifest is not JSON") from None
    if not isinstance(value, dict) or value.get("schemaVersion") != 2:
        raise ArtifactError("its manifest is not of schema version 2")
    if ("layers" in value) == ("manifests" in value):
        raise ArtifactError("its manifest is neither that of an image nor an index, or both at once")
    if "manifests" in value:
        rows = [one for one in _objects(value["manifests"]) if not _is_attestation(one)]
        return Index(manifests=tuple(_digest(one) for one in rows))
    config = value.get("config")
    image = isinstance(config, dict) and config.get("mediaType") in _IMAGE_CONFIGS and "artifactType" not in value
    return Manifest(
        layers=tuple(_layer(one, image) for one in _objects(value["layers"])),
        image=image,
        licence=_line(_annotations(value).get(_ANNOTATION_LICENCE, "")),
    )


def choose_layers(manifest: Manifest, path: str) -> tuple[ArtifactLayer, ...]:
    """The layers in which to look for the file `path`, in order; without a path the one layer of weights.

    A raw layer is the file itself, and then the only one. Raises ArtifactError if no layer can hold the file, or if
    without a path there are several.
    """
    if not path:
        return (_only_file(manifest),)
    named = {layer.digest: layer for layer in manifest.layers if layer.packing == "raw" and layer.path == path}
    if len(named) == 1:
        return tuple(named.values())
    if named:
        raise ArtifactError(f"{len(named)} layers are called {path}")
    packed = [layer for layer in manifest.layers if layer.packing != "raw"]
    if not packed:
        raise ArtifactError(f"no layer is called {path}; there are {_listed(manifest.layers)}")
    # Of an image the topmost layer wins. Of an artifact the likeliest comes first: what it holds besides may be large.
    return tuple(reversed(packed) if manifest.image else sorted(packed, key=lambda layer: _remoteness(layer, path)))


def _remoteness(layer: ArtifactLayer, path: str) -> int:
    """Small where a file is to be expected in a layer."""
    if layer.path and (path == layer.path or path.startswith(f"{layer.path}/")):
        return 0
    if _WEIGHT.fullmatch(layer.media_type):
        return 1
    return 3 if _BESIDE.fullmatch(layer.media_type) else 2


def _only_file(manifest: Manifest) -> ArtifactLayer:
    if manifest.image:
        raise ArtifactError("it is an image, and no file of it is named")
    weights = [layer for layer in manifest.layers if _WEIGHT.fullmatch(layer.media_type)]
    files = weights or [layer for layer in manifest.layers if not _BESIDE.fullmatch(layer.media_type)]
    if len(files) == 1:
        return files[0]
    raise ArtifactError(f"it has not one file of weights but {len(files)}: {_listed(files)}")


def _listed(layers: Sequence[ArtifactLayer]) -> str:
    return ", ".join(layer.path or layer.media_type for layer in layers[:10]) or "none"


def _layer(value: Mapping[str, object], image: bool) -> ArtifactLayer:
    media_type, size = value.get("mediaType"), value.get("size")
    if not isinstance(media_type, str) or type(size) is not int or not 0 <= size < 1 << 53:
        raise ArtifactError("a layer of its manifest has no media type or size")
    annotations = _annotations(value)
    path = next((annotations[name] for name in _PATHS if name in annotations), "")
    return ArtifactLayer(
        media_type=_line(media_type),
        digest=_digest(value),
        size=size,
        path=_line(path).removeprefix("./").rstrip("/"),
        packing=_packing(media_type, annotations, image),
    )


def _packing(media_type: str, annotations: Mapping[str, str], image: bool) -> Packing:
    match = _TAR.fullmatch(media_type)
    if not match:
        return "raw"
    # `oras push` calls a plain file a layer of an image unless it is told better; a folder says that it is packed.
    if media_type == MEDIA_LAYER_TAR and not image and ANNOTATION_TITLE in annotations and _UNPACK not in annotations:
        return "raw"
    match match[1]:
        case "gzip":
            return "tar+gzip"
        case "zstd":
            return "tar+zstd"
        case _:
            return "tar"


def _objects(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ArtifactError("its manifest lists what are no descriptors")
    return value


def _digest(value: Mapping[str, object]) -> Sha256:
    digest = value.get("digest")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not match:
        raise ArtifactError("its manifest names a blob by something else than a sha256")
    return Sha256(match[1])


def _annotations(value: Mapping[str, object]) -> dict[str, str]:
    found = value.get("annotations")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _is_attestation(value: Mapping[str, object]) -> bool:
    name, kind = _ATTESTATION
    return _annotations(value).get(name) == kind


def _line(text: str) -> str:
    """Without control characters, and of bounded length: it reaches terminals and locks."""
    return "".join(character for character in text if character.isprintable())[:1024]
