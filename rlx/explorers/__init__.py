"""Explorers `(init, expand)`: the shape of the tree that a prompt grows into. One file each; `c.explorer`."""
