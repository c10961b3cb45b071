"""A command in an engine's container with the caller's streams."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nnenv.adapters import live
from nnenv.errors import NnenvError

if TYPE_CHECKING:
    from nnenv.adapters.docker_engine import DockerEngine

_NO_DETACHING: Final = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
"""The engine's own keys for leaving a container would swallow Ctrl-P; nobody types these."""

_STDERR: Final = 2
_HEAD: Final = 8
"""Bytes before each part of the engine's stream: the stream's number, three zeros, the length (Engine API, attach)."""

_INIT_FAILED: Final = b"[FATAL tini ("
"""What the engine's init says when it cannot execute the command."""

_SECONDS_FOR_SIGPIPE: Final = 1.0


def run_live(engine: DockerEngine, image_id: str, run: live.LiveRun, streams: live.Streams) -> live.Ended:
    """Run to the end or to a limit in a container that is removed afterwards; signals that nnenv gets go to it.

    Main thread only. Raises NnenvError `command-not-started`, `engine-unavailable` or `disk-full`, the last if the
    caller's files take no more output.
    """
    # Without an init the command is process 1, and deaf to signals that it does not handle.
    has_init = engine.facts().has_init
    container = _create(engine, image_id, run, has_init=has_init)
    try:
        conversation = _Conversation(engine, container, run, streams)
        ended = conversation.hold()
        if has_init and ended.code in (126, 127) and conversation.init_failed:
            raise not_started(run.argv, conversation.last_words)
        return ended
    finally:
        engine.client.api.remove_container(container, force=True, v=True)


def _create(engine: DockerEngine, image_id: str, run: live.LiveRun, *, has_init: bool) -> str:
    from docker.errors import DockerException
    from docker.types import Mount

    from nnenv.adapters.docker_engine import all_gpus

    api = engine.client.api
    mounts = [
        Mount(str(volume.destination), str(volume.source), type="bind", read_only=volume.read_only)
        for volume in run.volumes
    ]
    try:
        host_config = api.create_host_config(
            network_mode="bridge" if run.network else "none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=run.memory_bytes,
            memswap_limit=run.memory_bytes,
            pids_limit=live.PROCESSES,
            tmpfs={"/tmp": f"rw,nosuid,nodev,size={live.scratch_bytes(run)}"},
            mounts=mounts,
            init=has_init,
            device_requests=all_gpus() if run.gpu else None,
        )
        container = api.create_container(
            image_id,
            entrypoint=[run.argv[0]],
            command=list(run.argv[1:]),
            environment=dict(run.environment),
            working_dir=run.workdir,
            user=f"{run.uid}:{run.gid}",
            stdin_open=True,
            tty=run.terminal,
            host_config=host_config,
        )
    except DockerException as error:
        raise not_started(run.argv, str(getattr(error, "explanation", None) or error)) from None
    return str(container["Id"])


def not_started(argv: Sequence[str], why: str) -> NnenvError:
    """The refusal of an engine that could not start a command."""
    return NnenvError(
        "command-not-started",
        f"the image cannot run {' '.join(argv)}",
        because=[why.strip()[-600:]],
        fix=["see that the target holds this program, and that what is mounted exists where the engine runs"],
    )


