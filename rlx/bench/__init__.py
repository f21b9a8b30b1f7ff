"""Benches: `python -m rlx.bench sample|score|update|step|credit|head|decode` prints the machine and one table of medians."""
