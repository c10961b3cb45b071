"""`nnenv run` and `nnenv shell`: a command inside a target's image, with the user's own streams or terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from nnenv.adapters.live import Ended, LiveRun, Streams, Volume, insist_on_terminal
from nnenv.errors import NnenvError
from nnenv.image.archive import ImageDocuments
from nnenv.spec.artifact import Artifact
from nnenv.spec.manifest import USER
from nnenv.workflows.building import assemble, checked_lock
from nnenv.workflows.healing import healed
from nnenv.workflows.layering import LayerMaker
from nnenv.workflows.session import Session
from nnenv.workflows.targets import chosen_targets
from nnenv.workflows.verifying import open_runner

SHELLS: Final = ("bash", "dash")
"""Debian packages that bring a shell of the same name, best first."""

REPL: Final = ("python3", "-q")
"""What every image offers in place of a shell."""

NO_SHELL: Final = (
    "this image holds no shell, so this is its Python; for bash and the basic tools, set `shell = true` in [image] of "
    'model.toml, or for the shell alone `system = ["dash"]` in [requires], then run `nnenv lock`'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What the user asked of `nnenv run` or `nnenv shell`."""

    command: Sequence[str] = ()
    """Empty: the image's own command, or for a shell the best one that the image holds."""
    target: str = ""
    """Empty: the first of the lock."""
    runner: str = "auto"
    frozen: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the image's."""
    workdir: str = ""
    user: tuple[int, int] | None = None
    volumes: Sequence[Volume] = ()
    network: bool = False
    memory_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """How a command ended, and where it ran."""

    ended: Ended
    target: str
    image: str
    """The manifest's digest, in hexadecimal."""
    runner: str
    argv: tuple[str, ...]


def run_command(session: Session, options: RunOptions, streams: Streams, notice: Callable[[str], object]) -> Ran:
    """Build what is not built (never resolving), then run the command to its end."""
    return _run(session, options, streams, notice, terminal=False)


def open_shell(session: Session, options: RunOptions, streams: Streams, notice: Callable[[str], object]) -> Ran:
    """The same in a terminal of its own; without a command, in a shell or what comes nearest to it."""
    insist_on_terminal(streams)
    return _run(session, options, streams, notice, terminal=True)


def _run(
    session: Session, options: RunOptions, streams: Streams, notice: Callable[[str], object], *, terminal: bool
) -> Ran:
    lockfile = checked_lock(session, frozen=options.frozen)
    target = chosen_targets(lockfile, [options.target or lockfile.targets[0].name])[0]
    maker, documents = healed(lambda: assemble(session, lockfile, target), notice)
    run = live_run(documents, options, terminal=terminal)
    if terminal:
        run = _for_a_terminal(run, options, lockfile.debs_of(target), session.environment)
        if run.argv == REPL and not options.command:
            notice(NO_SHELL)
    ended, runner = _ended(session, maker, documents, options, run, streams, notice)
    return Ran(ended=ended, target=target.name, image=documents.manifest_digest, runner=runner, argv=tuple(run.argv))


def _ended(
    session: Session,
    maker: LayerMaker,
    documents: ImageDocuments,
    options: RunOptions,
    run: LiveRun,
    streams: Streams,
    notice: Callable[[str], object],
) -> tuple[Ended, str]:
    with open_runner(session, maker, documents, options.runner) as runner:
        if maker.target.gpu is not None:
            why = runner.why_no_gpu()
            run = replace(run, gpu=not why)
            if why:
                notice(f"the command gets no GPU: {why}")
        try:
            return runner.live(run, streams), runner.name
        except NnenvError as error:
            if error.code != "command-not-started":
                raise
            raise _not_started(error, maker.target.name) from None


def _not_started(error: NnenvError, target: str) -> NnenvError:
    """The same refusal for people, who may expect more in an image than there is."""
    return NnenvError(
        error.code,
        error.what,
        where=f"target {target}",
        because=error.because,
        fix=[
            "name a program that the image holds: its Python, or a script of one of its packages",
            "for a shell and tools such as ls, set `shell = true` in [image] of model.toml and run `nnenv lock`",
            "for other programs, name their Debian packages in `system` of [requires]",
        ],
    )


