"""Models from registries, over real sockets and from a real registry: locked once by a tag, then fetched by digest."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnenv.formats.oci import MEDIA_INDEX, MEDIA_LAYER_GZIP, MEDIA_LAYER_TAR, MEDIA_MANIFEST
from tests.e2e.registry_world import (
    HTPASSWD,
    WEIGHT,
    Layer,
    Registry,
    TokenServer,
    basic,
    digest_of,
    docker_config,
    image_of,
    index_of,
    manifest_of,
    registry,
    tar_of,
)
from tests.e2e.test_model_sources import DIGEST, MODEL, OTHER, declare, locked, wiped
from tests.e2e.world import User, World
from tests.support.flaky_server import FlakyServer

README = Layer("application/vnd.cncf.model.doc.v1.raw", b"# A net", {"org.cncf.model.filepath": "README.md"})


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """An empty project in a world that has what images with models need."""
    world.offer("numpy", "2.0")
    world.offer("onnxruntime", "1.20")
    (tmp_path / "project").mkdir()
    return world.user(tmp_path / "project", tmp_path / "store")


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that anybody may read and write."""
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


def error_of(user: User, *command: str) -> dict[str, Any]:
    """The one error of a command that is refused."""
    (error,) = user.refused(*command, "--json").json()["errors"]
    return dict(error)


def object_path(user: User, digest: str = DIGEST) -> Path:
    """Where the store has it."""
    return user.store / "objects" / "sha256" / digest[:2] / digest


def weight(data: bytes = MODEL, path: str = "net.onnx") -> Layer:
    """A raw layer of weights, as ModelPack has it."""
    return Layer(WEIGHT, data, {"org.cncf.model.filepath": path})


@pytest.mark.registry
def test_a_tag_becomes_a_manifest(user: User, open_registry: Registry) -> None:
    """The lock keeps the digest and no host; the tag moves on and goes, and what was locked is fetched all the same."""
    licence = {"org.opencontainers.image.licenses": "MIT"}
    first = open_registry.artifact("zoo/net", "v1", README, weight(), annotations=licence)
    source = f"oci:{open_registry.host}/zoo/net:v1"
    declare(user, f'source = "{source}"')
    user.must("lock")
    model, text = locked(user), user.lock_path.read_text()
    assert (model.file, model.revision, model.licence) == (DIGEST, first, "MIT")
    artifact = user.lock().by_digest[model.file]
    place = hashlib.sha256(f"{open_registry.host}/zoo/net".encode()).hexdigest()[:16]
    assert (artifact.origin, artifact.filename) == (f"oci:{place}@{first}", "net.onnx")
    assert "127.0.0.1" not in text
    assert "://" not in text
    user.must("lock", "--check")
    second = open_registry.artifact("zoo/net", "v1", weight(OTHER))
    user.must("lock")
    assert locked(user).revision == first
    wiped(user)
    assert error_of(user, "fetch", "--offline")["code"] == "offline"
    user.run("fetch")  # the .debs of this world are on paper alone, so it does not end well
    assert object_path(user).exists()
    user.must("lock", "-P", "net")
    assert (locked(user).file, locked(user).revision) == (hashlib.sha256(OTHER).hexdigest(), second)
    # By digest, and with a digest that is gone.
    declare(user, f'source = "oci:{open_registry.host}/zoo/net@{first}#net.onnx"')
    user.must("lock")
    assert locked(user).revision == first
    open_registry.delete("zoo/net", first)
    wiped(user)
    gone = error_of(user, "fetch")
    assert (gone["code"], gone["because"]) == ("model-unreachable", [f"the registry has no manifest {first}"])
    declare(user, f'source = "oci:{open_registry.host}/zoo/net:never"')
    assert error_of(user, "lock")["because"] == ["the registry has no manifest never"]


KITOPS = "application/vnd.kitops.modelkit.model.v1.tar"
PACKED = {"deep/net.onnx": MODEL, "deep/config.json": b"{}"}


