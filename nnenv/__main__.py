"""`python -m nnenv` runs the command line."""

from nnenv.cli.main import main

raise SystemExit(main())
