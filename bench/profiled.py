"""nnenv under cProfile: `python bench/profiled.py FILE ARGUMENTS...`; the statistics go into FILE, for `pstats`.

Only the main thread is seen: what others do appears as its waiting.
"""

from __future__ import annotations

import cProfile
import sys

from nnenv.cli.main import main

profile = cProfile.Profile()
code = profile.runcall(main, sys.argv[2:])
profile.dump_stats(sys.argv[1])
sys.exit(code)
