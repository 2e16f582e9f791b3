"""`python -m weightflow`: the command line."""

from weightflow.cli.main import main

main()