@pytest.mark.registry
@pytest.mark.parametrize(
    ("path", "layers"),
    [
        ("", [README, weight()]),
        ("net.onnx", [README, weight(), weight(OTHER, "other.onnx")]),
        ("", [Layer("application/vnd.docker.ai.safetensors", MODEL), Layer("application/vnd.docker.ai.license", b"x")]),
        ("net.onnx", [Layer(MEDIA_LAYER_TAR, MODEL, {"org.opencontainers.image.title": "net.onnx"}), README]),
        ("", [Layer("application/octet-stream", MODEL, {"org.opencontainers.image.title": "net.onnx"}), README]),
        ("deep/net.onnx", [Layer(KITOPS, tar_of({"deep/net.onnx": OTHER[:9]})), Layer(KITOPS, tar_of(PACKED))][1:]),
        ("", [Layer(f"{KITOPS}+gzip", tar_of(PACKED, zipped=True))]),
        (
            "deep/net.onnx",
            [README, Layer("application/vnd.cncf.model.weight.v1.tar", tar_of(PACKED, form=tarfile.GNU_FORMAT))],
        ),
    ],
    ids=["modelpack", "of-several", "model-runner", "oras-default", "oras", "kitops", "kitops-gzip", "modelpack-tar"],
)
def test_the_forms_that_models_are_pushed_in(
    user: User, open_registry: Registry, request: pytest.FixtureRequest, path: str, layers: list[Layer]
) -> None:
    """Raw layers by their names, or the only one; members of tar layers."""
    name = f"forms/{request.node.callspec.id}"
    open_registry.artifact(name, "latest", *layers)
    declare(user, f'source = "oci:{open_registry.host}/{name}:latest{path and "#" + path}"', f'sha256 = "{DIGEST}"')
    user.must("lock")
    assert locked(user).file == DIGEST
    wiped(user)
    user.run("fetch")
    assert object_path(user).exists()


@pytest.mark.registry
def test_a_file_of_an_image(user: User, open_registry: Registry) -> None:
    """The topmost layer that has it wins, a whiteout removes it; an index of one image is followed."""
    low = Layer(MEDIA_LAYER_TAR, tar_of({"opt/net.onnx": OTHER, "opt/low.onnx": MODEL, "link/x": b"->y"}))
    high = Layer(
        MEDIA_LAYER_GZIP, tar_of({"opt/net.onnx": MODEL}, zipped=True), {"org.opencontainers.image.title": "m"}
    )
    top = Layer(MEDIA_LAYER_TAR, tar_of({"etc/x": b"1", "opt/.wh.low.onnx": b""}))
    for layer in (low, high, top):
        open_registry.blob("images/net", layer.data)
    open_registry.blob("images/net", b"{}")
    image, attestation = image_of(low, high, top), manifest_of(Layer("application/vnd.in-toto+json", b"{}"))
    other = image_of(low)
    for document in (image, attestation, other):
        open_registry.push("images/net", document)
    open_registry.push("images/net", index_of(image, attestation=attestation), "one", MEDIA_INDEX)
    open_registry.push("images/net", index_of(image, other), "two", MEDIA_INDEX)
    place = f"oci:{open_registry.host}/images/net"
    declare(user, f'source = "{place}:one#opt/net.onnx"')
    user.must("lock")
    assert (locked(user).file, locked(user).revision) == (DIGEST, digest_of(image))
    for source, because in (
        (f"{place}:two#opt/net.onnx", "it is an index of 2 artifacts"),
        (f"{place}:one#opt/low.onnx", "removes opt/low.onnx"),
        (f"{place}:one#opt/none.onnx", "has no opt/none.onnx"),
        (f"{place}:one#link/x", "is in it as a link to y"),
        (f"{place}:one", "it is an image, and no file of it is named"),
    ):
        declare(user, f'source = "{source}"')
        error = error_of(user, "lock")
        assert (error["code"], error["where"]) == ("model-unreachable", source)
        assert because in error["because"][-1]


