"""`python -m l2lcli` is `l2l`."""

from l2lcli.cli import main

main()
