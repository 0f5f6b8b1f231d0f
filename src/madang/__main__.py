"""`python -m madang` is `madang`."""

from madang.cli.main import main

main()
