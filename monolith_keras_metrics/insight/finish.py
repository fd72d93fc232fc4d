"""From the sums of a `State` to the measures of its groups, with intervals.

The interval of a measure is by user: it tells what the measure might have been with other users.
Users are in 100 parts; leaving out one part after the other gives as many values, whose spread is
the measure's standard error (the delete-a-group jackknife; Kott 2001). Values are compared on a
scale where errors are symmetric: see `SCALES`.

A few users with many examples make parts unequal. Then an estimate and its error depend on each
other: a large part pulls the estimate to its own value, and so seems to differ less. What a value
that may be true would leave of each part's difference does not have this flaw. So the error is
measured around the ends of the interval, and not around the estimate, as in a score test (see
`evidence`). If all parts are of equal size, the interval is that of Student's t distribution.

A percentile often stays the same whichever part is left out, so its error cannot be seen in it. The
share of the delays up to it does move. So the interval is that of the share, and its ends are the
delays at which the share of all delays reaches the ends (Woodruff 1952, "Confidence Intervals for
Medians and Other Position Measures"). The longest delays are those of few users, and a sample that
lacks the largest of these cannot tell. So the error is at least what it would be if large parts
differed as much as small ones do; and ends are at equal distances from the share, and not in log
odds, which puts them at longer delays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.chunks import Chunk
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.evidence import Estimates
from monolith_keras_metrics.insight.groups import Groups
from monolith_keras_metrics.insight.keys import Numbers
from monolith_keras_metrics.insight.measures import (
    Measure,
    Scale,
    delay_within,
    percentage,
    share_within,
)
from monolith_keras_metrics.insight.portions import in_threads
from monolith_keras_metrics.insight.tables import Tables
from monolith_keras_metrics.insight.with_scipy import scipy_module

_EQUAL_PARTS = 1.5  # with fewer, the others hardly say how much the largest may differ


def finish(
    state: Tables, measures: Sequence[Measure], interval: float | None = None
) -> pl.DataFrame:
    """Return a row per target and group: `target`, the keys, the counts and the measures.

    Args:
        state: The state; for intervals, with its users in parts.
        measures: The measures.
        interval: The probability that an interval holds the true value; None for no intervals.
    """
    groups = Groups(state, leave_out=interval is not None)

    def of_some(positions: Numbers) -> tuple[Numbers, dict[str, Array]]:
        chunk = groups.chunk(positions)
        columns: dict[str, Array] = {}
        for measure in measures:
            columns |= _columns(measure, chunk, interval)
        return positions, columns

    columns: dict[str, Array] = {
        name: np.full(groups.frame.height, np.nan)
        for measure in measures
        for name in _names(measure, interval)
    }
    for positions, found in in_threads(of_some, groups.together()):
        for name, column in found.items():
            columns[name][positions] = column
    return groups.frame.with_columns(
        pl.Series(name, column, pl.Float64, nan_to_null=True) for name, column in columns.items()
    )


def _names(measure: Measure, interval: float | None) -> list[str]:
    if interval is None or measure.scale is None:
        return [measure.name]
    return [measure.name, f"{measure.name}_low", f"{measure.name}_high"]


def _columns(measure: Measure, chunk: Chunk, interval: float | None) -> dict[str, Array]:
    if interval is None or measure.scale is None:
        return {measure.name: measure(chunk.whole)[:, 0]}
    if measure.needs == "delays":
        columns = [measure(chunk.whole)[:, 0], *_percentile_ends(measure, chunk, interval)]
        return dict(zip(_names(measure, interval), columns, strict=True))
    layers = chunk.layers(measure)
    low, high = jackknife(layers, chunk.there, chunk.shares, measure.scale, interval)
    if measure.raised == "own":
        lower = layers.copy()
        lower[:, 0] -= chunk.raised(measure)
        low = jackknife(lower, chunk.there, chunk.shares, measure.scale, interval)[0]
    columns = [layers[:, 0], low, high]
    return dict(zip(_names(measure, interval), columns, strict=True))


def _percentile_ends(measure: Measure, chunk: Chunk, interval: float) -> list[Array]:
    """Return the ends of the intervals of a percentile of the delays; NaN as for `jackknife`."""
    share, shares = percentage(measure.name), chunk.shares
    layers = chunk.layers(dataclasses.replace(measure, value=partial(share_within, share)))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # How far the share within each part is from that of all, squared and weighted.
        squares = np.where(chunk.there, ((1 - shares) * (layers[:, 1:] - share)) ** 2 / shares, 0.0)
        own, alike = (shares * squares).sum(axis=1), squares.sum(axis=1) * (shares**2).sum(axis=1)
        equal, t = _equal_parts(shares, interval)
        error = t * np.sqrt(np.maximum(own, alike) * equal / (equal - 1))
        ends = [np.clip(share + sign * error, 0, 1) for sign in (-1, 1)]
    delays = [delay_within(end[:, None], chunk.whole)[:, 0] for end in ends]
    return [np.where(np.isfinite(end), one, np.nan) for end, one in zip(ends, delays, strict=True)]


def _equal_parts(shares: Array, interval: float) -> tuple[Array, Array]:
    """Return the number of parts of equal size that would tell as much (Kish), and their t."""
    quantile = scipy_module("special", "`interval`").stdtrit  # as stats.t.ppf, which loads slowly
    equal: Array = 1 / (shares**2).sum(axis=1)
    return equal, quantile(np.where(equal > _EQUAL_PARTS, equal - 1, np.nan), (1 + interval) / 2)


def jackknife(
    layers: Array, there: npt.NDArray[np.bool_], shares: Array, scale: Scale, interval: float
) -> tuple[Array, Array]:
    """Return the ends of intervals.

    Args:
        layers: A measure of each group, and without each part, shape `(groups, 1 + parts)`.
        there: Whether a part has examples of the group, shape `(groups, parts)`.
        shares: The share of a part in the group's weights, of the same shape.
        scale: Where errors are symmetric, as in `Measure`.
        interval: The probability that the interval holds the true value.

    Returns:
        The lower and the upper ends; NaN where fewer than two parts have examples, where one of
        them has more than about four fifths of the weights, where the measure is not defined
        without one of them, or where an end would be infinite.

    Raises:
        ModuleNotFoundError: If SciPy is not installed.
    """
    middle, moved = influences(layers, there, scale)
    _, back = SCALES[scale]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        number, (equal, t) = there.sum(axis=1), _equal_parts(shares, interval)
        # The same quantile where the error is measured around the true value.
        errors = np.sqrt(equal / (1 + (equal - 1) / t**2))
        # The mean without a part is farther away than what the part adds to the mean.
        added = moved * (1 - shares) / np.sqrt(1 - 1 / number)[:, None]
        ends = Estimates(middle, added, shares).interval(errors)
        known = [np.isfinite(end) & np.isfinite(back(end)) for end in ends]
        low, high = (np.where(one, back(end), np.nan) for one, end in zip(known, ends, strict=True))
    return low, high


def influences(layers: Array, there: npt.NDArray[np.bool_], scale: Scale) -> tuple[Array, Array]:
    """Return estimates, and how far each part of the users moves them.

    Args:
        layers: A measure of each group, and without each part, as for `jackknife`.
        there: Whether a part has examples of the group.
        scale: Where errors are symmetric; both results are on this scale.

    Returns:
        The estimates, shape `(groups,)`, and the influences, shape `(groups, parts)`: positive if a
        part raises the estimate. The sum of their squares is the square of the standard error. It
        is NaN where fewer than two parts have examples, or where the measure is not defined without
        one of them.
    """
    to, _ = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        middle, replicates = to(layers[:, 0]), np.where(there, to(layers[:, 1:]), 0.0)
        number = there.sum(axis=1)[:, None]
        mean = replicates.sum(axis=1, keepdims=True) / number
        moved = np.where(there, mean - replicates, 0.0) * np.sqrt((number - 1) / number)
        return middle, np.where(number > 1, moved, np.nan)


# Large errors are rare, so a sample without any has a small rmse or mae, and tells a small error of
# it, too. Simulated errors of 1 / rmse² and 1 / mae² depend least on the estimate.
SCALES: dict[Scale, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (np.log, np.exp),
    "logit": (lambda x: np.log(x) - np.log1p(-x), lambda x: 1 / (1 + np.exp(-x))),
    "inverse square": (lambda x: -1 / x**2, lambda x: 1 / np.sqrt(-x)),
}
