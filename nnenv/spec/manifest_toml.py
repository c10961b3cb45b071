"""`model.toml`: bytes -> `Manifest`, strictly, with every mistake reported at once.

Reading is cheap for the common case: packaging is imported only for requirements that a short pattern of ours does
not know.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from nnenv.errors import NnenvError, SeveralErrors
from nnenv.spec import manifest as rules
from nnenv.spec.artifact import Sha256
from nnenv.spec.manifest import (
    AdaptSpec,
    Additions,
    CaseSpec,
    EvalSpec,
    ImageSpec,
    IndexSpec,
    Manifest,
    ModelSpec,
    Policy,
    Project,
    Requires,
    TargetSpec,
)
from nnenv.spec.model_source import GIT, HUB, KAGGLE, OCI, TORCHHUB, WEB, WHEEL, ZOO
from nnenv.spec.toml_gate import KeyPath, line_of, read_toml

MOST_MISTAKES: Final = 100
"""Mistakes reported at once; a file with more is hostile or no manifest."""

T = TypeVar("T")


def parse_manifest(data: bytes, filename: str = "model.toml") -> Manifest:
    """The manifest in `data`; linear in its size, without any I/O.

    Raises NnenvError (`manifest-invalid`) for what is not TOML or breaks a limit, and else SeveralErrors with every
    mistake in the order of the lines: `manifest-invalid`, or `path-escapes` for a path that may leave the project.
    Links in paths are not looked at here: that is for the adapter that opens them.
    """
    document = read_toml(data, filename)
    mistakes = _Mistakes(filename, document.lines)
    root = _Table(document.values, (), mistakes)
    manifest = _manifest(root, filename, mistakes)
    mistakes.raise_any()
    return manifest


# The manifest's tables, in the order of docs/manifest.md


def _manifest(root: _Table, filename: str, mistakes: _Mistakes) -> Manifest:
    project = _project(root.table("project", required=True))
    machines = tuple(root.named("targets", rules.TARGET_NAME))
    models = tuple(
        _model(name, table, [target for target, _ in machines]) for name, table in root.named("models", rules.NAME)
    )
    names = tuple(model.name for model in models)
    requires = _requires(root.table("requires"))
    targets = tuple(_target(name, table, names) for name, table in machines)
    if not targets:
        mistakes.add(("targets",), "no target is defined", ["add a line [targets.cpu]: the defaults make it a target"])
    image = _image(root.table("image"))
    policy = _policy(root.table("policy"))
    indexes = _indexes(root, mistakes)
    root.close()
    return Manifest(
        project=project,
        models=models,
        requires=requires,
        targets=targets,
        image=image,
        policy=policy,
        indexes=indexes,
        filename=filename,
        where=mistakes.lines,
    )


def _project(table: _Table) -> Project:
    project = Project(
        name=table.string("name", _name),
        version=table.string("version", _version),
        description=table.string("description", _one_line, default=""),
    )
    table.close()
    return project


def _model(name: str, table: _Table, targets: Sequence[str]) -> ModelSpec:
    tests = [_case(case) for case in table.listed("tests")]
    seen: set[str] = set()
    for index, case in enumerate(tests):
        if case.data and case.data in seen:
            table.mistake(
                ("tests", str(index), "data"),
                f"{_shown(case.data)} is a test of this model already",
                ["keep one of the two"],
            )
        seen.add(case.data)
    sha256 = table.string("sha256", _sha256, default="")
    # One of the two: a name for each is what JSON Schema can say of them.
    several = table.has("sources")
    sources = table.strings("sources", _source, same=str, least=1, ordered=True) if several else ()
    source = table.string("source", _source, default="") if several else table.string("source", _source)
    if several and source:
        table.mistake(("sources",), "stands beside `source`", ["keep one of the two"])
    if any(text.startswith("file:") for text in sources):
        table.mistake(("sources",), "holds a file of the project", ["name that by `source`, alone"])
    if (
        any(text.startswith(("http://", "git+http://", "onnxzoo:http://")) for text in (source, *sources))
        and not sha256
    ):
        table.mistake(
            ("sha256",), "is needed for a source by plain http, whose bytes anybody on the way can change",
            ["write the digest of the file", "or an https: address"],
        )  # fmt: skip
    model = ModelSpec(
        name=name,
        version=table.string("version", _version),
        source=source,
        sources=sources,
        format=table.string("format", _choice(rules.FORMATS), default=""),
        sha256=Sha256(sha256) if sha256 else None,
        tests=tuple(sorted(tests, key=lambda case: case.data)),
        adapt=tuple(_adapt(step, targets) for step in table.listed("adapt")),
        evaluations=tuple(_evaluation(one, targets) for one in table.listed("eval")),
    )
    table.close()
    return model


def _case(table: _Table) -> CaseSpec:
    case = CaseSpec(data=table.string("data", _project_path), tolerance=table.tolerance("tolerance"))
    table.close()
    return case


def _adapt(table: _Table, targets: Sequence[str]) -> AdaptSpec:
    step = AdaptSpec(
        step=table.string("step", _choice(rules.STEPS)),
        targets=table.strings("targets", _choice(targets), same=str, least=1),
        tools=table.strings("tools", normal_requirement, same=requirement_identity),
        max_drift=table.tolerance("max-drift"),
        calibration=table.string("calibration", _project_path, default=""),
        preset=table.string("preset", _choice(rules.PRESETS), default=""),
        activations=table.string("activations", _choice(rules.INTEGERS), default=""),
        weights=table.string("weights", _choice(rules.INTEGERS), default=""),
        per_channel=table.boolean("per-channel"),
        reduce_range=table.boolean("reduce-range"),
        method=table.string("method", _choice(rules.CALIBRATIONS), default=""),
        exclude=table.strings("exclude", _one_line, same=str, least=1),
        opset=table.whole("opset", 7, 99),
        amount=table.number("amount", above=0, below=1),
        shapes=table.pairs("shapes", _one_line, _shape),
        script=table.string("script", _project_path, default=""),
        inputs=table.strings("inputs", _project_path, same=_base_name, least=1),
        changes_ports=table.boolean("changes-ports"),
    )
    if step.step in rules.STEPS:
        common = ("step", "targets", "tools", "max-drift")
        allowed = (*common, *rules.STEP_OPTIONS[step.step])
        for key in table.keys:
            if key in _STEP_KEYS and key not in allowed:
                table.mistake((key,), f"is no key of {step.step}", [f"leave it out; it takes {', '.join(allowed)}"])
        needed = rules.STEP_NEEDS.get(step.step)
        if needed and not table.has(needed):
            table.mistake((needed,), f"the key is missing, which {step.step} needs", [f"add {needed}"])
    table.close()
    return step


_STEP_KEYS: Final = frozenset(key for keys in rules.STEP_OPTIONS.values() for key in keys)


def _evaluation(table: _Table, targets: Sequence[str]) -> EvalSpec:
    one = EvalSpec(
        metric=table.string("metric", _choice(rules.METRICS)),
        data=table.string("data", _project_path),
        labels=table.string("labels", _one_line, default=""),
        output=table.string("output", _one_line, default=""),
        k=table.whole("k", 1, 1000),
        targets=table.strings("targets", _choice(targets), same=str, least=1),
        minimum=table.number("minimum"),
        at_least=table.string("at-least", _percent, default=""),
        max_latency=table.number("max-latency", above=0),
        max_memory=table.number("max-memory", above=0),
        max_size=table.number("max-size", above=0),
        hardware=table.string("hardware", _one_line, default=""),
    )
    if one.k is not None and one.metric != "top-k":
        table.mistake(("k",), f"is no key of {one.metric}", ["leave it out; top-k takes it"])
    if one.labels and one.metric == "agreement":
        table.mistake(("labels",), "is no key of agreement, which compares with the model before", ["leave it out"])
    table.close()
    return one


def _requires(table: _Table) -> Requires:
    requires = Requires(
        python=table.string("python", _versions, default=""),
        packages=table.strings("packages", normal_requirement, same=requirement_identity),
        system=table.strings("system", debian_package, same=debian_identity),
    )
    table.close()
    return requires


def _target(name: str, table: _Table, models: Sequence[str]) -> TargetSpec:
    additions = table.table("requires")
    target = TargetSpec(
        name=name,
        platform=table.string("platform", _choice(rules.PLATFORMS, _PLATFORM_ALIASES), default="linux/amd64"),
        os=table.string("os", _choice(rules.SYSTEMS, _SYSTEM_ALIASES), default="debian:12"),
        python=table.string("python", _versions, default=""),
        cuda=table.string("cuda", _versions, default=""),
        cudnn=table.string("cudnn", _versions, default=""),
        compute_capability=by_number(table.strings("compute-capability", _capability, same=str, least=1)),
        driver=table.string("driver", _driver, default=""),
        cpu_features=table.strings("cpu-features", _choice(rules.CPU_FEATURES), same=str, least=1),
        models=table.strings("models", _choice(models), same=str, least=1) or tuple(models),
        requires=Additions(
            packages=additions.strings("packages", normal_requirement, same=requirement_identity),
            system=additions.strings("system", debian_package, same=debian_identity),
        ),
    )
    additions.close()
    table.close()
    return target


def _image(table: _Table) -> ImageSpec:
    image = ImageSpec(
        entrypoint=table.strings("entrypoint", _without_nul, ordered=True, least=1),
        command=table.strings("command", _without_nul, ordered=True, least=1),
        environment=table.pairs("env", _variable, _without_nul),
        user=table.string("user", _user, default=rules.DEFAULT_USER),
        workdir=table.string("workdir", _image_path, default="/"),
        labels=table.pairs("labels", _label, _one_line),
        files=table.pairs("files", _image_source, _image_destination),
        shell=bool(table.boolean("shell")),
        trim=table.boolean("trim"),
    )
    table.close()
    return image


def _policy(table: _Table) -> Policy:
    policy = Policy(
        exclude_newer=table.string("exclude-newer", _moment, default=""),
        minimum_age=table.string("minimum-age", _age, default=""),
        constraints=table.strings("constraints", _range, same=requirement_identity),
        overrides=table.strings("overrides", _range, same=requirement_identity),
        allow_pickle=table.strings("allow-pickle", _sha256, same=str),
        allow_prereleases=table.strings("allow-prereleases", _distribution, same=str),
    )
    table.later(("licences",), "is not supported by this version of nnenv")
    table.close()
    return policy


def _indexes(root: _Table, mistakes: _Mistakes) -> tuple[IndexSpec, ...]:
    """The indexes, each name and each package's binding once (a package has one source: no dependency confusion)."""
    indexes: list[IndexSpec] = []
    owner: dict[str, str] = {}
    for position, table in enumerate(root.listed("index")):
        index = IndexSpec(
            name=table.string("name", _name),
            url=table.string("url", _index_url),
            packages=table.strings("packages", _distribution, same=str, least=1, required=True),
        )
        table.close()
        if index.name and any(index.name == other.name for other in indexes):
            mistakes.add(
                ("index", str(position), "name"),
                f"{_shown(index.name)} is the name of two indexes",
                ["give each index a name of its own"],
            )
        for package in index.packages:
            if owner.setdefault(package, index.name) != index.name:
                mistakes.add(
                    ("index", str(position), "packages", package),
                    f"{package} is bound to index {_shown(owner[package])} already",
                    ["bind each package to one index"],
                )
        indexes.append(index)
    return tuple(sorted(indexes, key=lambda index: index.name))


