"""The limits and the profile: every trial really runs, and a profile's time arrives where it belongs."""

from __future__ import annotations

from pathlib import Path

from bench import limits, profile_build
from bench.profile_build import OUTSIDE, by_c_function, by_module, c_function, module_of


def test_every_limit_is_measured(tmp_path: Path) -> None:
    """Each trial does its work once, on little data, and gives a rate."""
    data = limits.payload(2_000_000)
    assert len(data) == 2_000_000
    with limits.serving(data) as port:
        found = limits.measured({**limits.throughputs(data, tmp_path, port)}, 1)
    assert {"sha256, in memory", "inflate (zlib)", "tar, read (tarfile)", "HTTP from this machine"} <= found.keys()
    assert all(rate > 0 for rates in found.values() for rate in rates)
    rows = limits.table("t", "MB/s", {"a": [1e6, 3e6, 2e6]}, 1e6).rows
    assert rows == (("a", "2.00", "1.00-3.00"),)


LAYERS = ("/x/nnenv/image/layers.py", 10, "spliced_layer")
STORE = ("/x/nnenv/adapters/store.py", 20, "write")
ZIP = ("/lib/python3.11/zipfile.py", 30, "read")
UPDATE = ("~", 0, "<method 'update' of '_hashlib.HASH' objects>")


def _calls(seconds: float) -> tuple[int, int, float, float]:
    return (1, 1, seconds, seconds)


def test_library_time_goes_to_who_called() -> None:
    """Own seconds of the library go up to modules of nnenv in proportion; with no caller they are start-up."""
    statistics = {
        LAYERS: (1, 1, 1.0, 6.0, {}),
        STORE: (1, 1, 0.5, 2.0, {LAYERS: _calls(2.0)}),
        ZIP: (1, 1, 1.0, 3.0, {LAYERS: _calls(3.0)}),
        UPDATE: (2, 2, 4.0, 4.0, {STORE: _calls(1.0), ZIP: _calls(3.0)}),
        ("~", 0, "<built-in method builtins.exec>"): (1, 1, 0.25, 0.25, {}),
    }
    assert by_module(statistics) == {"image.layers": 1.0 + 1.0 + 3.0, "adapters.store": 0.5 + 1.0, OUTSIDE: 0.25}
    assert by_c_function(statistics) == {
        "Python code": 2.5, "method 'update' of '_hashlib.HASH' objects": 4.0, "builtins.exec": 0.25,
    }  # fmt: skip


def test_library_functions_that_call_each_other_end() -> None:
    """A circle without a way out loses no time."""
    first, second = ("/lib/a.py", 1, "f"), ("/lib/a.py", 2, "g")
    statistics = {first: (1, 1, 1.0, 2.0, {second: _calls(1.0)}), second: (1, 1, 1.0, 2.0, {first: _calls(1.0)})}
    assert sum(by_module(statistics).values()) == 2.0


def test_functions_have_names_that_people_know() -> None:
    """Modules by their place in the package, C functions without addresses."""
    assert module_of(("/v/lib/python3.11/site-packages/nnenv/cli/commands/build.py", 3, "run")) == "cli.commands.build"
    assert module_of(("/v/nnenv/cli/main.py", 1, "<module>")) == ""
    assert module_of(("/lib/python3.11/zipfile.py", 1, "read")) == ""
    assert c_function("<built-in method posix.write>") == "posix.write"
    assert c_function("<built-in method __new__ of type object at 0x7f90ac65ea00>") == "__new__ of type object"


def test_small_shares_are_one_row() -> None:
    """The table stays short, and its shares are of everything."""
    seconds = {f"m{number:02}": 1.0 for number in range(20)}
    rows = profile_build.shares("t", "module", seconds).rows
    assert len(rows) == profile_build.SHOWN + 1
    assert rows[0] == ("m00", "1.00", "5 %")
    assert rows[-1] == ("all others", "6.00", "30 %")
