"""Wheel resolution: scenarios copied from real trouble, and comparison with a solver that tries everything."""

from __future__ import annotations

import itertools
import random
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from nnenv.adapters.http import Http
from nnenv.adapters.pip_config import index_configuration
from nnenv.adapters.python_index import PythonIndexes
from nnenv.adapters.store import Store
from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata
from nnenv.resolve import python
from nnenv.resolve.python import ChosenWheel, PythonPolicy, resolve_wheels
from nnenv.resolve.python_catalog import WheelRecord
from nnenv.resolve.python_target import PythonTarget
from tests.resolve.catalog import TextCatalog, TextProject

CASES: list[dict[str, Any]] = [
    case
    for path in sorted(Path(__file__).with_name("scenarios").glob("*.toml"))
    for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]
]
ORDERS = (None, 1, 2, 3)
"""As written, and shuffled."""


def target(case: Mapping[str, Any]) -> PythonTarget:
    """The scenario's target: Debian 12 on amd64 unless it says otherwise."""
    return PythonTarget(
        name="cpu",
        python=case.get("python", "3.11.2"),
        machine=case.get("machine", "x86_64"),
        glibc=case.get("glibc", "2.36"),
    )


def resolved(case: Mapping[str, Any], catalog: TextCatalog) -> tuple[ChosenWheel, ...]:
    """What the solver makes of the scenario."""
    policy = PythonPolicy(
        constraints=tuple(case.get("constraints", ())),
        overrides=tuple(case.get("overrides", ())),
        exclude_newer=case.get("exclude_newer", ""),
        prereleases=frozenset(case.get("prereleases", ())),
    )
    return resolve_wheels(case["requires"], catalog, target(case), policy, pins=case.get("pins", {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["says"])
def test_scenario(case: dict[str, Any]) -> None:
    """Every scenario comes out as it says, in whatever order the index lists its files."""
    outcomes = set()
    for order in ORDERS:
        catalog = TextCatalog(case["wheels"], shuffle=order)
        if "error" in case:
            with pytest.raises(NnenvError) as caught:
                resolved(case, catalog)
            assert caught.value.code == "python-unsatisfiable"
            assert caught.value.where
            assert caught.value.fix
            told = " / ".join([caught.value.what, *caught.value.because])
            for piece in case["error"]:
                assert piece in told
            outcomes.add(told)
        else:
            wheels = resolved(case, catalog)
            if "chosen" in case:
                assert [f"{wheel.record.project} {wheel.version}" for wheel in wheels] == case["chosen"]
            else:
                assert [wheel.record.filename for wheel in wheels] == case["files"]
            outcomes.add(repr(wheels))
    assert len(outcomes) == 1


class DistantCatalog(TextCatalog):
    """The same, answering hints from other threads, each after a while that differs from run to run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.threads = ThreadPoolExecutor(max_workers=8)
        self.hinted: list[str] = []
        """What was hinted at: names of projects and of files."""

    def prefetch(self, name: str, then: Callable[[Any], None]) -> None:
        """Calls back."""
        self._hint(name, lambda: then(self.project(name)))

    def expect(self, record: WheelRecord, then: Callable[[Any], None]) -> None:
        """Calls back, unless the wheel is refused."""
        if isinstance(self._metadata[record.filename], CoreMetadata):
            self._hint(record.filename, lambda: then(self._metadata[record.filename]))

    def _hint(self, name: str, go_on: Callable[[], None]) -> None:
        self.hinted.append(name)
        if len(self.hinted) < 1000:
            pause = random.random() / 2000
            self.threads.submit(lambda: (time.sleep(pause), go_on()))


def outcome(case: dict[str, Any], catalog: TextCatalog) -> object:
    """The wheels, or the whole error."""
    try:
        return resolved(case, catalog)
    except NnenvError as error:
        return error.as_json()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["says"])
def test_thinking_ahead_changes_nothing(case: dict[str, Any]) -> None:
    """Whatever answers arrive first: wheels and error texts are the same as without any hint."""
    for _ in range(3):
        catalog = DistantCatalog(case["wheels"])
        with catalog.threads:
            assert outcome(case, catalog) == outcome(case, TextCatalog(case["wheels"]))


def test_hints_run_ahead_of_the_search() -> None:
    """While the search waits for its first answer, all that will be wanted below it is hinted at, and nothing else."""
    needs = "requires a{}>1 | requires x; extra == 'x'"
    lines = [f"a{number} {version} | {needs.format(number + 1)}" for number in range(20) for version in (1, 2, 3)]

    class Waiting(DistantCatalog):
        def metadata(self, record: WheelRecord) -> CoreMetadata:
            if threading.current_thread() is threading.main_thread():
                for _ in range(2000):
                    if "a20" in self.hinted:
                        break
                    time.sleep(0.005)
                assert "a20" in self.hinted, "nobody thinks ahead"
            return super().metadata(record)

    catalog = Waiting("\n".join([*lines, "a20 2 | requires a0"]))
    with catalog.threads:
        assert len(resolved({"requires": ["a0"]}, catalog)) == 21
    assert len(catalog.hinted) < 100, "it goes round in circles"
    files = [f"a{number}-3-py3-none-any.whl" for number in range(20)]
    assert set(catalog.hinted) == {*files, "a20-2-py3-none-any.whl", *(f"a{number}" for number in range(21))}


def test_every_scenario_checks_something() -> None:
    """A scenario without an expectation, or with one that nobody reads, would pass for ever."""
    known = {"says", "wheels", "requires", "python", "machine", "glibc", "pins", "constraints", "overrides"}
    known |= {"exclude_newer", "prereleases"}
    for case in CASES:
        assert len({"chosen", "files", "error"} & case.keys()) == 1, case["says"]
        assert not case.keys() - known - {"chosen", "files", "error"}, case["says"]
    assert len({case["says"] for case in CASES}) == len(CASES)


def test_a_chosen_wheel_says_who_wanted_it_and_what_it_wants() -> None:
    """Parents are names, sorted, each once; requirements are the metadata's lines, those of unused extras too."""
    wheels = """
    aa 1 | requires cc>=1 | requires dev; extra == 'dev' | requires-python >=3.9
    bb 1 | requires cc[x] | requires aa
    cc 1 | requires aa; extra == 'x'
    """
    found = {wheel.record.project: wheel for wheel in resolved({"requires": ["bb", "aa"]}, TextCatalog(wheels))}
    assert found["aa"].parents == ("bb", "cc", "model.toml")
    assert found["cc"].parents == ("aa", "bb")
    assert found["aa"].requires == ("cc>=1", "dev; extra == 'dev'")
    assert found["aa"].requires_python == ">=3.9"


def test_what_is_bounded_most_is_decided_first() -> None:
    """`==` before other bounds before none, then names: that avoids most of the choices that must be taken back."""
    catalog = TextCatalog("aa 1\nbb 1\ncc 1\ndd 1")
    resolved({"requires": ["aa", "bb", "cc>=1", "dd==1"]}, catalog)
    assert [name[:2] for name in dict.fromkeys(catalog.asked)] == ["dd", "cc", "aa", "bb"]


def test_metadata_is_asked_only_of_wheels_that_are_tried() -> None:
    """Each request costs a round trip: a straight solve asks once for each chosen wheel and for no other."""
    lines = [f"aa {number} | requires bb" for number in range(50)] + [f"bb {number}" for number in range(50)]
    catalog = TextCatalog("\n".join(lines))
    resolved({"requires": ["aa<40", "bb<30"]}, catalog)
    assert set(catalog.asked) == {"aa-39-py3-none-any.whl", "bb-29-py3-none-any.whl"}


def test_files_are_looked_at_only_of_versions_that_are_tried() -> None:
    """Pages hold thousands of versions: a straight solve reads the files of those it wants, and of the newest."""

    class Counting(TextCatalog):
        def project(self, name: str) -> TextProject:
            project = super().project(name)
            read = project.wheels_of

            def wheels_of(version: str) -> list[WheelRecord]:
                looked_at.add(f"{name} {version}")
                return read(version)

            project.wheels_of = wheels_of  # type: ignore[method-assign]
            return project

    looked_at: set[str] = set()
    lines = [f"aa {number} | requires bb" for number in range(50)] + [f"bb {number}" for number in range(50)]
    resolved({"requires": ["aa<40", "bb<30"]}, Counting("\n".join(lines)))
    assert looked_at == {"aa 49", "aa 39", "bb 49", "bb 29"}


def test_an_extra_does_not_walk_through_every_version() -> None:
    """What other requirements on the bare name allow is tried first: a thousand versions cost no thousand requests."""
    lines = [f"aa {number} | requires xx; extra == 'x'" for number in range(1000)]
    catalog = TextCatalog("\n".join([*lines, "bb 1 | requires aa[x]", "xx 1"]))
    found = resolved({"requires": ["aa<10", "bb"]}, catalog)
    assert [wheel.version for wheel in found] == ["9", "1", "1"]
    assert len(set(catalog.asked)) == 3


def test_the_search_gives_up_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless search ends in a refusal that says so."""
    monkeypatch.setattr(python, "MAX_ROUNDS", 3)
    wheels = "\n".join(f"a{number} 1 | requires a{number + 1}" for number in range(9)) + "\na9 1"
    with pytest.raises(NnenvError, match="no solution within 3 steps") as caught:
        resolved({"requires": ["a0"]}, TextCatalog(wheels))
    assert caught.value.fix


def test_a_dead_index_is_not_a_reason_to_take_an_older_version() -> None:
    """Only a wheel that lies is passed over; when the index fails, the lock must not depend on its mood."""

    class Dead(TextCatalog):
        def metadata(self, record: Any) -> Any:
            raise NnenvError("index-unreachable", "timeout")

    with pytest.raises(NnenvError, match="timeout") as caught:
        resolved({"requires": ["aa"]}, Dead("aa 2\naa 1"))
    assert caught.value.code == "index-unreachable"


def test_a_long_explanation_is_cut() -> None:
    """Hundreds of versions that all fail alike are counted, not listed."""
    wheels = "\n".join(f"aa {number} | metadata-python >=3.12" for number in range(300))
    with pytest.raises(NnenvError) as caught:
        resolved({"requires": ["aa"]}, TextCatalog(wheels))
    assert len(caught.value.because) < 20
    assert "… and 288 more like these" in caught.value.because


# Comparison with a solver that tries everything

UNIVERSES = 200
NAMES = ("aa", "bb", "cc", "dd")


def universe(seed: int) -> tuple[str, list[str]]:
    """A small random catalog, dense enough that about half of them have no solution, and what is required of it."""
    source = random.Random(seed)
    lines = []
    for name in NAMES:
        for version in range(1, source.randint(2, 4)):
            options = []
            for other in source.sample(NAMES, source.randint(0, 2)):
                if other != name:
                    extra = source.choice(["", "", "[x]"])
                    marker = source.choice(["", "", "; extra == 'x'", "; python_version < '3'"])
                    options.append(f"requires {other}{extra}{bound(source)}{marker}")
            lines.append(" | ".join([f"{name} {version}", *options]))
    return "\n".join(lines), [f"{name}{bound(source)}" for name in source.sample(NAMES, 2)]


def bound(source: random.Random) -> str:
    """A random range."""
    if source.random() < 0.3:
        return ""
    return source.choice(["==", ">=", "<", "<=", "!=", ">"]) + str(source.randint(1, 3))


Choice = Mapping[str, Version]


def needs(catalog: TextCatalog, name: str, version: Version, extras: frozenset[str]) -> Iterator[Requirement]:
    """What one choice requires, read from the text anew."""
    record = next(record for record in catalog.project(name).wheels if Version(record.version) == version)
    markers = target({}).markers
    for text in catalog.metadata(record).requires:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({**markers, "extra": extra}) for extra in {"", *extras}
        ):
            yield requirement


def holds(catalog: TextCatalog, choice: Choice, requires: list[str]) -> bool:
    """Whether everything that `requires` reaches is chosen, and in range."""
    waiting = [Requirement(text) for text in requires]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        version = choice.get(requirement.name)
        if version is None or version not in requirement.specifier:
            return False
        key = (requirement.name, frozenset(requirement.extras))
        if key not in done:
            done.add(key)
            waiting += needs(catalog, requirement.name, version, key[1])
    return True


def solvable(catalog: TextCatalog, requires: list[str]) -> bool:
    """Whether any choice at all meets the requirements: all are tried."""
    versions = [[None, *(Version(record.version) for record in catalog.project(name).wheels)] for name in NAMES]
    return any(
        holds(catalog, {name: v for name, v in zip(NAMES, picks, strict=True) if v is not None}, requires)
        for picks in itertools.product(*versions)
    )


def test_agrees_with_a_solver_that_tries_everything() -> None:
    """On random catalogs: a solution is found exactly where there is one, and it meets every requirement."""
    found = 0
    for seed in range(UNIVERSES):
        text, requires = universe(seed)
        catalog = TextCatalog(text)
        try:
            wheels = resolved({"requires": requires}, catalog)
        except NnenvError:
            assert not solvable(catalog, requires), (seed, text, requires)
            continue
        found += 1
        choice = {wheel.record.project: Version(wheel.version) for wheel in wheels}
        assert holds(catalog, choice, requires), (seed, text, requires, choice)
        assert wheels == resolved({"requires": requires}, TextCatalog(text, shuffle=seed))
    assert UNIVERSES // 5 < found < UNIVERSES * 4 // 5


@pytest.mark.network
def test_real_packages_for_three_targets(tmp_path: Path) -> None:
    """numpy and onnxruntime resolve for Debian 12 on both CPUs and for Debian 13, to wheels of that machine."""
    import os

    targets = {
        "debian-12": PythonTarget(name="a", python="3.11.2", machine="x86_64", glibc="2.36"),
        "debian-12-arm64": PythonTarget(name="b", python="3.11.2", machine="aarch64", glibc="2.36"),
        "debian-13": PythonTarget(name="c", python="3.13.5", machine="x86_64", glibc="2.41"),
    }
    configuration = index_configuration(os.environ, home=Path.home())
    indexes = PythonIndexes(configuration, Http(), Store(tmp_path / "store"))
    try:
        for aim in targets.values():
            wheels = resolve_wheels(["numpy", "onnxruntime"], indexes, aim, PythonPolicy(), pins={})
            files = {wheel.record.project: wheel.record for wheel in wheels}
            assert {"numpy", "onnxruntime"} <= files.keys()
            for record in files.values():
                assert len(record.sha256) == 64
                assert record.size
                tag = record.filename.removesuffix(".whl").split("-", 2)[2]
                assert aim.machine in tag or tag.endswith("none-any"), record.filename
            assert f"-cp{aim.minor.replace('.', '')}-" in files["numpy"].filename
    finally:
        indexes.close()