# Requirements


# Atomic groups as in `toml_gate`, where the reason stands.
_CLAUSE = re.compile(
    r" *(==|!=|<=|>=|<|>|~=) *([0-9]+(?>(?:\.[0-9]+)*))(\.\*|(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?) *"
)
_SIMPLE_REQUIREMENT = re.compile(rf" *({rules.DISTRIBUTION}) *(?:\[([A-Za-z0-9._, -]*)\])?([^;@(\[]*)")
_PLAIN_VERSION = re.compile(r"[0-9]+(?>(?:\.[0-9]+)*)")
_LONGEST_REQUIREMENT: Final = 512
# packaging reads nested parentheses of markers by recursion; more than this is no honest requirement.
_MOST_PARENTHESES: Final = 16


def normal_requirement(text: str) -> str:
    """`text` in its one spelling: names as PEP 503 has them, extras and clauses sorted, each once.

    Raises RuleError for what PEP 508 does not allow, and for a direct URL.
    """
    return _simple_requirement(text) or _odd_requirement(text)


def _simple_requirement(text: str) -> str | None:
    """`normal_requirement` for the common `name[extra]>=1,<2`; None for what packaging must decide."""
    match = _SIMPLE_REQUIREMENT.fullmatch(text) if len(text) <= _LONGEST_REQUIREMENT else None
    if match is None:
        return None
    extras = [extra.strip(" ") for extra in match[2].split(",")] if match[2] else []
    clauses = _simple_clauses(match[3]) if match[3].strip(" ") else []
    if clauses is None or not all(re.fullmatch(rules.DISTRIBUTION, extra) for extra in extras):
        return None
    return _spelled(match[1], extras, clauses)


