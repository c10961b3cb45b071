"""The two files of a project, by name."""

from __future__ import annotations

MANIFEST_NAME = "model.toml"
"""What the user writes."""
LOCK_NAME = "model.lock"
"""What nnenv resolves it into."""
