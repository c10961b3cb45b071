"""Run one command in a project's image, in nnenv's sandbox: `python bench/in_sandbox.py PROJECT STORE COMMAND...`.

Prints one JSON object: exit code, stdout, stderr, and the seconds from start to end, without making the root.
Run by the nnenv to be measured.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nnenv.adapters.progress import make_progress
from nnenv.adapters.store import Store
from nnenv.verify.protocols import Run
from nnenv.workflows.building import ENVIRONMENT, assemble
from nnenv.workflows.session import Session
from nnenv.workflows.verifying import open_runner


def main() -> None:
    """Assemble, open the sandbox, run, print."""
    project, store, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    session = Session(
        project=project,
        store=Store(store),
        progress=make_progress(sys.stderr, quiet=True, isatty=False),
        environment=os.environ,
        home=project,
    )
    lockfile = session.lockfile()
    maker, documents = assemble(session, lockfile, lockfile.targets[0])
    with open_runner(session, maker, documents, "sandbox") as runner:
        done = runner.run(Run(argv=tuple(command), environment=ENVIRONMENT))
    answer = {
        "exit_code": done.exit_code,
        "stdout": done.stdout.decode(),
        "stderr": done.stderr.decode("utf-8", "replace"),
        "seconds": done.seconds,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
