"""Arguments in, one workflow call, one renderer out."""
