"""Derivations: steps that make a model file out of a model file."""
