"""Selectors `(batch, keep) -> keep`: which tokens stay in a loss and in its denominator. One file each; `selector` of a track."""
