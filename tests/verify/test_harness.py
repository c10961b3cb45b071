"""The harness as it runs in an image: apart from nnenv, isolated Python, stdout clean, errors as data."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from nnenv.verify import harness
from nnenv.verify.tensors import write_tensor
from nnenv.verify.wire import Blobs, decode_array, encode_array, pack, unpack

from .models import VERIFY, image, install_harness, model, random_convnet


def ask(directory: Path, actions: list[dict[str, Any]], parts: tuple[bytes, ...] = ()) -> tuple[dict, memoryview]:
    """The answer of a harness installed in `directory`, run as an image's Python would."""
    return unpack(ran(directory, pack({"actions": actions}, parts)).stdout)


def ran(directory: Path, request: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The finished process of one request."""
    script = install_harness(directory)
    argv = [sys.executable, "-I", str(script), *(arguments or ("serve-request",))]
    return subprocess.run(argv, input=request, capture_output=True, cwd="/", env={}, timeout=60, check=False)


def saved(directory: Path, made: Any) -> tuple[str, str]:
    """Path and sha256 of a model file."""
    path = directory / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", harness.FILES)
def test_the_files_of_the_image_stand_alone_on_python_3_9(name: str) -> None:
    """They parse as Python 3.9, import nothing of nnenv, and use no dataclass option newer than 3.9."""
    tree = ast.parse((VERIFY / name).read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert not str(node.module).startswith("nnenv")
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("nnenv") for alias in node.names)
        if isinstance(node, ast.keyword):
            assert node.arg not in ("slots", "kw_only", "strict")


def test_load_says_what_is_installed_and_what_loads(tmp_path: Path) -> None:
    """Versions, imports with their errors, providers, and each library by itself."""
    (tmp_path / "broken.so").write_bytes(b"not an ELF file")
    libraries = ["libc.so.6", "libdoes-not-exist.so.1", str(tmp_path / "broken.so"), "/x.cpython-311-x86_64.so"]
    actions = [{"do": "load", "imports": ["numpy", "onnxruntime", "no_such_module"], "libraries": libraries}]
    header, _ = ask(tmp_path / "h", actions)
    (answer,) = header["answers"]
    assert answer["versions"]["numpy"] == np.__version__
    assert answer["imports"]["numpy"] == answer["imports"]["onnxruntime"] == "ok"
    assert "No module named" in answer["imports"]["no_such_module"]
    assert "CPUExecutionProvider" in answer["providers"]
    said = [answer["libraries"][path] for path in libraries]
    assert said[0] == "ok"
    assert "cannot open shared object file" in said[1]
    assert "broken.so" in said[2]
    assert said[3] == "skipped"
    assert header["host"]["machine"] == answer["machine"]


def test_extension_modules_are_opened_when_asked(tmp_path: Path) -> None:
    """The same path is skipped without the request, and tried with it."""
    actions = [{"do": "load", "imports": [], "libraries": ["/x.cpython-311.so"], "extension_modules": True}]
    (answer,) = ask(tmp_path, actions)[0]["answers"]
    assert "cannot open shared object file" in answer["libraries"]["/x.cpython-311.so"]


def test_a_library_that_kills_the_process_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while one library loads happens in a child process and is named."""
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: os.kill(os.getpid(), signal.SIGKILL))
    assert harness._dlopened("libcrash.so", ()) == f"loading it ended with signal {signal.SIGKILL:d}"


def test_libraries_that_lean_on_others_load_after_them() -> None:
    """A simulated linker: `c` needs `b`, `b` needs `a`, `d` needs what nobody has; nothing else is forgiven."""
    needs = {"a.so": [], "b.so": ["a.so"], "c.so": ["b.so"], "d.so": ["x.so"], "m.cpython-311-x86_64-linux-gnu.so": []}

    def linker(path: str, before: Sequence[str]) -> str:
        missing = [need for need in needs[path] if need not in before]
        return f"{missing[0]}: cannot open shared object file" if missing else "ok"

    assert harness.opened_libraries(list(reversed(needs)), False, linker) == {
        "a.so": "ok",
        "b.so": "ok after others",
        "c.so": "ok after others",
        "d.so": "x.so: cannot open shared object file",
        "m.cpython-311-x86_64-linux-gnu.so": "skipped",
    }