def live_run(documents: ImageDocuments, options: RunOptions, *, terminal: bool = False) -> LiveRun:
    """What to run, from the image's config (OCI image-spec, config.md) and what the user wants otherwise.

    Raises NnenvError `usage` without a command where the image has none either.
    """
    config: Mapping[str, Any] = json.loads(documents.config)["config"]
    uid, gid = options.user or _numbers(config["User"])
    own = dict(entry.split("=", 1) for entry in config.get("Env", []))
    return LiveRun(
        argv=tuple(options.command) or (*config.get("Entrypoint", []), *config.get("Cmd", [])),
        environment={**own, **options.environment},
        workdir=options.workdir or config.get("WorkingDir", "/"),
        uid=uid,
        gid=gid,
        network=options.network,
        volumes=tuple(options.volumes),
        memory_bytes=options.memory_bytes,
        seconds=options.seconds,
        terminal=terminal,
    )


def _for_a_terminal(
    run: LiveRun, options: RunOptions, debs: Sequence[Artifact], environment: Mapping[str, str]
) -> LiveRun:
    """The same with the kind of terminal that the user sits at, and a shell where no command is given."""
    terminal = {"TERM": environment.get("TERM", "dumb")}
    argv = run.argv if options.command else shell_of({deb.name for deb in debs})
    return replace(run, argv=argv, environment={**terminal, **run.environment})


def shell_of(debs: Set[str]) -> tuple[str, ...]:
    """The best shell that an image with these Debian packages holds, else REPL."""
    return next(((name,) for name in SHELLS if name in debs), REPL)


# What the user wrote


def volume(text: str, here: Path) -> Volume:
    """`SRC:DST` or `SRC:DST:ro`; SRC is relative to `here`. NnenvError `usage` or `file-unreadable`."""
    source, colon, rest = text.partition(":")
    destination, _, mode = rest.partition(":")
    place = PurePosixPath(destination)
    if not source or not colon or mode not in ("", "ro", "rw") or not place.is_absolute() or ".." in place.parts:
        raise NnenvError(
            "usage",
            f"--volume {text!r} is not understood",
            where="--volume",
            fix=["write SRC:DST or SRC:DST:ro, with an absolute DST, such as --volume data:/data:ro"],
            exit_code=2,
        )
    found = (here / Path(source).expanduser()).absolute()
    if not found.exists():
        raise NnenvError(
            "file-unreadable",
            f"{source} does not exist",
            where=str(found),
            because=[f"--volume {text} wants to show it to the command"],
            fix=["make it first, or name another folder"],
        )
    return Volume(source=found.resolve(), destination=place, read_only=mode == "ro")


def variables(texts: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """`KEY=VALUE`, or `KEY` for its value in `environment`, left out where it has none; NnenvError `usage`."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise NnenvError(
                "usage", f"--env {text!r} is not understood", where="--env", fix=["write KEY=VALUE or KEY"], exit_code=2
            )
        if equals:
            found[key] = value
        elif key in environment:
            found[key] = environment[key]
    return found


def user(text: str) -> tuple[int, int] | None:
    """`UID` or `UID:GID` as numbers, None for ""; NnenvError `usage` for root and for names."""
    if not text:
        return None
    if not re.fullmatch(USER, text):
        raise NnenvError(
            "usage",
            f"--user {text!r} is not understood",
            where="--user",
            because=["nothing runs as root, and names mean other numbers on every machine"],
            fix=["write UID or UID:GID with numbers above 0, such as --user $(id -u):$(id -g)"],
            exit_code=2,
        )
    return _numbers(text)


def _numbers(user: str) -> tuple[int, int]:
    uid, _, gid = user.partition(":")
    return int(uid), int(gid or uid)