class _Conversation:
    """One container in progress."""

    def __init__(self, engine: DockerEngine, container: str, run: live.LiveRun, streams: live.Streams) -> None:
        self._api: Any = engine.client.api
        self._container, self._run, self._streams = container, run, streams
        self._refused: list[OSError] = []
        self._tail = b""
        """The end of what the command said on standard error, or in its terminal."""

    @property
    def init_failed(self) -> bool:
        """Whether the engine's init, rather than the command, had the last word."""
        return _INIT_FAILED in self._tail

    @property
    def last_words(self) -> str:
        """The last line of standard error."""
        return self._tail.decode("utf-8", "replace").strip().splitlines()[-1]

    def hold(self) -> live.Ended:
        """Start the container, copy its streams, and wait for its end."""
        more = (signal.SIGWINCH,) if self._run.terminal else ()
        with live.caught_signals(*more) as arrived:
            channel = self._attached()
            try:
                limit_hit = self._talk(channel, arrived)
            finally:
                channel.close()
        state = self._end(limit_hit)
        live.refuse_lost_output(self._refused)
        if any(isinstance(error, BrokenPipeError) for error in self._refused):
            return live.Ended(code=128 + signal.SIGPIPE)
        limit_hit = limit_hit or ("memory" if state.get("OOMKilled") else "")
        return live.Ended(code=int(state["ExitCode"]), limit_hit=limit_hit)

    def _attached(self) -> Any:
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "detachKeys": _NO_DETACHING}
        channel = self._api.attach_socket(self._container, params=wanted)
        connection = getattr(channel, "_sock", channel)
        connection.settimeout(None)
        return connection

    def _talk(self, channel: Any, arrived: int) -> str:
        if not self._run.terminal:
            return self._follow(channel, arrived)
        with live.raw_terminal(self._streams.stdin):
            return self._follow(channel, arrived)

    def _follow(self, channel: Any, arrived: int) -> str:
        done, finished = os.pipe()
        reader = threading.Thread(target=self._read, args=(channel, finished), daemon=True)
        reader.start()
        self._start()
        if self._run.terminal:
            self._fit()
        live.Inflow(self._streams.stdin, channel.sendall, lambda: _close_for_writing(channel))
        try:
            _, limit_hit = live.attend(done, arrived, self._forward, seconds=self._run.seconds)
        finally:
            os.close(done)
        if limit_hit:
            self._kill(signal.SIGKILL)
        reader.join()
        return limit_hit

    def _start(self) -> None:
        from docker.errors import APIError

        try:
            self._api.start(self._container)
        except APIError as error:
            raise not_started(self._run.argv, str(error.explanation or error)) from None

    def _read(self, channel: Any, finished: int) -> None:
        """Copy the command's output until it ends, then say so by closing `finished`."""
        sinks = {1: self._streams.stdout, _STDERR: self._streams.stderr}
        parts = _whole_stream if self._run.terminal else _numbered_parts
        try:
            for number, part in parts(lambda: bytes(channel.recv(live.CHUNK))):
                if self._run.terminal or number == _STDERR:
                    self._tail = (self._tail + part)[-1000:]
                if number in sinks and not self._put(sinks[number], part):
                    del sinks[number]
        except OSError:
            pass  # the engine went away: what it says of the container's end tells why
        finally:
            os.close(finished)

    def _put(self, sink: int, part: bytes) -> bool:
        """False when the sink takes no more; if that is standard output, the command is told by SIGPIPE."""
        try:
            live.write_patiently(sink, part)
        except OSError as error:
            if sink == self._streams.stdout:
                self._refused.append(error)
                self._kill(signal.SIGPIPE)
                killer = threading.Timer(_SECONDS_FOR_SIGPIPE, self._kill, [signal.SIGKILL])
                killer.daemon = True
                killer.start()
            return False
        return True

    def _forward(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._fit()
        elif self._run.terminal and number != signal.SIGKILL:
            self._kill(signal.SIGHUP)  # a shell ignores most others; this one says that the terminal is gone
        else:
            self._kill(number)

    def _fit(self) -> None:
        from docker.errors import APIError

        rows, columns = live.window_size(self._streams.stdin)
        with suppress(APIError):  # it has ended
            self._api.resize(self._container, height=rows, width=columns)

    def _kill(self, number: int) -> None:
        from docker.errors import APIError

        with suppress(APIError):  # it has ended
            self._api.kill(self._container, int(number))

    def _end(self, limit_hit: str) -> Mapping[str, Any]:
        """The container's state after its end."""
        from docker.errors import DockerException

        try:
            self._api.wait(self._container, timeout=None if not limit_hit else 60)
            state: Mapping[str, Any] = self._api.inspect_container(self._container)["State"]
        except (DockerException, OSError) as error:
            raise NnenvError(
                "engine-unavailable",
                "the Docker engine went away while the command ran",
                because=[str(error)[:300]],
                fix=["see the engine's log"],
            ) from None
        return state


def _close_for_writing(channel: Any) -> None:
    """Tell the command that its input is at its end; what it says is read on."""
    import socket

    channel.shutdown(socket.SHUT_WR)


def _whole_stream(receive: Callable[[], bytes]) -> Any:
    """(1, part) for a terminal's one stream."""
    while part := receive():
        yield 1, part


def _numbered_parts(receive: Callable[[], bytes]) -> Any:
    """(stream, part) of the engine's multiplexed stream; a part may come in pieces, so that nothing large is kept."""
    pending = b""
    while chunk := receive():
        pending += chunk
        while len(pending) >= _HEAD:
            number, length = pending[0], int.from_bytes(pending[4:_HEAD], "big")
            pending = pending[_HEAD:]
            while length:
                if not pending and not (pending := receive()):
                    return
                part, pending = pending[:length], pending[length:]
                length -= len(part)
                yield number, part
