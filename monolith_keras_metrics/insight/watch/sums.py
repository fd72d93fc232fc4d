"""The sums of the windows that are open: records go in, and closed windows come out.

A window has a `State` for each field by whose values it is published, in which these are groups.
What is published of all records together is added up from those of the first field. Rules need
states of their own, with parts of the users: see `alerts`.

Memory is bounded by the number of series: of each field, `most` values are told apart, others are
`OTHER`. And if there are fields, a series has at most 128 cells of predictions, which are wider
than those of `summary` where they have to be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.insight.asks import Ask, of_plan
from monolith_keras_metrics.insight.items import Series
from monolith_keras_metrics.insight.rows import WINDOW
from monolith_keras_metrics.insight.state import Memory, State
from monolith_keras_metrics.insight.visits import INDEPENDENT

OTHER = "other"
MEASURES = (
    *("positive_rate", "mean_prediction", "calibration", "auc", "log_loss", "normalised_entropy"),
    *("mae", "rmse", "bias", "delay_p50", "delay_p95"),
)
"""What is published of a window, if nothing else is asked."""

_COUNTS = ("examples", "unlabelled", "invalid")
_MOST_CELLS = 128  # of predictions, of each series
_SLICE = "slice"
_OPEN = "open/"
_ROWS_AT_ONCE = 100_000  # of one target or several
_WAITING_ROWS = 400_000  # of tables that wait to be merged


class Sums:
    """The sums of open windows.

    Args:
        fields: The fields by whose values windows are published.
        window: The length of a window, as for `summary`.
        time: The column that decides a record's window.
        measures: The measures that are published.
        most: How many values of a field are told apart.
        rules: What rules ask of each window, without the window.
        known: The values of each field that are told apart so far, by frequency.
    """

    def __init__(
        self,
        fields: Sequence[str],
        window: str,
        time: str,
        measures: Sequence[str],
        most: int,
        rules: Sequence[Ask],
        known: dict[str, list[str]],
    ) -> None:
        self.fields = tuple(fields)
        self.known = known
        self._most = most
        self._measures = [*measures]
        self._window = window
        plain = Ask((), window, time, self._measures, False, True, "first", False, False)  # type: ignore[arg-type]
        self._asks: list[Ask] = [plain] * max(1, len(fields))
        self._asks += [rule._replace(window=window, time=time) for rule in rules]  # type: ignore[arg-type]
        names = [f"{_OPEN}field/{field}" for field in fields] or [f"{_OPEN}all"]
        self._names = [*names, *(f"{_OPEN}rules/{name_of(rule)}" for rule in rules)]
        self._rules = len(rules)
        # Of each window, by its start: states that wait to be merged. The first is the largest.
        self._open: list[dict[int, list[State]]] = [{} for _ in self._asks]
        self._changed: set[tuple[int, int]] = set()  # of these, since they were last saved

    def add(self, records: pl.DataFrame) -> None:
        """Add records, as `Intake.take` returns them."""
        for at, asked in enumerate(self._asks):
            is_field = at < len(self.fields)
            ask = asked._replace(by=self._by(self.fields[at], records)) if is_field else asked
            plan = ask.plan(records.lazy(), INDEPENDENT)
            form = ask.form(plan, records.columns)
            if is_field:
                form = form._replace(most_cells=_MOST_CELLS)
            windows = self._open[at]
            for start, state in of_plan(plan, form, _ROWS_AT_ONCE).split(WINDOW).items():
                windows.setdefault(int(start.timestamp()), []).append(state)
                self._changed.add((at, int(start.timestamp())))
            heights = [[state.height for state in own] for own in windows.values()]
            merged = sum(own[0] for own in heights)
            if sum(map(sum, heights)) - merged > max(_WAITING_ROWS, merged):
                for own in windows.values():
                    own[:] = [State.merge(own)]

    def _by(self, field: str, records: pl.DataFrame) -> pl.Expr:
        """Return an expression for the values of a field that are told apart."""
        values = records.get_column(field).cast(pl.String)
        known = self.known.setdefault(field, [])
        if len(known) < self._most:
            found = values.drop_nulls().value_counts(sort=True).get_column(field)
            new = found.filter(~found.is_in(known)).to_list()
            known += new[: self._most - len(known)]
            if len(known) == self._most:
                logging.warning(
                    "deep-insight watch: %r has %d values or more; further ones are counted as %r",
                    *(field, self._most, OTHER),
                )
        value = pl.col(field).cast(pl.String)
        kept = pl.when(value.is_in(known) | value.is_null()).then(value).otherwise(pl.lit(OTHER))
        return kept.alias(_SLICE)

    def starts(self) -> list[int]:
        """Return when the open windows begin, Unix seconds, in order."""
        return sorted({start for windows in self._open for start in windows})

    def take(self, start: int) -> tuple[list[State | None], list[State | None]]:
        """Take a window out, and return its states: of its series, and those that rules ask."""
        found = [windows.pop(start, None) for windows in self._open]
        self._changed |= {(at, start) for at, own in enumerate(found) if own is not None}
        taken = [None if own is None else State.merge(own) for own in found]
        number = len(taken) - self._rules
        return taken[:number], taken[number:]

    def series(self, states: Sequence[State | None]) -> tuple[Series, ...]:
        """Return the measures of a window, given its states of series."""
        found: list[Series] = []
        for at, state in enumerate(states):
            if state is None:
                continue
            if at == 0:
                total = state.summed_over(_SLICE) if self.fields else state
                found += _series(total.finish(self._measures), None)
            if self.fields:
                found += _series(state.finish(self._measures), self.fields[at])
        return tuple(found)

    def save(self, blobs: Memory) -> None:
        """Write the sums that have changed since they were last written."""
        for at, start in sorted(self._changed):
            name = f"{self._names[at]}/{start}"
            if own := self._open[at].get(start):
                own[:] = [State.merge(own)]
                blobs[name] = own[0]
            else:
                blobs.pop(name, None)
        self._changed.clear()

    def load(self, blobs: Memory) -> None:
        """Read the sums that `save` wrote."""
        for key in [key for key in blobs if key.startswith(_OPEN)]:
            name, _, start = key.rpartition("/")
            if name in self._names:
                self._open[self._names.index(name)][int(start)] = [State.of_kept(blobs[key])]
            else:  # of a rule that is not in the file any more
                del blobs[key]


def name_of(ask: Ask) -> str:
    """Return a name for what a rule asks, by which its sums are kept."""
    return hashlib.sha256(repr(ask).encode()).hexdigest()[:16]


def _series(rows: pl.DataFrame, field: str | None) -> list[Series]:
    names = [name for name in rows.columns if name not in ("target", _SLICE)]
    names = [name for name in names if name in _COUNTS or name not in ("users", "revisits")]
    return [
        Series(
            row["target"],
            field,
            row[_SLICE] if field is not None else None,
            {name: None if row[name] is None else float(row[name]) for name in names},
        )
        for row in rows.sort("target", *([_SLICE] if field is not None else [])).iter_rows(
            named=True
        )
    ]
