"""Which weights an entry point of torch hub loads, read from the text of hubconf.py; nothing of it is run.

What is followed: functions of the repository that are called, with the constants that they are given; constants,
dictionaries of addresses, and classes of constants (torchvision's `Weights`), in hubconf.py and in modules that are
imported by name. An address that is put together when the code runs is refused.
Source of the digest in a file's name: torch.hub, `HASH_REGEX`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

ENTRY_FILE: Final = "hubconf.py"

_WEIGHTS: Final = re.compile(
    r"https?://[^\s/?#@]+/[^\s#]*\.(?:pth|pt|pth\.tar|th|onnx|safetensors|ckpt|bin)(?:\?[^\s#]*)?"
)
_ENDINGS: Final = (".pth", ".pt", ".pth.tar", ".th", ".onnx", ".safetensors", ".ckpt", ".bin")
_DIGEST: Final = re.compile(r".*-([0-9a-f]{8,64})\.[A-Za-z][A-Za-z.]*")
_MOST_MODULES: Final = 64
_MOST_VISITS: Final = 2000
_MOST_STEPS: Final = 1_000_000
"""Expressions and names that are looked at: seconds."""
_LONGEST_CHAIN: Final = 8
"""Imports from module to module."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Bindings = Mapping[str, str]
"""Variables whose text is known."""


class HubError(ValueError):
    """The text does not say which weights; says why."""


def weights_address(entrypoint: str, read: Callable[[str], str | None]) -> str:
    """The one address of weights that the entry point loads; `read` gives the text of a file of the repository, or
    None if it has none.

    Raises HubError: no hubconf.py or entry point, no address, several, or one that is put together.
    """
    hub = _Hub(read)
    try:
        hub.enter(entrypoint)
    except (RecursionError, MemoryError):
        raise HubError("its text is nested too deeply") from None
    if hub.computed:
        raise HubError(f"an address is put together when the code runs: {', '.join(sorted(hub.computed)[:3])}")
    if len(hub.found) != 1:
        listed = ", ".join(sorted(hub.found)[:10])
        raise HubError(f"it loads one of {len(hub.found)} files: {listed}" if listed else "it names no file of weights")
    return next(iter(hub.found))


def digest_prefix(address: str) -> str:
    """The first digits of the sha256 that the file at an address has by its name; empty if the name has none."""
    match = _DIGEST.fullmatch(file_name(address))
    return match[1] if match else ""