@pytest.mark.registry
def test_several_files_and_no_path(user: User, open_registry: Registry) -> None:
    """Refused with their names."""
    open_registry.artifact("zoo/several", "v1", weight(), weight(OTHER, "b.onnx"))
    declare(user, f'source = "oci:{open_registry.host}/zoo/several:v1"')
    assert error_of(user, "lock")["because"] == ["it has not one file of weights but 2: net.onnx, b.onnx"]
    declare(user, f'source = "oci:{open_registry.host}/zoo/several:v1#c.onnx"')
    assert error_of(user, "lock")["because"] == ["no layer is called c.onnx; there are net.onnx, b.onnx"]


@pytest.mark.registry
def test_a_password(user: User, tmp_path: Path) -> None:
    """A registry with basic authentication is read by what `docker login` left behind."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with registry(tmp_path, f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}\n") as made:
        opened = Registry(host=made.host, authorization=f"Basic {basic()}")
        opened.artifact("team/net", "v1", weight())
        declare(user, f'source = "oci:{made.host}/team/net:v1"')
        error = error_of(user, "lock")
        assert error["code"] == "model-unreachable"
        assert f"docker login {made.host}" in error["fix"][0]
        for auth in (basic(password="wrong"), "%%%", ""):
            config = docker_config(tmp_path / "docker", made.host, auth)
            assert error_of(user.with_environment(DOCKER_CONFIG=str(config)), "lock")["code"] == "model-unreachable"
        config = docker_config(tmp_path / "docker", f"https://{made.host}/v1/", basic())
        user.with_environment(DOCKER_CONFIG=str(config)).must("lock")
        assert locked(user).file == DIGEST
    assert nothing_holds(user, b"s3cret-word", basic().encode())


def nothing_holds(user: User, *secrets: bytes) -> bool:
    """No file of project and store holds one of them."""
    files = [path for top in (user.project, user.store) for path in top.rglob("*") if path.is_file()]
    return not any(secret in path.read_bytes() for path in files for secret in secrets)


@pytest.mark.registry
def test_tokens(user: User, tmp_path: Path) -> None:
    """A registry that wants tokens gives them to anybody for what is public, and for the rest to who has a password."""
    with TokenServer(tmp_path) as tokens, registry(tmp_path, tokens.auth) as made:
        for name in ("public/net", "team/net"):
            token = tokens.token(name, ["pull", "push"])
            Registry(host=made.host, authorization=f"Bearer {token}").artifact(name, "v1", weight())
        declare(user, f'source = "oci:{made.host}/public/net:v1"')
        user.must("lock")
        assert tokens.asked == [("repository:public/net:pull", "")]
        declare(user, f'source = "oci:{made.host}/team/net:v1"')
        assert error_of(user, "lock")["code"] == "model-unreachable"
        config = docker_config(tmp_path / "docker", made.host, basic())
        user.with_environment(DOCKER_CONFIG=str(config)).must("lock")
        assert tokens.asked[-1] == ("repository:team/net:pull", f"Basic {basic()}")
        assert locked(user).file == DIGEST
    assert nothing_holds(user, b"s3cret-word", basic().encode())


DOCUMENT = manifest_of(weight())
MANIFEST_PATH = "/v2/zoo/net/manifests/v1"
PINNED_PATH = f"/v2/zoo/net/manifests/{digest_of(DOCUMENT)}"
BLOB_PATH = f"/v2/zoo/net/blobs/sha256:{DIGEST}"


@pytest.fixture
def flaky() -> Iterator[FlakyServer]:
    """What a registry answers, and breaks."""
    with FlakyServer({MANIFEST_PATH: DOCUMENT, PINNED_PATH: DOCUMENT, BLOB_PATH: MODEL}) as made:
        yield made


def source_at(server: FlakyServer, reference: str = ":v1") -> str:
    """The model in that registry."""
    return f"oci:{server.url('').removeprefix('http://')}/zoo/net{reference}"


@pytest.mark.parametrize("fault", ["cut", "reset", "500", "short-length"])
def test_faults_that_pass(user: User, flaky: FlakyServer, fault: str) -> None:
    """Of the manifest and of the blob, which is whole in the end."""
    if fault != "short-length":  # a document that says it is whole is believed to be
        flaky.break_(MANIFEST_PATH, fault)
    flaky.break_(BLOB_PATH, fault)
    declare(user, f'source = "{source_at(flaky)}"')
    user.must("lock")
    assert locked(user).file == DIGEST


def test_bytes_that_were_changed(user: User, flaky: FlakyServer) -> None:
    """A blob and a manifest that are not what their digests say, a digest of model.toml that is not theirs."""
    declare(user, f'source = "{source_at(flaky)}"')
    flaky.files[BLOB_PATH] = OTHER
    error = error_of(user, "lock")
    assert error["code"] == "digest-mismatch"
    assert DIGEST in str(error)
    assert len(OTHER) != len(MODEL) or hashlib.sha256(OTHER).hexdigest() in str(error)
    assert not object_path(user).exists()
    declare(user, f'source = "{source_at(flaky, f"@{digest_of(DOCUMENT)}")}"')
    changed = manifest_of(weight(OTHER))
    flaky.files[PINNED_PATH] = changed
    error = error_of(user, "lock")
    assert error["code"] == "digest-mismatch"
    assert error["because"] == [f"wanted {digest_of(DOCUMENT)[7:]}", f"found  {digest_of(changed)[7:]}"]
    flaky.files[PINNED_PATH] = DOCUMENT
    declare(user, f'source = "{source_at(flaky)}"', f'sha256 = "{"0" * 64}"')
    assert error_of(user, "lock")["because"] == [f"wanted {'0' * 64}", f"found  {DIGEST}"]
    assert not user.lock_path.exists()


@pytest.mark.parametrize("status", ["401", "403", "404", "429"])
@pytest.mark.parametrize("path", [MANIFEST_PATH, BLOB_PATH], ids=["manifest", "blob"])
def test_refusals(user: User, flaky: FlakyServer, status: str, path: str) -> None:
    """One error that names the source, and the other place is asked."""
    flaky.break_for_ever(path, status)
    declare(user, f'source = "{source_at(flaky)}"')
    error = error_of(user.with_environment(NNENV_HTTP_RETRIES="0"), "lock")
    assert (error["code"], error["where"]) == ("model-unreachable", source_at(flaky))


@pytest.mark.registry
def test_the_second_place(user: User, flaky: FlakyServer, open_registry: Registry) -> None:
    """When the first registry is gone: at the lock, and for bytes that the lock knows."""
    open_registry.artifact("mirror/net", "v1", README, weight())
    declare(user, f'sources = ["{source_at(flaky)}", "oci:{open_registry.host}/mirror/net:v1#net.onnx"]')
    user.must("lock")
    assert locked(user).revision == digest_of(DOCUMENT)
    wiped(user)
    flaky.break_for_ever(PINNED_PATH, "404")
    user.run("fetch")
    assert object_path(user).exists()
    wiped(user)
    shutil.rmtree(user.store)
    flaky.break_for_ever(MANIFEST_PATH, "404")
    user.must("lock", "-P", "net")
    assert locked(user).revision != digest_of(DOCUMENT)


def test_what_a_registry_redirects_to_sees_no_credentials(user: User, flaky: FlakyServer, tmp_path: Path) -> None:
    """Blobs that lie elsewhere; a challenge from there is not answered."""
    config = docker_config(tmp_path / "docker", source_at(flaky).removeprefix("oci:").partition("/")[0], basic())
    here = user.with_environment(DOCKER_CONFIG=str(config), NNENV_HTTP_RETRIES="0")
    with FlakyServer({"/bytes": MODEL}) as elsewhere:
        flaky.extra["WWW-Authenticate"] = 'Basic realm="r"'
        elsewhere.extra["WWW-Authenticate"] = 'Basic realm="r"'
        flaky.break_(MANIFEST_PATH, "401")
        flaky.break_for_ever(BLOB_PATH, f"redirect:{elsewhere.url('/bytes')}")
        declare(user, f'source = "{source_at(flaky)}"')
        here.must("lock")
        asked = [flaky.requests(MANIFEST_PATH)[-1], *flaky.requests(BLOB_PATH)]
        assert {request.headers.get("authorization") for request in asked} == {f"Basic {basic()}"}
        assert [request.headers.get("authorization") for request in elsewhere.requests("/bytes")] == [None]
        flaky.break_for_ever(MANIFEST_PATH, f"redirect:{elsewhere.url('/bytes')}")
        elsewhere.break_for_ever("/bytes", "401")
        assert error_of(here, "lock", "-P", "net")["code"] == "model-unreachable"
        assert all("authorization" not in request.headers for request in elsewhere.requests("/bytes"))


@pytest.mark.parametrize(
    ("document", "because"),
    [
        (b"<html>", "its manifest is not JSON"),
        (b'{"schemaVersion": 1}', "its manifest is not of schema version 2"),
        (b'{"schemaVersion": 2, "layers": [], "manifests": []}', "or both at once"),
        (b'{"schemaVersion": 2, "layers": []}', "not one file of weights but 0"),
        (b'{"schemaVersion": 2, "layers": [1]}', "what are no descriptors"),
        (b'{"schemaVersion": 2, "layers": [{"mediaType": "x", "size": 1, "digest": "md5:0"}]}', "something else than"),
        (b'{"schemaVersion": 2, "layers": [{"mediaType": "x", "size": true}]}', "no media type or size"),
        (b"[" * 100_000, "its manifest is not JSON"),
    ],
)
def test_what_is_no_manifest(user: User, flaky: FlakyServer, document: bytes, because: str) -> None:
    """Whatever a registry answers, one error says why it is of no use."""
    flaky.files[MANIFEST_PATH] = document
    declare(user, f'source = "{source_at(flaky)}"')
    error = error_of(user, "lock")
    assert error["code"] == "model-unreachable"
    assert because in error["because"][0]


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "ftp://127.0.0.1/token", ""])
def test_a_token_server_in_the_clear_is_not_asked(user: User, flaky: FlakyServer, realm: str) -> None:
    """It would be sent a password."""
    flaky.extra["WWW-Authenticate"] = f'Bearer realm="{realm}",service="r"'
    flaky.break_for_ever(MANIFEST_PATH, "401")
    declare(user, f'source = "{source_at(flaky)}"')
    assert "a token server that is not asked" in error_of(user, "lock")["because"][0]


def test_a_damaged_archive(user: User, flaky: FlakyServer) -> None:
    """That has the digest it should have, and is broken all the same."""
    whole = tar_of({"net.onnx": MODEL}, zipped=True)
    for data in (whole[:-20], b"\x1f\x8b" + whole[2:40] + b"\0" * 99, tar_of({"net.onnx": MODEL})):
        layer = Layer(f"{KITOPS}+gzip", data)
        flaky.files |= {MANIFEST_PATH: manifest_of(layer), f"/v2/zoo/net/blobs/{digest_of(data)}": data}
        declare(user, f'source = "{source_at(flaky)}"')
        assert error_of(user, "lock")["code"] == "archive-refused"
    assert json.loads(manifest_of())["mediaType"] == MEDIA_MANIFEST


def test_a_token_that_runs_out(user: User, flaky: FlakyServer) -> None:
    """Before the blob has arrived: another one is asked for, once."""
    path = "/token?service=r&scope=repository%3Azoo%2Fnet%3Apull"
    flaky.files[path] = b'{"access_token": "a-token"}'
    flaky.extra["WWW-Authenticate"] = f'Bearer realm="{flaky.url("/token")}",service="r"'
    flaky.break_(MANIFEST_PATH, "401", "", "401")
    flaky.break_(BLOB_PATH, "401")
    declare(user, f'source = "{source_at(flaky)}"')
    user.must("lock")
    assert locked(user).file == DIGEST
    assert len(flaky.requests(path)) == 2
    assert flaky.requests(BLOB_PATH)[-1].headers["authorization"] == "Bearer a-token"
