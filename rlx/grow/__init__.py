"""Host: text and rollouts to a forest. Ragged, append-only; knows nothing of `learn`."""
