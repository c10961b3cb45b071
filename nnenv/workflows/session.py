"""The outside of one command: project folder, store, network, progress. Made by the command line, used by workflows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnenv.adapters.files import read_inside
from nnenv.errors import NnenvError
from nnenv.spec.names import LOCK_NAME, MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from nnenv.adapters.debian_archive import DebianArchive
    from nnenv.adapters.http import Http
    from nnenv.adapters.model_hub import ModelHub
    from nnenv.adapters.progress import Progress
    from nnenv.adapters.python_index import PythonIndexes
    from nnenv.adapters.store import Store
    from nnenv.spec.lockfile import Lockfile
    from nnenv.spec.manifest import Manifest

_MANIFEST_LIMIT = 1 << 20
_LOCK_LIMIT = 64 << 20


class Session:
    """What a workflow may touch. Cheap to make: the network is set up by the first request."""

    def __init__(
        self,
        *,
        project: Path,
        store: Store,
        progress: Progress,
        environment: Mapping[str, str],
        home: Path,
        http: Http | None = None,
        offline: bool = False,
        workers: int = 8,
        now: datetime | None = None,
    ) -> None:
        self.project = project
        """The folder that holds model.toml."""
        self.store = store
        self.progress = progress
        self.environment = environment
        self.home = home
        self.workers = workers
        self.started_ns = time.time_ns() if now is None else int(now.timestamp() * 1e9)
        """Nanoseconds since 1970: what changed later than this may have changed while we looked."""
        self._begun = time.monotonic()
        self._http = http
        self._offline = offline
        self._archives: dict[tuple[str, str], DebianArchive] = {}

    @property
    def http(self) -> Http:
        """The network, or its refusal under --offline."""
        if self._http is None:
            from nnenv.adapters.http import Http

            self._http = Http(offline=self._offline)
        return self._http

    @property
    def offline(self) -> bool:
        """Whether the user forbids the network."""
        return self._offline

    @property
    def elapsed(self) -> float:
        """Seconds since the command began, for people; reaches no file."""
        return time.monotonic() - self._begun

    @property
    def now(self) -> datetime:
        """When the command began, UTC: for the expiry of signed archives and `minimum-age`; reaches no file."""
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.started_ns / 1e9, UTC)

    def manifest_bytes(self) -> bytes:
        """The bytes of model.toml; NnenvError `manifest-missing`."""
        if not (self.project / MANIFEST_NAME).exists():
            raise NnenvError(
                "manifest-missing",
                f"there is no {MANIFEST_NAME} here",
                where=str(self.project),
                fix=["change to the project's folder, or name it with -C DIR", "`nnenv init` makes one"],
            )
        return read_inside(self.project, MANIFEST_NAME, _MANIFEST_LIMIT)

    def manifest(self) -> Manifest:
        """The parsed model.toml; NnenvError `manifest-missing` or `manifest-invalid`."""
        from nnenv.spec.manifest_toml import parse_manifest

        return parse_manifest(self.manifest_bytes())

    def lock_bytes(self) -> bytes | None:
        """The bytes of model.lock, or None if there is none."""
        if not (self.project / LOCK_NAME).exists():
            return None
        return read_inside(self.project, LOCK_NAME, _LOCK_LIMIT)

    def lockfile(self) -> Lockfile:
        """The lock; NnenvError `lock-missing`, `lock-edited` or `lock-version`."""
        from nnenv.spec.lock_toml import read_lock

        data = self.lock_bytes()
        if data is None:
            raise NnenvError(
                "lock-missing",
                f"there is no {LOCK_NAME} here",
                where=str(self.project),
                fix=["run `nnenv lock`"],
            )
        return read_lock(data)

    def remember_project(self) -> None:
        """Have the store keep what this project's lock needs, see `nnenv store gc`; costs one look when it is known."""
        self.store.add_root(self.project / LOCK_NAME)

    @contextmanager
    def python_indexes(self, manifest: Manifest | None) -> Iterator[PythonIndexes]:
        """The configured Python indexes, with the names that the manifest binds."""
        from packaging.utils import canonicalize_name

        from nnenv.adapters.pip_config import index_configuration
        from nnenv.adapters.python_index import PythonIndexes, Source

        bound = {
            str(canonicalize_name(name)): Source(origin=f"python:{index.name}", url=index.url.rstrip("/"))
            for index in (manifest.indexes if manifest else ())
            for name in index.packages
        }
        configuration = index_configuration(self.environment, home=self.home)
        indexes = PythonIndexes(configuration, self.http, self.store, bound=bound, workers=2 * self.workers)
        try:
            yield indexes
        finally:
            indexes.close()

    def shared_cache(self) -> Store | None:
        """A store that several machines reach, for files that only one of them can make: NNENV_SHARED_CACHE."""
        from nnenv.adapters.store import Store

        place = self.environment.get("NNENV_SHARED_CACHE", "")
        return Store(Path(place)) if place else None

    def model_hub(self) -> ModelHub:
        """The model hub that the environment names."""
        from nnenv.adapters.model_hub import ModelHub

        return ModelHub(self.environment, offline=self._offline)

    def debian_archive(self, release: str, architecture: str) -> DebianArchive:
        """The configured archive for one release and architecture; one per session, so it is read once."""
        from nnenv.adapters.apt_sources import archive_sources
        from nnenv.adapters.debian_archive import DebianArchive

        key = (release, architecture)
        if key not in self._archives:
            self._archives[key] = DebianArchive(
                archive_sources(self.environment),
                release=release,
                architecture=architecture,
                http=self.http,
                cache=self.store,
                now=self.now,
                offline=self.http.offline,
            )
        return self._archives[key]
