"""A `State`: sums of records, from which every measure is computed.

Everything in it is a sum per target, group of records, and part of the users, so the states of
files, workers and machines are merged by adding. It has up to seven tables (see `tables`):

- `sums`: the sums and counts of `measures.SUMS` and `measures.COUNTS`;
- `cells`: positives, negatives and predictions of each cell of the predictions (see `cells`);
- `delays`: the weight of each cell of the delays between request and training;
- `part_cells`, `part_delays`: the same of each part of the users;
- `users`: each user once;
- `user_cells`: the positives and negatives of each user's predictions, for measures within users.

*Parts* are 100 groups of users, by a hash of their uid. Intervals come from leaving out one part
after the other. Without intervals, all users are in one part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from monolith_keras_metrics.insight import adding, stored
from monolith_keras_metrics.insight.finish import finish
from monolith_keras_metrics.insight.grouping import grouped
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.suppression import suppressed
from monolith_keras_metrics.insight.tables import Form, Tables

# What keeps states for long: a state is encoded, by `to_bytes`, as late as possible.
Kept: TypeAlias = "bytes | State"
Memory: TypeAlias = "MutableMapping[str, Kept]"

ROWS_AT_ONCE = 1_000_000  # of the targets that are added up together
_TABLE_ROWS = 4_000_000  # that may wait to be merged


class State(Tables):
    """Sums of records: all that measures need, however many records there were.

    `state_of` makes one. States of different records merge, in any order, to that of all of them.

    Example:
    >>> from monolith_keras_metrics.insight import state_of
    >>> def records(uid, label, predict):
    ...     return pl.DataFrame({
    ...         "uid": [uid], "label": [{"ctr": label}], "predict": [{"ctr": predict}]
    ...     })
    >>> monday, tuesday = state_of(records(1, 0.0, 0.25)), state_of(records(2, 1.0, 0.75))
    >>> both = State.merge([monday, tuesday])
    >>> both.finish("auc").select("target", "examples", "users", "auc").rows()
    [('ctr', 2, 2, 1.0)]
    """

    @classmethod
    def of_rows(
        cls,
        frames: Iterable[pl.DataFrame],
        keys: Sequence[str],
        form: Form,
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> State:
        """Add up rows.

        Args:
            frames: Rows of any targets, as `rows_of` gives them.
            keys: The columns of the rows by which they are grouped.
            form: The form of the state.
            rows_at_once: About how many rows are added up together. It bounds memory.
        """
        together = _together(frames, rows_at_once)
        return cls.merge(cls._of_frame(frame, keys, form) for frame in together)

    @classmethod
    def _of_frame(cls, rows: pl.DataFrame, keys: Sequence[str], form: Form) -> State:
        return cls._of(adding.of_frame(rows, keys, form))

    @classmethod
    def _of(cls, tables: Tables) -> State:
        return cls(tables.form, tables.targets, tables.groups, tables.tables)

    @classmethod
    def merge(cls, states: Iterable[State]) -> State:
        """Return the state of all records of several states.

        Args:
            states: States that were made with the same arguments, of different records. Of an
                iterator, only a few are held at a time.

        Raises:
            ValueError: If there is none, or if they differ in their form.
        """
        waiting: list[Tables] = []
        merged = 0  # rows of the first
        for state in states:
            waiting.append(state)
            if sum(one.height for one in waiting[1:]) > max(_TABLE_ROWS, merged):
                waiting = [_merged(waiting)]
                merged = waiting[0].height
        return cls._of(_merged(waiting))

    def finish(
        self,
        measures: str | Sequence[str] | None = None,
        interval: float | None = None,
        minimum_users: int = 0,
    ) -> pl.DataFrame:
        """Return the measures of the records, as `summary` does.

        Args:
            measures: The names of the measures. Default: those of `summary` that the state has the
                sums for.
            interval: The probability of an interval, such as 0.95; the state must have been made
                with `intervals=True`.
            minimum_users: The values of a group with fewer users are null, as for `summary`.

        Returns:
            A row per target, group and window: see `summary`.

        Raises:
            ValueError: If an argument is invalid, or the state lacks what it needs.
            ModuleNotFoundError: If SciPy is needed, and is not installed.
        """
        check_interval(interval)
        if not minimum_users >= 0:  # also of NaN
            raise ValueError(
                f"`minimum_users` must be at least 0. Received: minimum_users={minimum_users!r}"
            )
        if interval is not None and self.form.parts == 1:
            raise ValueError(
                "`interval` needs a state that was made with intervals=True. "
                f"Received: interval={interval!r}"
            )
        known = [one for one in MEASURES.values() if one.needs in (None, *self.form.tables)]
        chosen = (
            [one for one in known if one.needs == "user_cells" or not one.on_demand]
            if measures is None
            else named_measures(measures)
        )
        if lacking := [one.name for one in chosen if one not in known]:
            raise ValueError(
                f"`measures` must be among those that the state was made for, "
                f"{[one.name for one in known]}. Received: {lacking[0]!r}. Name it when the state "
                f"is made, as in state_of(records, measures={lacking!r})"
            )
        result = finish(self, chosen, interval)
        result = result.rename(dict(zip(self.keys, self.form.groups, strict=True)))
        return suppressed(result, self.form.groups, minimum_users) if minimum_users else result

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one Parquet file, which any later version can tell from others.

        The file is complete as soon as it has its name.

        Args:
            path: The file. An existing one is replaced.

        Raises:
            OSError: If it cannot be written.
        """
        stored.write(self, path)

    @classmethod
    def read_parquet(cls, path: str | os.PathLike[str]) -> State:
        """Read a state that `write_parquet` wrote.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds no state, is damaged, or was written by a version of this
                package whose states are different.
        """
        return cls._of(stored.read(path)[0])

    def to_bytes(self) -> bytes:
        """Return the contents of the file that `write_parquet` writes."""
        return stored.contents_of(self).getvalue()

    @classmethod
    def from_bytes(cls, contents: bytes) -> State:
        """Return the state that `to_bytes` returned the bytes of.

        Raises:
            ValueError: As `read_parquet`.
        """
        return cls._of(stored.read_contents(contents))

    @classmethod
    def of_kept(cls, kept: Kept) -> State:
        """Return a state that is kept, decoded.

        Raises:
            ValueError: As `from_bytes`.
        """
        return kept if isinstance(kept, State) else cls.from_bytes(kept)

    def split(self, name: str) -> dict[Any, State]:
        """Return the states of each value of a column of groups, without that column."""
        form, groups = self._without(name)
        values = self.groups.get_column(self.keys[self.form.groups.index(name)])
        distinct = values.unique(maintain_order=True)
        if distinct.len() == 1:
            return {distinct[0]: State(form, self.targets, groups, self.tables)}
        chosen = [
            (values.is_null() if one is None else (values == one).fill_null(False)).to_numpy()
            for one in distinct
        ]
        number = np.empty(self.groups.height, np.int64)  # of each group among those of its value
        value = np.empty(self.groups.height, np.int64)
        for at, mine in enumerate(chosen):
            number[mine], value[mine] = np.arange(mine.sum()), at
        tables: list[dict[str, pl.DataFrame]] = [{} for _ in chosen]
        for name_, table in self.tables.items():
            group = table.get_column("group").to_numpy()
            order = np.argsort(value[group], kind="stable")  # rows keep their order
            renumbered = pl.Series("group", number[group], table.schema["group"])
            ordered = table.with_columns(renumbered)[order]
            ends = np.searchsorted(value[group][order], np.arange(len(chosen) + 1))
            for own, start, end in zip(tables, ends[:-1], ends[1:], strict=True):
                own[name_] = ordered.slice(start, end - start)
        return {
            one: State(form, self.targets, groups.filter(pl.Series(mine)), own)
            for one, mine, own in zip(distinct, chosen, tables, strict=True)
        }

    def summed_over(self, name: str) -> State:
        """Return the state without a column of groups, over whose values everything is added up."""
        form, groups = self._without(name)
        groups, numbers = grouped(groups)
        return State(form, self.targets, groups, adding.added([self], [numbers], form))

    def _without(self, name: str) -> tuple[Form, pl.DataFrame]:
        """Return the form and the groups without a column of groups; rows are not distinct."""
        at = self.form.groups.index(name)
        form = self.form._replace(groups=self.form.groups[:at] + self.form.groups[at + 1 :])
        groups = self.groups.drop(self.keys[at])
        names = [f"by.{number}" for number in range(len(form.groups))]  # as `plan_of` names them
        return form, groups.rename(dict(zip(groups.columns[1:], names, strict=True)))


