"""Runs a table of configs over seeds: `python -m rlx.table --config configs/tables/quickstart.py`."""

from rlx.show.table import main

if __name__ == '__main__':
  main()
