"""Runs inside an image: answers what its Python, its libraries and its models do. It judges nothing for `verify`.

    python harness.py serve-request   one request on stdin, one answer on stdout, both framed as `wire.py` says;
                                      the comparison happens outside
    python harness.py                 the standard inference test, the image's default command: runs the cases of
                                      `selftest.json` beside this file and prints one JSON object; exit code 0 or 1

Stand-alone: the Python standard library, numpy, onnxruntime, and the files FILES of its own directory.
Runs on Python 3.9, needs no network and no writable disk.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FILES: Final = (
    "compare.py",
    "cuda_calls.py",
    "harness.py",
    "keras_session.py",
    "placement.py",
    "providers.py",
    "tensors.py",
    "wire.py",
)
"""What an image needs beside `selftest.json`, all in one directory."""

ANSWER_SCHEMA: Final = "nnenv.answer/1"
SELFTEST_SCHEMA: Final = "nnenv.selftest/1"
DEFAULT_PROVIDERS: Final = ("CPUExecutionProvider",)
DEFAULT_IMPORTS: Final = ("numpy", "onnxruntime")

RUN_FORMATS: Final = ("onnx", "keras")
"""Formats of models that this file can run."""

OK: Final = "ok"
OK_AFTER_OTHERS: Final = "ok after others"
SKIPPED: Final = "skipped"
_EXTENSION: Final = re.compile(r"\.(cpython-[^/]*|abi3)\.so\Z")
"""File names of Python's extension modules (PEP 3149)."""

_SSE_AVX: Final = ("sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni")
_AVX512: Final = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_AMX: Final = ("amx_tile", "amx_int8", "amx_bf16")
_ARM: Final = ("asimd", "asimdhp", "asimddp", "asimdfhm", "fphp", "i8mm", "bf16", "sve", "sve2", "sme")
ISA_FLAGS: Final = frozenset((*_SSE_AVX, *_AVX512, *_AMX, *_ARM))
"""The flags of /proc/cpuinfo that decide which kernels a runtime picks."""


class RefusedError(Exception):
    """One action that cannot be done: a kind for programs and a message for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(arguments: list[str]) -> int:
    """The exit code: 0 answered or passed, 1 the test failed, 2 the request is not understood."""
    # Python put this directory first; its file names must not hide anybody's modules.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").absolute() != _here()]
    sys.dont_write_bytecode = True
    # Runtimes write to stdout, even from C; from here on that goes to stderr, and only the answer to stdout.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    if arguments == ["serve-request"]:
        answer, code = serve(sys.stdin.buffer.read())
    elif not arguments:
        report = selftest(_here())
        answer, code = (json.dumps(report, indent=1, sort_keys=True) + "\n").encode(), 0 if report["passed"] else 1
    else:
        answer, code = b"usage: harness.py [serve-request]\n", 2
    with os.fdopen(answer_to, "wb") as stream:
        stream.write(answer)
    return code


def _here() -> Path:
    return Path(__file__).absolute().parent


def _sibling(name: str) -> Any:
    """The module in the file `name`.py beside this one; never one of the same name elsewhere on the path."""
    label = f"_nnenv_harness_{name}"
    if label not in sys.modules:
        spec = importlib.util.spec_from_file_location(label, _here() / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[label] = module
        spec.loader.exec_module(module)
    return sys.modules[label]


# --- requests --------------------------------------------------------------------------------------------------------


def serve(request: bytes) -> tuple[bytes, int]:
    """The framed answer to a framed request, and the exit code. One answer an action; errors are data."""
    wire = _sibling("wire")
    blobs = wire.Blobs()
    try:
        header, body = wire.unpack(request)
        actions = header["actions"]
        if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
            raise ValueError("actions is no list of objects")
    except (ValueError, KeyError) as error:
        refused = {"schema": ANSWER_SCHEMA, "error": {"kind": "request", "message": str(error)}}
        return wire.pack(refused, []), 2
    sessions = Sessions()
    answers = [_answered(action, body, blobs, sessions) for action in actions]
    whole = {"schema": ANSWER_SCHEMA, "host": host_facts(), "answers": answers}
    return wire.pack(whole, blobs.parts), 0


def _answered(action: Mapping[str, Any], body: memoryview, blobs: Any, sessions: Sessions) -> dict[str, Any]:
    try:
        if action.get("do") == "load":
            return load(action)
        if action.get("do") == "describe":
            return _describe(action, sessions)
        if action.get("do") == "place":
            return _place(action, body)
        if action.get("do") == "run":
            return _run(action, body, blobs, sessions)
        if action.get("do") == "measure":
            return _measure(action, body, sessions)
        raise RefusedError("request", f"there is no action {action.get('do')!r}")
    except RefusedError as refusal:
        return {"error": {"kind": refusal.kind, "message": str(refusal)}}
    except Exception as error:
        # The boundary: whatever one action does, the others are answered and stdout holds no traceback.
        return {"error": {"kind": "internal", "message": f"{type(error).__name__}: {error}"}}


def _describe(action: Mapping[str, Any], sessions: Sessions) -> dict[str, Any]:
    """The facts of a model that is opened; of one that no runtime here opens, that its files are the locked ones."""
    if action.get("format", "onnx") in RUN_FORMATS:
        return {**sessions.open(action).facts, **sessions.ports()}
    path = str(action.get("model"))
    return {"model": path, "sha256": _checked(path, action.get("sha256"), action.get("beside", {})), "providers": []}


def _inputs(action: Mapping[str, Any], body: memoryview) -> dict[str, Array]:
    wire = _sibling("wire")
    try:
        return {name: wire.decode_array(one, body) for name, one in dict(action["inputs"]).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError("request", f"the inputs are not understood: {error}") from error


def _place(action: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
    """Where the model's nodes run; a session of its own, since profiling slows one down."""
    inputs, asked = _inputs(action, body), Asked.of(action)
    try:
        placed: dict[str, Any] = _sibling("placement").placed(lambda options: _session(asked, options), inputs)
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError("run", f"{type(error).__name__}: {error}") from error
    return placed


