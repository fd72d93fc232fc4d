"""The area under the ROC curve of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith_keras_metrics.insight import curves
from monolith_keras_metrics.insight.curves import Cells


def auc(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Return the area under the ROC curve of arrays.

    It is the weighted share of the pairs of a positive and a negative that are in order, with ties
    counting half (the Mann-Whitney U statistic).

    Args:
        labels: 0 or 1, shape `(n,)`.
        predictions: Scores of any range, shape `(n,)`.
        weights: Finite and not negative, shape `(n,)`. Default: 1 each.

    Returns:
        A number in [0, 1]; None if there is no positive or no negative, or if a label is neither
        0 nor 1. Examples whose label or prediction is not finite are ignored.

    Raises:
        ValueError: If the shapes differ, or a weight is negative or not finite.

    Example:
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    >>> auc([0, 1, 1], [0.5, 0.5, 0.9])  # one pair is a tie, which counts half
    0.75
    >>> auc([1, 1], [0.2, 0.3]) is None
    True
    """
    y, p = (np.asarray(values, np.float64) for values in (labels, predictions))
    w = np.ones(y.shape) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or not y.shape == p.shape == w.shape:
        raise ValueError(
            "`labels`, `predictions` and `weights` must have the same shape (n,). "
            f"Received: {y.shape}, {p.shape} and {w.shape}"
        )
    if (odd := w[~(np.isfinite(w) & (w >= 0))]).size:
        raise ValueError(f"`weights` must be finite and not negative. Received: {odd[0]}")
    valid = np.isfinite(y) & np.isfinite(p)
    if not np.isin(y[valid], (0, 1)).all():
        return None
    thresholds, of = np.unique(p[valid], return_inverse=True)
    positives, negatives = (
        np.bincount(of, (w * share)[valid], thresholds.size).astype(np.float64)
        for share in (y, 1 - y)
    )
    none = np.zeros(thresholds.size)
    area = curves.auc(Cells(positives, negatives, none, none))
    return None if np.isnan(area) else float(area)