def _simple_clauses(text: str) -> list[str] | None:
    """The clauses of a range of plain versions; None for what packaging must decide."""
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            return None
        operator, release, suffix = match.groups()
        if suffix == ".*" and operator not in ("==", "!="):
            return None
        if operator == "~=" and "." not in release:
            return None
        clauses.append(operator + release + suffix)
    return clauses


def _odd_requirement(text: str) -> str:
    """`normal_requirement` by packaging: markers, wildcards in odd places, whatever PEP 508 allows besides."""
    from packaging.requirements import Requirement

    if len(text) > _LONGEST_REQUIREMENT or text.count("(") > _MOST_PARENTHESES:
        raise RuleError(
            f"{_shown(text)} is too long or nested too deeply for a requirement", "split it, or simplify its marker"
        )
    try:
        requirement = Requirement(text)
    except ValueError as error:
        raise _no_requirement(text, str(error).partition("\n")[0]) from None
    for name in (requirement.name, *sorted(requirement.extras)):
        # packaging's names may end in "_", PEP 508's may not.
        if not re.fullmatch(rules.DISTRIBUTION, name):
            raise _no_requirement(text, f"{name} is not a name")
    if requirement.url is not None:
        raise RuleError(
            f"{_shown(text)} names a URL; a lock holds no addresses",
            "name the package alone, and bind it to an [[index]] if it is not on the usual one",
        )
    clauses = [str(clause) for clause in requirement.specifier]
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return _spelled(requirement.name, requirement.extras, clauses) + marker


