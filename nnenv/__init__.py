"""nnenv: locked, reproducible and verified environments for neural-network models."""

__version__ = "0.1.0"
