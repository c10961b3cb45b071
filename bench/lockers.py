"""Programs that lock Python packages, each as it is used: what it reads, what it runs, what it wrote."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.replay import Replay
from bench.run import Run
from bench.timing import Contestant, ContestantFailed, Cost, Finished, Sample, must

COLD, WARM, NOOP = "cold", "warm", "no-op"
PYTHON: Final = "3.11"
"""Of every contestant, whichever Python runs the bench."""
TARGETS: Final = (
    "amd64=linux/amd64:3.11.2:2.36",
    "arm64=linux/arm64:3.11.2:2.36",
    "trixie=linux/amd64:3.13.5:2.40",
    "trixie-arm64=linux/arm64:3.13.5:2.40",
    "py312=linux/amd64:3.12.3:2.39",
    "py312-arm64=linux/arm64:3.12.3:2.39",
    "py311-old=linux/amd64:3.11.2:2.28",
    "py312-old=linux/amd64:3.12.3:2.28",
)
"""What nnenv locks for: the first is what the peers that know one target lock for. No glibc is newer than uv knows."""

Counter = Callable[[Path, Finished], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Locker:
    """One program and how it locks a list of packages in a folder."""

    command: tuple[str | Path, ...]
    inputs: Mapping[str, str]
    """File name -> content."""
    output: str
    """The lock that it writes, removed before a warm run; "" if it writes none."""
    count: Counter
    """How many different packages it chose."""
    environment: Mapping[str, str]
    no_op: tuple[str | Path, ...] = ()
    """What is run where nothing is to be done; () if it has no such thing."""


def contestant(
    run: Run, index: Replay, name: str, make: Callable[[Path], Locker], *, rounds: int | None = None
) -> Contestant:
    """A locker as a contestant: cold with an empty cache, warm without the lock, no-op with it.

    `make` is given the folder of the turn; Unavailable from it stands in the contestant's row.
    """

    def once() -> dict[str, Sample]:
        folder = run.folder("lock")
        try:
            return _turn(run, folder, make(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return Contestant(name=name, turn=lambda: index.undisturbed(once), rounds=rounds)


def _turn(run: Run, folder: Path, locker: Locker) -> dict[str, Sample]:
    for name, content in locker.inputs.items():
        (folder / name).write_text(content)
    environment = run.environment(
        HOME=str(folder / "home"), XDG_CACHE_HOME=str(folder / "cache"), XDG_CONFIG_HOME=str(folder / "config")
    )
    environment.update(locker.environment)
    samples = {}
    for scenario in (COLD, WARM):
        if locker.output:
            (folder / locker.output).unlink(missing_ok=True)
        finished = must(locker.command, cwd=folder, environment=environment)
        samples[scenario] = Sample(cost=finished.cost, note=str(locker.count(folder, finished)))
    if locker.no_op:
        before = (folder / locker.output).read_bytes()
        finished = must(locker.no_op, cwd=folder, environment=environment)
        if (folder / locker.output).read_bytes() != before:
            raise ContestantFailed(f"a second lock with nothing to do changed {locker.output}")
        samples[NOOP] = Sample(cost=finished.cost, note=str(locker.count(folder, finished)))
    return samples


def nnenv(run: Run, index: Replay, packages: Sequence[str], targets: Sequence[str]) -> Callable[[Path], Locker]:
    """The Python part of `nnenv lock`, by `bench/resolve_only.py` and the installed nnenv."""
    python = run.nnenv() / "bin" / "python"

    def make(folder: Path) -> Locker:
        # In a folder without nnenv, so that the installed one is imported and not the checkout's.
        script = folder / "bench" / "resolve_only.py"
        script.parent.mkdir()
        shutil.copy(run.root / "bench" / "resolve_only.py", script)
        chosen = [word for target in targets for word in ("--target", target)]
        command: tuple[str | Path, ...] = (
            python,
            script,
            "--index",
            index.url,
            "--store",
            folder / "store",
            *chosen,
            *packages,
        )
        return Locker(
            command=command,
            inputs={},
            output="",
            count=lambda _, finished: _counted(finished.out, len(targets)),
            environment={},
        )

    return make


def uv_lock(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """uv, for every platform and Python from 3.11 on (its lock is universal)."""
    uv = run.peer("uv") / "bin" / "uv"

    def make(folder: Path) -> Locker:
        command = (uv, "lock", "--quiet", "--no-config", "--default-index", index.url)
        return Locker(
            command=command,
            inputs={"pyproject.toml": _project(packages, f">={PYTHON}")},
            output="uv.lock",
            count=_count_toml("uv.lock", "package"),
            environment=_uv_environment(folder),
            no_op=command,
        )

    return make


def uv_compile(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """uv, for one platform and Python, with hashes."""
    uv = run.peer("uv") / "bin" / "uv"

    def make(folder: Path) -> Locker:
        command = (
            uv, "pip", "compile", "--quiet", "--no-config", "--python-version", PYTHON, "--python-platform",
            "x86_64-manylinux_2_36", "--generate-hashes", "--only-binary", ":all:", "--default-index", index.url,
            "--python", sys.executable, "packages.in", "-o", "lock.txt",
        )  # fmt: skip
        return Locker(
            command=command,
            inputs={"packages.in": _lines(packages)},
            output="lock.txt",
            count=_count_pins("lock.txt"),
            environment=_uv_environment(folder),
            no_op=command,
        )

    return make


def pip_lock(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """pip, for the machine and Python it runs on."""
    python = run.peer("pip") / "bin" / "python"

    def make(folder: Path) -> Locker:
        command = (
            python, "-m", "pip", "lock", "--quiet", "--index-url", index.url, "--only-binary", ":all:",
            "-r", "packages.in", "-o", "pylock.toml",
        )  # fmt: skip
        return Locker(
            command=command,
            inputs={"packages.in": _lines(packages)},
            output="pylock.toml",
            count=_count_toml("pylock.toml", "packages"),
            environment={"PIP_CACHE_DIR": str(folder / "cache")},
        )

    return make


def pip_compile(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """pip-tools, for the machine and Python it runs on, with hashes."""
    program = run.peer("pip-tools", "pip-tools", "pip") / "bin" / "pip-compile"

    def make(folder: Path) -> Locker:
        command = (
            program, "--quiet", "--generate-hashes", "--allow-unsafe", "--strip-extras", "--no-config",
            "--index-url", index.url, "--no-emit-index-url", "--cache-dir", folder / "cache",
            "-o", "lock.txt", "packages.in",
        )  # fmt: skip
        return Locker(
            command=command,
            inputs={"packages.in": _lines(packages)},
            output="lock.txt",
            count=_count_pins("lock.txt"),
            environment={"PIP_CACHE_DIR": str(folder / "cache"), "PIP_ONLY_BINARY": ":all:"},
            no_op=command,
        )

    return make


def poetry(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """Poetry, for every platform and the Pythons that all packages of the list know."""
    program = run.peer("poetry") / "bin" / "poetry"

    def make(folder: Path) -> Locker:
        source = (
            f'\n[tool.poetry]\npackage-mode = false\n\n[[tool.poetry.source]]\nname = "replay"\nurl = "{index.url}"\n'
        )
        command = (program, "lock", "--no-interaction", "--no-ansi", "--quiet")
        return Locker(
            command=command,
            inputs={"pyproject.toml": _project(packages, f">={PYTHON},<3.14") + source},
            output="poetry.lock",
            count=_count_toml("poetry.lock", "package"),
            environment={
                "POETRY_CACHE_DIR": str(folder / "cache"),
                "POETRY_CONFIG_DIR": str(folder / "config"),
                "POETRY_VIRTUALENVS_CREATE": "false",
                "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            },
            no_op=command,
        )

    return make


def pdm(run: Run, index: Replay, packages: Sequence[str]) -> Callable[[Path], Locker]:
    """PDM, which solves with the same library as nnenv, for every platform and the Pythons of Poetry's turn."""
    # With the versions it was released with: PDM 2.29 does not start with every later hishel.
    program = run.peer("pdm", "pdm[locked]") / "bin" / "pdm"

    def make(folder: Path) -> Locker:
        source = f'\n[[tool.pdm.source]]\nname = "pypi"\nurl = "{index.url}"\nverify_ssl = false\n'
        command = (program, "lock", "--quiet")
        return Locker(
            command=command,
            inputs={"pyproject.toml": _project(packages, f">={PYTHON},<3.14") + source, ".pdm-python": sys.executable},
            output="pdm.lock",
            count=_count_toml("pdm.lock", "package"),
            environment={
                "PDM_CACHE_DIR": str(folder / "cache"),
                "PDM_CONFIG_FILE": str(folder / "pdm.toml"),
                "PDM_CHECK_UPDATE": "false",
                "PDM_IGNORE_ACTIVE_VENV": "1",
            },
            no_op=(*command, "--update-reuse"),
        )

    return make


