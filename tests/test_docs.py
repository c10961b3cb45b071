"""The documentation against the code: commands, variables, errors, keys, modules, tests and links, both ways."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from nnenv.adapters.pip_config import index_configuration
from nnenv.adapters.sandbox import MODES
from nnenv.cli.arguments import command_parser, parse, top_parser
from nnenv.cli.commands import COMMANDS as NAMES
from nnenv.cli.render import JSON_VERSION
from nnenv.errors import CODES, NnenvError
from nnenv.image.plan import LAYER_BUDGET, OWN_LAYER, RECIPE, LayerKind
from nnenv.spec.lockfile import LOCK_VERSION, Lockfile
from nnenv.spec.schema import key_paths
from nnenv.verify.cases import CASE_SCHEMA, CaseKind, parse_case_toml
from nnenv.verify.compare import LIMITS, TOLERANCE_POLICY
from nnenv.verify.ladder import Status, Verdict
from nnenv.workflows.building import ENVIRONMENT

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
DECISIONS = sorted((DOCS / "adr").glob("*.md"))
SOURCES = sorted((ROOT / "nnenv").rglob("*.py"))


def text(page: str) -> str:
    """A page of the documentation."""
    return (DOCS / page).read_text("utf-8")


def section(page: str, heading: str) -> str:
    """What stands under a heading of level two, up to the next one."""
    found = re.search(rf"(?ms)^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", text(page))
    assert found is not None, f"docs/{page} has no section {heading}"
    return found[1]


def name_of(path: Path) -> str:
    """A path as messages show it."""
    return path.relative_to(ROOT).as_posix()


# Commands


class Watched(Mapping[str, str]):
    """An environment without variables that remembers which ones it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def commands(name: str, command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The command, or those below it, by their whole names."""
    inner = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    below = {word: sub for action in inner for word, sub in action.choices.items()}
    return {f"{name} {word}": sub for word, sub in below.items()} or {name: command}


COMMANDS: dict[str, argparse.ArgumentParser] = {"nnenv": top_parser({})}
"""Every command that does something, by its whole name; `nnenv` itself for what needs no command."""
for _name in NAMES:
    COMMANDS |= commands(f"nnenv {_name}", command_parser(_name, {}))


def shown(action: argparse.Action) -> str:
    """An argument as docs/commands.md begins its line: every spelling with what follows it."""
    if not action.option_strings:
        return f"`{(action.metavar or action.dest).upper()}`"
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    return ", ".join(f"`{option} {value}`" if value else f"`{option}`" for option in action.option_strings)


def is_common(command: argparse.ArgumentParser, action: argparse.Action) -> bool:
    """Whether the argument is in the group that every command shares."""
    return any(action in group._group_actions for group in command._action_groups if group.title == "common options")


def arguments_of(command: argparse.ArgumentParser, *, common: bool) -> list[str]:
    """The arguments of a command in order, either the common ones or its own."""
    skipped = (argparse._HelpAction, argparse._SubParsersAction)
    wanted = [action for action in command._actions if not isinstance(action, skipped)]
    actions = [action for action in wanted if action.help != argparse.SUPPRESS]
    return [shown(action) for action in actions if is_common(command, action) == common]


def documented_arguments(heading: str) -> list[str]:
    """The beginnings of the list items of a section, up to the colon."""
    return re.findall(r"(?m)^- (`[^\n]*?`): ", section("commands.md", heading))


def test_every_command_has_a_section() -> None:
    """docs/commands.md has one section a command, in the order of the help."""
    assert re.findall(r"(?m)^## `(.*)`$", text("commands.md")) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_documented(name: str) -> None:
    """The arguments of each command, with their values and short forms, are those of the page, in order."""
    assert arguments_of(COMMANDS[name], common=False) == documented_arguments(f"`{name}`")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "nnenv"])
def test_common_options_are_documented_once(name: str) -> None:
    """Every command has the options of the section on common options."""
    assert arguments_of(COMMANDS[name], common=True) == documented_arguments("Common options")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str) -> None:
    """`--help` of each command ends with an example, and so does its section of the page."""
    assert "example:" in (COMMANDS[name].epilog or "")
    assert name == "nnenv" or f"$ {name}" in section("commands.md", f"`{name}`")


def test_every_line_of_an_example_is_a_right_command_line() -> None:
    """Each `$ nnenv …` in the documentation is accepted by the parser."""
    lines = [line for page in PAGES for line in re.findall(r"(?m)^\$ nnenv (.*)$", page.read_text("utf-8"))]
    assert lines
    for line in lines:
        for one in line.split("#")[0].split("&&"):
            parse(shlex.split(one.removeprefix(" nnenv")), {})


def test_exit_codes_are_documented() -> None:
    """The three exit codes, and no other."""
    assert re.findall(r"(?m)^\| (\d+) \|", section("commands.md", "Exit codes")) == ["0", "1", "2"]


def json_keys() -> set[str]:
    """Every key of an object that `--json` prints: those of dictionaries in the functions that make them."""
    makers = {"cli/output.py": "emit", "cli/render.py": "error_json", "errors.py": "as_json"}
    makers |= {"verify/report.py": r"report_json|_\w+", "verify/compare.py": "verdict_json"}
    makers |= {"workflows/summarising.py": "lock_summary|_target|_gpu"}
    makers |= {f"cli/commands/{name}.py": r".*_json|run" for name in NAMES}
    found: set[str] = set()
    for path, pattern in makers.items():
        for node in ast.walk(ast.parse((ROOT / "nnenv" / path).read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and re.fullmatch(pattern, node.name):
                tables = [inner for inner in ast.walk(node) if isinstance(inner, ast.Dict)]
                keys = [key for table in tables for key in table.keys if isinstance(key, ast.Constant)]
                found.update(str(key.value) for key in keys)
    return found


CHECKS = {"closure", "load", "reference", "accelerator"}


def test_every_json_key_is_documented() -> None:
    """The keys in the section on JSON are those of the code, both ways, and its version is the code's."""
    prose = section("commands.md", "JSON output")
    words = set(re.findall(r"`([a-z0-9_]+)`", prose)) - (CHECKS - json_keys()) - set(CaseKind)
    assert words == json_keys()
    assert f"`version`, which is {JSON_VERSION} " in prose


def test_every_variable_is_documented() -> None:
    """The variables of the page are those that the code asks for: written out, or made from a prefix and a name."""
    written = {word for path in SOURCES for word in re.findall(r"NNENV_[A-Z_]*[A-Z]", path.read_text("utf-8"))}
    watched = Watched()
    top_parser(watched)
    for name in NAMES:
        command_parser(name, watched)
    with suppress(NnenvError):  # where nothing is configured and there is no pip, it has asked for all of them by then
        index_configuration(watched, home=Path("/nonexistent"))
    asked = {name for name in watched.asked if name.startswith("NNENV_")}
    assert "NNENV_WORKERS" in asked
    documented = re.findall(r"(?m)^\| `(NNENV_[A-Z_]+)` \|", section("commands.md", "Variables"))
    assert documented == sorted(written | asked)


def test_no_page_names_an_unknown_variable() -> None:
    """Every NNENV_ word anywhere in the documentation is one of the table."""
    table = set(re.findall(r"`(NNENV_[A-Z_]+)` \|", section("commands.md", "Variables")))
    named = {word for page in PAGES for word in re.findall(r"NNENV_[A-Z_]*[A-Z]", page.read_text("utf-8"))}
    assert named - table == set()


# Errors


def test_every_error_code_is_documented() -> None:
    """docs/errors.md has a section for each code, in alphabetical order: the code's meaning, a cause and a fix."""
    assert re.findall(r"(?m)^## `(.*)`$", text("errors.md")) == list(CODES)
    assert list(CODES) == sorted(CODES)
    for code, meaning in CODES.items():
        lines = section("errors.md", f"`{code}`").strip().splitlines()
        assert lines[:2] == [meaning, ""], code
        assert [line.split(":")[0] for line in lines[2:]] == ["Cause", "Fix"], code


def raised_codes(tree: ast.Module) -> set[str]:
    """Strings that a module may give to NnenvError as its code: the first argument of it or of a class derived from
    it, and whatever is passed or defaults as `code`."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if node.args and ast.unparse(node.func) in ("NnenvError", "super().__init__"):
                found.append(node.args[0])
            found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        elif isinstance(node, ast.arguments):
            pairs = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            found += [default for argument, default in pairs if argument.arg == "code" and default is not None]
    constants = [inner for expression in found for inner in ast.walk(expression) if isinstance(inner, ast.Constant)]
    return {constant.value for constant in constants if isinstance(constant.value, str)}


def test_every_error_code_is_raised() -> None:
    """No code stays after the last place that raises it is gone."""
    raised = {code for path in SOURCES for code in raised_codes(ast.parse(path.read_text("utf-8")))}
    assert set(CODES) - raised == set()


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ('raise NnenvError("usage", "what")', {"usage"}),
        ('raise NnenvError("a" if x else "b", "what")', {"a", "b"}),
        ('"""usage"""\nx = {"usage": 1}', set()),
        ('def f(*, code: str = "c", other: str = "d"): ...', {"c"}),
        ('f("e", code="g")', {"g"}),
    ],
)
def test_uses_of_a_code_are_told_from_its_mention(source: str, codes: set[str]) -> None:
    """Negative control: a word in a text or table is no use of a code."""
    assert raised_codes(ast.parse(source)) == codes


def test_an_unknown_code_cannot_be_raised() -> None:
    """NnenvError refuses a code that the table, and so the page, does not have."""
    with pytest.raises(AssertionError):
        NnenvError("no-such-code", "what")


# The lock


def test_every_key_of_the_lock_is_documented() -> None:
    """docs/lock.md has a heading for each key, in the order of the file."""
    assert re.findall(r"(?m)^### `(.*)`$", text("lock.md")) == key_paths(Lockfile)
    assert f"The format of the file, {LOCK_VERSION}." in text("lock.md")


# Architecture


def test_the_map_has_every_module() -> None:
    """docs/architecture.md lists each module of nnenv once, and no module that is gone."""
    listed = re.findall(r"(?m)^\| `([a-z0-9_/]+\.(?:py|toml))` \|", section("architecture.md", "Map"))
    present = [path.relative_to(ROOT / "nnenv").as_posix() for path in SOURCES if path.name != "__init__.py"]
    tables = [f"data/{path.name}" for path in (ROOT / "nnenv" / "data").glob("*.toml")]
    assert sorted(listed) == sorted([*present, *tables])


def test_every_file_that_is_named_exists() -> None:
    """Paths of the tree in backquotes lead somewhere, on every page."""
    pattern = r"`((?:nnenv|tests|docs|schemas|examples|bench)/[A-Za-z0-9_./-]+)`"
    named = {(name_of(page), path) for page in PAGES for path in re.findall(pattern, page.read_text("utf-8"))}
    assert sorted(one for one in named if not (ROOT / one[1]).exists()) == []
    assert len(named) > 30


def test_every_module_of_a_story_exists() -> None:
    """The paths through the modules, which leave out the first folder, name modules that are there."""
    stories = text("architecture.md").partition("## Where to find what")[0]
    named = set(re.findall(r"`([a-z]+/[a-z_]+\.py)`", stories)) | set(re.findall(r"`([a-z_]+\.py)`", stories))
    modules = {path.relative_to(ROOT / "nnenv").as_posix() for path in SOURCES} | {path.name for path in SOURCES}
    assert named - modules - {"setup.py", "tests/test_project.py"} == set()


def test_decisions_have_one_form() -> None:
    """Each is numbered without a gap, linked from the architecture, and says what speaks against it."""
    assert [path.name[:5] for path in DECISIONS] == [f"{number + 1:04}-" for number in range(len(DECISIONS))]
    for path in DECISIONS:
        page = path.read_text("utf-8")
        assert page.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.findall(r"(?m)^## (.*)$", page) == ["Context", "Decision", "Consequences"], path.name
        assert "\n- Good: " in page, path.name
        assert "\n- Negative: " in page, path.name
        assert f"](adr/{path.name})" in section("architecture.md", "Decisions")


# Promises


def names_in(path: Path) -> set[str]:
    """Names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_tests_that_exist() -> None:
    """P1 to P9 each name tests, and each of those is in the file that is named."""
    headings = re.findall(r"(?m)^## (P\d): .+$", text("promises.md"))
    assert headings == [f"P{number}" for number in range(1, 10)]
    for part in re.split(r"(?m)^## ", text("promises.md"))[1:]:
        cited = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", part)
        assert cited, part[:2]
        assert [f"{path}::{name}" for path, name in cited if name not in names_in(ROOT / path)] == [], part[:2]


# Verification and image


def first_column(page: str, heading: str) -> list[str]:
    """The words in backquotes that begin the rows of the tables in a section."""
    return re.findall(r"(?m)^\| `([^`]+)` \|", section(page, heading))


def finding_codes() -> set[str]:
    """The codes of findings that verification makes."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
                found.update(
                    str(k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant) and k.arg == "code"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "_unloaded":
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value))
    return found


def test_words_of_verification() -> None:
    """Statuses in order, checks, verdicts, findings and limits of docs/verification.md are the code's."""
    assert first_column("verification.md", "Status") == [status.label for status in Status]
    assert set(first_column("verification.md", "Verdicts")) == CHECKS
    assert all(f"`{verdict}`" in text("verification.md") for verdict in Verdict)
    assert set(re.findall(r"(?m)^- `(.*?)`:", section("verification.md", "Findings"))) == finding_codes()
    limits = re.findall(r"(?m)^\| `(\w+)` \| ([0-9.]+) \|", section("verification.md", "When an output is right"))
    assert {name: float(limit) for name, limit in limits} == LIMITS
    assert f"`{TOLERANCE_POLICY}`" in text("verification.md")


def test_case_toml_as_documented() -> None:
    """The example of case.toml is right, and the list of its keys is complete: an unknown one is refused by name."""
    cases = section("verification.md", "Cases")
    (example,) = re.findall(r"```toml\n(.*?)```", cases, re.DOTALL)
    settings = parse_case_toml(example, "case.toml")
    assert (settings.tolerance, settings.axes) == ({"fp32": 2e-4}, {"logits": "row"})
    assert f'schema = "{CASE_SCHEMA}"' in example
    keys = re.findall(r"(?m)^- `(\w+)`:", cases)
    assert keys == ["schema", "kind", "model_sha256", "provenance", "tolerance", "outputs"]
    with pytest.raises(NnenvError, match=r"case\.toml"):
        parse_case_toml(example.replace("kind", "kinds"), "case.toml")
    assert all(f"`{kind}`" in cases for kind in CaseKind)


def test_words_of_the_image() -> None:
    """Layers in order, the recipe's version, the variables and the sizes of docs/image.md are the code's."""
    assert first_column("image.md", "Layers") == [kind.value for kind in LayerKind]
    assert first_column("image.md", "Config") == list(ENVIRONMENT)
    assert f"which has version {RECIPE}." in text("image.md")
    assert f"{OWN_LAYER >> 20} MiB" in section("image.md", "Layers")
    assert f"At most {LAYER_BUDGET - 12} wheels" in section("image.md", "Layers")


def test_modes_of_the_sandbox() -> None:
    """The decision on sandbox modes names those that there are, strongest first."""
    page = text("adr/0006-sandbox-modes.md")
    assert re.findall(r"(?m)^- `(\w+)` \(", page) == list(MODES)


# Form


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file, and each anchor a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached() -> None:
    """From docs/architecture.md links lead to every page of the documentation."""
    reached: set[Path] = set()
    waiting = [DOCS / "architecture.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^):\s#]+)", page.read_text("utf-8"))
        waiting += [(page.parent / link).resolve() for link in links]
    assert set(DOCS.rglob("*.md")) - reached == set()


def prose(page: Path) -> list[str]:
    """The lines of a page outside of code blocks and tables."""
    without_code = re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8"))
    return [line for line in without_code.splitlines() if not line.startswith("|")]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_one_sentence_a_line(page: Path) -> None:
    """A diff shows the sentence that changed. A list item may have two."""
    assert [line for line in prose(page) if re.search(r"[a-z)`][.?!] [A-Z`]", line) and not line.startswith("- ")] == []
