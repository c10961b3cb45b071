"""The shape of the whole: who imports whom, what the tree may hold, what start-up costs, what the wheel ships."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnenv.spec.manifest_toml import parse_manifest

ROOT = Path(__file__).parents[1]

BELOW = {
    "errors": set[str](),
    "data": set[str](),
    "spec": {"errors", "data"},
    "formats": {"spec", "errors"},
    "resolve": {"formats", "spec", "errors", "data"},
    "image": {"formats", "spec", "errors", "data"},
    "verify": {"formats", "spec", "errors", "data"},
    "adapt": {"formats", "spec", "errors", "data"},
    "adapters": {"resolve", "image", "verify", "adapt", "formats", "spec", "errors", "data"},
    "workflows": {"adapters", "resolve", "image", "verify", "adapt", "formats", "spec", "errors", "data"},
    "cli": {"workflows", "adapters", "resolve", "image", "verify", "adapt", "formats", "spec", "errors", "data"},
    "__main__": {"cli"},
}
"""Part -> the parts it may import besides itself (design, section 3). Anyone may import `nnenv` for its version."""

SEAMS = {
    "image.archive", "image.layers", "image.tree",
    "resolve.debian", "resolve.debian_catalog", "resolve.debian_facts", "resolve.python_catalog",
    "verify.protocols",
}  # fmt: skip
"""The values and Protocols that adapters speak: all they may import of the deciding parts."""

HEAVY = ("docker", "numpy", "onnx", "onnxruntime", "packaging", "resolvelib", "rich", "tomlkit", "urllib3")
"""Distributions that `nnenv --version` must not pay for."""

# In parts, so that this file holds none of them.
HOSTS = ("pypi" + ".org", "python" + "hosted.org", "deb." + "debian.org", "debian" + ".org/debian")
MACHINE_PATHS = ("/wo" + "rk/", "/tmp/" + "bash_jobs", "/tmp/" + "venv", "/opt/" + "pypi")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) for each module of ours that `path` imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(level=0, module=str(module), names=names):
                # `from nnenv.image import wheels` imports a module, not a name of one.
                inner = [f"{module}.{alias.name}" for alias in names]
                modules = [name if is_module(name) else module for name in inner]
            case ast.ImportFrom():
                modules = ["nnenv.(relative import)"]
            case _:
                continue
        for module in dict.fromkeys(modules):
            if module.split(".")[0] == "nnenv":
                yield node.lineno, module


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or package of ours."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def crossings(path: Path, source: Path) -> list[str]:
    """The imports of one module below `source` that its part may not make, as `file:line imports module`."""
    inside = path.relative_to(source).with_suffix("").parts
    part = inside[0]
    found = []
    for line, module in imports(path):
        _, _, target = module.partition(".")
        other = target.split(".")[0]
        if not other or other == part:
            continue
        allowed = other in BELOW.get(part, set())
        if part == "adapters" and other in {"resolve", "image", "verify", "adapt"}:
            allowed = target in SEAMS
        if not allowed:
            found.append(f"nnenv/{'/'.join(inside)}.py:{line} imports {module}")
    return found


def tracked() -> list[Path]:
    """Every file that is or will be in the repository; without git (an unpacked sdist), every file."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        files = [path for path in ROOT.rglob("*") if ".venv" not in path.parts and "__pycache__" not in path.parts]
    else:
        files = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return sorted(path for path in files if path.is_file())


def sources() -> list[Path]:
    """The modules of the package."""
    return sorted((ROOT / "nnenv").rglob("*.py"))


def test_imports_point_downwards() -> None:
    """cli → workflows → {resolve | image | verify | adapt} → formats → spec → errors; adapters know only the seams."""
    assert [text for path in sources() for text in crossings(path, ROOT / "nnenv")] == []


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("resolve/x.py", "from nnenv.image.tree import Entry"),
        ("verify/x.py", "import nnenv.resolve.python"),
        ("image/x.py", "def f():\n    from nnenv.adapters import store"),
        ("adapters/x.py", "from nnenv.resolve.python import solve"),
        ("adapters/x.py", "from nnenv.verify import compare"),
        ("adapters/x.py", "from nnenv.workflows.session import Session"),
        ("formats/x.py", "from nnenv import image"),
        ("spec/x.py", "from nnenv.formats.elf import read_elf"),
        ("errors.py", "from nnenv.spec.artifact import Artifact"),
        ("workflows/x.py", "from nnenv.cli.render import table"),
        ("spec/x.py", "from . import artifact"),
    ],
)
def test_a_wrong_import_is_seen(part: str, line: str, tmp_path: Path) -> None:
    """Each kind of import against the directions is reported, at the top of a module or inside a function."""
    module = tmp_path / part
    module.parent.mkdir(exist_ok=True)
    module.write_text(line)
    assert len(crossings(module, tmp_path)) == 1


