"""Probes `(view) -> [Probe]`: forced or sampled suffixes, reduced to a number a step on the warm cache. One file each; `c.probes`."""
