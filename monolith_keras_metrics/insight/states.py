"""`state_of`: from records to a `State`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import polars as pl

from monolith_keras_metrics.insight.asks import Ask, of_records
from monolith_keras_metrics.insight.rows import By, Time, Visits, lazy
from monolith_keras_metrics.insight.runs import of_place
from monolith_keras_metrics.insight.state import State

Place: TypeAlias = "str | os.PathLike[str]"
Records: TypeAlias = "pl.LazyFrame | pl.DataFrame | Place"


def state_of(
    records: Records,
    by: By = (),
    window: str | None = None,
    *,
    time: Time = "req_time",
    measures: str | Sequence[str] | None = None,
    intervals: bool = False,
    weighted: bool = True,
    visits: Visits = "first",
    exact: bool = False,
) -> State:
    """Add up records: the first half of `summary`, whose second half is `State.finish`.

    A state is small, whatever the number of records, and states of different records can be merged.
    So each worker, day or machine may have its own, and measures are computed from their sum.

    Args:
        records: Records or a run, as for `summary`. Of a run, states are kept in its folder
            `.insight/`, and only new files are read the next time.
        by: The groups, as for `summary`.
        window: The length of a window of time, as for `summary`.
        time: The column whose time decides the window.
        measures: The names of the measures that are to be computed from it, as for `summary`.
        intervals: Whether intervals are to be computed from it. Such a state is up to 100 times as
            large.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`. Merging does not compare
            the records of one state with those of another: with `"first"`, an example that several
            states have is counted once in each.
        exact: Whether AUC and percentiles are to be without error, as for `summary`. Such a state
            grows with the number of different predictions.

    Returns:
        The state.

    Raises:
        ValueError: If `records` does not hold records, or not what an argument needs; or if an
            argument is invalid.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": [1, 1, 2, 3],
    ...     "label": [{"ctr": y} for y in (0.0, 0.0, 1.0, 1.0)],
    ...     "predict": [{"ctr": p} for p in (0.1, 0.4, 0.35, 0.8)],
    ... })
    >>> state_of(records).finish("auc")["auc"].item()
    0.75
    """
    return answered(records, Ask(by, window, time, measures, intervals, weighted, visits, exact))


def answered(records: Records, ask: Ask) -> State:
    """Return the state that answers what is asked of records or a run."""
    if isinstance(records, (str, os.PathLike)):
        return of_place(records, ask)
    return of_records(lazy(records), ask)