def test_run_returns_tensors_and_facts(tmp_path: Path) -> None:
    """Outputs as onnxruntime gives them here, the model's sha256 as read, its ports and providers."""
    import onnxruntime

    path, sha256 = saved(tmp_path, random_convnet())
    blobs = Blobs()
    run = {"do": "run", "model": path, "sha256": sha256, "inputs": {"image": encode_array(image(), blobs)}}
    header, body = ask(tmp_path / "h", [{"do": "describe", "model": path}, run, run], tuple(blobs.parts))
    described, first, second = header["answers"]
    assert described["model_inputs"] == [{"name": "image", "type": "tensor(float)", "shape": [1, 3, 8, 8]}]
    assert [port["name"] for port in first["model_outputs"]] == ["logits"]
    assert first["sha256"] == described["sha256"] == sha256
    assert first["providers"] == ["CPUExecutionProvider"]
    assert first["run_milliseconds"] > 0
    (output,) = first["outputs"]
    logits = decode_array(output, body)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": image()})
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert logits.tobytes() == decode_array(second["outputs"][0], body).tobytes()


def test_strings_and_integers_travel(tmp_path: Path) -> None:
    """String inputs and outputs are JSON lists; int64 and bool are blobs."""
    ports = {"s": (TensorProto.STRING, [2]), "i": (TensorProto.INT64, [2]), "b": (TensorProto.BOOL, [])}
    nodes = [helper.make_node("Identity", [name], [name + "_out"]) for name in ports]
    inputs = [helper.make_tensor_value_info(name, *one) for name, one in ports.items()]
    outputs = [helper.make_tensor_value_info(name + "_out", *one) for name, one in ports.items()]
    path, _ = saved(tmp_path, model(nodes, inputs, outputs))
    values = {"s": np.array(["a", "ß"], dtype=object), "i": np.array([2**53 + 1, -1]), "b": np.array(True)}
    blobs = Blobs()
    encoded = {name: encode_array(value, blobs) for name, value in values.items()}
    header, body = ask(tmp_path / "h", [{"do": "run", "model": path, "inputs": encoded}], tuple(blobs.parts))
    (answer,) = header["answers"]
    found = {one["name"]: decode_array(one, body) for one in answer["outputs"]}
    assert {name: found[name + "_out"].tolist() for name in values} == {n: v.tolist() for n, v in values.items()}


def test_errors_are_data_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    """Each bad action has an error kind; the good one after them is answered; stdout holds the answer only."""
    path, _ = saved(tmp_path, random_convnet())
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00\x01")
    blobs = Blobs()
    good = {"do": "run", "model": path, "inputs": {"image": encode_array(image(), blobs)}}
    actions = [
        {"do": "dance"},
        {"do": "run"},
        {"do": "run", "model": str(tmp_path / "none.onnx"), "inputs": {}},
        {"do": "run", "model": str(garbage), "inputs": {}},
        {"do": "run", "model": path, "sha256": "0" * 64, "inputs": {}},
        {"do": "run", "model": path, "inputs": {}},
        {"do": "run", "model": path, "inputs": {"image": {"dtype": "float32", "shape": [9], "offset": 0, "length": 1}}},
        {"do": "run", "model": path, "threads": "many", "inputs": {}},
        good,
    ]
    done = ran(tmp_path / "h", pack({"actions": actions}, blobs.parts))
    header, _ = unpack(done.stdout)
    kinds = [answer.get("error", {}).get("kind", "ok") for answer in header["answers"]]
    expected = ["request", "request", "model-missing", "model-load", "digest-mismatch", "run", "request", "request"]
    assert kinds == [*expected, "ok"]
    assert done.returncode == 0
    assert b"Traceback" not in done.stdout


