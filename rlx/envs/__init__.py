"""Environments: tasks, and what an action does to a state that is a value. One file each; `c.env`."""
