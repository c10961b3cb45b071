"""The inside of an image, as nnenv sees it that runs there: files with their owners, and commands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nnenv.adapters.here import HereFiles, HereRunner
from nnenv.errors import NnenvError
from nnenv.verify.protocols import Limits, Run
from tests.support.gpu_library import gpu_library

SITE = "opt/nnenv/lib/python3.11/site-packages"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small image."""
    files = {
        f"{SITE}/My_Net-1.0.dist-info/RECORD": b'my_net/lib.so,sha256=x,1\n"my_net/a,b.py",,\n../../../bin/run,,\n',
        f"{SITE}/my_net/lib.so": gpu_library([(2, "80", (0, 0))]),
        f"{SITE}/my_net/text.so": b"no library",
        "usr/lib/libz.so.1.2": gpu_library([]),
        "etc/ld.so.conf.d/nnenv.conf": b"# comment\n/opt/b\n\n/opt/a/\n",
        "etc/ld.so.conf.d/a.conf": b"/first\n",
        "etc/ld.so.conf.d/no.txt": b"/never\n",
        "tmp/x.so": gpu_library([]),
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "usr/lib/libz.so.1").symlink_to("libz.so.1.2")
    (tmp_path / "lib").symlink_to("usr/lib")
    return tmp_path


def test_what_an_image_holds(root: Path) -> None:
    """ELF files by their first bytes, links as written and not followed; not what lies in /tmp."""
    files = HereFiles(root)
    assert [path for path, _ in files.programs()] == [f"{SITE}/my_net/lib.so", "usr/lib/libz.so.1.2"]
    assert files.links() == {"usr/lib/libz.so.1": "libz.so.1.2", "lib": "usr/lib"}
    assert files.owners()[f"{SITE}/my_net/lib.so"] == "my-net 1.0"
    assert files.owners()["opt/nnenv/bin/run"] == "my-net 1.0"
    assert files.linker_directories() == ("first", "opt/b", "opt/a")
    assert files.exists("/usr/lib/libz.so.1")
    assert not files.exists("/usr/lib")


def test_a_file_that_is_not_there(root: Path) -> None:
    """The error says where `--here` belongs."""
    with pytest.raises(NnenvError) as caught:
        HereFiles(root).read("/opt/nnenv/share/nnenv/model.lock")
    assert caught.value.code == "file-unreadable"
    assert "inside of an image" in caught.value.because[0]


def run(code: str, **more: object) -> Run:
    """A command of this Python."""
    return Run(argv=(sys.executable, "-c", code), environment={"GIVEN": "x"}, **more)  # type: ignore[arg-type]


def test_commands_beside_this_process() -> None:
    """Input, output, exit code and environment; nothing of PYTHONPATH, by which nnenv itself is found."""
    runner = HereRunner({"KEPT": "1", "PYTHONPATH": "/here"})
    code = "import os, sys; print(sys.stdin.read(), sorted(os.environ.keys() & {'KEPT', 'GIVEN', 'PYTHONPATH'}))"
    done = runner.run(run(f"{code}; sys.exit(3)", stdin=b"in"))
    assert (done.exit_code, done.stdout, done.limit_hit) == (3, b"in ['GIVEN', 'KEPT']\n", "")


def test_limits() -> None:
    """Time, and the length of the output."""
    runner = HereRunner({})
    assert runner.run(run("import time; time.sleep(60)", limits=Limits(seconds=0.3))).limit_hit == "time"
    done = runner.run(run("print('x' * 1000)", limits=Limits(output_bytes=10)))
    assert (done.limit_hit, done.stdout) == ("output", b"")


def test_a_command_that_is_not_there() -> None:
    """An error, no traceback."""
    with pytest.raises(NnenvError) as caught:
        HereRunner({}).run(Run(argv=("/nonexistent/python3",)))
    assert caught.value.code == "command-not-started"


def test_without_a_driver_there_is_no_gpu() -> None:
    """The reason is the driver's."""
    assert "the driver shows no GPU here (" in HereRunner({"PATH": "/usr/bin"}).why_no_gpu()
