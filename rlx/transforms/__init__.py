"""Transforms `(batch) -> batch`: columns written before credit is given. One file each; `c.transforms`."""