def _no_requirement(text: str, reason: str) -> RuleError:
    return RuleError(
        f"{_shown(text)} is not a requirement",
        'write it as PEP 508 has it, such as "numpy>=1.26,<3"',
        because=_shown(reason),
    )


def _spelled(name: str, extras: Sequence[str] | set[str], clauses: Sequence[str]) -> str:
    names = sorted({normal_name(extra) for extra in extras})
    return normal_name(name) + (f"[{','.join(names)}]" if names else "") + ",".join(sorted(set(clauses)))


def normal_name(name: str) -> str:
    """The name of a distribution or extra as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_identity(requirement: str) -> str:
    """What may stand once in a list: the same name twice is a mistake unless markers tell the two apart."""
    name = re.match(r"[a-z0-9-]+", requirement)
    return f"{name[0] if name else requirement};{requirement.partition(';')[2]}"


def _range(text: str) -> str:
    requirement = normal_requirement(text)
    if "[" in requirement.partition(";")[0]:
        raise RuleError(f"{_shown(text)} names an extra; a range has none", "name the package without its extras")
    return requirement


def _versions(text: str) -> str:
    """A PEP 440 range; a plain version names its family: `3.11` is any 3.11.x, `12` any CUDA 12."""
    plain = text.strip()
    if len(plain) <= _LONGEST_REQUIREMENT and _PLAIN_VERSION.fullmatch(plain):
        return f"=={plain}.*"
    clauses = _simple_clauses(text) if len(text) <= _LONGEST_REQUIREMENT else []
    if clauses is None:
        clauses = _odd_clauses(text)
    if not clauses:
        raise RuleError(f"{_shown(text)} is not a range of versions", 'write it as PEP 440 has it, such as ">=3.11"')
    return ",".join(sorted(set(clauses)))


def _odd_clauses(text: str) -> list[str]:
    """The clauses of any PEP 440 range; none if it is not one."""
    from packaging.specifiers import SpecifierSet

    try:
        return [str(clause) for clause in SpecifierSet(text)]
    except ValueError:
        return []


# Accelerators


_ARCHITECTURE = re.compile(r"(?:sm_|compute_)?([1-9][0-9]?)([0-9])[af]?")


def _capability(text: str) -> str:
    if re.fullmatch(rules.CAPABILITY, text, re.ASCII):
        return text
    match = _ARCHITECTURE.fullmatch(text)
    advice = f'write "{match[1]}.{match[2]}"' if match else 'write it as NVIDIA does, such as "8.6"'
    raise RuleError(f"{_shown(text)} is not a compute capability", advice)


def by_number(capabilities: Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities in the order of their numbers: 9.0 before 12.0."""
    return tuple(sorted(capabilities, key=lambda text: [int(part) for part in text.split(".")]))


def _driver(text: str) -> str:
    """The oldest driver that is promised, as `>=535`; a plain version is the oldest too."""
    if not re.fullmatch(rules.DRIVER, text, re.ASCII):
        raise RuleError(
            f"{_shown(text)} does not say which driver the hosts have at least",
            'write the oldest driver of the hosts, such as ">=535" or ">=535.104.05" (nvidia-smi prints it)',
        )
    return ">=" + text.removeprefix(">=").strip()


# Rules of single values: each returns the normal spelling, or raises RuleError


class RuleError(Exception):
    """A value that breaks a rule, before its place is known."""

    def __init__(self, what: str, fix: str, *, code: str = "manifest-invalid", because: str = "") -> None:
        super().__init__(what)
        self.because = because
        self.what = what
        self.fix = fix
        self.code = code