def file_name(address: str) -> str:
    """The last part of the path."""
    return unquote(urlsplit(address).path.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class _Module:
    path: str
    package: tuple[str, ...]
    """What its relative imports are relative to."""
    values: dict[str, ast.AST] = field(default_factory=dict)
    """Name -> function, class, or expression that is assigned."""
    imported: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    """Name -> module, and the name in there; an empty name for the module itself."""
    stars: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a name stands for, and the module whose names it uses."""

    module: _Module
    node: ast.AST


class _Hub:
    """One search."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self.found: set[str] = set()
        self.computed: set[str] = set()
        """Places of addresses that nobody knows before the code runs."""
        self._read = read
        self._modules: dict[str, _Module | None] = {}
        self._class_values: dict[int, dict[str, ast.expr]] = {}
        self._steps = 0
        self._visited: set[tuple[str, int, tuple[tuple[str, str], ...]]] = set()

    def enter(self, entrypoint: str) -> None:
        module = self._module_at(ENTRY_FILE, ())
        if module is None:
            raise HubError(f"it has no {ENTRY_FILE}")
        known = self._lookup(module, entrypoint)
        if known is None or not isinstance(known.node, Function | ast.ClassDef):
            raise HubError(f"{ENTRY_FILE} defines no entry point {entrypoint}")
        self._visit_callable(known, {})

    # What is called

    def _visit_callable(self, known: _Known, given: Bindings) -> None:
        node = known.node
        if isinstance(node, ast.ClassDef):
            node = next((one for one in node.body if isinstance(one, Function) and one.name == "__init__"), node)
        key = (known.module.path, id(node), tuple(sorted(given.items())))
        if isinstance(node, ast.ClassDef) or key in self._visited:
            return
        self._visited.add(key)
        if len(self._visited) > _MOST_VISITS:
            raise HubError("its text calls too much")
        assert isinstance(node, Function)
        self._visit(known.module, [*node.decorator_list, *node.body], {**self._locals(known.module, node), **given})
        for default in (*node.args.defaults, *(one for one in node.args.kw_defaults if one)):
            self._visit(known.module, [default], {})

    def _locals(self, module: _Module, function: Function) -> dict[str, str]:
        """Variables that are given one text, once."""
        values: dict[str, list[ast.expr | None]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                values.setdefault(node.targets[0].id, []).append(node.value)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                values.setdefault(node.id, [])
        known: dict[str, str] = {}
        names = (one for one in ast.walk(function) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store))
        stored = Counter(one.id for one in names)
        for name, assigned in values.items():
            if len(assigned) == 1 and assigned[0] is not None and stored[name] == 1:
                text = self._text(module, assigned[0], {})
                if text is not None:
                    known[name] = text
        return known

    def _visit(self, module: _Module, nodes: Sequence[ast.AST], bindings: Bindings) -> None:
        """Note the addresses below the nodes, and go where they call."""
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            text = self._text(module, node, bindings) if isinstance(node, ast.expr) else None
            if text is not None:
                if _WEIGHTS.fullmatch(text):
                    self.found.add(text)
                continue
            if _is_computed_address(node):
                self.computed.add(f"{module.path} line {getattr(node, 'lineno', 0)}")
                continue
            self._follow(module, node, bindings)
            waiting.extend(ast.iter_child_nodes(node))

    def _follow(self, module: _Module, node: ast.AST, bindings: Bindings) -> None:
        if isinstance(node, ast.Call):
            known = self._meaning(module, node.func)
            if known and isinstance(known.node, Function | ast.ClassDef):
                self._visit_callable(known, dict(self._given(module, node, known.node, bindings)))
        elif isinstance(node, ast.Attribute):
            owner = self._meaning(module, node.value)
            if owner and isinstance(owner.node, ast.ClassDef):
                value = self._class_value(owner.node, node.attr)
                if value is not None:
                    self._visit(owner.module, [value], {})
        elif isinstance(node, ast.Subscript) and self._dictionary(module, node.value):
            self.computed.add(f"{module.path} line {node.lineno}")

    def _given(self, module: _Module, call: ast.Call, called: ast.AST, bindings: Bindings) -> Iterator[tuple[str, str]]:
        """Parameters of the function that is called whose text is known."""
        if isinstance(called, ast.ClassDef):
            called = next((one for one in called.body if isinstance(one, Function) and one.name == "__init__"), called)
            skipped = 1
        else:
            skipped = 0
        if not isinstance(called, Function):
            return
        names = [one.arg for one in (*called.args.posonlyargs, *called.args.args)][skipped:]
        for name, value in [*zip(names, call.args, strict=False), *((one.arg, one.value) for one in call.keywords)]:
            text = self._text(module, value, bindings)
            if name is not None and text is not None:
                yield name, text

    # What is known before the code runs

    def _text(self, module: _Module, node: ast.AST, bindings: Bindings) -> str | None:
        """The text that an expression is; None if that is not known, or if it is none."""
        self._step()
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                if name in bindings:
                    return bindings[name]
                known = self._lookup(module, name)
                return self._text(known.module, known.node, {}) if known else None
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                first, second = self._text(module, left, bindings), self._text(module, right, bindings)
                return None if first is None or second is None else first + second
            case ast.Subscript(value=value, slice=key):
                return self._entry(module, value, key, bindings)
            case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[key, *_]):
                return self._entry(module, value, key, bindings)
        return None

    def _entry(self, module: _Module, value: ast.expr, key: ast.expr, bindings: Bindings) -> str | None:
        known = self._dictionary(module, value)
        wanted = self._text(module, key, bindings)
        if known is None or wanted is None:
            return None
        assert isinstance(known.node, ast.Dict)
        for one, text in zip(known.node.keys, known.node.values, strict=True):
            if one is not None and self._text(known.module, one, {}) == wanted:
                return self._text(known.module, text, {})
        return None

    def _dictionary(self, module: _Module, node: ast.expr) -> _Known | None:
        """A dictionary that is written out and holds addresses."""
        known = self._meaning(module, node)
        if known is None or not isinstance(known.node, ast.Dict):
            return None
        texts = [self._text(known.module, one, {}) for one in known.node.values]
        return known if any(text and _WEIGHTS.fullmatch(text) for text in texts) else None

    def _class_value(self, node: ast.ClassDef, name: str) -> ast.expr | None:
        """What a class assigns to one of its names, through other names of it."""
        if id(node) not in self._class_values:
            self._class_values[id(node)] = {
                target.id: one.value
                for one in node.body
                if isinstance(one, ast.Assign)
                for target in one.targets
                if isinstance(target, ast.Name)
            }
        value: ast.expr | None = ast.Name(id=name)
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(value, ast.Name):
                return value
            value = self._class_values[id(node)].get(value.id)
        return None

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise HubError("its text takes too long to understand")

    def _meaning(self, module: _Module, node: ast.AST) -> _Known | None:
        """What a name, with dots or without, stands for in a module."""
        if isinstance(node, ast.Name):
            return self._lookup(module, node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            parts, name = module.imported.get(node.value.id, ((), ""))
            inner = self._module((*parts, name) if name else parts)
            return self._lookup(inner, node.attr) if inner else None
        return None

    def _lookup(self, module: _Module, name: str, chain: int = 0) -> _Known | None:
        self._step()
        if chain > _LONGEST_CHAIN:
            return None
        if name in module.values:
            value = module.values[name]
            if isinstance(value, ast.Name) and value.id != name:
                return self._lookup(module, value.id, chain + 1)
            return _Known(module, value)
        parts, original = module.imported.get(name, ((), ""))
        places = [(parts, original)] if original else [(star, name) for star in module.stars]
        for place, wanted in places:
            inner = self._module(place)
            known = self._lookup(inner, wanted, chain + 1) if inner else None
            if known:
                return known
        return None

    # Modules of the repository

    def _module(self, parts: tuple[str, ...]) -> _Module | None:
        """A module by its dotted name; None if it is none of the repository's."""
        if not parts:
            return None
        path = "/".join(parts)
        return self._module_at(f"{path}.py", parts[:-1]) or self._module_at(f"{path}/__init__.py", parts)

    def _module_at(self, path: str, package: tuple[str, ...]) -> _Module | None:
        if path not in self._modules:
            if len(self._modules) >= 2 * _MOST_MODULES:
                raise HubError("its text imports too many modules")
            text = self._read(path)
            self._modules[path] = None if text is None else _parsed(path, package, text)
        return self._modules[path]


def _parsed(path: str, package: tuple[str, ...], text: str) -> _Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        raise HubError(f"{path} is not Python that can be read here") from None
    module = _Module(path, package)
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                module.values[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                module.values[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                module.values[name] = value
            case ast.Import(names=names):
                for one in names:
                    parts = tuple(one.name.split("."))
                    module.imported[one.asname or parts[0]] = (parts if one.asname else parts[:1], "")
            case ast.ImportFrom(module=name, names=names, level=level):
                inner = tuple((name or "").split(".")) if name else ()
                base = (*package[: len(package) - level + 1], *inner) if level else inner
                for one in names:
                    if one.name == "*":
                        module.stars.append(base)
                    else:
                        module.imported[one.asname or one.name] = (base, one.name)
            case ast.If() | ast.Try():
                waiting.extend(reversed([*node.body, *node.orelse]))
    return module


def _is_computed_address(node: ast.AST) -> bool:
    """An address with parts that nobody knows: an f-string, or a text that is joined to something."""
    match node:
        case ast.JoinedStr(values=values) if values:
            pieces: list[ast.expr] = list(values)
        case ast.BinOp(op=ast.Add() | ast.Mod(), left=left, right=right):
            pieces = [left, right]
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            pieces = [value]
        case _:
            return False
    first, last = pieces[0], pieces[-1]
    begins = isinstance(first, ast.Constant) and str(first.value).startswith(("https://", "http://"))
    ends = isinstance(last, ast.Constant) and str(last.value).endswith(_ENDINGS)
    return begins or ends
