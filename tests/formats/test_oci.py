"""OCI documents: canonical bytes, and the fields that readers rely on."""

from __future__ import annotations

import json

import pytest

from nnenv.formats.oci import (
    OCI_LAYOUT,
    ConfigLayer,
    Execution,
    ManifestLayer,
    canonical_json,
    document_digest,
    image_config,
    image_index,
    image_manifest,
    split_reference,
)
from nnenv.spec.artifact import Sha256

DIGEST = Sha256("ab" * 32)


def config(execution: Execution | None = None) -> bytes:
    """A config of two layers."""
    return image_config(
        architecture="arm64",
        created="2025-01-02T03:04:05Z",
        layers=[ConfigLayer(diff_id=DIGEST, title="os"), ConfigLayer(diff_id=Sha256("cd" * 32), title="model")],
        execution=execution or Execution(),
    )


def test_canonical_json_is_one_form() -> None:
    """Keys sort, nothing is padded, text stays UTF-8, and what JSON cannot say is refused."""
    assert canonical_json({"b": [1, True, None], "a": "é"}) == '{"a":"é","b":[1,true,null]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_layout_marker() -> None:
    """The marker says the only layout version there is."""
    assert OCI_LAYOUT == b'{"imageLayoutVersion":"1.0.0"}'


def test_config_has_known_bytes() -> None:
    """The whole config, so that no change of the image ID goes unseen."""
    execution = Execution(
        entrypoint=("/opt/nnenv/bin/python3",),
        command=("-V",),
        environment={"PATH": "/usr/bin", "A": "1"},
        user="1000:1000",
        working_directory="/app",
        labels={"z": "1", "a": "2"},
    )
    assert config(execution).decode() == (
        '{"architecture":"arm64","config":{"Cmd":["-V"],"Entrypoint":["/opt/nnenv/bin/python3"],'
        '"Env":["A=1","PATH=/usr/bin"],"Labels":{"a":"2","z":"1"},"User":"1000:1000","WorkingDir":"/app"},'
        '"created":"2025-01-02T03:04:05Z","history":['
        '{"created":"2025-01-02T03:04:05Z","created_by":"nnenv: os"},'
        '{"created":"2025-01-02T03:04:05Z","created_by":"nnenv: model"}],"os":"linux",'
        '"rootfs":{"diff_ids":["sha256:' + "ab" * 32 + '","sha256:' + "cd" * 32 + '"],"type":"layers"}}'
    )


def test_history_has_one_entry_per_layer() -> None:
    """Tools pair history with layers by position, so their numbers are equal."""
    document = json.loads(config())
    assert len(document["history"]) == len(document["rootfs"]["diff_ids"]) == 2
    assert not any("empty_layer" in entry for entry in document["history"])


@pytest.mark.parametrize("path", ["", "app", "/app/..", "/./app", "../proc/self/fd/7"])
def test_working_directory_is_absolute_and_plain(path: str) -> None:
    """A relative or climbing working directory never enters a config."""
    with pytest.raises(ValueError, match="absolute"):
        config(Execution(working_directory=path))


def test_manifest_states_media_types_and_titles() -> None:
    """Manifest and descriptors carry media types, digests, sizes and the layer's title."""
    manifest = json.loads(
        image_manifest(
            config_digest=DIGEST,
            config_size=7,
            layers=[ManifestLayer(media_type="application/x", digest=DIGEST, size=9, title="os")],
            annotations={"org.example": "1"},
        )
    )
    assert manifest == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{DIGEST}",
            "size": 7,
        },
        "layers": [
            {
                "mediaType": "application/x",
                "digest": f"sha256:{DIGEST}",
                "size": 9,
                "annotations": {"org.opencontainers.image.title": "os"},
            }
        ],
        "annotations": {"org.example": "1"},
    }


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("app:1", "docker.io/library/app:1"),
        ("team/app:1", "docker.io/team/app:1"),
        ("registry.example:5000/app:1", "registry.example:5000/app:1"),
        ("localhost/app:1", "localhost/app:1"),
    ],
)
def test_index_names_the_image_for_both_kinds_of_reader(reference: str, full: str) -> None:
    """Layout tools find the tag, containerd the full name, and everybody the platform."""
    index = json.loads(image_index(manifest_digest=DIGEST, manifest_size=5, architecture="amd64", reference=reference))
    (descriptor,) = index["manifests"]
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert descriptor["annotations"] == {
        "io.containerd.image.name": full,
        "org.opencontainers.image.ref.name": "1",
    }
    assert descriptor["platform"] == {"architecture": "amd64", "os": "linux"}


def test_reference_parts() -> None:
    """A port is not a tag, and a missing tag is `latest`."""
    assert split_reference("a/b:c") == ("a/b", "c")
    assert split_reference("host:5000/b") == ("host:5000/b", "latest")
    assert split_reference("b") == ("b", "latest")


def test_digest_is_sha256_of_the_bytes() -> None:
    """Documents are addressed by what they are."""
    assert document_digest(b"{}") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