Rule = Callable[[str], str]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_PATH: Final = 1024
_PLATFORM_ALIASES: Final = {
    "amd64": "linux/amd64",
    "x86_64": "linux/amd64",
    "linux/x86_64": "linux/amd64",
    "arm64": "linux/arm64",
    "aarch64": "linux/arm64",
    "linux/aarch64": "linux/arm64",
}
_SYSTEM_ALIASES: Final = {
    "bookworm": "debian:12",
    "debian:bookworm": "debian:12",
    "trixie": "debian:13",
    "debian:trixie": "debian:13",
}
_RESERVED_PATHS: Final = ("/proc", "/sys", "/dev", "/opt/nnenv")
"""Places in the image that the kernel or nnenv fills."""


def _like(pattern: str, meant: str, fix: str) -> Rule:
    """The rule that a value matches the whole of `pattern`, which is compiled when a value first asks for it."""

    def rule(text: str) -> str:
        if len(text) > _LONGEST_PATH or not re.fullmatch(pattern, text, re.ASCII):
            raise RuleError(f"{_shown(text)} is not {meant}", fix)
        return text

    return rule


_name = _like(rules.NAME, "a name", "use lower-case letters and digits, with . _ - only between them")
_version = _like(rules.VERSION, "a version", 'write a version that starts with a digit, such as "1.2.0"')
_sha256 = _like(rules.SHA256, "a sha256", "write the 64 lower-case hexadecimal digits that sha256sum prints")
_user = _like(
    rules.USER, "a numeric user other than root", 'write a user number, or user:group, above 0, such as "65532:65532"'
)
_variable = _like(rules.VARIABLE, "a variable's name", "use letters, digits and _, and no digit first")
_label = _like(rules.LABEL, "a label's name", "use letters, digits, and . _ / - between them")
_index_url = _like(
    rules.INDEX_URL,
    "an index's address",
    "write an https:// address without user, password, query or fragment; credentials belong to pip's configuration",
)
_shape = _like(rules.SHAPE, "a shape", 'write the sizes with x between them, such as "1x3x224x224"')
_percent = _like(rules.PERCENT, "a part in percent", 'write it such as "99%"')
_debian_name = _like(
    rules.DEBIAN_PACKAGE, "a Debian package", 'write "name" or "name (>= version)", without an architecture'
)
_distribution_name = _like(rules.DISTRIBUTION, "a package's name", "write the name alone, without version or extras")


def debian_package(text: str) -> str:
    """`text` if it names a Debian package, with a relation to a version or without; raises RuleError if not."""
    return _debian_name(text)


def debian_identity(text: str) -> str:
    """What may stand once in a list: the name."""
    return text.partition(" ")[0]


def _distribution(text: str) -> str:
    return normal_name(_distribution_name(text))


def _base_name(path: str) -> str:
    """What may stand once among files that lie beside each other."""
    return posixpath.basename(path)


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise RuleError(f"{_shown(text)} holds a control character", "write it on one line, without tabs")
    return text


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise RuleError(f"{_shown(text)} holds a NUL character", "leave it out: no program can be given one")
    return text


def _choice(choices: Sequence[str], aliases: dict[str, str] | None = None) -> Rule:
    """The rule that a value is one of `choices`; `aliases` are other names for them, for the suggestion only."""

    def rule(text: str) -> str:
        if text in choices:
            return text
        meant = (aliases or {}).get(text.lower()) or _nearest(text, choices)
        if meant:
            raise RuleError(f"{_shown(text)} is not known here", f'did you mean "{meant}"?')
        if not choices:
            raise RuleError(f"{_shown(text)} is not known here", "define it first")
        raise RuleError(f"{_shown(text)} is not known here", f"choose one of {', '.join(choices[:10])}")

    return rule


def _source(text: str) -> str:
    if len(text) > rules.LONGEST_SOURCE:
        most = rules.LONGEST_SOURCE
        raise RuleError(f"the source has {len(text)} characters", f"write at most {most}: servers refuse longer ones")
    scheme, colon, path = text.partition(":")
    if not colon:
        raise RuleError(f"{_shown(text)} has no scheme", "write file: and the path of the model file from the project")
    if scheme == "file":
        return f"file:{_project_path(path)}"
    fix = "download the model into the project and write file: and its path"
    if scheme in _SOURCE_FORMS:
        pattern, form = _SOURCE_FORMS[scheme]
        if not re.fullmatch(pattern, text):
            raise RuleError(f"{_shown(text)} is no {scheme}: source", form)
        return _normal_wheel_source(text) if scheme == "pypi" else text
    nearest = _nearest(scheme, ("file", *_SOURCE_FORMS))
    raise RuleError(f"{_shown(scheme)} is no scheme of a source", f"did you mean {nearest}:?" if nearest else fix)


