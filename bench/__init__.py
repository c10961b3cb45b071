"""The bench: what nnenv costs beside its peers, measured side by side in one run.

`python -m bench` from the root of the repository; `bench/__main__.py` lists the suites. Standard library only: the
peers and nnenv itself are installed by the bench, each into an environment of its own.
"""