def test_every_part_has_a_place_in_the_order() -> None:
    """A new package or top-level module of nnenv is put into the order before it is used."""
    parts = {path.relative_to(ROOT / "nnenv").with_suffix("").parts[0] for path in sources()}
    assert parts - set(BELOW) == {"__init__"}


def test_every_seam_is_used_and_exists() -> None:
    """The list of seams holds no module that is gone or that no adapter imports."""
    used = {module.partition(".")[2] for path in (ROOT / "nnenv/adapters").glob("*.py") for _, module in imports(path)}
    assert SEAMS - used == set()


def test_every_python_file_says_what_it_is() -> None:
    """Each Python file begins with a docstring; an empty `__init__.py` needs none."""
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix == ".py" and path.read_bytes() and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


@pytest.mark.parametrize("forbidden", [*HOSTS, *MACHINE_PATHS])
def test_no_host_and_no_machine_in_the_tree(forbidden: str) -> None:
    """No file names a package registry, a mirror or a place on one of our machines."""
    holding = [path.relative_to(ROOT).as_posix() for path in tracked() if forbidden.encode() in path.read_bytes()]
    assert holding == []


def test_nothing_is_left_to_do_or_skipped() -> None:
    """No file puts work off, and no test is skipped: conftest.py deselects what cannot run, and says why."""
    put_off = r"\b(?:TO" + r"DO|FIX" + r"ME)\b"
    passed_over = r"pytest\.(?:mark\.)?(?:ski" + r"p|xfa" + r"il|importorsk" + r"ip)"
    pattern = re.compile(f"{put_off}|{passed_over}")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml"} or path.name == "Makefile"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CI": ""}, "left out: docker (no Docker engine answers)"),
        ({"CI": "true"}, "CI=true and the test needs docker"),
    ],
)
def test_what_cannot_run_is_left_out_aloud_or_fails_in_ci(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    """Without an engine a docker test is deselected and named in the summary; with CI=true it fails."""
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\nmarkers = docker\n")
    tmp_path.joinpath("test_it.py").write_text(
        "import pytest\n@pytest.mark.docker\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, **variables, "DOCKER_HOST": f"unix://{tmp_path}/no.sock", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout
    assert ("1 passed, 1 error" if variables["CI"] else "1 passed, 1 deselected") in done.stdout


def test_links_of_the_readme_lead_somewhere() -> None:
    """Every relative link of README.md is a file or folder of the repository."""
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_no_pattern_repeats_a_group_possessively() -> None:
    """`(...)*+` goes wrong before Python 3.11.5 (CPython issue 106052), and Debian 12 has 3.11.2."""
    pattern = re.compile(r"^(?!\s*#).*\)[*+?]\+")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_starting_up_imports_nothing_heavy() -> None:
    """`nnenv --version` imports the standard library and a few modules of ours."""
    command = [sys.executable, "-X", "importtime", "-m", "nnenv", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "nnenv" in modules
    assert sorted(name for name in modules if name.split(".")[0] in HEAVY) == []


def test_the_starter_is_a_manifest() -> None:
    """templates/starter.toml parses, and so it does with every suggestion in its comments taken up."""
    text = (ROOT / "templates/starter.toml").read_text("utf-8")
    assert parse_manifest(text.encode()).targets
    whole = re.sub(r"^# (?=\[|[a-z]+ = )", "", text, flags=re.MULTILINE)
    assert set(tomllib.loads(whole)["targets"]) == {"cpu", "edge"}
    assert parse_manifest(whole.encode()).requires.system


@pytest.mark.network
def test_the_wheel_ships_schemas_and_templates(tmp_path: Path) -> None:
    """A wheel built from the tree holds every module, the schemas, the starters and the tables."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("nnenv-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "nnenv").rglob("*") if path.suffix in {".py", ".toml"}
    }
    shipped = {
        f"nnenv/_{folder}/{path.name}" for folder in ("schemas", "templates") for path in (ROOT / folder).iterdir()
    }
    assert {"nnenv/_schemas/model.schema.json", "nnenv/_templates/starter.toml"} <= shipped
    assert (ours | shipped) - names == set()