_PLAIN: Final = ("http://", "git+http://", "onnxzoo:http://")
"""Sources whose bytes nobody vouches for."""
_SOURCE_FORMS: Final = {
    "https": (WEB, "write https://host/path, without user name, password and fragment"),
    "http": (WEB, "write http://host/path, without user name, password and fragment"),
    "git+https": (GIT, "write git+https://host/repository@revision#path/of/file"),
    "git+http": (GIT, "write git+http://host/repository@revision#path/of/file"),
    "hf": (HUB, "write hf:org/name@revision:path/of/file"),
    "pypi": (WHEEL, "write pypi:distribution==version/path/in/wheel"),
    "oci": (OCI, "write oci:registry/repository:tag or oci:registry/repository@sha256:digest, and #path/of/file"),
    "torchhub": (TORCHHUB, "write torchhub:owner/repository@revision:entrypoint"),
    "kaggle": (KAGGLE, "write kaggle:owner/model/framework/variation/version:path/of/file"),
    "tfhub": (KAGGLE, "write tfhub:owner/model/framework/variation/version:path/of/file"),
    "onnxzoo": (ZOO, "write onnxzoo:https://host/path/model.tar.gz or onnxzoo:file:path/of/model.tar.gz"),
}
"""Scheme -> its form, and how to write it."""


def _normal_wheel_source(text: str) -> str:
    """With the distribution's name and range in their normal spelling."""
    name, _, path = text.removeprefix("pypi:").partition("/")
    return f"pypi:{normal_requirement(name)}/{path}"


def _project_path(text: str) -> str:
    """A path that stays in the project, without `.` and doubled slashes."""
    _check_path(text)
    if text.startswith("/"):
        raise RuleError(
            f"{_shown(text)} is an absolute path", "write the path from the project's directory", code="path-escapes"
        )
    path = posixpath.normpath(text)
    if path == ".":
        raise RuleError(f"{_shown(text)} is the whole project", "name a file or directory inside it")
    return path


def _image_source(text: str) -> str:
    return _project_path(text)


def _image_path(text: str) -> str:
    _check_path(text)
    if not text.startswith("/"):
        raise RuleError(f"{_shown(text)} is not an absolute path", "write the path in the image, starting with /")
    return "/" + posixpath.normpath(text).lstrip("/")


def _image_destination(text: str) -> str:
    path = _image_path(text)
    for reserved in _RESERVED_PATHS:
        if path == reserved or path.startswith(reserved + "/"):
            raise RuleError(f"{_shown(text)} is in {reserved}, which nnenv keeps", "choose another place, such as /app")
    return path


def _check_path(text: str) -> None:
    """What no path may hold, wherever it leads."""
    if ".." in text.split("/"):
        reason, fix = "holds ..", "write the path without .."
    elif "\\" in text:
        reason, fix = "holds a backslash", "part the names with /"
    elif not text.isprintable():
        reason, fix = "holds a control character", "rename the file"
    elif not text or len(text) > _LONGEST_PATH:
        raise RuleError(f"{_shown(text)} is no path", f"write a path of 1 to {_LONGEST_PATH} characters")
    else:
        return
    raise RuleError(f"{_shown(text)} {reason}", fix, code="path-escapes")


def _moment(text: str) -> str:
    from datetime import datetime

    _moment_shape(text)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise RuleError(f"{_shown(text)} is no moment of the calendar", _MOMENT_FIX) from None
    return text


_MOMENT_FIX: Final = 'write it in RFC 3339 and UTC, in quotes, such as "2025-06-01T00:00:00Z"'
_moment_shape = _like(rules.MOMENT, "a moment", _MOMENT_FIX)
_age_shape = _like(rules.AGE, "an age", 'write a number of hours, days or weeks, such as "7 days"')


def _age(text: str) -> str:
    """An age in days where they are whole, else in hours: `1 week` is `7 days`."""
    number, unit = _age_shape(text).split(" ")
    hours = int(number) * {"hour": 1, "day": 24, "week": 168}[unit.removesuffix("s")]
    count, name = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


# Tables and mistakes


