"""The smallest slices that explain an alert."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.alerts.judging import Row
from monolith_keras_metrics.insight.items import Culprit
from monolith_keras_metrics.insight.slice_fields import chosen_fields
from monolith_keras_metrics.insight.slices import slices

# Slices are of predictions that are too high, or too low, on average, which these measures tell: 1
# if they rise with the predictions, -1 if they fall.
EXPLAINED = {"calibration": 1, "odds_factor": -1, "bias": 1}
EVERYTHING = "everything"
_RECORDS = 300_000  # of the newest: a search takes seconds
_MOST = 3  # slices; each takes as long to find as the first


def culprits_of(
    records: pl.LazyFrame | None, row: Row, by: Sequence[str], is_high: bool
) -> tuple[Culprit, ...] | None:
    """Return the slices that explain why predictions are too high, or too low, worst first.

    Args:
        records: The newest records, of all targets and groups.
        row: The target and group.
        by: The fields whose values the group has.
        is_high: True if predictions are too high, False if too low.

    Returns:
        The slices; none if no slice is wrong by more than chance; None if that is not known, since
        there are no records or fields, or since the search failed, which is logged.
    """
    if records is None:
        return None
    try:
        return _found(records, row, by, is_high)
    except Exception as error:
        # An error of Polars may quote records.
        is_plain = isinstance(error, (ImportError, MemoryError)) or type(error) is ValueError
        what = f": {error}" if is_plain else ""
        logging.warning("watch: no slices for an alert: %s%s", type(error).__name__, what)
        return None


def _found(
    records: pl.LazyFrame, row: Row, by: Sequence[str], is_high: bool
) -> tuple[Culprit, ...] | None:
    target, values = row
    rows = records if long.is_long(records.collect_schema()) else long.long_form(records)
    mine = rows.filter(pl.col("target") == target)
    for name, value in zip(by, values, strict=True):
        mine = mine.filter(pl.col(name).cast(pl.String, strict=False).eq_missing(pl.lit(value)))
    try:
        fields = [name for name in chosen_fields(mine, None) if name not in by]
    except ValueError:  # there is nothing to slice by
        return None
    if not fields:
        return None
    times = mine.select(pl.col("req_time").top_k(_RECORDS).min()).collect()
    oldest = times.item() if times.height else None
    if oldest is None:
        return None
    newest = mine.filter(pl.col("req_time") >= oldest).collect()
    found = slices(newest, fields, most=_MOST)
    too_high = pl.col("mean_prediction") > pl.col("mean_label")
    return tuple(
        Culprit(one["slice"], one["share"], one["examples"], one["calibration"])
        for one in found.filter(too_high == is_high).iter_rows(named=True)
    )
