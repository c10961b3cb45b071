"""The bench and container engines: the right client, and nothing left behind."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from bench import container
from bench.container import Docker, buildkit_client
from bench.timing import Unavailable


def _client(folder: Path, version: str, *, buildx: bool) -> Path:
    """A docker command that knows its version, and whether it has the buildx plug-in."""
    folder.mkdir()
    client = folder / "docker"
    client.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && echo "Docker version {version}, build 1" && exit 0\n'
        f'[ "$1" = buildx ] && exit {0 if buildx else 1}\nexit 2\n'
    )
    client.chmod(0o755)
    return client


@pytest.mark.parametrize(
    ("version", "buildx", "able"),
    [("20.10.24+dfsg1", False, True), ("28.2.2", False, False), ("28.2.2", True, True), ("23.0.0", False, False)],
)
def test_a_client_can_use_buildkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, buildx: bool, able: bool
) -> None:
    """Old clients have BuildKit built in, new ones need buildx."""
    client = _client(tmp_path / "bin", version, buildx=buildx)
    monkeypatch.setenv("PATH", f"{client.parent}:/usr/bin:/bin" if able else str(client.parent))
    if able:
        assert buildkit_client() == client
    else:
        with pytest.raises(Unavailable, match="buildx"):
            buildkit_client()


def test_the_second_client_on_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new client without buildx may hide an old one that can."""
    new = _client(tmp_path / "new", "28.2.2", buildx=False)
    old = _client(tmp_path / "old", "20.10.24", buildx=False)
    monkeypatch.setenv("PATH", f"{new.parent}:{old.parent}")
    assert buildkit_client() == old


def test_no_engine_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a docker command, and with one that no engine answers, the suite is told so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no docker command"):
        Docker.find()
    monkeypatch.setenv("PATH", str(_client(tmp_path / "bin", "28.2.2", buildx=False).parent))
    with pytest.raises(Unavailable, match="engine"):
        Docker.find()


def test_the_environment_configures_no_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's engine is kept, the user's settings of nnenv are not."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///somewhere")
    monkeypatch.setenv("NNENV_TARGET", "gpu")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = container.engine_environment(UV_OFFLINE="1")
    assert found["DOCKER_HOST"] == "unix:///somewhere"
    assert found["UV_OFFLINE"] == "1"
    assert not {"NNENV_TARGET", "PYTHONDONTWRITEBYTECODE"} & found.keys()


@pytest.mark.docker
def test_images_of_the_bench_go_and_others_stay() -> None:
    """What was loaded under the prefix is removed at the end, also after an error; another image is left alone."""
    docker = Docker.find()
    ours, other = "nnenv-tested-bench-image:1", "nnenv-tested-other:1"
    try:
        with pytest.raises(RuntimeError), docker.clean("nnenv-tested-bench"):
            for number, tag in enumerate((ours, other)):
                _import(docker, tag, f"{tag}{number}")
            assert docker.image_id(ours)
            raise RuntimeError
        assert not docker.image_id(ours)
        assert docker.image_id(other)
    finally:
        docker.remove(ours, other)


def _import(docker: Docker, tag: str, text: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    subprocess.run([docker.command, "import", "-", tag], input=buffer.getvalue(), capture_output=True, check=True)
