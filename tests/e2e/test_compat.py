"""`nnenv compat`: the tables as text and JSON, and what a small index makes of the derivable ones."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from nnenv import data
from nnenv.resolve import compat
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped
from tests.e2e.world import User, World

LINUX = "py3-none-manylinux_2_27_x86_64"


@pytest.fixture
def user(world: World, tmp_path: Path) -> User:
    """Somebody in a folder without a project."""
    (tmp_path / "project").mkdir()
    return world.user(tmp_path / "project", tmp_path / "store")


def test_all_tables(user: User) -> None:
    """Whole: every curated row with source and date, and of the derivable tables how many rows they have."""
    compare("compat", piped(user, "compat"))


def test_one_table(user: User) -> None:
    """As a terminal shows it; a derivable one has its rows then; a wrong name or option is refused."""
    outputs = [on_a_terminal(user, "compat", "driver-floors"), piped(user, "compat", "toolkit-components")]
    outputs += [piped(user, "compat", "gpu"), piped(user, "compat", "gpus", "--out", "x.toml")]
    compare("compat-table", "\n".join(outputs))


def test_json_has_everything(user: User) -> None:
    """Each row of each table, with its own source and date, or its table's."""
    document = user.must("compat", "--json").json()
    assert [table["name"] for table in document["tables"]] == [table.name for table in compat.tables()]
    for table, shipped in zip(document["tables"], compat.tables(), strict=True):
        assert len(table["rows"]) == len(shipped.rows)
        assert all(row["source"] and row["date"] for row in table["rows"])
    (ptx,) = user.must("compat", "ptx-isa", "--json").json()["tables"]
    measured = next(row for row in ptx["rows"] if row["isa"] == "9.5")
    assert (measured["date"], measured["source"][:8], ptx["date"]) == ("2026-11-23", "measured", "2026-11-24")


def library(*names: str) -> dict[str, bytes]:
    """Files of a wheel; what is in them does not matter here."""
    return {name: name.encode() for name in names}


def offer_cuda(world: World) -> None:
    """A toolkit of CUDA 12 and one of 13, with two components each and cuDNN."""
    pins = "; sys_platform == 'linux' and extra == "
    world.offer("cuda_toolkit", "12.6.3", requires=[f"nvidia-nvtx-cu12==12.6.77.*{pins}'nvtx'"])
    requires = [f"nvidia-nvtx-cu12==12.9.79.*{pins}'nvtx'", f"nvidia-cublas-cu12==12.9.1.4.*{pins}'cublas'"]
    world.offer("cuda_toolkit", "12.9.1", requires=requires)
    world.offer("cuda_toolkit", "13.0.0rc1", requires=["not-looked-at"])
    world.offer("cuda_toolkit", "13.0.2", requires=[f"nvidia-cublas==13.1.0.3.*{pins}'cublas'"])
    for version in ("12.6.77", "12.8.90"):
        world.offer("nvidia_nvtx_cu12", version, tag=LINUX, files=library("nvidia/nvtx/lib/libnvToolsExt.so.1"))
    world.offer("nvidia_nvtx_cu12", "12.9.79", tag=LINUX, files=library("nvidia/nvtx/lib/libnvtx3interop.so.1"))
    world.offer("nvidia_cublas_cu12", "12.9.1.4", tag=LINUX, files=library("nvidia/cublas/lib/libcublas.so.12"))
    world.offer("nvidia_cublas", "0.0.0a0", files=library("nvidia/cublas.txt"))
    world.offer("nvidia_cublas", "13.1.0.3", tag=LINUX, files=library("nvidia/cu13/lib/libcublas.so.13"))
    world.offer("nvidia_cublas", "14.0.0.1", tag=LINUX, files=library("nvidia/cu14/lib/libcublas.so.14"))
    world.offer("nvidia_cudnn_cu13", "9.12.0", tag=LINUX, files=library("nvidia/cudnn/lib/libcudnn.so.9"))
    world.offer("nvidia_cudnn_cu12", "9.1.0", tag=LINUX, files=library("nvidia/cudnn/lib/libcudnn.so.9"))


def test_refresh_derives_what_an_index_says(user: User, world: World) -> None:
    """Components by extras, libraries by file lists: releases of another CUDA major and pre-releases do not count."""
    offer_cuda(world)
    before = data.text("compat")
    done = user.must("compat", "refresh", "--out", "new.toml", "--json").json()
    written = tomllib.loads((user.project / "new.toml").read_text())
    assert (done["ok"], done["same"], done["out"]) == (True, False, "new.toml")
    assert written["toolkit-components"]["rows"] == [
        {"component": "cublas", "distribution": "nvidia-cublas", "cuda": [12, 13]},
        {"component": "nvtx", "distribution": "nvidia-nvtx", "cuda": [12]},
    ]
    found = [tuple(row.values()) for row in written["soname-providers"]["rows"]]
    assert found == [
        (12, "libcublas.so.12", "nvidia-cublas-cu12", "==12.*"),
        (12, "libcudnn.so.9", "nvidia-cudnn-cu12", "==9.*"),
        (12, "libnvToolsExt.so.1", "nvidia-nvtx-cu12", "==12.*,<12.9.79"),
        (12, "libnvtx3interop.so.1", "nvidia-nvtx-cu12", "==12.*,>=12.9.79"),
        (13, "libcublas.so.13", "nvidia-cublas", "==13.*"),
        (13, "libcudnn.so.9", "nvidia-cudnn-cu13", "==9.*"),
    ]
    assert data.text("compat") == before
    assert written["advisories"] == tomllib.loads(before)["advisories"]
    assert (
        '-  { component = "cudart", distribution = "nvidia-cuda-runtime", cuda = [11, 12, 13] },' in done["difference"]
    )
    again = user.must("compat", "refresh", "--json").json()
    assert again["difference"] == done["difference"]
    assert again["out"] is None


def test_refresh_prints_a_difference_and_writes_nothing(user: User, world: World) -> None:
    """A unified diff on standard output; the folder stays empty."""
    offer_cuda(world)
    done = user.must("compat", "refresh")
    assert done.out.startswith("--- shipped compat.toml\n+++ by the index\n@@ ")
    assert list(user.project.iterdir()) == []


def test_refresh_needs_a_toolkit(user: User) -> None:
    """An index without cuda-toolkit says nothing about CUDA: refused, instead of an empty table."""
    done = user.refused("compat", "refresh", "--json", "--out", "new.toml")
    assert json.loads(done.out)["errors"][0]["code"] == "source-unconfigured"
    assert list(user.project.iterdir()) == []


@pytest.mark.network
def test_refresh_on_the_real_index(tmp_path: Path) -> None:
    """Whatever came since, cuBLAS and cuDNN of CUDA 12 are where the shipped table has them."""
    from tests.e2e.world import users_environment

    (tmp_path / "project").mkdir()
    user = User(project=tmp_path / "project", store=tmp_path / "store", environment=users_environment())
    user.must("compat", "refresh", "--out", "new.toml", "--json", timeout=600)
    rows = tomllib.loads((user.project / "new.toml").read_text())["soname-providers"]["rows"]
    shipped = [row for row in compat.rows("soname-providers") if row["cuda"] == 12 and "libcu" in row["soname"]]
    assert [row for row in shipped if row not in rows] == []