def test_sequences_are_refused_clearly(tmp_path: Path) -> None:
    """A model with a sequence output loads, and its run says why it cannot be compared."""
    node = helper.make_node("SequenceConstruct", ["x"], ["seq"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_sequence_value_info("seq", TensorProto.FLOAT, [1])]
    path, _ = saved(tmp_path, model([node], inputs, outputs))
    blobs = Blobs()
    run = {"do": "run", "model": path, "inputs": {"x": encode_array(np.ones(1, np.float32), blobs)}}
    (answer,) = ask(tmp_path / "h", [run], tuple(blobs.parts))[0]["answers"]
    assert answer["error"]["kind"] == "unsupported-type"
    assert "seq(tensor(float))" in answer["error"]["message"]


@pytest.mark.parametrize("request_", [b"", b"garbage", pack({}, []), pack({"actions": [1]}, [])])
def test_a_bad_request_is_answered_with_an_error(tmp_path: Path, request_: bytes) -> None:
    """Exit code 2 and a framed error, no traceback."""
    done = ran(tmp_path, request_)
    assert done.returncode == 2
    assert unpack(done.stdout)[0]["error"]["kind"] == "request"
    assert b"Traceback" not in done.stderr


def test_what_a_runtime_prints_does_not_reach_the_answer(tmp_path: Path) -> None:
    """An import that writes to stdout, through Python and through the file descriptor, does not break the frame."""
    script = install_harness(tmp_path / "h")
    (tmp_path / "noisy.py").write_text("import os\nprint('hello')\nos.write(1, b'from C')\n")
    request = pack({"actions": [{"do": "load", "imports": ["noisy"]}]}, [])
    argv = [sys.executable, str(script), "serve-request"]
    done = subprocess.run(argv, input=request, capture_output=True, env={"PYTHONPATH": str(tmp_path)}, check=True)
    assert unpack(done.stdout)[0]["answers"][0]["imports"] == {"noisy": "ok"}
    assert b"from C" in done.stderr


def test_files_of_the_harness_hide_no_module(tmp_path: Path) -> None:
    """`import compare` inside the image finds the image's own module, not the harness' sibling."""
    script = install_harness(tmp_path / "h")
    (tmp_path / "compare.py").write_text("raise ImportError('the real one')\n")
    request = pack({"actions": [{"do": "load", "imports": ["compare"]}]}, [])
    argv = [sys.executable, str(script), "serve-request"]
    done = subprocess.run(argv, input=request, capture_output=True, env={"PYTHONPATH": str(tmp_path)}, check=True)
    assert "the real one" in unpack(done.stdout)[0]["answers"][0]["imports"]["compare"]


# --- the standard inference test -------------------------------------------------------------------------------------


def image_with_selftest(directory: Path, made: Any, expected: np.ndarray, sha256: str | None = None) -> Path:
    """A directory as `/opt/nnenv/share/nnenv` in an image: harness, selftest.json, model and one case."""
    install_harness(directory)
    path, digest = saved(directory, made)
    (directory / "input_0.pb").write_bytes(write_tensor("image", image()))
    (directory / "output_0.pb").write_bytes(write_tensor("logits", expected))
    case = {
        "name": "test_data_set_0",
        "inputs": [{"file": "input_0.pb", "name": "image"}],
        "outputs": [{"file": "output_0.pb", "name": "logits"}],
        "limit": None,
    }
    listed = {"name": "net", "path": path, "sha256": sha256 or digest, "cases": [case]}
    (directory / "selftest.json").write_text(json.dumps({"target": "cpu", "lock": "0" * 64, "models": [listed]}))
    return directory


def selftest(directory: Path) -> tuple[int, dict]:
    """Exit code and report of the image's default command."""
    argv = [sys.executable, "-I", str(directory / "harness.py")]
    done = subprocess.run(argv, capture_output=True, cwd="/", env={}, timeout=60, check=False)
    assert b"Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def logits(made: Any) -> np.ndarray:
    """What `made` answers to `image()` here."""
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image()})[0]


