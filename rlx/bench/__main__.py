"""`python -m rlx.bench`."""

from rlx.bench import command

if __name__ == '__main__':
  command.main()
