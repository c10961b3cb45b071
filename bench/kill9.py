"""kill -9 at random moments of lock, fetch and build: is anything torn, and does a plain re-run succeed?

    python bench/kill9.py --kills 500
    python bench/kill9.py --kills 500 --gc

The first run brings the toy's .debs from the configured archive; the kills then happen in a world on loopback that
serves them, with a new store each round. After every kill every object of the store is hashed, the lock is read, and
the project is searched for files that do not belong there. A temporary file of the lock may lie there until the next
command sweeps it; such are counted, and must be gone at the end.

With `--gc` it is `nnenv store gc --all` that is killed, while it empties a full store; after every few kills a plain
build fills the store again, and must give the same image.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.world import User

COMMANDS = ("lock", "fetch", "build")
COLLECTION = "gc"
A_ROUND = {"lock": 8, "fetch": 8, "build": 14, COLLECTION: 6}
"""Kills at most, until the store is emptied again."""
SOON = 1.0
"""Seconds within which four of five kills happen: a command that goes on where the last one was killed is met in each
of its phases all the same, and the rest of the time is not spent on waiting."""
TEMPORARY = ".nnenv-tmp"


@dataclass(kw_only=True)
class Tally:
    """What was seen."""

    kills: Counter[str] = field(default_factory=Counter)
    """By command."""
    finished: Counter[str] = field(default_factory=Counter)
    """Commands that ended before their kill."""
    corrupt: list[str] = field(default_factory=list)
    """Objects that do not hash to their names."""
    torn: list[str] = field(default_factory=list)
    """Locks that cannot be read."""
    strays: list[str] = field(default_factory=list)
    """Files of the project that nobody asked for."""
    refused: list[str] = field(default_factory=list)
    """Commands that were not killed, and failed."""
    temporaries: int = 0
    """Times that an unfinished lock file lay beside the lock."""
    objects: int = 0
    """Objects hashed, over all kills."""
    rerun_ok: bool = False
    """A plain run of all commands succeeded at the end, and gave the right image."""

    def text(self) -> str:
        """The result, a line each."""
        by_command = ", ".join(f"{name} {self.kills[name]}" for name in (*COMMANDS, COLLECTION) if self.kills[name])
        lines = [
            f"kills           {self.kills.total()} ({by_command})",
            f"ran to the end  {self.finished.total()}",
            f"objects hashed  {self.objects}",
            f"corrupt         {len(self.corrupt)}",
            f"torn            {len(self.torn)}",
            f"stray files     {len(self.strays)} ({self.temporaries} unfinished locks, swept by the next run)",
            f"refused re-runs {len(self.refused)}",
            f"re-run          {'ok, the right image' if self.rerun_ok else 'FAILED'}",
        ]
        return "\n".join([*lines, *self.corrupt, *self.torn, *self.strays, *self.refused]) + "\n"

    @property
    def clean(self) -> bool:
        """Nothing was damaged."""
        return self.rerun_ok and not (self.corrupt or self.torn or self.strays or self.refused)


def kill_often(user: User, kills: int, *, seed: int = 1, told: Callable[[str], object] = lambda line: None) -> Tally:
    """Kill `user`'s commands `kills` times, in a store and project that are emptied when a round is done.

    `user` has a project without a lock, and an empty store.
    """
    rng = random.Random(seed)
    tally = Tally()
    durations, right_image = _undisturbed(user)
    told(", ".join(f"{name} takes {seconds:.2f} s" for name, seconds in durations.items()))
    while tally.kills.total() < kills:
        _reset(user)
        for name in COMMANDS:
            _kill_one_command(user, name, min(A_ROUND[name], kills - tally.kills.total()), durations[name], rng, tally)
        told(f"{tally.kills.total()} kills, {len(tally.corrupt)} corrupt, {len(tally.torn)} torn")
    for name in COMMANDS:
        _must(user, name, tally)
    tally.rerun_ok = not tally.refused and _image(user) == right_image and not _temporaries(user)
    return tally


def kill_collections(
    user: User, kills: int, *, seed: int = 1, told: Callable[[str], object] = lambda line: None
) -> Tally:
    """Kill `nnenv store gc --all` of a full store `kills` times; the store is filled again after every few of them.

    `user` has a project without a lock, and an empty store.
    """
    rng = random.Random(seed)
    tally = Tally()
    _, right_image = _undisturbed(user)
    duration = user.must(*_arguments(COLLECTION)).seconds
    told(f"a collection of everything takes {duration:.2f} s")
    while tally.kills.total() < kills:
        _must(user, "build", tally)
        if _image(user) != right_image:
            tally.refused.append("build: another image")
        most = min(A_ROUND[COLLECTION], kills - tally.kills.total())
        _kill_one_command(user, COLLECTION, most, duration, rng, tally)
        told(f"{tally.kills.total()} kills, {len(tally.corrupt)} corrupt")
    _must(user, "build", tally)
    left = [path.name for path in (user.store / "tmp").glob("gone-*")]
    tally.strays += [f"stray: {name}" for name in left]
    tally.rerun_ok = not tally.refused and _image(user) == right_image
    return tally


def _kill_one_command(user: User, name: str, most: int, duration: float, rng: random.Random, tally: Tally) -> None:
    """Kill it up to `most` times, or until it ends before its kill; what the next command needs is there afterwards."""
    for _ in range(most):
        latest = duration if rng.random() < 0.2 else min(duration, SOON)
        if not _killed(user, name, rng.uniform(0.0, latest), tally):
            tally.finished[name] += 1
            return
        tally.kills[name] += 1
        inspect(user, tally)
    if name not in ("build", COLLECTION):
        _must(user, name, tally)


def _undisturbed(user: User) -> tuple[dict[str, float], str]:
    """How long each command takes from an empty store, and the image that comes out."""
    durations = {name: user.must(*_arguments(name)).seconds for name in COMMANDS}
    return durations, _image(user)


def _arguments(name: str) -> list[str]:
    # The image stays in the store: no engine takes part, so no engine can be left half-filled.
    whole = {"build": ["build", "-o", "dir:../layout"], COLLECTION: ["store", "gc", "--all"]}
    return whole.get(name, [name])


def _image(user: User) -> str:
    image = user.lock().targets[0].image
    return image.manifest if image else ""


def _reset(user: User) -> None:
    user.lock_path.unlink(missing_ok=True)
    shutil.rmtree(user.store, ignore_errors=True)
    shutil.rmtree(user.project.parent / "layout", ignore_errors=True)


def _killed(user: User, name: str, delay: float, tally: Tally) -> bool:
    """Start the command and kill it, not its children, after `delay` seconds; False if it had ended by then."""
    process = subprocess.Popen(
        user.command(*_arguments(name)),
        cwd=user.project,
        env=dict(user.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stderr:
            process.stderr.close()
        return True
    if process.returncode:
        tally.refused.append(f"{name}: {errors.decode('utf-8', 'replace')}")
    return False


def _must(user: User, name: str, tally: Tally) -> None:
    done = user.run(*_arguments(name))
    if done.code:
        tally.refused.append(f"{name}: {done.err}")


def inspect(user: User, tally: Tally) -> None:
    """Note in `tally` what a kill has left damaged."""
    from nnenv.errors import NnenvError
    from nnenv.spec.lock_toml import read_lock

    for path in sorted((user.store / "objects" / "sha256").glob("??/*")):
        tally.objects += 1
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != path.name:
                tally.corrupt.append(f"corrupt: {path}")
    if user.lock_path.exists():
        try:
            read_lock(user.lock_path.read_bytes())
        except NnenvError as error:
            tally.torn.append(f"torn: {error.what}: {error.because}")
    temporaries = _temporaries(user)
    tally.temporaries += bool(temporaries)
    known = {"model.toml", "model.lock", "model.onnx", "tests", *temporaries}
    tally.strays += [f"stray: {path.name}" for path in user.project.iterdir() if path.name not in known]


def _temporaries(user: User) -> list[str]:
    return [path.name for path in user.project.iterdir() if path.name.endswith(TEMPORARY)]


def main() -> int:
    """Run from the command line; exit code 0 if nothing was damaged."""
    parser = argparse.ArgumentParser(description="Kill nnenv at random moments and look at what is left.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gc", action="store_true", help="kill collections of garbage instead")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    from nnenv.adapters.store import Store
    from tests.e2e.conftest import offer_tiny_wheels
    from tests.e2e.world import PLAIN, User, World, mirror_debs, plain_project, toy_project, users_environment

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nnenv-kill9-") as name:
        folder = Path(name)
        nothing = PLAIN.replace('packages = ["a"]', "packages = []")
        source = User(
            project=plain_project(folder / "source", nothing), store=folder / "debs", environment=users_environment()
        )
        source.must("lock")
        source.must("fetch")
        with World(folder / "world") as world:
            mirror_debs(world, source.lock(), "cpu", Store(source.store))
            offer_tiny_wheels(world)
            user = world.user(toy_project(folder / "victim" / "project"), folder / "victim" / "store")
            kill = kill_collections if options.gc else kill_often
            tally = kill(user, options.kills, seed=options.seed, told=lambda line: print(line, flush=True))
    print(tally.text(), end="")
    print(f"time            {time.monotonic() - begun:.0f} s")
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
