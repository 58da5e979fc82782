"""`python -m earful` is the command `earful`."""

from earful.cli import main

main()