class _Mistakes:
    """Mistakes found so far, each with its place."""

    def __init__(self, filename: str, lines: dict[KeyPath, int]) -> None:
        self.lines = lines
        self._filename = filename
        self._found: list[tuple[int, NnenvError]] = []

    def add(
        self, path: KeyPath, what: str, fix: Sequence[str], *, code: str = "manifest-invalid", because: str = ""
    ) -> None:
        """Note one mistake at `path`; raises all of them when there are `MOST_MISTAKES`."""
        line = line_of(self.lines, path)
        error = NnenvError(
            code,
            f"{_key_path(path)}: {what}",
            where=f"{self._filename}:{line}",
            because=[because] if because else [],
            fix=fix,
        )
        self._found.append((line, error))
        if len(self._found) >= MOST_MISTAKES:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise SeveralErrors, in the order of the lines, if there is any."""
        if self._found:
            raise SeveralErrors([error for _, error in sorted(self._found, key=lambda found: found[0])])


class _Table:
    """One table: getters that know where each value stands, note mistakes, and return a stand-in for a wrong value."""

    def __init__(self, values: dict[str, object], path: KeyPath, mistakes: _Mistakes, *, absent: bool = False) -> None:
        self._values = values
        self._path = path
        self._mistakes = mistakes
        self._absent = absent
        self._known: dict[str, None] = {}

    def mistake(self, path: KeyPath, what: str, fix: Sequence[str]) -> None:
        """Note a mistake at `path` in this table."""
        self._mistakes.add(self._path + path, what, fix)

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._values

    def string(self, key: str, rule: Rule, *, default: str | None = None) -> str:
        """The string at `key` as `rule` spells it; without a `default` the key is required."""
        value = self._get(key, str, "a string", required=default is None)
        if value is None:
            return default or ""
        return self._checked((key,), value, rule) or default or ""

    def strings(
        self,
        key: str,
        rule: Rule,
        *,
        same: Rule | None = None,
        ordered: bool = False,
        least: int = 0,
        required: bool = False,
    ) -> tuple[str, ...]:
        """The strings at `key` as `rule` spells them, sorted unless `ordered`; () if there is no such key.

        `same` gives what may stand only once among them.
        """
        array = self._get(key, list, "an array of strings", required=required)
        if array is None:
            return ()
        if not least <= len(array) <= rules.MOST_ITEMS:
            self.mistake(
                (key,),
                f"the array has {len(array)} elements",
                [f"write {least} to {rules.MOST_ITEMS} elements, or leave the key out"],
            )
            return ()
        spelled = list(self._spelled(key, array, rule, same))
        return tuple(spelled if ordered else sorted(spelled))

    def _spelled(self, key: str, array: list[object], rule: Rule, same: Rule | None) -> Iterator[str]:
        lines = self._mistakes.lines
        seen: dict[str, int] = {}
        for index, value in enumerate(array):
            path = (key, str(index))
            if not isinstance(value, str):
                self.mistake(path, f"expected a string, not {_kind(value)}", ["put it in quotes"])
                continue
            text = self._checked(path, value, rule)
            if text is None:
                continue
            line = line_of(lines, self._path + path)
            if same is not None:
                first = seen.setdefault(same(text), index)
                if first != index:
                    self.mistake(path, f"{_shown(value)} repeats {_shown(array[first])}", ["keep one of the two"])
            lines.setdefault((*self._path, key, text), line)
            yield text

    def pairs(self, key: str, name_rule: Rule, value_rule: Rule) -> tuple[tuple[str, str], ...]:
        """The table of strings at `key`, sorted by name; () if there is no such key."""
        values = self._get(key, dict, "a table")
        spelled: dict[str, str] = {}
        for name, value in (values or {}).items():
            path = (key, name)
            if not isinstance(value, str):
                self.mistake(path, f"expected a string, not {_kind(value)}", ["put it in quotes"])
                continue
            name_text = self._checked(path, name, name_rule)
            value_text = self._checked(path, value, value_rule)
            if name_text is None or value_text is None:
                continue
            if name_text in spelled:
                self.mistake(path, f"{_shown(name)} is {_shown(name_text)} again", ["keep one of the two"])
            spelled[name_text] = value_text
        return tuple(sorted(spelled.items()))

    def boolean(self, key: str) -> bool | None:
        """The boolean at `key`, if there is one."""
        return self._get(key, bool, "true or false")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are there."""
        return tuple(self._values)

    def whole(self, key: str, least: int, most: int) -> int | None:
        """The whole number at `key`, within the bounds; None if there is no such key."""
        self._known[key] = None
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.mistake((key,), f"expected a whole number from {least} to {most}", ["write such a number"])
            return None
        return value

    def number(self, key: str, *, above: float = -math.inf, below: float = math.inf) -> float | None:
        """The finite number at `key`, strictly within the bounds; None if there is no such key."""
        self._known[key] = None
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.mistake((key,), f"expected a number, not {_kind(value)}", ["write it like 0.95"])
            return None
        if not math.isfinite(value) or not above < value < below:
            bounds = [f"above {above:g}"] * math.isfinite(above) + [f"below {below:g}"] * math.isfinite(below)
            self.mistake(
                (key,), f"{value} is out of bounds", [f"write a finite number {' and '.join(bounds)}".rstrip()]
            )
            return None
        return float(value)

    def tolerance(self, key: str) -> float | None:
        """The number at `key`, from 0 and below 1; None if there is no such key."""
        self._known[key] = None
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.mistake((key,), f"expected a number, not {_kind(value)}", ["write it like 1e-4"])
            return None
        # At 1 and above an output of zeros would pass: such a test proves nothing.
        if not math.isfinite(value) or not 0 <= value < 1:
            self.mistake((key,), f"{value} is no tolerance", ["write a number from 0 to below 1, such as 1e-4"])
            return None
        return float(value)

    def table(self, key: str, *, required: bool = False) -> _Table:
        """The table at `key`; one that is absent asks for no keys, so that its absence is one mistake."""
        values = self._get(key, dict, f"a table [{key}]", required=required)
        return _Table(values or {}, (*self._path, key), self._mistakes, absent=values is None)

    def named(self, key: str, pattern: str) -> Iterator[tuple[str, _Table]]:
        """The tables `[key.NAME]`, sorted by name; a wrong name is a mistake, and its table is passed over."""
        values = self._get(key, dict, f"tables [{key}.NAME]")
        for name, value in sorted((values or {}).items()):
            path = (key, name)
            if len(name) > _LONGEST_NAME or not re.fullmatch(pattern, name):
                self.mistake(
                    path,
                    f"{_shown(name)} is not a name",
                    ["use lower-case letters, digits and - (in models' names also . and _)"],
                )
            elif not isinstance(value, dict):
                self.mistake(path, f"expected a table, not {_kind(value)}", [f"write [{key}.{name}]"])
            else:
                yield name, _Table(value, (*self._path, *path), self._mistakes)

    def listed(self, key: str) -> Iterator[_Table]:
        """The tables `[[key]]`, in the order of the file."""
        fix = [f"write [[{'.'.join((*self._path, key))}]] above each"]
        array = self._get(key, list, "an array of tables", fix=fix)
        if array is not None and len(array) > rules.MOST_ITEMS:
            self.mistake((key,), f"the array has {len(array)} elements", [f"write at most {rules.MOST_ITEMS}"])
            return
        for index, value in enumerate(array or ()):
            path = (key, str(index))
            if isinstance(value, dict):
                yield _Table(value, self._path + path, self._mistakes)
            else:
                self.mistake(path, f"expected a table, not {_kind(value)}", fix)

    def later(self, keys: Sequence[str], reason: str) -> None:
        """Refuse keys that are reserved for later versions."""
        for key in keys:
            if key in self._values:
                self._known[key] = None
                self.mistake((key,), reason, ["leave the key out"])

    def close(self) -> None:
        """Note every key that nothing asked for."""
        for key in self._values:
            if key not in self._known:
                nearest = _nearest(key, tuple(self._known))
                fix = f"did you mean {nearest}?" if nearest else f"leave it out; known are {', '.join(self._known)}"
                self.mistake((key,), "unknown key", [fix])

    def _get(
        self, key: str, kind: type[T], expected: str, *, required: bool = False, fix: Sequence[str] = ()
    ) -> T | None:
        """The value at `key` if it is of `kind`; None, with a mistake noted where there must be one, if not."""
        self._known[key] = None
        value = self._values.get(key)
        if value is None:
            if required and not self._absent:
                self.mistake((key,), "the key is missing", [f"add {key}: it is required here"])
            return None
        if isinstance(value, kind):
            return value
        self.mistake((key,), f"expected {expected}, not {_kind(value)}", fix or [f"write {expected}"])
        return None

    def _checked(self, path: KeyPath, value: str, rule: Rule) -> str | None:
        try:
            return rule(value)
        except RuleError as error:
            self._mistakes.add(self._path + path, error.what, [error.fix], code=error.code, because=error.because)
            return None


_LONGEST_NAME: Final = 128
_LONGEST_SHOWN: Final = 80
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def _kind(value: object) -> str:
    """What TOML calls a value of this type."""
    kinds = (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "an integer"),
        (float, "a float"),
        (list, "an array"),
        (dict, "a table"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def _shown(value: object) -> str:
    """`value` as a message quotes it: on one line, cut, and without characters that move a terminal's cursor."""
    text = str(value)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def _key_path(path: KeyPath) -> str:
    """`path` as TOML writes it, with indexes in brackets: `models.digits.tests[0].data`."""
    written = ""
    for part in path:
        if part.isdecimal() and written:
            written += f"[{part}]"
        else:
            written += "." * bool(written) + (part if _BARE_KEY.fullmatch(part) and len(part) <= 80 else _shown(part))
    return written


def _nearest(text: str, choices: Sequence[str]) -> str | None:
    """The choice that `text` is most likely a slip of, or None."""
    import difflib

    if len(text) > _LONGEST_SHOWN:
        return None
    return next(iter(difflib.get_close_matches(text.lower(), choices[: rules.MOST_ITEMS], n=1)), None)
