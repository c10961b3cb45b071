"""Bytecode in the background: several groups of sources at once, each by a fresh process of the locked interpreter.

A group is one wheel, or the interpreter's own library. Its answer is kept in the store, checked once, with an index of
what lies where. Nothing of an answer depends on what else is compiled beside it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from nnenv.errors import NnenvError
from nnenv.formats.oci import canonical_json
from nnenv.image import bytecode
from nnenv.image.layers import Sources, content_chunks
from nnenv.image.plan import bytecode_path
from nnenv.image.tree import Entry, Slice, content_size
from nnenv.spec.artifact import Sha256
from nnenv.verify.protocols import Limits, Run

if TYPE_CHECKING:
    from nnenv.adapters.sandbox import SandboxRunner
    from nnenv.adapters.store import Store

_RECORD: Final = "bytecode"
_LIMITS: Final = Limits(seconds=1800.0, output_bytes=4 << 30)
_MOST_THREADS: Final = max(2, os.cpu_count() or 1)
"""A thread for each processor, and two at least, because one waits while its sandbox is set up."""


class Compiler:
    """Compiles what is submitted, in threads; use it in a `with`: leaving it ends what still runs.

    `open_runner` gives the sandbox in which the interpreter of `python` (full version) lives; it is called once, by
    the first thread, if anything has to be compiled at all.
    """

    def __init__(
        self, store: Store, python: str, open_runner: Callable[[], AbstractContextManager[SandboxRunner]]
    ) -> None:
        self._store = store
        self._python = python
        self._open_runner = open_runner
        self._runner: SandboxRunner | None = None
        self._opening = threading.Lock()
        self._ends = ExitStack()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, tuple[Entry, ...]]] = deque()
        self._threads: list[threading.Thread] = []
        self._failures: dict[str, BaseException] = {}
        self._unfinished: set[str] = set()
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._ends.close()

    def is_done(self, key: str) -> bool:
        """Whether the store remembers the group's answer."""
        return self._remembered(key) is not None

    def submit(self, key: str, sources: Sequence[Entry]) -> None:
        """Have the group compiled, once; returns at once. `key` says everything that decides its bytecode."""
        with self._changed:
            if key in self._unfinished or self.is_done(key):
                return
            if not sources:
                self._keep(key, self._store.put(b""), ())
                return
            self._unfinished.add(key)
            self._waiting.append((key, tuple(sources)))
            self._changed.notify_all()
            if len(self._threads) < _MOST_THREADS:
                thread = threading.Thread(target=self._work, name=f"compiler {len(self._threads)}")
                self._threads.append(thread)
                thread.start()

    def entries(self, key: str) -> tuple[Entry, ...]:
        """The group's compiled files; waits for them. Raises what kept them from being made."""
        with self._changed:
            while key in self._unfinished:
                self._changed.wait()
        if key in self._failures:
            raise self._failures[key]
        remembered = self._remembered(key)
        assert remembered is not None, "submit comes first"
        answer, files = remembered
        return tuple(
            Entry(
                path=bytecode_path(path.lstrip("/"), self._python),
                kind="file",
                mode=0o644,
                content=Slice(sha256=answer, offset=offset, length=length),
                owner="bytecode",
            )
            for path, offset, length in files
        )

    def _remembered(self, key: str) -> tuple[Sha256, list[tuple[str, int, int]]] | None:
        record = self._store.load(_RECORD, key)
        if record is None:
            return None
        document = json.loads(record)
        answer = Sha256(document["answer"])
        if not self._store.contains(answer):
            return None
        return answer, [(path, offset, length) for path, offset, length in document["files"]]

    # In the threads

    def _work(self) -> None:
        """Compile one group after the other until none is left to come."""
        while (group := self._next()) is not None:
            key, sources = group
            failure: BaseException | None = None
            try:
                self._compile(key, sources)
            except BaseException as error:  # told to whoever waits for the group
                failure = error
            with self._changed:
                if failure is not None:
                    self._failures[key] = failure
                self._unfinished.discard(key)
                self._changed.notify_all()

    def _next(self) -> tuple[str, tuple[Entry, ...]] | None:
        with self._changed:
            while not self._waiting and not self._is_stopped:
                self._changed.wait()
            return None if self._is_stopped else self._waiting.popleft()

    def _watch(self) -> None:
        if self._is_stopped:
            raise NnenvError("interrupted", "interrupted; run it again")

    def _compile(self, key: str, sources: Sequence[Entry]) -> None:
        """Bring the group's answer into the store, and remember what lies where in it."""
        store = self._store
        paths = ["/" + source.path for source in sources]
        with store.writer() as writer:
            self._run(sources, writer.write)
            answer, size = writer.commit()
        with store.open(answer) as stream:
            files = tuple(bytecode.read_answer(stream, size, paths))
        self._keep(key, answer, files)

    def _keep(self, key: str, answer: Sha256, files: Sequence[tuple[str, int, int]]) -> None:
        self._store.save(_RECORD, key, canonical_json({"answer": answer, "files": files}))

    def _opened_runner(self) -> SandboxRunner:
        with self._opening:
            if self._runner is None:
                self._runner = self._ends.enter_context(self._open_runner())
            return self._runner

    def _run(self, sources: Sequence[Entry], take: Callable[[bytes], object]) -> None:
        runner = self._opened_runner()
        version = ".".join(self._python.split(".")[:2])
        request = Run(argv=bytecode.argv(f"/usr/bin/python{version}"), environment=bytecode.ENVIRONMENT, limits=_LIMITS)
        # In this mode runs would share /tmp, so they take turns.
        turn = self._opening if runner.mode == "restricted" else nullcontext()
        with turn, Sources(self._store) as opened:
            completed = runner.stream(request, _fed(sources, opened), take, self._watch)
        if completed.exit_code != 0 or completed.limit_hit:
            raise NnenvError(
                "internal",
                "the locked interpreter could not compile the sources of a wheel or its own",
                where=f"python {self._python}: {sources[0].owner}",
                because=completed.stderr.decode("utf-8", "replace").splitlines()[-8:]
                or [completed.limit_hit or f"exit {completed.exit_code}"],
                fix=["report this with `nnenv -v build`"],
            )


def _fed(sources: Sequence[Entry], opened: Sources) -> Iterator[bytes]:
    ordered = sorted(sources, key=lambda source: source.path.encode())
    return bytecode.request(
        ("/" + source.path, content_chunks(source.content, opened), content_size(source.content)) for source in ordered
    )
