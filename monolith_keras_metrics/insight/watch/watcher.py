"""`Watcher`: from new records to closed windows and alerts, committed step by step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import polars as pl
from absl import logging

from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.items import Alert, Item, Window
from monolith_keras_metrics.insight.rows import Time
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.watch.intake import Intake
from monolith_keras_metrics.insight.watch.source import Source
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.insight.watch.sums import Sums, name_of
from monolith_keras_metrics.threads import WarnOnce

COMMIT_SECONDS = 5.0
"""Interval between commits of what was read, if no window closes meanwhile."""

_ARGUMENTS = {"fields": "`by`", "source": "the run"}
_CLOSE_SECONDS = 1.0  # after which closed windows are committed
_AMENDABLE = 48  # closed windows whose sums are kept, to add late records
_RECENT = 300_000  # records that are searched for the culprits of an alert
_LATE_SHARE = 0.2  # of all records; with more, windows are of little use


class ClosingError(RuntimeError):
    """What is known could not be read while a window was closed. A new start goes on from there."""


class Settings(NamedTuple):
    """What windows are like. They stay the same for as long as a store is used.

    Attributes:
        window: Their length, as for `summary`.
        seconds: The same in seconds.
        time: The column that decides a record's window.
        fields: The fields by whose values they are published.
        measures: The measures that are published.
        most: How many values of a field are told apart.
        mode: The mode whose records are measured; "" for all.
        model: The model whose records are measured; "" for that of the first record.
    """

    window: str
    seconds: int
    time: Time
    fields: tuple[str, ...]
    measures: tuple[str, ...]
    most: int
    mode: str
    model: str


class Judge(Protocol):
    """Rules, and what they come to: see `alerts.Alarms`."""

    asks: list[Ask]

    def close(
        self,
        start: int,
        end: int,
        states: Sequence[State | None],
        recent: Callable[[int], pl.LazyFrame | None],
    ) -> list[Alert]:
        """Judge a closed window."""

    def look(self, now: int, newest: int | None) -> list[Alert]:
        """Judge whether records still come."""


class Watcher:
    """Follows a source. One thread calls it.

    Args:
        source: What is watched.
        store: Where everything is kept.
        settings: What windows are like.
        judge: The rules; None if there are none.
        lateness: For how long, in seconds of the records' time, a window stays open for records
            that are out of order.
        idle: After how many seconds a silent worker does not hold windows open.
        clock: Returns the time, Unix seconds.

    Attributes:
        has_read: Whether the last step has read something, so that the next one may, too.
        has_more: Whether there are more windows to close than the last step had time for.

    Raises:
        ValueError: If the store was made with other settings.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        settings: Settings,
        judge: Judge | None = None,
        lateness: float = 0.0,
        idle: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._store = store
        self._settings = settings
        self._judge = judge
        self._lateness = lateness
        self._clock = clock
        self._check_settings()
        rules = judge.asks if judge is not None else []
        fields = dict.fromkeys([*settings.fields, *(name for ask in rules for name in _names(ask))])
        self._intake = Intake(fields, settings.time, settings.mode, settings.model, idle, clock)
        self._sums = Sums(
            *(settings.fields, settings.window, settings.time, settings.measures, settings.most),
            rules,
            store.value("known") or {},
        )
        self._sums.load(store.blobs)
        source.load(store)
        if (memory := store.value("intake")) is not None:
            self._intake.remember(memory)
        self._closed_until = int(store.value("closed_until") or 0)
        self._late = int(store.value("late") or 0)
        self._totals = store.value("totals") or {"records": 0, "late": 0}
        self._added: list[list[State]] = [[] for _ in rules]  # late records, for the next window
        self._added_names = [f"late/{name_of(ask)}" for ask in rules]
        for name, own in zip(self._added_names, self._added, strict=True):
            if blob := store.blobs.get(name):
                own.append(State.of_kept(blob))
        self.has_read = self.has_more = False
        begins = store.value("begins") or {}
        open_until = max(self._sums.starts(), default=-settings.seconds) + settings.seconds
        self._begins = [begins.get(name, open_until) for name in self._added_names]
        store.set("begins", dict(zip(self._added_names, self._begins, strict=True)))
        self._changed = False  # since the last commit
        self._committed_at = clock()
        self._new: list[Item] = []
        self._warn_once = WarnOnce()

    @property
    def totals(self) -> dict[str, int]:
        """Return numbers of records so far: measured, late, and not measured by reason."""
        return {**self._totals, **self._intake.counts}

    def step(self, final: bool = False) -> list[Item]:
        """Read some of what is new, and close the windows that are complete.

        Args:
            final: Whether nothing more will come, so that all windows are closed once everything
                is read.

        Returns:
            The items that were committed.

        Raises:
            OSError: If the source is away, or the store cannot be written. It may be called again.
            ClosingError: If the store cannot be read while a window is closed.
        """
        if self._new:  # an earlier commit failed
            return self._commit()
        self.has_read = False
        if not self.has_more:
            self._source.look()
            for part, records, heard in self._source.read():
                self.has_read = self._changed = True
                self._add(part, records, heard)
        try:
            self.has_more = self._close(final and not self.has_read and not self._source.behind())
        except OSError as error:  # sums were taken out: only a new start has them again
            raise ClosingError(
                f"a window could not be closed: {error}. Start it again: nothing is lost"
            ) from error
        is_read = not (self.has_read or self.has_more or self._source.behind())
        if self._judge is not None and is_read and not final:
            newest = self._source.newest()
            alerts = self._judge.look(int(self._clock()), None if newest is None else int(newest))
            self._raise(alerts)
        due = self._clock() >= self._committed_at + COMMIT_SECONDS or not self.has_read
        if self._new or ((self._changed or self._store.has_changes) and due):
            return self._commit()
        return []

    def is_behind(self) -> bool:
        """Return True if there is something that was not read yet."""
        return bool(self._source.behind())

    def open_windows(self) -> int:
        """Return how many windows are open."""
        return len(self._sums.starts())

    def _add(self, part: str, records: pl.DataFrame, heard: float) -> None:
        taken = self._intake.take(part, records, heard)
        if not taken.height:
            return
        start = pl.from_epoch(self._settings.time).dt.truncate(self._settings.window).dt.epoch("s")
        late = int(taken.select((start < self._closed_until).sum()).item())
        self._late += late
        self._totals["late"] += late
        self._totals["records"] += taken.height
        self._sums.add(taken)
        if self._totals["late"] > _LATE_SHARE * self._totals["records"]:
            self._warn_once(
                "late",
                "%s of %s records came after their window was closed. If training does not see "
                "examples in the order of %s, take --time train_time; else a larger --lateness",
                *(f"{self._totals[name]:,}" for name in ("late", "records")),
                self._settings.time,
            )

    def _close(self, everything: bool) -> bool:
        """Close windows, for about a second. Return True if there are more."""
        mark = self._intake.watermark(self._source.behind())
        if everything:
            mark = float("inf")
        if mark is None:
            return False
        mark -= self._lateness
        deadline = time.monotonic() + _CLOSE_SECONDS
        for start in self._sums.starts():
            end = start + self._settings.seconds
            if start < self._closed_until:
                self._amend(start)
            elif end <= mark and time.monotonic() > deadline:
                return True
            elif end <= mark:
                self._closed_until = end
                self._publish(start, end)
            else:
                break
            self._changed = True
        return False

    def _publish(self, start: int, end: int) -> None:
        """Close a window."""
        series, evidence = self._sums.take(start)
        number = self._store.next_number + len(self._new)
        model, late = self._intake.model, self._late
        self._new.append(Window(number, model, start, end, self._sums.series(series), late))
        self._late = 0
        self._keep(start, series)
        if self._judge is None:
            return
        states: list[State | None] = []
        for own, added, begin in zip(evidence, self._added, self._begins, strict=True):
            both = [*([own] if own is not None else []), *added]
            # A rule that is new has not seen all records of windows that were open.
            states.append(State.merge(both) if both and start >= begin else None)
            added.clear()
        self._raise(self._judge.close(start, end, states, lambda since: self._recent(since, end)))

    def _recent(self, since: int, until: int) -> pl.LazyFrame | None:
        """Return the newest records; None if they cannot be read, for an alert does without."""
        try:
            return self._source.recent(since, until, _RECENT)
        except Exception as error:
            logging.warning("deep-insight watch: no slices for an alert: %s", error)
            return None

    def _raise(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            number = self._store.next_number + len(self._new)
            model = self._intake.model
            self._new.append(dataclasses.replace(alert, number=number, model=model))

    def _keep(self, start: int, series: Sequence[State | None]) -> None:
        """Keep the sums of a closed window, for late records, instead of those of the oldest."""
        blobs = self._store.blobs
        for at, state in enumerate(series):
            if state is not None:
                blobs[f"closed/{start}/{at}"] = state
        kept = [*(self._store.value("kept") or []), start]
        for old in kept[:-_AMENDABLE]:
            for at in range(len(series)):
                blobs.pop(f"closed/{old}/{at}", None)
        self._store.set("kept", kept[-_AMENDABLE:])

    def _amend(self, start: int) -> None:
        """Add late records to their window, if its sums are kept, and to the evidence."""
        series, evidence = self._sums.take(start)
        for own, added in zip(evidence, self._added, strict=True):
            if own is not None:
                added[:] = [State.merge([own, *added])]
        blobs, kept = self._store.blobs, self._store.value("kept") or []
        if start not in kept:
            return
        merged: list[State | None] = []
        for at, state in enumerate(series):
            name = f"closed/{start}/{at}"
            both = [State.of_kept(blobs[name])] if name in blobs else []
            both += [state] if state is not None else []
            whole = State.merge(both) if both else None
            merged.append(whole)
            if whole is not None:
                blobs[name] = whole
        end = start + self._settings.seconds
        self._store.amend(Window(0, self._intake.model, start, end, self._sums.series(merged)))

    def _commit(self) -> list[Item]:
        store = self._store
        if self._changed:
            self._sums.save(store.blobs)
            self._source.save(store)
            for name, added in zip(self._added_names, self._added, strict=True):
                if added:
                    store.blobs[name] = State.merge(added)
                else:
                    store.blobs.pop(name, None)
            store.set("intake", self._intake.memory())
            store.set("known", self._sums.known)
            store.set("closed_until", self._closed_until)
            store.set("late", self._late)
            store.set("totals", self._totals)
        store.commit(self._new)
        self._changed, self._committed_at = False, self._clock()
        committed, self._new = self._new, []
        return committed

    def _check_settings(self) -> None:
        now = {"source": self._source.identity, **self._settings._asdict()}
        now = {name: [*value] if isinstance(value, tuple) else value for name, value in now.items()}
        then = self._store.value("settings")
        if then is None:
            self._store.set("settings", now)
            return
        differing = [name for name in now if now[name] != then.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self._store.path} was begun with {_ARGUMENTS.get(name, name)}="
                f"{then.get(name)!r}. Received: {_ARGUMENTS.get(name, name)}={now[name]!r}. Go on "
                "with the former, name another folder for the state, or delete it if nothing of it "
                "is needed"
            )


def _names(ask: Ask) -> list[Any]:
    return [ask.by] if isinstance(ask.by, (str, pl.Expr)) else [*ask.by]
