"""Rewards `(episode) -> {channel: a number a step}`, beside what the environment pays. One file each; `c.rewards`."""
