"""The image suite's pure parts: what contestants are given, and how their images are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import image, image_project
from bench.image import BUILDERS, compared, total
from bench.image_project import BASE_IMAGE, MODEL_PLACE, Variant, Workshop, insist_on_ready_base, manifest, requirements
from bench.timing import ContestantFailed, Cost, Sample
from nnenv.spec.manifest_toml import parse_manifest

LOCK = {
    "artifact": [
        {"kind": "deb", "name": "libc6", "version": "2.36", "sha256": "d" * 64},
        {"kind": "wheel", "name": "numpy", "version": "2.4.6", "sha256": "a" * 64},
        {"kind": "wheel", "name": "pillow", "version": "13.0.0", "sha256": "b" * 64},
    ]
}


def _sample(note: str, wall: float = 1.0) -> Sample:
    return Sample(cost=Cost(wall=wall, cpu=0.5, peak=100), note=note)


def test_requirements_name_every_wheel_and_its_hash() -> None:
    """Peers install exactly the locked wheels, and check their bytes."""
    assert requirements(LOCK) == (f"numpy==2.4.6 --hash=sha256:{'a' * 64}\npillow==13.0.0 --hash=sha256:{'b' * 64}\n")


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.tag)
def test_peers_install_locally_and_check_hashes(builder: image.Builder) -> None:
    """Every Dockerfile starts from the base, installs from its folder with hashes, and puts the model in our place."""
    text = builder.dockerfile(BASE_IMAGE, "a-cache")
    assert text.startswith(f"FROM {BASE_IMAGE}\n")
    assert text.endswith(f"COPY model.onnx {MODEL_PLACE}\n")
    (run,) = (line for line in text.splitlines() if line.startswith("RUN "))
    for word in ("--no-index", "--find-links /wheels", "--require-hashes", image_project.PYTHON):
        assert word in run
    assert ("id=a-cache" in run) == builder.cache == ("uv pip" in run)


def test_one_peer_compiles_bytecode() -> None:
    """What our image also does is in the row that says so, and in no other."""
    compiling = [b.name for b in BUILDERS if "UV_COMPILE_BYTECODE=1" in b.install]
    assert compiling == ["BuildKit + uv, bytecode"]
    assert all("--no-compile" in b.install for b in BUILDERS if "-m pip" in b.install)


def test_manifests_are_valid() -> None:
    """The product's and the memory suite's manifests are ones that nnenv reads."""
    more = image_project.MODEL + image_project.CASE + "\n[image]\nshell = true\n"
    found = parse_manifest(manifest("x", packages=["numpy", "pillow<13"], system=["dash"], more=more).encode())
    assert found.project.name == "nnenv-bench-x"
    assert [model.name for model in found.models] == ["dense"]
    assert found.image.shell


def test_several_commands_count_as_one() -> None:
    """Times add up; the peak is the largest."""
    costs = [Cost(wall=1.0, cpu=0.5, peak=100), Cost(wall=2.0, cpu=0.25, peak=300), Cost(wall=0.5, cpu=0.0, peak=200)]
    assert total(costs) == Cost(wall=3.5, cpu=0.75, peak=300)


def test_images_are_compared_by_id() -> None:
    """Two cold builds gave the same image if the IDs are equal."""
    assert compared(_sample("sha256:a"), _sample("sha256:a")).note == "same"
    assert compared(_sample("sha256:b"), _sample("sha256:a")).note == "another"


def test_a_base_that_was_not_ready_is_noticed(tmp_path: Path) -> None:
    """If the product's operating system is another than the base's, nnenv did work that peers were spared, or less."""

    def write(name: str, digests: str) -> Path:
        layers = "".join(f'[[target.image.layers]]\ndigest = "{digest}"\n' for digest in digests)
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.lock").write_text(f'[[target]]\nname = "cpu"\n[target.image]\nrecipe = 1\n{layers}')
        return tmp_path / name

    variant = Variant(manifest="", lock=b"", model=tmp_path, pillow="")
    shop = Workshop(
        nnenv=tmp_path,
        ready=tmp_path,
        base=write("base", "abcxyz"),
        first=variant,
        other_model=variant,
        other_wheel=variant,
        third_model=tmp_path,
    )
    insist_on_ready_base(shop, write("same", "abcd"))
    with pytest.raises(ContestantFailed, match="operating system"):
        insist_on_ready_base(shop, write("other", "abXd"))


def test_a_state_is_put_into_the_project_whole(tmp_path: Path) -> None:
    """Manifest, lock and model change together, and the model's own file is never written."""
    for name in "12":
        (tmp_path / name).write_text(name)
    states = [Variant(manifest=name, lock=name.encode(), model=tmp_path / name, pillow="") for name in "12"]
    project = tmp_path / "project"
    for state in states:
        state.enter(project)
        names = ("model.toml", "model.lock", "model.onnx")
        assert {(project / name).read_text() for name in names} == {state.model.name}
    assert [(tmp_path / name).read_text() for name in "12"] == ["1", "2"]


def test_the_table_of_digests_counts() -> None:
    """How often two builds gave one image; a contestant that is not there has its reason."""
    series = [
        image.Series(name="ours", samples=(_sample("same"), _sample("same"))),
        image.Series(name="theirs", samples=(_sample("another"), _sample("same"))),
        image.Series(name="gone", absent="not available: no engine"),
    ]
    rows = image.digests(series).rows
    assert rows == (("ours", "2 of 2"), ("theirs", "1 of 2"), ("gone", "not available: no engine"))
