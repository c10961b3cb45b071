"""A Docker engine as a sink for images and a place to run them. `docker build` is never called.

Engine 20.10 (API 1.41) and later. Layers the engine already has are left out of what is sent: it knows a layer by its
chain ID (OCI image-spec, config.md), so only a common beginning can be left out.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nnenv.errors import NnenvError
from nnenv.image.archive import ImageDocuments, hybrid_tar
from nnenv.verify.protocols import Completed, Run

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import DeviceRequest

    from nnenv.adapters.live import Ended, LiveRun, Streams
    from nnenv.image.layers import Layer

_CHUNK: Final = 1 << 20


def connect(*, timeout: float = 600.0) -> DockerEngine:
    """The engine that DOCKER_HOST or the default socket leads to; NnenvError `engine-unavailable` if none answers."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise _unavailable(str(error)) from None
    try:
        client = docker.from_env(timeout=int(timeout))
        client.ping()
    except (DockerException, OSError) as error:
        raise _unavailable(str(error).split("\n", 1)[0]) from None
    except Exception as error:  # requests and urllib3 leak their own kinds
        if type(error).__module__.split(".")[0] in {"requests", "urllib3"}:
            raise _unavailable(str(error).split("\n", 1)[0]) from None
        raise
    return DockerEngine(client)


