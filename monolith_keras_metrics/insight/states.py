"""`state_of`: from records to a `State`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import dataset, kept, long
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.portions import in_threads, portions_of
from monolith_keras_metrics.insight.rows import WINDOW, By, Plan, Time, Visits, plan_of
from monolith_keras_metrics.insight.state import State, named_measures
from monolith_keras_metrics.insight.tables import PARTS, TABLES, Form, needed
from monolith_keras_metrics.insight.visits import Facts, facts_of

Place: TypeAlias = "str | os.PathLike[str]"
Records: TypeAlias = "pl.LazyFrame | pl.DataFrame | Place"

_COUNTS = ("examples", "unlabelled", "invalid", "revisits", "users")
_ENDS = tuple(f"{name}{end}" for name in MEASURES for end in ("_low", "_high"))
TAKEN = ("target", WINDOW, *_COUNTS, *MEASURES, *_ENDS)


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
    ask = Ask(by, window, time, measures, intervals, weighted, visits, exact)
    if isinstance(records, (str, os.PathLike)):
        return _of_place(records, ask)
    return _of_records(records.lazy(), ask)


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


def add_up(plan: Plan, form: Form) -> State:
    """Return the state of a plan's records, which are read in portions."""

    def of_portion(records: pl.DataFrame) -> State:
        return State.of_rows(plan.rows(records), plan.keys, form)

    state = State.merge(in_threads(of_portion, portions_of(plan)))
    targets: Sequence[str] = plan.targets
    if plan.key is not None and not targets:  # the first portion may lack the first target
        names = plan.source.select(pl.col("target").unique(maintain_order=True)).collect()
        targets = names.to_series().to_list()
    return _ordered(state, targets)


class Ask(NamedTuple):
    """The arguments of `state_of`."""

    by: By
    window: str | None
    time: Time
    measures: str | Sequence[str] | None
    intervals: bool
    weighted: bool
    visits: Visits
    exact: bool

    def plan(self, records: pl.LazyFrame, facts: Facts | None = None) -> Plan:
        """Return how records become rows."""
        return plan_of(
            records, self.by, self.window, self.time, self.weighted, self.visits, TAKEN, (), facts
        )

    def form(self, plan: Plan, columns: Sequence[str]) -> Form:
        """Return the form of the state."""
        chosen = chosen_measures(self.measures, columns)
        tables = needed(chosen)
        if self.exact and self.intervals:
            # Exact cells of each part would not fit into memory, and intervals need none.
            tables += tuple(name for name in TABLES if name.removeprefix("exact_") in tables[1:]
                            and name not in tables)  # fmt: skip
        exact, parts = self.exact and not self.intervals, PARTS if self.intervals else 1
        return Form(plan.groups, self.weighted, exact, parts, tables)


def _of_records(records: pl.LazyFrame, ask: Ask) -> State:
    plan = ask.plan(records)
    return add_up(plan, ask.form(plan, records.collect_schema().names()))


def _ordered(state: State, targets: Sequence[str]) -> State:
    """Return the state with its targets in this order."""
    known = [target for target in targets if target in state.targets]
    return State(state.form, known or state.targets, state.groups, state.tables)


def _of_place(place: Place, ask: Ask) -> State:
    """Return the state of a run; read only files of which none is kept."""
    by = [ask.by] if isinstance(ask.by, str) else ask.by
    if dataset.TOPIC.fullmatch(os.fspath(place)):
        return _of_records(dataset.open_run(place), ask)
    if isinstance(by, pl.Expr) or not all(isinstance(one, str) for one in by):
        return _of_records(dataset.open_run(place), ask)
    file_format, files = dataset.find(place)
    if files[0] == pathlib.Path(os.fspath(place).removeprefix(f"{file_format}:")).expanduser():
        return _of_records(dataset.open_run(place), ask)  # a single file
    measures = ask.measures if isinstance(ask.measures, str) else ask.measures and [*ask.measures]
    memory = kept.Kept(files[0].parent, ask._replace(by=[*by], measures=measures)._asdict())
    try:
        there = kept.identities_of(files)
        entries = memory.entries(there)
        state = _with_new(file_format, files, there, entries, memory, ask)
        if state is None and entries:  # what is kept does not fit to the new files
            state = _with_new(file_format, files, there, [], memory, ask)
    except (OSError, pl.exceptions.PolarsError) as error:
        if gone := [file for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"`records` must keep its files while they are read. Received: {str(place)!r}, "
                f"from which {gone[0].name!r} has been deleted. Try again"
            ) from error
        raise
    return _of_records(dataset.open_run(place), ask) if state is None else state


def _with_new(
    file_format: str,
    files: Sequence[pathlib.Path],
    there: kept.Identities,
    entries: Sequence[kept.Entry],
    memory: kept.Kept,
    ask: Ask,
) -> State | None:
    """Return the state of kept entries and of new files; None if these do not add up."""
    covered = {name for entry in entries for name in entry.files}
    new = [file for file in files if file.name not in covered]
    found = [*entries]
    known = [entry.schema for entry in entries]
    for records, those, are_intact in _opened(file_format, new, known):
        facts = facts_of(records)
        if ask.visits == "first" and not _all_facts(found, facts).is_independent:
            return None
        plan = ask.plan(records, facts)
        schema = records.collect_schema()
        form = ask.form(plan, schema.names())
        if any(entry.state.form != form for entry in found):
            return None
        identities = {file.name: there[file.name] for file in those}
        entry = kept.Entry(None, add_up(plan, form), identities, facts, schema)
        if are_intact:
            memory.add(entry, entries)
        found.append(entry)
    if not found or (ask.visits == "first" and not _all_facts(found).is_independent):
        return None
    one = kept.merged(found)
    targets = long.take_apart(pl.LazyFrame(schema=one.schema)).values
    return _ordered(one.state, [*targets])


def _opened(
    file_format: str, files: Sequence[pathlib.Path], known: Sequence[pl.Schema]
) -> Iterator[tuple[pl.LazyFrame, list[pathlib.Path], bool]]:
    """Yield the records of intact files, and those of others; the files; and which they are."""
    if not files:
        return
    records, problems = dataset.open_files(file_format, files, known)
    if not problems and records is not None:
        yield records, [*files], True
        return
    for file, problem in problems.items():
        logging.warning("summary: %r: %s", str(file), problem)
    for are_intact in (True, False):
        those = [file for file in files if (file not in problems) == are_intact]
        records, _ = dataset.open_files(file_format, those, known)
        if records is not None and those:
            yield records, those, are_intact
            known = [records.collect_schema()]


def _all_facts(entries: Sequence[kept.Entry], facts: Facts | None = None) -> Facts:
    together = facts or Facts(frozenset(), False)
    for entry in entries:
        together = together | entry.facts
    return together
