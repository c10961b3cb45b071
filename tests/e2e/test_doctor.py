"""`nnenv doctor` in a whole small world: what it asks, and its whole output."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nnenv.workflows.doctoring import State, examine
from tests.e2e.test_cli_snapshots import compare, on_a_terminal, piped
from tests.e2e.world import PLAIN, User, World, plain_project
from tests.workflows.test_doctoring import by_name, session


def test_a_healthy_world(world: World, tmp_path: Path) -> None:
    """Index and mirror answer, the signature is right, and the clocks agree, though the project has no lock."""
    world.offer("packaging", "1.0")
    plain_project(tmp_path / "project", PLAIN)
    lines = by_name(examine(session(tmp_path / "project", world.environment()), offline=False))
    assert lines["python index"].text.endswith("(JSON, metadata files, ETag)")
    assert lines["debian mirror"].state is State.OK
    assert "bookworm, signed 2026-01-03" in lines["debian mirror"].text
    assert lines["clock"].text == "agrees with the servers'"
    assert (lines["project"].state, lines["project"].fix) == (State.WARNING, ("run `nnenv lock`",))
    assert "127.0.0.1" in lines["python index"].text


def test_a_forged_release_is_missing(world: World, tmp_path: Path) -> None:
    """A mirror that answers with another key's signature is no mirror."""
    world.keyring.write_bytes(b"")
    lines = by_name(examine(session(tmp_path, world.environment()), offline=False))
    assert lines["debian mirror"].state is State.MISSING


def test_offline_asks_nobody(world: World, tmp_path: Path) -> None:
    """Not one request, and the lines say so."""
    lines = by_name(examine(session(tmp_path, world.environment()), offline=True))
    assert not world.requests
    assert {name for name, line in lines.items() if line.state is State.SKIPPED} == {
        "python index",
        "debian mirror",
        "clock",
    }


# Whole outputs


def of_no_machine(text: str) -> str:
    """What differs from machine to machine as a placeholder, whatever it found here."""
    for name in ("nnenv", "machine", "store", "docker", "sandbox", "emulator", "gpu", "git", "gpgv"):
        # a line of that name, with the fixes below it
        line = rf"(?m)^\S+ {{2,}}{name} {{2,}}\S.*\n(?: .*fix.*\n)*"
        text = re.sub(line, lambda found, name=name: f"<state> {name} <text>\n", text)
    return text


def test_output(world: World, tmp_path: Path) -> None:
    """Piped, offline, and in colours on a terminal; each thing on a line, with its fix below it."""
    world.offer("packaging", "1.0")
    user = world.user(plain_project(tmp_path / "project", PLAIN), tmp_path / "store")
    outputs = [
        piped(user, "doctor"),
        piped(user, "doctor", "--offline"),
        on_a_terminal(user, "doctor", "--offline"),
        piped(user, "doctor", "-q"),
    ]
    compare("doctor", of_no_machine("\n".join(outputs)))


def test_json(world: World, tmp_path: Path) -> None:
    """Every line with name, state, text and fixes."""
    user = world.user(plain_project(tmp_path / "project", PLAIN), tmp_path / "store")
    document = user.must("doctor", "--json", "--offline").json()
    assert document["ok"] is True
    assert [sorted(check) for check in document["checks"]] == [["fix", "name", "state", "text"]] * 13
    assert {check["state"] for check in document["checks"]} <= {str(state) for state in State}


def test_a_store_that_cannot_be_written_is_the_end(world: World, tmp_path: Path) -> None:
    """Exit code 1, and still every line."""
    user = User(
        project=plain_project(tmp_path / "project", PLAIN), store=Path("/proc/store"), environment=world.environment()
    )
    refused = user.refused("doctor", "--offline", "--json")
    lines = {check["name"]: check for check in json.loads(refused.out)["checks"]}
    assert (lines["store"]["state"], len(lines)) == ("missing", 13)


def test_every_example(world: World, tmp_path: Path) -> None:
    """The lines of `--help`, run."""
    user = world.user(plain_project(tmp_path / "project", PLAIN), tmp_path / "store")
    lines = re.findall(r"(?m)^  nnenv (.*)$", user.must("doctor", "--help").out)
    assert len(lines) == 4
    for line in lines:
        if "--target" in line:  # there is no lock here; tests/e2e/test_main_examples.py has one
            assert "lock-missing" in user.refused(*line.split(), "--json").out
            continue
        user.must(*line.split())
