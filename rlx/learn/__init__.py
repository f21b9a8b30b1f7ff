"""Device: a forest to rows, a batch, an objective, an update. Fixed shapes, jitted; knows nothing of `grow`."""