def uv_for(run: Run, index: Replay, packages: Sequence[str], folder: Path, target: str) -> Locker:
    """uv for one of `TARGETS`; all locks in one folder, with one cache."""
    name, _, rest = target.partition("=")
    platform, python, glibc = rest.split(":")
    machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[platform]
    command = (
        run.peer("uv") / "bin" / "uv", "pip", "compile", "--quiet", "--no-config", "--python-version", python,
        "--python-platform", f"{machine}-manylinux_{glibc.replace('.', '_')}", "--generate-hashes",
        "--only-binary", ":all:", "--default-index", index.url, "--python", sys.executable,
        "packages.in", "-o", f"{name}.txt",
    )  # fmt: skip
    return Locker(
        command=command,
        inputs={"packages.in": _lines(packages)},
        output=f"{name}.txt",
        count=_count_pins(f"{name}.txt"),
        environment=_uv_environment(folder),
    )


def several(run: Run, folder: Path, locks: Sequence[Locker]) -> dict[str, Sample]:
    """Cold and warm cost of locking one after the other."""
    samples: dict[str, Sample] = {}
    for scenario in (COLD, WARM):
        turns = []
        for locker in locks:
            for name, content in locker.inputs.items():
                (folder / name).write_text(content)
            (folder / locker.output).unlink(missing_ok=True)
            finished = must(locker.command, cwd=folder, environment=run.environment(**locker.environment))
            turns.append(Sample(cost=finished.cost, note=str(locker.count(folder, finished))))
        cost = Cost(
            wall=sum(turn.cost.wall for turn in turns),
            cpu=sum(turn.cost.cpu for turn in turns),
            peak=max(turn.cost.peak for turn in turns),
        )
        samples[scenario] = Sample(cost=cost, note=turns[0].note)
    return samples


