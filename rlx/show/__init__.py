"""What people look at: metrics, progress, curves, episodes to read, tables of runs."""