def test_the_selftest_passes_on_a_good_image(tmp_path: Path) -> None:
    """Exit code 0 and numbers for each output; nothing is written beside the harness."""
    directory = image_with_selftest(tmp_path, random_convnet(), logits(random_convnet()))
    before = sorted(tmp_path.iterdir())
    code, report = selftest(directory)
    assert (code, report["passed"], report["schema"]) == (0, True, "nnenv.selftest/1")
    assert (report["target"], report["lock"], report["cases"]) == ("cpu", "0" * 64, 1)
    (output,) = report["models"][0]["cases"][0]["outputs"]
    assert output["passed"]
    assert output["normalised_error"] <= 1e-6
    assert set(report["host"]) == {"machine", "cpu", "isa", "kernel", "emulated"}
    assert sorted(tmp_path.iterdir()) == before


def test_one_flipped_sign_fails_the_selftest(tmp_path: Path) -> None:
    """A single weight's sign: exit code 1, and the report says by how much."""
    flipped = random_convnet()
    weights = np.frombuffer(flipped.graph.initializer[2].raw_data, np.float32).copy()
    weights[np.abs(weights).argmax()] *= -1
    flipped.graph.initializer[2].raw_data = weights.tobytes()
    code, report = selftest(image_with_selftest(tmp_path, flipped, logits(random_convnet())))
    (output,) = report["models"][0]["cases"][0]["outputs"]
    assert (code, report["passed"], output["passed"]) == (1, False, False)
    assert output["normalised_error"] > 1e-4


def test_the_selftest_refuses_another_model_file(tmp_path: Path) -> None:
    """A model whose bytes are not the locked ones is not even run."""
    made = random_convnet()
    code, report = selftest(image_with_selftest(tmp_path, made, logits(made), sha256="f" * 64))
    assert code == 1
    assert report["models"][0]["error"]["kind"] == "digest-mismatch"


@pytest.mark.parametrize("text", [None, "", "[]", '{"target": 1}', '{"target":"t","lock":"l","models":[{}]}'])
def test_a_broken_selftest_json_is_a_report_too(tmp_path: Path, text: str | None) -> None:
    """Missing or malformed: exit code 1, JSON, and the reason."""
    install_harness(tmp_path)
    if text is not None:
        (tmp_path / "selftest.json").write_text(text)
    code, report = selftest(tmp_path)
    assert (code, report["passed"]) == (1, False)
    assert "selftest.json" in report["error"]


def test_a_selftest_without_cases_says_so(tmp_path: Path) -> None:
    """Loading alone passes, and the report does not pretend more."""
    directory = image_with_selftest(tmp_path, random_convnet(), logits(random_convnet()))
    listed = json.loads((directory / "selftest.json").read_text())
    listed["models"][0]["cases"] = []
    (directory / "selftest.json").write_text(json.dumps(listed))
    code, report = selftest(directory)
    assert (code, report["cases"]) == (0, 0)
    assert "only loading was tested" in report["note"]


def test_cpuinfo_of_x86_arm_and_of_neither() -> None:
    """CPU names and the flags that matter; entries of both kinds tell an emulator."""
    x86 = "processor : 0\nvendor_id : GenuineIntel\nmodel name : Xeon\nflags : fpu avx2 avx512f sse4_2\n"
    arm = "processor : 0\nFeatures : fp asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd08\n"
    assert harness._cpuinfo(x86) == {"cpu": "Xeon", "isa": ["avx2", "avx512f", "sse4_2"], "x86": True, "arm": False}
    assert harness._cpuinfo(arm) == {
        "cpu": "implementer 0x41 part 0xd08",
        "isa": ["asimd", "asimddp"],
        "x86": False,
        "arm": True,
    }
    assert harness._cpuinfo("") == {"cpu": "", "isa": [], "x86": False, "arm": False}
