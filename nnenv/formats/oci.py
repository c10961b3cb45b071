"""OCI documents in canonical bytes: image config, image manifest, image index, layout marker.

Source: OCI image-spec 1.1 (config.md, manifest.md, image-index.md, image-layout.md, annotations.md).
Their digests are the image's identity, so every value here comes from the caller and none from the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nnenv.spec.artifact import Sha256, sha256_of

MEDIA_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MEDIA_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
MEDIA_INDEX: Final = "application/vnd.oci.image.index.v1+json"
MEDIA_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
MEDIA_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

ANNOTATION_TITLE: Final = "org.opencontainers.image.title"
ANNOTATION_REF_NAME: Final = "org.opencontainers.image.ref.name"
ANNOTATION_CONTAINERD_NAME: Final = "io.containerd.image.name"

TOOL: Final = "nnenv"


def canonical_json(value: object) -> bytes:
    """`value` as JSON in the one form we write: keys sorted, no spaces, UTF-8; NaN and infinities are refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


OCI_LAYOUT: Final = canonical_json({"imageLayoutVersion": "1.0.0"})
"""Content of the file `oci-layout`."""


def document_digest(document: bytes) -> Sha256:
    """The sha256 of a document's bytes."""
    return sha256_of(hashlib.sha256(document).hexdigest())


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigLayer:
    """One layer as the image config states it."""

    diff_id: Sha256
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestLayer:
    """One layer as the image manifest states it."""

    media_type: str
    digest: Sha256
    size: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What a container of the image runs, and as whom."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    """`uid` or `uid:gid`, numeric so that no passwd lookup decides it."""
    working_directory: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)


def image_config(
    *, architecture: str, created: str, layers: Sequence[ConfigLayer], execution: Execution, system: str = "linux"
) -> bytes:
    """The image config: its digest is what Docker calls the image ID. History has one entry per layer.

    ValueError if the working directory is not an absolute path without `.` and `..`.
    """
    _check_working_directory(execution.working_directory)
    return canonical_json(
        {
            "architecture": architecture,
            "os": system,
            "created": created,
            "config": _execution_document(execution),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
            "history": [{"created": created, "created_by": f"{TOOL}: {layer.title}"} for layer in layers],
        }
    )


def image_manifest(
    *,
    config_digest: Sha256,
    config_size: int,
    layers: Sequence[ManifestLayer],
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """The image manifest; `mediaType` is always there, so no reader mistakes it for an index (CVE-2021-41190)."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": _descriptor(MEDIA_CONFIG, config_digest, config_size),
        "layers": [
            _descriptor(layer.media_type, layer.digest, layer.size) | {"annotations": {ANNOTATION_TITLE: layer.title}}
            for layer in layers
        ],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return canonical_json(document)


def image_index(*, manifest_digest: Sha256, manifest_size: int, architecture: str, reference: str) -> bytes:
    """The `index.json` of a layout that holds one image, named `reference` (`name:tag`)."""
    name, tag = split_reference(reference)
    descriptor = _descriptor(MEDIA_MANIFEST, manifest_digest, manifest_size) | {
        "platform": {"architecture": architecture, "os": "linux"},
        # Tools that address an image inside a layout use the tag; containerd takes the full name.
        "annotations": {ANNOTATION_REF_NAME: tag, ANNOTATION_CONTAINERD_NAME: f"{_familiar_to_full(name)}:{tag}"},
    }
    return canonical_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [descriptor]})


def split_reference(reference: str) -> tuple[str, str]:
    """(name, tag) of `name:tag`; the tag defaults to `latest`. A colon before the last slash belongs to a port."""
    name, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        return reference, "latest"
    return name, tag


def _familiar_to_full(name: str) -> str:
    """The name as containerd stores it: Docker's short names stand for its default domain (distribution/reference)."""
    domain, slash, _ = name.partition("/")
    if slash and ("." in domain or ":" in domain or domain == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _descriptor(media_type: str, digest: Sha256, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _execution_document(execution: Execution) -> dict[str, object]:
    document: dict[str, object] = {"WorkingDir": execution.working_directory}
    if execution.environment:
        document["Env"] = [f"{name}={value}" for name, value in sorted(execution.environment.items())]
    if execution.entrypoint:
        document["Entrypoint"] = list(execution.entrypoint)
    if execution.command:
        document["Cmd"] = list(execution.command)
    if execution.user:
        document["User"] = execution.user
    if execution.labels:
        document["Labels"] = dict(execution.labels)
    return document


def _check_working_directory(path: str) -> None:
    # A relative or climbing WorkingDir has been a way out of the container (CVE-2024-21626).
    if not path.startswith("/") or any(part in (".", "..") for part in path.split("/")):
        raise ValueError(f"not an absolute path without '.' and '..': {path!r}")
