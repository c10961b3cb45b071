"""What the end-to-end tests share: each world and each built project is made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnenv.adapters.store import Store
from tests.e2e.world import (
    TWO_TARGETS,
    User,
    World,
    mirror_debs,
    records_only,
    small_library,
    toy_project,
    users_environment,
)


@pytest.fixture
def world(tmp_path: Path, paper_world: World) -> Iterator[World]:
    """An index of its own beside the archive that exists on paper: enough to lock."""
    with World(tmp_path / "world") as made:
        for area in ("debian", "debian-security"):
            (made.folder / area).symlink_to(paper_world.folder / area)
        made.keyring.write_bytes(paper_world.keyring.read_bytes())
        yield made


@pytest.fixture(scope="session")
def paper_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The signed archive whose .debs nobody has."""
    with World(tmp_path_factory.mktemp("paper") / "world") as made:
        made.sign_archive({name: records_only(name) for name in ("amd64", "arm64")})
        yield made


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the real projects; NNENV_TEST_STORE keeps it from run to run."""
    kept = os.environ.get("NNENV_TEST_STORE", "")
    return Path(kept) if kept else tmp_path_factory.mktemp("store") / "nnenv"


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, shared_store: Path) -> User:
    """The toy model, locked from the configured index and archive for both CPUs, and built for both; read only:
    a test that changes something works in a copy (`User.elsewhere`)."""
    project = toy_project(tmp_path_factory.mktemp("toy") / "project", TWO_TARGETS)
    user = User(project=project, store=shared_store, environment=users_environment())
    user.must("lock")
    user.must("build", "--target", "cpu", "-o", f"oci:{project.parent / 'cpu.tar'}")
    user.must("build", "--target", "cpu-arm64", "-o", f"dir:{project.parent / 'cpu-arm64'}")
    return user


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory, toy: User) -> Iterator[World]:
    """A whole world on loopback: the real .debs of the toy, and wheels of a few bytes called numpy and onnxruntime."""
    with World(tmp_path_factory.mktemp("tiny") / "world") as made:
        mirror_debs(made, toy.lock(), "cpu", Store(toy.store))
        offer_tiny_wheels(made)
        yield made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_world: World) -> User:
    """The toy model with tiny wheels, locked and built: cheap to break and to build again; read only as `toy`."""
    folder = tmp_path_factory.mktemp("tiny")
    user = tiny_world.user(toy_project(folder / "project"), folder / "store")
    user.must("lock")
    user.must("build", "-o", f"oci:{folder / 'cpu.tar'}")
    return user


def offer_tiny_wheels(world: World) -> None:
    """One pure wheel and one with a real shared library."""
    world.offer("numpy", "2.0.0")
    library = {
        "onnxruntime/__init__.py": b"from onnxruntime import small\n",
        "onnxruntime/small.cpython-311-x86_64-linux-gnu.so": small_library(),
    }
    world.offer("onnxruntime", "1.20.0", requires=["numpy"], tag="cp311-cp311-manylinux_2_28_x86_64", files=library)
