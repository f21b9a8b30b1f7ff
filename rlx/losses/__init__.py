"""Losses, factories of a `Loss` whose term is one value a token. One file each; `loss` of a track."""
