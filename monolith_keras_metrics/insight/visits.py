"""First visits: the records of examples that the model had not learned from yet.

A model that sees an example again has learned its label, so its prediction shows how well it
remembers. Measures therefore use first visits only, unless all visits are requested.

- An example is visited again in a later epoch. With an `example_id`, that is any epoch after the
  first in which the example was seen; without one, any epoch but 0.
- A training that was restored or restarted visits examples that an earlier attempt recorded. The
  last attempt's record is then the first visit, since the restored model had not learned from the
  others. Such records have the same run, mode, model and `example_id`; without an `example_id`,
  the same run, mode, model, worker, uid, `req_time` and extra fields. (`position` may differ: each
  attempt counts from 0, wherever in the data it was restored.)
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.records.schema import SCHEMA

FIRST = "\nfirst"  # no user's column has this name
_OF_THE_TRAINING = ("model_name", "mode", "run", "target")
_OF_THE_EXAMPLE = ("worker", "uid", "req_time")
_NOT_EXTRA = {*SCHEMA, "target"}


def first_visits(records: pl.LazyFrame, extras: Sequence[str] = ()) -> pl.Expr:
    """Return an expression that is True for a record of an example's first visit.

    Args:
        records: Records, or rows of `long_form`. Their attempts are collected here.
        extras: The columns that the extra fields of records will become.
    """
    plain = records.collect_schema().names()
    key = [name for name in _OF_THE_TRAINING if name in plain]
    has_id = "example_id" in plain
    first = pl.lit(True)
    if "epoch" in plain:
        epoch = pl.col("epoch").fill_null(0)
        first = epoch == 0
        if has_id:
            lowest = epoch.min().over(*key, "example_id")
            named = pl.col("example_id").is_not_null()
            first = pl.when(named).then(epoch == lowest).otherwise(first)
    if not _has_several_attempts(records):
        return first
    # In the long form, extra fields are ordinary columns.
    extras = extras or [name for name in plain if name not in _NOT_EXTRA]
    by_value = [*(name for name in _OF_THE_EXAMPLE if name in plain), *extras]
    same: list[pl.Expr | str] = [*key, *by_value]
    if has_id:
        without_id = pl.col("example_id").is_null()
        same = [*key, "example_id", *(pl.when(without_id).then(name) for name in by_value)]
    attempt = pl.col("attempt")
    last = pl.when(first).then(attempt).max().over(same)
    return first & (attempt == last).fill_null(True)


def _has_several_attempts(records: pl.LazyFrame) -> bool:
    """Return True if any worker has several attempts."""
    names = records.collect_schema().names()
    if "attempt" not in names:
        return False
    origin = [name for name in ("run", "worker") if name in names]
    attempts = records.select(*origin, "attempt").unique().collect()
    return attempts.height > (attempts.select(origin).unique().height if origin else 1)
