"""The outside of one command: project folder, store, network, progress. Made by the command line, used by workflows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nnenv.adapters.files import read_inside
from nnenv.errors import NnenvError
from nnenv.spec.lockfile import LOCK_NAME, Lockfile
from nnenv.spec.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nnenv.adapters.debian_archive import DebianArchive
    from nnenv.adapters.http import Http
    from nnenv.adapters.progress import Progress
    from nnenv.adapters.python_index import PythonIndexes
    from nnenv.adapters.store import Store

MANIFEST_NAME = "model.toml"
_MANIFEST_LIMIT = 1 << 20
_LOCK_LIMIT = 64 << 20


@dataclass(kw_only=True, slots=True)
class Session:
    """What a workflow may touch."""

    project: Path
    """The folder that holds model.toml."""
    store: Store
    http: Http
    progress: Progress
    environment: Mapping[str, str]
    home: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """For the expiry of signed archives and `minimum-age`; reaches no file."""
    workers: int = 8
    _archives: dict[tuple[str, str], DebianArchive] = field(default_factory=dict)

    def manifest(self) -> Manifest:
        """The parsed model.toml; NnenvError `manifest-missing` or `manifest-invalid`."""
        from nnenv.spec.manifest_toml import parse_manifest

        if not (self.project / MANIFEST_NAME).exists():
            raise NnenvError(
                "manifest-missing",
                f"there is no {MANIFEST_NAME} here",
                where=str(self.project),
                fix=["change to the project's folder, or name it with -C DIR"],
            )
        return parse_manifest(read_inside(self.project, MANIFEST_NAME, _MANIFEST_LIMIT))

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
