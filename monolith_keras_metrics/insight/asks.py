"""What is asked of records, and the state that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.portions import in_threads, portions_of
from monolith_keras_metrics.insight.rows import WINDOW, By, Plan, Time, Visits, plan_of
from monolith_keras_metrics.insight.state import ROWS_AT_ONCE, State, named_measures
from monolith_keras_metrics.insight.tables import PARTS, Form, needed
from monolith_keras_metrics.insight.visits import Facts

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")
_ENDS = tuple(f"{name}{end}" for name in MEASURES for end in ("_low", "_high"))
TAKEN = ("target", WINDOW, *_COUNTS, *MEASURES, *_ENDS)


def chosen_measures(names: str | Sequence[str] | None, columns: Sequence[str]) -> list[Measure]:
    """Return the measures of these names; None for those that the columns allow."""
    timed = {"req_time", "train_time"} <= {*columns}
    if names is not None:
        named = named_measures(names)
        if untimed := [one.name for one in named if one.needs == "delays" and not timed]:
            raise ValueError(
                f"`records` must have columns 'req_time' and 'train_time' for {untimed[0]}. "
                f"Received: columns {list(columns)}"
            )
        return named
    return [
        measure
        for measure in MEASURES.values()
        if not measure.on_demand and (timed or measure.needs != "delays")
    ]


class Ask(NamedTuple):
    """The arguments of `state_of`, and whether users are to be counted.

    To count each user once costs most of a state of many groups and few measures.
    """

    by: By
    window: str | None
    time: Time
    measures: str | Sequence[str] | None
    intervals: bool
    weighted: bool
    visits: Visits
    exact: bool
    users: bool = True

    def plan(self, records: pl.LazyFrame, facts: Facts | None = None) -> Plan:
        """Return how records become rows."""
        return plan_of(
            records, self.by, self.window, self.time, self.weighted, self.visits, TAKEN, (), facts
        )

    def form(self, plan: Plan, columns: Sequence[str]) -> Form:
        """Return the form of the state."""
        parts = PARTS if self.intervals else 1
        tables = needed(chosen_measures(self.measures, columns), parts, self.users)
        return Form(plan.groups, self.weighted, self.exact, parts, tables)


def of_records(records: pl.LazyFrame, ask: Ask) -> State:
    """Return the state of records."""
    plan = ask.plan(records)
    return of_plan(plan, ask.form(plan, records.collect_schema().names()))


def of_plan(plan: Plan, form: Form, rows_at_once: int = ROWS_AT_ONCE) -> State:
    """Return the state of a plan's records, which are read in portions.

    Args:
        plan: The plan.
        form: The form of the state.
        rows_at_once: As for `State.of_rows`.
    """

    def of_portion(records: pl.DataFrame) -> State:
        return State.of_rows(plan.rows(records, True), plan.keys, form, rows_at_once)

    # Portions of records that are compared are large, so there is only one at a time.
    added = map if plan.key is not None else in_threads
    state = State.merge(added(of_portion, portions_of(plan)))
    targets: Sequence[str] = plan.targets
    if plan.key is not None and not targets:  # the first portion may lack the first target
        names = plan.source.select(pl.col("target").unique(maintain_order=True)).collect()
        targets = names.to_series().to_list()
    return ordered(state, targets)


def ordered(state: State, targets: Sequence[str]) -> State:
    """Return the state with its targets in this order."""
    known = [target for target in targets if target in state.targets]
    return State(state.form, known or state.targets, state.groups, state.tables)