def _unavailable(because: str) -> NnenvError:
    return NnenvError(
        "engine-unavailable",
        "no Docker engine answers",
        because=[because[:300]],
        fix=[
            "start Docker and check that this user may use its socket, or set DOCKER_HOST",
            "without an engine: `--output oci:FILE` writes the image, `--runner sandbox` verifies it",
        ],
    )


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain ID after each layer, `sha256:...` (OCI image-spec, config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(below.encode()).hexdigest() if below else diff_id)
    return tuple(chain)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What an engine says of itself."""

    version: str
    api: str
    """`1.41`."""
    storage: str
    """Storage driver, `overlay2`."""
    cgroup: str
    """Version of control groups, `1` or `2`."""
    machine: str
    """`x86_64`, `aarch64`."""
    rootless: bool
    has_init: bool
    """Whether it found its `docker-init`."""
    runtimes: tuple[str, ...]


class DockerEngine:
    """A connected engine."""

    def __init__(self, client: DockerClient) -> None:
        self.client = client

    def version(self) -> str:
        """`20.10.24 (API 1.41)`."""
        facts = self.client.version()
        return f"{facts.get('Version', '?')} (API {facts.get('ApiVersion', '?')})"

    def facts(self) -> EngineFacts:
        """What the engine says of itself."""
        info, version = self.client.info(), self.client.version()
        security = [str(option) for option in info.get("SecurityOptions") or ()]
        return EngineFacts(
            version=str(version.get("Version", "?")),
            api=str(version.get("ApiVersion", "0.0")),
            storage=str(info.get("Driver", "?")),
            cgroup=str(info.get("CgroupVersion", "1")),
            machine=str(info.get("Architecture", "?")),
            rootless=any("rootless" in option for option in security),
            has_init=str(info.get("InitCommit", {}).get("ID", "N/A")) != "N/A",
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
        )

    def has(self, image_id: str) -> bool:
        """Whether the engine holds the image with this ID (`sha256:<config digest>`)."""
        from docker.errors import ImageNotFound

        try:
            return bool(self.client.images.get(image_id).id == image_id)
        except ImageNotFound:
            return False

    def load(
        self,
        documents: ImageDocuments,
        read_blob: Callable[[Layer], Iterator[bytes]],
        *,
        advance: Callable[[int], object] = lambda count: None,
    ) -> tuple[str, int]:
        """Bring the image into the engine: (image ID, bytes sent). Already there: only the name is set.

        `advance` is told of the bytes that are there, be it that they were before.
        Raises NnenvError `image-mismatch` if the engine ends up with another ID than the config digest, and
        `engine-unavailable` if it goes away.
        """
        image_id = "sha256:" + hashlib.sha256(documents.config).hexdigest()
        if self.has(image_id):
            self._name(image_id, documents.reference)
            return image_id, 0
        known = self._known_layers(documents)
        refusal = ""
        for leave_out in dict.fromkeys((known, frozenset[str]())):
            there = sum(layer.size for layer in documents.layers if layer.diff_id in leave_out)
            advance(there)
            sent, refusal = self._send(documents, read_blob, leave_out, advance)
            if self.has(image_id):
                self._name(image_id, documents.reference)
                return image_id, sent
            advance(-there - sent)
        raise NnenvError(
            "image-mismatch",
            "the Docker engine does not hold the image after loading it",
            where=documents.reference,
            because=[f"expected image ID {image_id}", *([f"the engine said: {refusal}"] if refusal else [])],
            fix=["check the engine's disk and logs, then run again"],
        )

    def _send(
        self,
        documents: ImageDocuments,
        read_blob: Callable[[Layer], Iterator[bytes]],
        leave_out: frozenset[Any],
        advance: Callable[[int], object],
    ) -> tuple[int, str]:
        """(bytes sent, what the engine complained of or ""): errors come in the stream that follows its 200 OK."""
        from docker.errors import DockerException

        api: Any = self.client.api
        sent, refusal = 0, ""

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for chunk in hybrid_tar(documents, read_blob, leave_out=leave_out):
                sent += len(chunk)
                advance(len(chunk))
                yield chunk

        try:
            for message in api.load_image(counted(), quiet=True):
                refusal = str(message.get("error", refusal))[:300]
        except (DockerException, OSError) as error:
            if not leave_out:
                raise _unavailable(str(error)) from None
        return sent, refusal

    def _known_layers(self, documents: ImageDocuments) -> frozenset[Any]:
        """The layers at the bottom of the image that some image of the engine begins with too."""
        diff_ids = [f"sha256:{layer.diff_id}" for layer in documents.layers]
        api: Any = self.client.api
        known: set[str] = set()
        for summary in api.images(all=True):
            try:
                layers = api.inspect_image(summary["Id"])["RootFS"].get("Layers") or []
            except Exception as error:
                if type(error).__module__.split(".")[0] not in {"docker", "requests"}:
                    raise
                continue
            known.update(chain_ids(layers))
        count = 0
        for chain in chain_ids(diff_ids):
            if chain not in known:
                break
            count += 1
        return frozenset(layer.diff_id for layer in documents.layers[:count])

    def _name(self, image_id: str, reference: str) -> None:
        repository, _, tag = reference.rpartition(":")
        self.client.api.tag(image_id, repository, tag)


def all_gpus() -> list[DeviceRequest]:
    """What `docker run --gpus all` asks for (Engine API 1.40, HostConfig.DeviceRequests)."""
    from docker.types import DeviceRequest

    return [DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]])]


class DockerRunner:
    """Runs commands in one image of an engine; satisfies `verify.protocols.Runner`."""

    name = "docker"
    emulated = False

    def __init__(self, engine: DockerEngine, image_id: str) -> None:
        self.engine = engine
        self.image_id = image_id

    def why_no_gpu(self) -> str:
        """See `verify.protocols.Runner`: the engine needs NVIDIA's runtime (`nvidia-ctk runtime configure`)."""
        if "nvidia" in self.engine.facts().runtimes:
            return ""
        return "the Docker engine has no NVIDIA runtime"

    def run(self, request: Run) -> Completed:
        """One container: no network, read-only root, no capabilities, no new privileges, limited memory and
        processes, /tmp a fresh tmpfs without set-uid and devices; removed afterwards whatever happens."""
        from docker.errors import DockerException

        api = self.engine.client.api
        limits = request.limits
        try:
            host_config = api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=limits.memory_bytes,
                memswap_limit=limits.memory_bytes,
                pids_limit=limits.processes,
                tmpfs={"/tmp": "rw,nosuid,nodev,size=256m"},
                device_requests=all_gpus() if request.gpu else None,
            )
            container = api.create_container(
                self.image_id,
                entrypoint=[request.argv[0]],
                command=list(request.argv[1:]),
                environment=dict(request.environment),
                stdin_open=bool(request.stdin),
                host_config=host_config,
            )
        except DockerException as error:
            raise _unavailable(str(error)) from None
        try:
            return self._attached(container["Id"], request)
        finally:
            api.remove_container(container["Id"], force=True, v=True)

    def live(self, run: LiveRun, streams: Streams) -> Ended:
        """Run with the caller's streams: see `docker_live.run_live`."""
        from nnenv.adapters.docker_live import run_live

        return run_live(self.engine, self.image_id, run, streams)

    def _attached(self, container: str, request: Run) -> Completed:
        api = self.engine.client.api
        output = _Output(request.limits.output_bytes)
        started = time.monotonic()
        channel = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        reader = threading.Thread(target=output.read_from, args=(channel,), daemon=True)
        reader.start()
        api.start(container)
        if request.stdin:
            writer = threading.Thread(target=_write_all, args=(channel, request.stdin), daemon=True)
            writer.start()
        reader.join(request.limits.seconds)
        limit_hit = "output" if output.overflowed else ("time" if reader.is_alive() else "")
        if limit_hit:
            api.kill(container)
        exit_code = int(api.wait(container, timeout=60)["StatusCode"])
        reader.join(10)
        state: Mapping[str, Any] = api.inspect_container(container)["State"]
        if state.get("OOMKilled") and not limit_hit:
            limit_hit = "memory"
        return Completed(
            exit_code=exit_code,
            stdout=b"".join(output.streams[1]),
            stderr=b"".join(output.streams[2]),
            seconds=time.monotonic() - started,
            limit_hit=limit_hit,
        )


def _socket(channel: Any) -> Any:
    return getattr(channel, "_sock", channel)


def _write_all(channel: Any, data: bytes) -> None:
    import socket

    connection = _socket(channel)
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the container ended before it had read everything: its answer tells why


class _Output:
    """Collects the engine's multiplexed stream: 8-byte heads (stream, length) before each part (Engine API, attach)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.overflowed = False
        self.streams: dict[int, list[bytes]] = {1: [], 2: []}

    def read_from(self, channel: Any) -> None:
        connection = _socket(channel)
        total = 0
        while (head := _exactly(connection, 8)) is not None:
            length = int.from_bytes(head[4:8], "big")
            part = _exactly(connection, length)
            if part is None:
                return
            total += length
            if total > self.limit:
                self.overflowed = True
                return
            self.streams.setdefault(head[0], []).append(part)


def _exactly(connection: Any, count: int) -> bytes | None:
    parts = []
    while count:
        try:
            part = connection.recv(min(count, _CHUNK))
        except TimeoutError:
            continue
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
