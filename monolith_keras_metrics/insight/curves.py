"""Formulas on cells: what a group's predictions and labels give, in the order of predictions.

A *cell* is a narrow range of predictions. Of the examples in it there are three sums, with weights
w, labels y and predictions p: the positives Σ w y, the negatives Σ w (1 - y), and Σ w p; and their
number. Cells are ascending. All functions work along the last axis, so that many groups are
computed at once; cells of weight 0 change nothing and may pad shorter groups. A result is NaN where
it is not defined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monolith_keras_metrics.insight.with_scipy import scipy_module

Array = npt.NDArray[np.float64]

# A saturated sigmoid gives exactly 0 or 1. One such wrong prediction would make the log loss
# infinite. This is float32's machine epsilon, the limit that scikit-learn uses for float32.
EPSILON = 2.0**-23
_NEWTON_STEPS = 60
_NEAR = 2e-8  # what is left after so small a Newton step is less than its square


class Cells(NamedTuple):
    """The sums of each cell, shape `(..., cells)`."""

    positives: Array
    negatives: Array
    predictions: Array
    examples: Array

    @property
    def weights(self) -> Array:
        """Return the sums of w."""
        return self.positives + self.negatives


def auc(cells: Cells) -> Array:
    """Return the area under the ROC curve, with ties counting half.

    It is the weighted share of the pairs of a positive and a negative that are in order (the
    Mann-Whitney U statistic). A pair within a cell is a tie.
    """
    below = np.cumsum(cells.negatives, axis=-1) - cells.negatives / 2
    ordered = (cells.positives * below).sum(axis=-1)
    return np.clip(_divide(ordered, _pairs(cells)), 0, 1)


def auc_error(cells: Cells) -> Array:
    """Return the largest error of `auc` if cells hold different predictions.

    Only the pairs within a cell may be out of order, and counting half is wrong by at most 1/2 for
    each.
    """
    return _divide((cells.positives * cells.negatives).sum(axis=-1) / 2, _pairs(cells))


def pr_auc(cells: Cells) -> Array:
    """Return the average precision: the precision at each cell, weighted by its positives.

    The precision at a cell is that of all examples with predictions at least as high. Equal
    predictions are one threshold, as in scikit-learn's `average_precision_score`.
    """
    precision = _divide(_from_above(cells.positives), _from_above(cells.weights))
    found = np.where(cells.positives > 0, cells.positives * precision, 0.0).sum(axis=-1)
    return _divide(found, cells.positives.sum(axis=-1))


def ks(cells: Cells) -> Array:
    """Return the largest distance of the distributions of positives and negatives.

    It is the two-sample Kolmogorov-Smirnov statistic.
    """
    distances = np.abs(_distances(cells))
    largest = distances.max(axis=-1, initial=0.0, where=cells.weights > 0)
    return np.where(_pairs(cells) > 0, largest, np.nan)


def ecce(cells: Cells) -> Array:
    """Return the range of the cumulative calibration error, as a share of all weight.

    The errors w (y - p) are added up in the order of p; the range is the largest sum less the
    smallest, from 0 on (Kuiper's statistic). No bins are chosen, so none can hide an error.
    (Arrieta-Ibarra et al. 2022, "Metrics of Calibration for Probabilistic Predictions".)
    """
    sums = _errors(cells)
    spread = sums.max(axis=-1, initial=0.0) - sums.min(axis=-1, initial=0.0)
    return _divide(spread, cells.weights.sum(axis=-1))


def range_p_value(ratio: Array) -> Array:
    """Return the probability that a Brownian motion on [0, 1] has a range of at least `ratio`.

    This is the distribution of the range of the cumulative error of a calibrated model, in units of
    its standard deviation. (Feller 1951, "The Asymptotic Distribution of the Range of Sums of
    Independent Random Variables".)
    """
    x = np.maximum(ratio, 0.05)[..., None]  # below it, the probability is 1 to 1e-100
    odd = (2 * np.arange(40) + 1.0) * np.pi
    exponent = -(odd**2) / (2 * x**2)
    below = 8 * ((1 / x**2 + 1 / odd**2) * np.exp(exponent)).sum(axis=-1)
    probability: Array = np.clip(1 - below, 0, 1)
    return probability


def odds_factor(cells: Cells) -> Array:
    """Return the factor on all odds p / (1 - p) after which Σ w p = Σ w y.

    A cell has the prediction Σ w p / Σ w. The sum rises with the factor, so Newton's steps are kept
    within a bracket that shrinks.
    """
    weights, labels = cells.weights, cells.positives.sum(axis=-1)
    odds, total = _odds(cells.predictions, weights), weights.sum(axis=-1)
    low, high = np.full(labels.shape, -60.0), np.full(labels.shape, 60.0)
    # It is nearly the factor that is right for the mean.
    shift = np.log(_odds(labels, total) / _odds(cells.predictions.sum(axis=-1), total))
    done = ~(_pairs(cells) > 0)
    for _ in range(_NEWTON_STEPS):
        shifted = odds * np.exp(shift)[..., None]
        above = 1 + shifted
        shifted *= weights
        shifted /= above
        excess = shifted.sum(axis=-1) - labels
        shifted /= above
        step = _divide(excess, shifted.sum(axis=-1))
        low, high = np.where(excess < 0, shift, low), np.where(excess > 0, shift, high)
        near = np.abs(step) <= _NEAR
        new = shift - step
        new = np.where(near | ((new > low) & (new < high)), new, (low + high) / 2)
        shift = np.where(done, shift, new)
        done |= near
        if done.all():
            break
    return np.where(_pairs(cells) > 0, np.exp(shift), np.nan)


def shifted_log_loss(cells: Cells, factor: Array) -> Array:
    """Return the log loss after all odds were multiplied by `factor`."""
    odds = _odds(cells.predictions, cells.weights) * factor[..., None]
    return _log_loss(cells, odds / (1 + odds))


def recalibrated_log_loss(cells: Cells) -> Array:
    """Return the log loss after the best increasing recalibration.

    That is the isotonic regression of labels on predictions. (Dimitriadis, Gneiting and Jordan
    2021, "Stable reliability diagrams for probabilistic classifiers": CORP.)
    """
    fit = scipy_module("optimize", "a measure of CORP").isotonic_regression
    weights = cells.weights
    rates = np.zeros(weights.shape)
    for at in np.ndindex(weights.shape[:-1]):
        there = weights[at] > 0
        if there.any():
            means = cells.positives[at][there] / weights[at][there]
            rates[at][there] = fit(means, weights=weights[at][there]).x
    losses = -(_times_log(cells.positives, rates) + _times_log(cells.negatives, 1 - rates))
    return _divide(losses.sum(axis=-1), weights.sum(axis=-1))


def entropy(rate: Array) -> Array:
    """Return the log loss of always predicting the positive rate."""
    return -(_times_log(rate, rate) + _times_log(1 - rate, 1 - rate))


def _log_loss(cells: Cells, predictions: Array) -> Array:
    near = np.clip(predictions, EPSILON, 1 - EPSILON)
    losses = -(cells.positives * np.log(near) + cells.negatives * np.log1p(-near))
    return _divide(losses.sum(axis=-1), cells.weights.sum(axis=-1))


def _odds(upper: Array, lower: Array) -> Array:
    """Return the odds of a share, as far as log losses tell shares apart; 1 if there is none."""
    share = np.clip(np.nan_to_num(_divide(upper, lower), nan=0.5), EPSILON, 1 - EPSILON)
    odds: Array = share / (1 - share)
    return odds


def _distances(cells: Cells) -> Array:
    """Return the distance of the distributions of positives and negatives after each cell."""
    positives, negatives = (
        np.cumsum(part, axis=-1) / np.where(total > 0, total, 1.0)[..., None]
        for part, total in (
            (part, part.sum(axis=-1)) for part in (cells.positives, cells.negatives)
        )
    )
    distances: Array = positives - negatives
    return distances


def _errors(cells: Cells) -> Array:
    """Return the sum of the errors w (y - p) after each cell."""
    return np.cumsum(cells.positives - cells.predictions, axis=-1)


def _from_above(values: Array) -> Array:
    """Return the sums of each value and all that come after it."""
    return np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]


def _pairs(cells: Cells) -> Array:
    pairs: Array = cells.positives.sum(axis=-1) * cells.negatives.sum(axis=-1)
    return pairs


def _times_log(factor: Array, value: Array) -> Array:
    """Return factor · ln(value), which is 0 where the factor is."""
    return np.where(factor > 0, factor * np.log(np.where(factor > 0, value, 1.0)), 0.0)


def _divide(upper: Array, lower: Array) -> Array:
    """Return the quotient; NaN where the divisor is not above 0."""
    nothing = np.full(np.broadcast(upper, lower).shape, np.nan)
    quotient: Array = np.divide(upper, lower, out=nothing, where=lower > 0)
    return quotient
