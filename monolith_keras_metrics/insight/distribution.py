"""`distribution`: how many predictions of each size there are, and how many of them came true.

Probabilities are in bins of equal width in log odds, log(p / (1 - p)). With 0.1 % positives nearly
all predictions are below 0.01: bins of equal width in p would have them all in the first, and bins
of equal weight have no shape. In log odds, 0.001 and 0.002 are as far apart as 0.999 and 0.998,
wherever a model's predictions are; a bias of a model's last layer moves the shape and does not
change it; and the cells of a state are about as wide as each other there. Logits, and predictions
of other labels than 0 and 1, are in bins of equal width as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.curves import EPSILON, Array
from monolith_keras_metrics.insight.reliability import cheapest, check_bins, check_groups
from monolith_keras_metrics.insight.rows import By, Visits
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.states import Records, state_of

_GROUP = "\ngroup"  # no user's column has this name
_SUMS = ("examples", "positives", "negatives")
_NOTHING = pl.DataFrame(
    schema={
        _GROUP: pl.UInt32,
        "low": pl.Float64,
        "high": pl.Float64,
        "examples": pl.Int64,
        "positives": pl.Float64,
        "negatives": pl.Float64,
    }
)
_TAIL = 0.0005  # of the weight at either end, which the outermost bins hold
# A bin is at least so wide, since cells are up to 2^-7 wide in log odds, and 2^-8 of their size.
_LEAST = 2.0**-4


def distribution(
    records: Records,
    by: By = (),
    bins: int = 50,
    *,
    weighted: bool = True,
    visits: Visits = "first",
) -> pl.DataFrame:
    """Return how many predictions of each size there are, of positives and of negatives.

    Probabilities are in bins of equal width in log odds, so that there is something to see where
    all are small, too. Logits, and predictions of labels other than 0 and 1, are in bins of equal
    width. All groups of a target have the same bins. The outermost bins also hold what is far away:
    at most 0.05 % of the positives, and of the negatives, at either end.

    Args:
        records: Records or a run, as for `summary`. Of a run, states are kept, which are those of
            `summary` without arguments.
        by: The groups, as for `summary`.
        bins: The largest number of bins. There are fewer if predictions are so close together that
            a state does not tell them apart.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.

    Returns:
        A row per target, group and bin, in ascending order: `target`; the groups' columns; `low`
        and `high`, the ends of the bin, to 1 in 256; `examples`, never weighted; `positives` and
        `negatives`, Σwy and Σw(1 - y), null if the target's labels are not 0 and 1.

    Raises:
        ValueError: If `records` does not hold records, or an argument is invalid.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": [1, 2, 3, 4],
    ...     "label": [{"ctr": y} for y in (0.0, 1.0, 0.0, 1.0)],
    ...     "predict": [{"ctr": p} for p in (0.25, 0.25, 0.75, 0.75)],
    ... })
    >>> result = distribution(records, bins=2)
    >>> result.select("examples", "positives", "negatives").rows()
    [(2, 1.0, 1.0), (2, 1.0, 1.0)]
    >>> result["low"].round(2).to_list(), result["high"].round(2).to_list()
    ([0.25, 0.5], [0.5, 0.75])
    """
    check_bins(bins)
    check_groups(by, _NOTHING.columns[1:])
    state = state_of(records, by, measures=cheapest(records), weighted=weighted, visits=visits)
    return distribution_of(state, bins)


def distribution_of(state: State, bins: int = 50) -> pl.DataFrame:
    """Return the distribution of predictions of a state with cells: see `distribution`."""
    order = pl.col("target").replace_strict(
        state.targets, range(len(state.targets)), return_dtype=pl.Int64
    )
    groups = state.groups.with_row_index(_GROUP).sort(order, *state.keys, nulls_last=True)
    cells = state.tables["cells"].rename({"group": _GROUP})
    odd = state.tables["sums"].select(pl.col("group").alias(_GROUP), "other_labels", "outside")
    found = [_NOTHING]
    for target in state.targets:
        is_own = pl.col(_GROUP).is_in(groups.filter(target=target).get_column(_GROUP).implode())
        is_binary, by_odds = odd.filter(is_own).select((pl.exclude(_GROUP) == 0).all()).row(0)
        found.append(_in_bins(cells.filter(is_own), bins, is_binary, by_odds))
    names = dict(zip(state.keys, state.form.groups, strict=True))
    rows = groups.join(pl.concat(found), on=_GROUP, maintain_order="left").sort(
        order, *state.keys, "low", nulls_last=True
    )
    return rows.drop(_GROUP).rename(names)


def _in_bins(cells: pl.DataFrame, bins: int, is_binary: bool, by_odds: bool) -> pl.DataFrame:
    """Return the bins of the groups of one target."""
    if cells.is_empty():
        return _NOTHING
    values = cells.get_column("cell").to_numpy()
    positives, negatives = (cells.get_column(name).to_numpy() for name in _SUMS[1:])
    weights = [positives, negatives] if is_binary else [positives + negatives]
    at, edges = _edges(values, weights, bins, is_binary and by_odds)
    own = cells.with_columns(bin=pl.Series(at)).group_by(_GROUP, "bin").agg(pl.col(*_SUMS).sum())
    every = pl.DataFrame({"bin": np.arange(edges.size - 1), "low": edges[:-1], "high": edges[1:]})
    table = cells.select(pl.col(_GROUP).unique()).join(every, how="cross")
    table = table.join(own, on=[_GROUP, "bin"], how="left").with_columns(
        pl.col(*_SUMS).fill_null(0)
    )
    if not is_binary:
        table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in _SUMS[1:])
    return table.select(pl.col(name).cast(kind) for name, kind in _NOTHING.schema.items())


def _edges(
    values: Array, weights: Sequence[Array], bins: int, by_odds: bool
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the bin of each value, and the edges of the bins."""
    places = _log_odds(values) if by_odds else values
    order = np.argsort(places, kind="stable")
    ends = [_without_tails(places[order], one[order]) for one in weights if one.any()]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    least = _LEAST if by_odds else _LEAST * max(abs(low), abs(high))
    number = max(1, min(bins, int((high - low) / least))) if high > low else 1
    step = (high - low) / number
    at = ((places - low) // step if step else np.zeros(values.size)).clip(0, number - 1)
    inner = low + step * np.arange(1, number)
    inner = 1 / (1 + np.exp(-inner)) if by_odds else inner
    edges = np.concatenate([[values.min()], inner, [values.max()]])
    return at.astype(np.int64), edges


def _without_tails(places: Array, weights: Array) -> tuple[float, float]:
    """Return where nearly all of the weight is."""
    seen = np.cumsum(weights) / weights.sum()
    first = np.searchsorted(seen, _TAIL, side="right")
    last = np.searchsorted(seen, 1 - _TAIL)
    return float(places[first]), float(places[last])


def _log_odds(values: Array) -> Array:
    near = np.clip(values, EPSILON, 1 - EPSILON)
    places: Array = np.log(near) - np.log1p(-near)
    return places