def check_interval(interval: float | None, is_needed: bool = False) -> None:
    """Raise if `interval` is no probability between 0 and 1, or None where one is needed."""
    if (interval is None and is_needed) or (interval is not None and not 0 < interval < 1):
        raise ValueError(f"`interval` must be between 0 and 1. Received: interval={interval!r}")


def named_measures(names: str | Sequence[str]) -> list[Measure]:
    """Return the measures of these names."""
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in MEASURES:
            raise ValueError(
                f"`measures` must be among {list(MEASURES)}. Received: measures={name!r}"
            )
    return [MEASURES[name] for name in dict.fromkeys(listed)]


def _together(frames: Iterable[pl.DataFrame], at_once: int) -> Iterable[pl.DataFrame]:
    """Yield the rows in larger frames: a target of few rows costs as much as one of many."""
    waiting: list[pl.DataFrame] = []
    rows = 0
    yielded = False
    for frame in frames:
        waiting.append(frame)
        rows += frame.height
        if rows >= at_once:
            yield pl.concat(waiting)
            waiting, rows, yielded = [], 0, True
    if waiting or not yielded:
        yield pl.concat(waiting)


def _merged(states: Sequence[Tables]) -> Tables:
    forms = {state.form for state in states}
    if len(forms) != 1:
        raise ValueError(
            "`states` must be at least one state, made with the same arguments. "
            f"Received: {sorted(map(str, forms))}"
        )
    if len(states) == 1:
        return states[0]
    (form,) = forms
    targets = dict.fromkeys(target for state in states for target in state.targets)
    groups = states[0].groups
    if all(_are_equal(groups, state.groups) for state in states[1:]):
        of_each = [np.arange(groups.height)] * len(states)
    else:
        groups, numbers = grouped(
            pl.concat([state.groups for state in states], how="vertical_relaxed")
        )
        ends = np.cumsum([state.groups.height for state in states])
        of_each = np.split(numbers, ends[:-1])
    return Tables(form, [*targets], groups, adding.added(states, of_each, form))


def _are_equal(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Return True if groups are the same, in the same order: those of two windows mostly are."""
    return one.schema == other.schema and one.equals(other)
