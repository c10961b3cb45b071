"""Does it work: cases, comparison, verdicts, and the harness that runs inside the image."""
