"""Contexts `(history of one path, task) -> parts`: what a step is shown of its path. One file each; `c.context`."""
