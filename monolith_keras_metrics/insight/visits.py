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
_ORIGIN = ("run", "worker", "attempt")
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


INDEPENDENT = Facts(frozenset(), False)


class First(NamedTuple):
    """How first visits are found.

    Attributes:
        steps: Expressions for the column `FIRST`, each of which may use the one before it. (Polars
            1.31 has no windows within windows.) It is then True for a record of a first visit.
        key: An expression that is equal for records which must be compared with each other; None
            if each record tells by itself.
    """

    steps: tuple[pl.Expr, ...]
    key: pl.Expr | None = None

    @property
    def columns(self) -> set[str]:
        """Return the columns of the records that are needed."""
        expressions = [*self.steps] if self.key is None else [*self.steps, self.key]
        return {name for one in expressions for name in one.meta.root_names()} - {FIRST}


def facts_of(records: pl.LazyFrame) -> Facts:
    """Return the facts of records, or of rows of `long_form`. Few columns are read."""
    steps.begin("looking for second visits")
    names = records.collect_schema().names()
    origin = [name for name in _ORIGIN if name in names] if "attempt" in names else []
    again = pl.lit(False)
    if {"epoch", "example_id"} <= {*names}:
        again = (pl.col("epoch").fill_null(0) != 0) & pl.col("example_id").is_not_null()
    if not origin and not again.meta.root_names():
        return INDEPENDENT
    # Most records have one origin. Comparing them with it takes a third of the time of grouping.
    known = records.select(origin).head(1).collect().rows() if origin else []
    differs = [
        pl.col(name).ne_missing(value)
        for row in known
        for name, value in zip(origin, row, strict=True)
    ]
    several, revisits = (
        records.select(pl.any_horizontal(*differs, pl.lit(False)).any(), again.any().alias(FIRST))
        .collect(engine="streaming")
        .row(0)
    )
    if several:
        known = records.group_by(origin).agg().collect(engine="streaming").rows()
    return Facts(frozenset(known), bool(revisits))


def first_visits(
    records: pl.LazyFrame, extras: Sequence[str] = (), facts: Facts | None = None
) -> First:
    """Return how to find the records of examples' first visits.

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
        return First((first,))
    training = [name for name in _OF_THE_TRAINING if name in plain]
    of_example = [name for name in _OF_THE_EXAMPLE if name in plain]
    by_value: list[str] = [*of_example, *(extras or _extras_of(plain))]
    same: list[pl.Expr | str] = [*training, *by_value]
    key = pl.lit(0, pl.UInt64)
    for name in of_example:
        key = key ^ pl.col(name).hash()
    if "example_id" in plain:
        named = pl.col("example_id").is_not_null()
        if "epoch" in plain:
            lowest = epoch.min().over(*training, "example_id")
            first = pl.when(named).then(epoch == lowest).otherwise(first)
        same = [*training, "example_id", *(pl.when(~named).then(name) for name in by_value)]
        key = pl.when(named).then(pl.col("example_id").hash()).otherwise(key)
    if not facts.has_several_attempts:
        return First((first,), key)
    attempt = pl.col("attempt")
    last = pl.when(FIRST).then(attempt).max().over(same)
    return First((first, pl.col(FIRST) & (attempt == last).fill_null(True)), key)


def _extras_of(names: Sequence[str]) -> list[str]:
    """Return the extra fields of the long form, in which they are ordinary columns."""
    return [name for name in names if name not in _NOT_EXTRA]
