"""Estimators `(batch) -> [N] | [R, T] | Advantages`: how good a step was. One file each; `estimator` of a track."""
