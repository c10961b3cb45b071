"""Runs inside an image: which node of a model ran on which execution provider of onnxruntime.

That a provider is listed by `get_providers` proves nothing of the nodes. Two sources tell: the assignment that
onnxruntime 1.24 and later record when a model is opened, and the profile of a run, which every version writes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def placed(open_session: Callable[[Any], Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the model once: `assigned`, the nodes by the assignment ([provider, domain, operator] each; null where this
    onnxruntime records none), and `ran`, by the profile ([provider, operator, microseconds] each).

    `open_session(options)` opens the model with the options; what it raises is passed on.
    """
    import onnxruntime

    folder = tempfile.mkdtemp()
    try:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(options)
        session.run(None, dict(inputs))
        return {"assigned": _assigned(session), "ran": _ran(Path(session.end_profiling()))}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _assigned(session: Any) -> list[list[str]] | None:
    read = getattr(session, "get_provider_graph_assignment_info", None)
    if read is None:
        return None
    return [[part.ep_name, node.domain, node.op_type] for part in read() for node in part.get_nodes()]


def _ran(profile: Path) -> list[list[Any]]:
    """Each kernel of the last run; a subgraph that a provider took whole is one."""
    events = json.loads(profile.read_text("utf-8"))
    found = []
    for event in events:
        told = event.get("args", {})
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            found.append([str(told.get("provider")), str(told.get("op_name")), int(event.get("dur", 0))])
    return found
