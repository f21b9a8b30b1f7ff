"""`python -m rlx.bench`."""

from rlx.bench import command

command.main()
