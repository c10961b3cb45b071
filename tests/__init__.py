"""The tests of nnenv."""
