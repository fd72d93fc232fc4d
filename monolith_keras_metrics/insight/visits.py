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
from typing import NamedTuple

import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.records.schema import SCHEMA

FIRST = "\nfirst"  # no user's column has this name
_OF_THE_TRAINING = ("model_name", "mode", "run", "target")
_OF_THE_EXAMPLE = ("worker", "uid", "req_time")
_NOT_EXTRA = {*SCHEMA, "target"}


class Facts(NamedTuple):
    """What tells whether any of some records depends on others of them.

    Attributes:
        attempts: Each run, worker and attempt once.
        revisits: True if an example that is identified was seen in an epoch after the first.
    """

    attempts: frozenset[tuple[str | int | None, ...]]
    revisits: bool

    @property
    def has_several_attempts(self) -> bool:
        """Return True if any worker has several attempts."""
        return len({origin[:-1] for origin in self.attempts}) < len(self.attempts)

    @property
    def is_independent(self) -> bool:
        """Return True if a record of a first visit is known without the other records."""
        return not self.has_several_attempts and not self.revisits

    def __or__(self, other: Facts) -> Facts:
        return Facts(self.attempts | other.attempts, self.revisits or other.revisits)


def facts_of(records: pl.LazyFrame) -> Facts:
    """Return the facts of records, or of rows of `long_form`. Few columns are read."""
    steps.begin("looking for second visits")
    names = records.collect_schema().names()
    origin = [name for name in ("run", "worker", "attempt") if name in names]
    if "attempt" not in names:
        origin = []
    again = pl.lit(False)
    if {"epoch", "example_id"} <= {*names}:
        again = (pl.col("epoch").fill_null(0) != 0) & pl.col("example_id").is_not_null()
    if origin:
        lines = records.group_by(origin).agg(again.any().alias(FIRST)).collect(engine="streaming")
    elif again.meta.root_names():
        lines = records.select(again.any().alias(FIRST)).collect(engine="streaming")
    else:
        return Facts(frozenset(), False)
    attempts = frozenset(lines.select(origin).rows()) if origin else frozenset()
    return Facts(attempts, bool(lines.get_column(FIRST).any()))


def first_visits(
    records: pl.LazyFrame, extras: Sequence[str] = (), facts: Facts | None = None
) -> pl.Expr:
    """Return an expression that is True for a record of an example's first visit.

    Args:
        records: Records, or rows of `long_form`. Their facts are collected here.
        extras: The columns that the extra fields of records will become.
        facts: The facts of the records, if they are known.
    """
    plain = records.collect_schema().names()
    first = pl.lit(True)
    if "epoch" in plain:
        epoch = pl.col("epoch").fill_null(0)
        first = epoch == 0
    facts = facts or facts_of(records)
    if facts.is_independent:
        return first
    key = [name for name in _OF_THE_TRAINING if name in plain]
    has_id = "example_id" in plain
    if "epoch" in plain and has_id:
        lowest = epoch.min().over(*key, "example_id")
        named = pl.col("example_id").is_not_null()
        first = pl.when(named).then(epoch == lowest).otherwise(first)
    if not facts.has_several_attempts:
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
