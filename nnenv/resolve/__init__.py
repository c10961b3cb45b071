"""Which files: decisions about packages, without I/O."""
