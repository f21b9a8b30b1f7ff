"""Curricula `(init, sample, update)`: which tasks come next. One file each; `c.curriculum`."""
