"""The state of a run, of which only new files are read: see `kept`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import dataset, kept, long, replays
from monolith_keras_metrics.insight.asks import Ask, of_plan, of_records, ordered
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.visits import INDEPENDENT, Facts, facts_of


def of_place(place: str | os.PathLike[str], ask: Ask) -> State:
    """Return the state of a run; read only files of which none is kept.

    Raises:
        FileNotFoundError: If there is no run, or a file is deleted while it is read.
    """
    if dataset.TOPIC.fullmatch(os.fspath(place)):
        return of_records(dataset.open_run(place), ask)
    file_format, files = dataset.find(place)
    try:
        name = os.fspath(place).removeprefix(f"{file_format}:")
        is_file = files[0] == pathlib.Path(name).expanduser()
        state = None if is_file else _of_files(file_format, files, ask)
        return of_records(dataset.open_run(place), ask) if state is None else state
    except (OSError, pl.exceptions.PolarsError) as error:
        if gone := [file for file in files if not file.exists()]:
            raise FileNotFoundError(
                f"`records` must keep its files while they are read. Received: {str(place)!r}, "
                f"from which {gone[0].name!r} has been deleted. Try again"
            ) from error
        raise


def _of_files(file_format: str, files: Sequence[pathlib.Path], ask: Ask) -> State | None:
    """Return the state of a folder's files; None if states of it cannot be kept."""
    by = [ask.by] if isinstance(ask.by, (str, pl.Expr)) else [*ask.by]
    if not all(isinstance(one, str) for one in by):
        return None  # an expression has no name that lasts
    measures = ask.measures if isinstance(ask.measures, str) else ask.measures and [*ask.measures]
    memory = kept.Kept(files[0].parent, ask._replace(by=by, measures=measures)._asdict())
    there = kept.identities_of(files)
    entries = memory.entries(there)
    run = _Run(file_format, files, there, memory, ask)
    state = run.state(entries)
    if state is None and entries:  # what is kept does not fit to the new files
        state = run.state([])
    return state


class _Opened(NamedTuple):
    """Some files of a run.

    Attributes:
        records: Their records.
        files: The files.
        are_intact: Whether they can be read to their ends.
    """

    records: pl.LazyFrame
    files: list[pathlib.Path]
    are_intact: bool


class _Run(NamedTuple):
    """A run of which states are kept.

    Attributes:
        file_format: The format of its files.
        files: Its files.
        there: Their identities.
        memory: What is kept.
        ask: What is asked.
    """

    file_format: str
    files: Sequence[pathlib.Path]
    there: kept.Identities
    memory: kept.Kept
    ask: Ask

    def state(self, entries: Sequence[kept.Entry]) -> State | None:
        """Return the state of kept entries and of new files; None if these do not add up."""
        opened = [*self._new(entries, [entry.schema for entry in entries])]
        facts = [self._facts_of(one) for one in opened]
        together = INDEPENDENT
        for own in (*facts, *(entry.facts for entry in entries)):
            together = together | own
        if not together.is_independent and self.ask.visits == "first":
            return self._with_dependent(entries, together)
        return self._added(entries, opened, facts)

    def _facts_of(self, opened: _Opened) -> Facts:
        """Return the facts of records if they are needed, for they cost a pass."""
        return facts_of(opened.records) if self.ask.visits == "first" else INDEPENDENT

    def _new(self, entries: Sequence[kept.Entry], known: Sequence[pl.Schema]) -> Iterator[_Opened]:
        covered = {name for entry in entries for name in entry.files}
        new = [file for file in self.files if file.name not in covered]
        return _opened(self.file_format, new, known)

    def _added(
        self, entries: Sequence[kept.Entry], opened: Sequence[_Opened], facts: Sequence[Facts]
    ) -> State | None:
        """Return the state of entries and of new files, all of them independent; keep it."""
        found = [*entries]
        for one, own in zip(opened, facts, strict=True):
            plan = self.ask.plan(one.records, INDEPENDENT)
            schema = one.records.collect_schema()
            form = self.ask.form(plan, schema.names())
            if any(entry.state.form != form for entry in found):
                return None
            identities = {file.name: self.there[file.name] for file in one.files}
            entry = kept.Entry(None, of_plan(plan, form), identities, own, schema)
            if one.are_intact:
                self.memory.add(entry, entries)
            found.append(entry)
        if not found:
            return None
        return _as_in(kept.merged(found).state, found[-1].schema)

    def _with_dependent(self, entries: Sequence[kept.Entry], facts: Facts) -> State | None:
        """Return the state of all files; keep that of those that do not depend on others."""
        records, problems = dataset.open_files(self.file_format, self.files, (), replays.FILE)
        if facts.revisits or self.file_format != "parquet" or problems or records is None:
            return None
        apart = {pathlib.Path(path).name for path in replays.dependent(records)}
        useless = [entry for entry in entries if not apart.isdisjoint(entry.files)]
        self.memory.delete(useless)
        usable = [entry for entry in entries if entry not in useless]
        schema = records.drop(replays.FILE).collect_schema()
        states = []
        if rest := [file for file in self.files if file.name not in apart]:
            run = self._replace(files=rest)
            opened = [*run._new(usable, [schema])]
            states.append(run._added(usable, opened, [*map(run._facts_of, opened)]))
        if compared := [file for file in self.files if file.name in apart]:
            of_compared, _ = dataset.open_files(self.file_format, compared, [schema])
            assert of_compared is not None
            plan = self.ask.plan(of_compared, facts)
            states.append(of_plan(plan, self.ask.form(plan, schema.names())))
        there = [state for state in states if state is not None]
        if len(there) < len(states) or len({state.form for state in there}) > 1:
            return None
        return _as_in(State.merge(there), schema)


def _as_in(state: State, schema: pl.Schema) -> State:
    """Return the state with its targets in the order of the records' fields."""
    return ordered(state, [*long.take_apart(pl.LazyFrame(schema=schema)).values])


def _opened(
    file_format: str, files: Sequence[pathlib.Path], known: Sequence[pl.Schema]
) -> Iterator[_Opened]:
    """Yield intact files, and others."""
    if not files:
        return
    records, problems = dataset.open_files(file_format, files, known)
    if not problems and records is not None:
        yield _Opened(records, [*files], True)
        return
    for file, problem in problems.items():
        logging.warning("summary: %r: %s", str(file), problem)
    for are_intact in (True, False):
        those = [file for file in files if (file not in problems) == are_intact]
        records, _ = dataset.open_files(file_format, those, known)
        if records is not None and those:
            yield _Opened(records, those, are_intact)
            known = [records.collect_schema()]
