"""`python -m canon`: the command line."""

from canon.cli.main import main

main()
