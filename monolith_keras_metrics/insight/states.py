"""`state_of`: from records to a `State`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import polars as pl

from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.portions import in_threads, portions_of
from monolith_keras_metrics.insight.rows import WINDOW, By, Plan, Time, Visits, plan_of
from monolith_keras_metrics.insight.state import State, named_measures
from monolith_keras_metrics.insight.tables import PARTS, TABLES, Form

Records: TypeAlias = "pl.LazyFrame | pl.DataFrame"

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")
_ENDS = tuple(f"{name}{end}" for name in MEASURES for end in ("_low", "_high"))
TAKEN = ("target", WINDOW, *_COUNTS, *MEASURES, *_ENDS)


def state_of(
    records: pl.LazyFrame | pl.DataFrame,
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
        records: Records, as for `summary`.
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
    lazy = records.lazy()
    chosen = measures_for(lazy, measures)
    plan = plan_of(lazy, by, window, time, weighted, visits, TAKEN)
    return state_of_plan(plan, form_of(plan, chosen, intervals, weighted, exact))


def measures_for(records: Records, names: str | Sequence[str] | None) -> list[str]:
    """Return the names of measures; None for those that the records' columns allow."""
    return [
        measure.name for measure in chosen_measures(names, records.lazy().collect_schema().names())
    ]


def chosen_measures(names: str | Sequence[str] | None, columns: Sequence[str]) -> list[Measure]:
    """Return the measures of these names; None for those that the columns allow."""
    if names is not None:
        return named_measures(names)
    timed = {"req_time", "train_time"} <= {*columns}
    return [
        measure
        for measure in MEASURES.values()
        if not measure.on_demand and (timed or measure.needs != "delays")
    ]


def form_of(
    plan: Plan, measures: Sequence[str], intervals: bool, weighted: bool, exact: bool
) -> Form:
    """Return the form of the state that these measures need."""
    needs = {"sums", "users", *(MEASURES[name].needs for name in measures)}
    if exact and intervals:
        # Exact cells of each part would not fit into memory, and intervals need none.
        needs |= {f"exact_{name}" for name in needs}
    tables = tuple(name for name in TABLES if name in needs)
    return Form(plan.groups, weighted, exact and not intervals, PARTS if intervals else 1, tables)


def state_of_plan(plan: Plan, form: Form) -> State:
    """Return the state of a plan's records, which are read in portions."""

    def of_portion(records: pl.DataFrame) -> State:
        return State.of_rows(plan.rows(records), plan.keys, form)

    state = State.merge(in_threads(of_portion, portions_of(plan)))
    known = [target for target in plan.targets if target in state.targets]
    return State(form, known or state.targets, state.groups, state.tables)