def _run(action: Mapping[str, Any], body: memoryview, blobs: Any, sessions: Sessions) -> dict[str, Any]:
    wire = _sibling("wire")
    inputs = _inputs(action, body)
    session = sessions.open(action)
    outputs, milliseconds = session.run(inputs)
    try:
        encoded = [{"name": name, **wire.encode_array(array, blobs)} for name, array in outputs.items()]
    except ValueError as error:
        raise RefusedError("unsupported-type", str(error)) from error
    return {**session.facts, **sessions.ports(), "outputs": encoded, "run_milliseconds": milliseconds}


def _measure(action: Mapping[str, Any], body: memoryview, sessions: Sessions) -> dict[str, Any]:
    """What one run costs: the least wall and processor time of several, and the process' peak of resident memory."""
    import resource

    inputs = _inputs(action, body)
    session = sessions.open(action)
    for _ in range(int(action.get("warm_ups", 0))):
        session.run(inputs)
    wall, cpu = [], []
    for _ in range(max(1, int(action.get("runs", 1)))):
        before = time.process_time()
        wall.append(session.run(inputs)[1])
        cpu.append((time.process_time() - before) * 1000.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return {
        **session.facts,
        "min_milliseconds": min(wall),
        "min_cpu_milliseconds": min(cpu),
        "peak_mebibytes": peak,
    }


# --- load ------------------------------------------------------------------------------------------------------------


def load(action: Mapping[str, Any]) -> dict[str, Any]:
    """What is installed and what of it loads: distributions, imports, providers, shared libraries."""
    extensions = bool(action.get("extension_modules", False))
    # Before the imports: what one of them brought in must not satisfy a library's needs.
    libraries = opened_libraries(action.get("libraries", ()), extensions, _dlopened)
    imports = {name: _imported(name) for name in action.get("imports", DEFAULT_IMPORTS)}
    return {
        "versions": _versions(),
        "libraries": libraries,
        "cuda": _sibling("cuda_calls").versions(action.get("cuda", ()), in_child),
        "provider": _sibling("providers").attempt(action["provider"], in_child) if action.get("provider") else "",
        "imports": imports,
        "providers": _providers() if imports.get("onnxruntime") == "ok" else [],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def opened_libraries(
    paths: Sequence[str], extensions: bool, opened: Callable[[str, Sequence[str]], str]
) -> dict[str, str]:
    """Path -> OK, OK_AFTER_OTHERS, SKIPPED (an extension module that was not asked for), or the linker's error.

    `opened(path, before)` opens one library in a process of its own, after the libraries `before`. A library that
    fails alone is tried again after those that do open: some find their needs by the DT_RPATH of the module that
    loads them (ld.so(8)), as SciPy's libgfortran finds its libquadmath; some find symbols that way, as ONNX Runtime's
    providers do.
    """
    said = {path: SKIPPED if _EXTENSION.search(path) and not extensions else opened(path, ()) for path in paths}
    # In the order in which they opened: what opens only after another must come after it.
    good = [path for path, outcome in said.items() if outcome == OK]
    while True:
        failed = [path for path in said if path not in good and said[path] != SKIPPED]
        repaired = [path for path in failed if opened(path, good) == OK]
        if not repaired:
            return said
        said.update(dict.fromkeys(repaired, OK_AFTER_OTHERS))
        good += repaired


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            # The first on sys.path is the one that gets imported.
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return versions


def _imported(name: str) -> str:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _dlopened(path: str, before: Sequence[str]) -> str:
    """OK, or what the linker said; in a process of its own."""
    said = in_child(lambda: _dlopen(path, before, os.RTLD_LOCAL))
    if before and "undefined symbol" in said:
        return in_child(lambda: _dlopen(path, before, os.RTLD_GLOBAL))
    return said


def _dlopen(path: str, before: Sequence[str], visibility: int) -> str:
    """OK, or what the linker said; `visibility` is that of the libraries `before`."""
    import ctypes

    try:
        for other in before:
            ctypes.CDLL(other, mode=os.RTLD_NOW | visibility)
        ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except (OSError, ValueError, TypeError) as error:
        return str(error) or "unknown error"
    return OK


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns, in a child process, so that nothing stays loaded and a crash is an answer."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _work_and_exit(work, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = stream.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"loading it ended with signal {os.WTERMSIG(status)}"
    return said or "loading it ended the process"


def _work_and_exit(work: Callable[[], str], write_end: int) -> None:
    """In the child: the answer goes to the pipe; no clean-up of the parent's state runs here."""
    try:
        os.write(write_end, work().encode("utf-8", "replace")[:4096])
    finally:
        os._exit(0)


# --- models ----------------------------------------------------------------------------------------------------------


class Session:
    """One model, loaded by onnxruntime."""

    def __init__(self, path: str, sha256: str, session: Any, milliseconds: float) -> None:
        self._session = session
        self.inputs = [_port(port) for port in session.get_inputs()]
        self.outputs = [_port(port) for port in session.get_outputs()]
        self.facts: dict[str, Any] = {
            "model": path,
            "sha256": sha256,
            "providers": list(session.get_providers()),
            "load_milliseconds": milliseconds,
        }

    def run(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Outputs by name, and milliseconds; raises RefusedError."""
        import numpy as np

        for port in (*self.inputs, *self.outputs):
            if not port["type"].startswith("tensor("):
                raise RefusedError(
                    "unsupported-type", f"{port['name']} is a {port['type']}; only tensors can be compared"
                )
        names = [port["name"] for port in self.outputs]
        started = time.perf_counter()
        try:
            values = self._session.run(names, dict(inputs))
        except Exception as error:
            raise RefusedError("run", f"{type(error).__name__}: {error}") from error
        milliseconds = _milliseconds_since(started)
        return {names[i]: np.asarray(values[i]) for i in range(len(names))}, milliseconds


class Asked:
    """How an action wants its model opened."""

    def __init__(
        self,
        path: str,
        threads: int,
        level: str,
        providers: tuple[tuple[str, tuple[Any, ...]], ...],
        kind: str = "onnx",
    ) -> None:
        self.path = path
        self.kind = kind
        self.threads = threads
        self.level = level
        self.providers = providers
        """(name, its options as (key, value) pairs), in order."""

    @classmethod
    def of(cls, action: Mapping[str, Any]) -> Asked:
        """Of an action's `model`, `threads`, `optimization`, `providers` and `provider_options` (by provider)."""
        path, threads = action.get("model"), action.get("threads", 1)
        level = action.get("optimization", "all")
        if not isinstance(path, str) or type(threads) is not int or level not in ("all", "disable"):
            raise RefusedError(
                "request", "a run needs a model path, a number of threads, and optimization all or disable"
            )
        options = action.get("provider_options", {})
        names = action.get("providers", DEFAULT_PROVIDERS)
        kind = action.get("format", "onnx")
        if kind not in RUN_FORMATS:
            raise RefusedError("runtime", f"nothing here runs models of the format {kind}")
        chosen = tuple((name, tuple(sorted(options.get(name, {}).items()))) for name in names)
        return cls(path, threads, level, chosen, kind)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for what can share a session."""
        return (self.path, self.threads, self.level, self.providers, self.kind)


class Sessions:
    """Opens models; keeps the last one, because the cases of one model come together and memory is limited."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._last: Session | None = None

    def open(self, action: Mapping[str, Any]) -> Session:
        """The session that `action` asks for: see `Asked.of`, and `sha256`."""
        asked = Asked.of(action)
        if self._last is None or asked.key != self._key:
            self._last = None  # frees the old model before the new one is loaded
            self._last, self._key = _opened(asked, action.get("sha256"), action.get("beside", {})), asked.key
        return self._last

    def ports(self) -> dict[str, Any]:
        """Inputs and outputs of the open model: name, type, shape."""
        assert self._last is not None
        return {"model_inputs": self._last.inputs, "model_outputs": self._last.outputs}


def _opened(asked: Asked, expected: str | None, beside: Mapping[str, str]) -> Session:
    """The model, after its file and those `beside` it (path -> sha256) were found to be the locked ones."""
    sha256 = _checked(asked.path, expected, beside)
    started = time.perf_counter()
    if asked.kind == "keras":
        keras: Session = _keras_session(asked, sha256)
        return keras
    session = _session(asked)
    return Session(asked.path, sha256, session, _milliseconds_since(started))


def _keras_session(asked: Asked, sha256: str) -> Any:
    try:
        session: Any = _sibling("keras_session").KerasSession(asked.path, sha256, asked.threads, RefusedError)
    except RefusedError:
        raise
    except (Exception, SystemExit) as error:
        raise RefusedError("model-load", f"{asked.path}: {type(error).__name__}: {error}") from error
    return session


def _checked(path: str, expected: str | None, beside: Mapping[str, str]) -> str:
    """The digest of a model's file, which and those `beside` it are the locked ones; raises RefusedError if not."""
    sha256 = ""
    for one, locked in ((path, expected), *beside.items()):
        try:
            found = _file_sha256(one)
        except OSError as error:
            raise RefusedError("model-missing", f"{one}: {error.strerror}") from error
        if locked is not None and found != locked:
            raise RefusedError("digest-mismatch", f"{one} has sha256 {found}, locked is {locked}")
        sha256 = sha256 or found
    return sha256


def _session(asked: Asked, options: Any = None) -> Any:
    """A session of onnxruntime as `asked`, with more `options` already set; raises RefusedError.

    No failure of a provider ends in a session on the CPU: without `enable_fallback=0` onnxruntime makes one.
    """
    try:
        import onnxruntime
    except (Exception, SystemExit) as error:
        raise RefusedError("runtime", f"onnxruntime cannot be imported: {error}") from error
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions() if options is None else options
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if asked.level == "all" else levels.ORT_DISABLE_ALL
    providers = [(name, dict(settings)) if settings else name for name, settings in asked.providers]
    fallback = {} if asked.providers == _ON_CPU else {"enable_fallback": 0}
    try:
        return onnxruntime.InferenceSession(asked.path, options, providers=providers, **fallback)
    except Exception as error:
        raise RefusedError("model-load", f"{asked.path}: {type(error).__name__}: {error}") from error


_ON_CPU: Final = tuple((name, ()) for name in DEFAULT_PROVIDERS)


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _port(port: Any) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": list(port.shape)}


def _file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# --- host ------------------------------------------------------------------------------------------------------------


def host_facts() -> dict[str, Any]:
    """Machine, CPU model, the ISA flags that matter, kernel, and whether the CPU is plainly emulated.

    `emulated` is true when /proc/cpuinfo describes another architecture than the one this process runs on, as
    under qemu-user; null when nothing contradicts (an emulator can also be perfect).
    """
    kernel = os.uname()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    facts = _cpuinfo(text)
    foreign = facts["x86"] if kernel.machine.startswith(("aarch64", "arm")) else facts["arm"]
    return {
        "machine": kernel.machine,
        "cpu": facts["cpu"],
        "isa": facts["isa"],
        "kernel": kernel.release,
        "emulated": True if foreign else None,
    }


def _cpuinfo(text: str) -> dict[str, Any]:
    """The first processor's entry of /proc/cpuinfo."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), value.strip())
    arm = "CPU part" in values
    implementer = f"implementer {values.get('CPU implementer')} part {values.get('CPU part')}" if arm else ""
    flags = values.get("flags", values.get("Features", "")).split()
    return {
        "cpu": values.get("model name") or implementer,
        "isa": sorted(ISA_FLAGS.intersection(flags)),
        "x86": "vendor_id" in values and not arm,
        "arm": arm,
    }


# --- the standard inference test -------------------------------------------------------------------------------------


def selftest(directory: Path) -> dict[str, Any]:
    """The report of the cases that `selftest.json` in `directory` lists; paths in it are absolute or relative to it."""
    report: dict[str, Any] = {"schema": SELFTEST_SCHEMA, "passed": False, "host": host_facts(), "models": []}
    try:
        listed = json.loads((directory / "selftest.json").read_text("utf-8"))
        report.update(target=listed["target"], lock=listed["lock"])
        sessions = Sessions()
        report["models"] = [_tested_model(model, directory, sessions) for model in listed["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        report["error"] = f"selftest.json cannot be used: {type(error).__name__}: {error}"
        return report
    report["cases"] = sum(len(model["cases"]) for model in report["models"])
    report["passed"] = all(model["passed"] for model in report["models"])
    if not report["cases"]:
        report["note"] = "no case is recorded: only loading was tested"
    if not report["models"]:
        outcome = _imported("onnxruntime")
        report.update(passed=outcome == "ok", onnxruntime=outcome)
    return report


def _tested_model(model: Mapping[str, Any], directory: Path, sessions: Sessions) -> dict[str, Any]:
    action = {
        "model": str(directory / model["path"]),
        "sha256": model["sha256"],
        "format": model.get("format", "onnx"),
        "beside": model.get("beside", {}),
    }
    result: dict[str, Any] = {"name": model["name"], "sha256": model["sha256"], "passed": False, "cases": []}
    try:
        session = sessions.open(action)
    except RefusedError as refusal:
        return {**result, "error": {"kind": refusal.kind, "message": str(refusal)}}
    result.update(providers=session.facts["providers"], load_milliseconds=session.facts["load_milliseconds"])
    result["cases"] = [_tested_case(case, directory, session) for case in model["cases"]]
    result["passed"] = all(case["passed"] for case in result["cases"])
    return result


def _tested_case(case: Mapping[str, Any], directory: Path, session: Session) -> dict[str, Any]:
    comparison = _sibling("compare")
    result: dict[str, Any] = {"name": case["name"], "passed": False, "outputs": []}
    try:
        inputs, expected = _tensors(case["inputs"], directory), _tensors(case["outputs"], directory)
        outputs, result["run_milliseconds"] = session.run(inputs)
    except RefusedError as refusal:
        return {**result, "error": {"kind": refusal.kind, "message": str(refusal)}}
    limits, axes = case.get("limits"), case.get("axes")
    verdicts = comparison.compare(expected, outputs, limit=case.get("limit"), limits=limits, axes=axes)
    result["outputs"] = [comparison.verdict_json(verdict) for verdict in verdicts]
    result["passed"] = bool(verdicts) and all(verdict.passed for verdict in verdicts)
    return result


def _tensors(listed: list[Mapping[str, str]], directory: Path) -> dict[str, Array]:
    tensors = _sibling("tensors")
    found = {}
    for one in listed:
        try:
            _, found[one["name"]] = tensors.read_tensor((directory / one["file"]).read_bytes())
        except OSError as error:
            raise RefusedError("case", f"{one['file']}: {error.strerror}") from error
        except ValueError as error:
            raise RefusedError("case", f"{one['file']}: {error}") from error
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
