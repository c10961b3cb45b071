"""`nnenv`, and `python -m nnenv`: the one question that needs no parser is answered before anything is imported."""

import sys


def main() -> int:
    """Run one command; its exit code."""
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        from nnenv import __version__

        sys.stdout.write(f"nnenv {__version__}\n")
        return 0
    from nnenv.cli.main import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