def _uv_environment(folder: Path) -> dict[str, str]:
    return {"UV_CACHE_DIR": str(folder / "cache"), "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never"}


def _project(packages: Sequence[str], python: str) -> str:
    wanted = ", ".join(f'"{package}"' for package in packages)
    return f'[project]\nname = "list"\nversion = "1"\nrequires-python = "{python}"\ndependencies = [{wanted}]\n'


def _lines(packages: Sequence[str]) -> str:
    return "\n".join(packages) + "\n"


def _counted(out: str, targets: int) -> int:
    """Packages of the first target; each must have some."""
    counts = re.findall(r"(\d+) packages", out)
    if len(counts) != targets:
        raise ContestantFailed(f"it said {out[:200]!r}, and has {targets} targets")
    return int(counts[0])


def _count_toml(name: str, table: str) -> Counter:
    """Different names in an array of tables; the project itself, which some lock as well, does not count."""

    def count(folder: Path, _: Finished) -> int:
        document = tomllib.loads((folder / name).read_text("utf-8"))
        return len({package["name"] for package in document.get(table, ())} - {"list"})

    return count


def _count_pins(name: str) -> Counter:
    def count(folder: Path, _: Finished) -> int:
        return len(set(re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==", (folder / name).read_text("utf-8"))))

    return count
