"""nnenv with its peak memory apart from that of its children: `python bench/own_peak.py FILE ARGUMENTS...`.

wait4(2) gives one figure for a process and all that it waited for, so the command itself has to say. FILE gets one JSON
object with bytes: `self`, and `children`, the largest single one (getrusage(2), ru_maxrss).
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from nnenv.cli.main import main

code = main(sys.argv[2:])
peaks = {
    "self": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
}
Path(sys.argv[1]).write_text(json.dumps(peaks))
sys.exit(code)
