"""`EpochMeasures`: the measures of an epoch's records, added up while the epoch runs.

Records are added up in the thread that makes them, so an epoch costs a `State` in memory, whatever
its length. The numbers are those of `insight.summary(records, visits="all")` of the same records.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.measures import KINDS, MEASURES
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.threads import WarnOnce

DEFAULT = ("auc", "calibration")
"""The measures of `log_measures=True`."""

_ROWS_AT_ONCE = 32_768  # a frame of few rows costs as much as one of many
_MOST_STATES = 8  # that wait to be merged
# A panic in Polars is not an Exception, but must cost the measures only, not the thread.
_ANY_ERROR = (Exception, pl.exceptions.PanicException)

Values: TypeAlias = "dict[tuple[str, str], float]"
"""The value of each target and measure; without those that are not for the target's labels."""


def measure_names(chosen: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the measures for `log_measures`.

    Raises:
        ValueError: If a name is none of a measure, or of one whose state grows with the users.

    Example:
    >>> measure_names(True)
    ('auc', 'calibration')
    """
    if isinstance(chosen, bool):
        return DEFAULT if chosen else ()
    known = [one.name for one in MEASURES.values() if one.needs != "user_cells"]
    is_list = isinstance(chosen, Sequence) and not isinstance(chosen, str)
    if not is_list or not {*chosen} <= {*known}:
        raise ValueError(
            f"`log_measures` must be True, False or a list of names among {known}. "
            f"Received: log_measures={chosen!r}"
        )
    return tuple(dict.fromkeys(chosen))


class EpochMeasures:
    """Sums of the records of each mode and epoch.

    `add` is for the thread that makes records, the other methods are for the training thread.

    Args:
        names: The names of the measures.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._ask = Ask((), None, "req_time", self._names, False, True, "all", False, users=False)
        needs_times = any(MEASURES[name].needs == "delays" for name in names)
        times = ("req_time", "train_time") if needs_times else ()
        self._columns = ("uid", "label", "predict", "sample_rate", *times)
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, int], _Sum] = {}
        self._forgotten = -1  # the last epoch of which nothing more is added
        self._failed = False
        self._warn_once = WarnOnce()

    def add(self, frame: pl.DataFrame) -> None:
        """Add records of one mode. Those without an epoch are left out. Raises nothing."""
        try:
            mode = frame.get_column("mode")[0]
            for (epoch,), records in frame.partition_by("epoch", as_dict=True).items():
                if epoch is not None:
                    self._add(mode, epoch, records.select(self._columns))
        except _ANY_ERROR as error:
            self._failed = True
            self._warn_once(
                "failed",
                "records cannot be added up for the measures in `logs`, which are NaN from now on. "
                "The records are written. %s: %s",
                type(error).__name__,
                error,
            )

    def _add(self, mode: str, epoch: int, records: pl.DataFrame) -> None:
        with self._lock:
            if epoch <= self._forgotten:
                return
            own = self._sums.setdefault((mode, epoch), _Sum(self._ask))
        own.add(records)

    def take(self, mode: str, epoch: int) -> Values | None:
        """Return the measures of the records that were added; None if they are not known.

        Args:
            mode: `"train"` or `"test"`.
            epoch: The epoch. Nothing is being added to it.
        """
        with self._lock:
            own = self._sums.pop((mode, epoch), None)
        if own is None or self._failed:
            return None
        try:
            return _values(own.state(), self._names)
        except _ANY_ERROR as error:
            self._warn_once(
                "finish",
                "the measures in `logs` cannot be computed, and are NaN. %s: %s",
                type(error).__name__,
                error,
            )
            return None

    def forget(self, epoch: int) -> None:
        """Drop what there is of an epoch and those before it, and what is still added."""
        with self._lock:
            self._forgotten = epoch
            self._sums = {key: own for key, own in self._sums.items() if key[1] > epoch}


class _Sum:
    """The sum of records. One thread at a time may use it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._frames: list[pl.DataFrame] = []
        self._states: list[State] = []
        self._rows = 0

    def add(self, records: pl.DataFrame) -> None:
        self._frames.append(records)
        self._rows += records.height
        if self._rows >= _ROWS_AT_ONCE:
            self._add_up()

    def state(self) -> State:
        """Return the state of all records."""
        self._add_up()
        return State.merge(self._states)

    def _add_up(self) -> None:
        if not self._frames:
            return
        records = pl.concat(self._frames, how="vertical_relaxed")
        self._frames, self._rows = [], 0
        plan = self._ask.plan(records.lazy())
        form = self._ask.form(plan, records.columns)
        rows = plan.rows(plan.source.collect())
        self._states.append(State.of_rows(rows, plan.keys, form))
        if len(self._states) > _MOST_STATES:
            self._states = [State.merge(self._states)]


def _values(state: State, names: Sequence[str]) -> Values:
    """Return the values of a state with one group for each target. NaN where undefined."""
    groups = state.groups.with_row_index("group").join(state.tables["sums"], on="group")
    kinds = {
        target: (np.bool_(not others), np.bool_(not outside))
        for target, others, outside in groups.select("target", "other_labels", "outside").rows()
    }
    return {
        (row["target"], name): math.nan if row[name] is None else row[name]
        for row in state.finish(names).iter_rows(named=True)
        for name in names
        if KINDS[MEASURES[name].kind](*kinds[row["target"]])
    }
