"""Which bytes: plan, tree, layers, OCI assembly."""
