"""`reliability`: do predictions of 0.3 come true three times of ten?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.finish import jackknife
from monolith_keras_metrics.insight.groups import Groups
from monolith_keras_metrics.insight.measures import Sums
from monolith_keras_metrics.insight.rows import By, Visits
from monolith_keras_metrics.insight.state import State, check_interval
from monolith_keras_metrics.insight.states import Records, state_of

_NOTHING = pl.DataFrame(
    schema={
        "group": pl.Int64,
        "bin": pl.Int64,
        "examples": pl.Int64,
        "mean_prediction": pl.Float64,
        "positive_rate": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
)


def reliability(
    records: Records,
    by: By = (),
    bins: int = 20,
    interval: float = 0.95,
    *,
    weighted: bool = True,
    visits: Visits = "first",
) -> pl.DataFrame:
    """Return what came true of predictions of each size.

    The examples of a group, in the order of their predictions, are divided into bins of equal
    weight, as far as a state tells predictions apart: it has about 200 cells of them. (Predictions
    that are equal stay together, so there may be fewer bins.)
    Where `mean_prediction` is outside `low` to `high`, the model is not calibrated.

    Args:
        records: Records, as `open_run` returns them, or rows of `long_form`. Or a run, as for
            `summary`: then states are kept, which are those of `summary` with `interval`.
        by: The groups, as for `summary`.
        bins: The number of bins.
        interval: The probability that the interval holds the true positive rate. Intervals are by
            user, as those of `summary`; they need SciPy, which the extra `insight` installs.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.

    Returns:
        A row per target, group and bin, in ascending order: `target`; the groups' columns; `bin`,
        from 0; `examples`, never weighted; `mean_prediction`; `positive_rate`; and its interval,
        `low` and `high`, null where it is not defined. Targets whose labels are not 0 and 1, or
        whose predictions are not from 0 to 1, have no rows.

    Raises:
        ValueError: If `records` does not hold records, or an argument is invalid.
        ModuleNotFoundError: If SciPy is not installed.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": [1, 2, 3, 4],
    ...     "label": [{"ctr": y} for y in (0.0, 1.0, 1.0, 1.0)],
    ...     "predict": [{"ctr": p} for p in (0.25, 0.25, 0.75, 0.75)],
    ... })
    >>> result = reliability(records, bins=2)
    >>> result.select("bin", "examples", "mean_prediction", "positive_rate").rows()
    [(0, 2, 0.25, 0.5), (1, 2, 0.75, 1.0)]
    """
    check_bins(bins)
    check_interval(interval, is_needed=True)
    check_groups(by, _NOTHING.columns[1:])
    state = state_of(
        records, by, measures=cheapest(records), intervals=True, weighted=weighted, visits=visits
    )
    return reliability_of(state, bins, interval)


def reliability_of(state: State, bins: int = 20, interval: float = 0.95) -> pl.DataFrame:
    """Return the reliability of a state with cells, made with intervals: see `reliability`."""
    groups = Groups(state, True, lambda cells: _bins(cells.weights, bins))
    results = [
        _curves(chosen, sums, interval)
        for chosen in groups.together()
        if (sums := groups.chunk(chosen).without) is not None
    ]
    keys = groups.frame.select("target", *state.keys).rename(
        dict(zip(state.keys, state.form.groups, strict=True))
    )
    found = pl.concat([_NOTHING, *results]).sort("group", "bin")
    numbered = found.with_columns(bin=pl.col("bin").rle_id().over("group").cast(pl.Int64))
    return pl.concat([keys[found.get_column("group")], numbered.drop("group")], how="horizontal")


def cheapest(records: Records) -> str | None:
    """Return the measures for which to make a state: one that has cells.

    Of a run, it is the state that `summary` keeps; of records, only what is needed is added up.
    """
    return None if isinstance(records, (str, os.PathLike)) else "ecce"


def check_bins(bins: int) -> None:
    """Raise if `bins` is no number of bins."""
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1. Received: bins={bins!r}")


def check_groups(by: By, taken: Sequence[str]) -> None:
    """Raise if a group has the name of a column of the result."""
    for one in [by] if isinstance(by, (str, pl.Expr)) else by:
        name = one if isinstance(one, str) else one.meta.output_name(raise_if_undetermined=False)
        if name in taken:
            raise ValueError(
                "`by` must have distinct names that the result does not use. "
                f"Received: {name!r}. Rename it, as in pl.col({name!r}).alias('group')"
            )


def _curves(chosen: npt.NDArray[np.int64], sums: Sums, interval: float) -> pl.DataFrame:
    """Return the bins of some groups that have examples."""
    positives, _, predictions, examples = sums.cells
    weights, bins = sums.cells.weights, examples.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(weights > 0, positives / weights, np.nan)
        means = predictions[:, 0] / weights[:, 0]
        shares = 1 - weights[:, 1:] / weights[:, :1]

    def of_bins(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.moveaxis(values, 2, 1).reshape(chosen.size * bins, -1)

    there = examples[:, 1:] < examples[:, :1]
    low, high = jackknife(of_bins(rates), of_bins(there), of_bins(shares), "logit", interval)
    frame = pl.DataFrame(
        {
            "group": chosen.repeat(bins),
            "bin": np.tile(np.arange(bins), chosen.size),
            "examples": examples[:, 0].ravel().astype(np.int64),
            "mean_prediction": means.ravel(),
            "positive_rate": rates[:, 0].ravel(),
            "low": low,
            "high": high,
        },
        nan_to_null=True,
    )
    known = pl.Series((sums.binary & sums.probabilities)[:, 0].repeat(bins))
    return frame.filter(known & (pl.col("examples") > 0))


def _bins(weights: Array, bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each cell, by the middle of its weight."""
    middle = np.cumsum(weights, axis=-1) - weights / 2
    total = weights.sum(axis=-1, keepdims=True)
    share = np.divide(middle, total, out=np.zeros(middle.shape), where=total > 0)
    numbers: npt.NDArray[np.int64] = np.minimum((share * bins).astype(np.int64), bins - 1)
    return numbers
