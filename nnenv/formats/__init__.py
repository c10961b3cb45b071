"""Foreign formats, bytes to records, strict; no I/O beyond a given stream."""
