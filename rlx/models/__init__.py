"""Models, factories of a `Policy`: three pure functions on a pytree of parameters. One file each; `c.models`."""
