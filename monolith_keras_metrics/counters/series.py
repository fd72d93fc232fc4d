"""Counters, stores and timers in memory, until they are read or sent."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Literal, NamedTuple

from monolith_keras_metrics.threads import WarnOnce

Kind = Literal["counter", "store", "timer"]

MOST_SERIES = 1_000
"""Default limit of series in memory. A further one is left out, and a warning says so once."""

_MOST_TIMES = 1_000  # most values of a timer between two sends


class Series(NamedTuple):
    """One name with one set of tags.

    Attributes:
        kind: What was emitted under the name first.
        name: The name as it was emitted, with the prefix of `get_cli`.
        tags: Names and values of the tags, sorted.
    """

    kind: Kind
    name: str
    tags: tuple[tuple[str, str], ...]


class Total(NamedTuple):
    """The value of a series since the start.

    Attributes:
        series: The series.
        value: The sum of a counter or a timer, the last value of a store.
        times: Number of values.
    """

    series: Series
    value: float
    times: int


class Change(NamedTuple):
    """What was emitted since the last look.

    Attributes:
        series: The series.
        values: The growth of a counter, the last value of a store, or each value of a timer.
    """

    series: Series
    values: list[float]


class Values:
    """The values of all series.

    Any thread may call any method. The lock is held for a few additions or for a copy only.

    Args:
        most: Most series.

    Attributes:
        version: Number of values so far.
    """

    def __init__(self, most: int = MOST_SERIES) -> None:
        self.version = 0
        self._most = most
        self._lock = threading.RLock()  # a signal handler may emit while its thread emits
        self._totals: dict[Series, tuple[float, int]] = {}
        self._pending: dict[Series, list[float]] = {}
        self._kinds: dict[str, Kind] = {}
        self._warn_once = WarnOnce()

    def add(self, kind: Kind, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Add a value. One that its series cannot take is left out, and a warning says so once."""
        number = _number(kind, value)
        if number is None:
            self._warn_once(("value", name), "%s %s cannot take the value %r", kind, name, value)
            return
        pairs = tuple(sorted((str(key), str(text)) for key, text in (tags or {}).items()))
        series = Series(kind, name, pairs)
        with self._lock:
            known = self._kinds.setdefault(name, kind)
            has_room = series in self._totals or len(self._totals) < self._most
            if known == kind and has_room:
                self._put(series, number)
                return
        if has_room:
            self._warn_once(name, "%r is a %s, so it cannot also be a %s", name, known, kind)
        else:
            self._warn_once("room", "there are %d series. Others are left out", self._most)

    def replace(self, prefix: str, stores: Mapping[Series, float]) -> None:
        """Replace all series whose names begin with a prefix: no look sees some old and some new.

        Args:
            prefix: The beginning of their names.
            stores: The new ones, each of the kind `"store"`.
        """
        with self._lock:
            for series in [one for one in self._totals if one.name.startswith(prefix)]:
                del self._totals[series]
                self._pending.pop(series, None)
            self.version += 1
            for (kind, name, tags), value in stores.items():
                self.add(kind, name, value, dict(tags))

    def _put(self, series: Series, value: float) -> None:
        total, count = self._totals.get(series, (0.0, 0))
        pending = self._pending.setdefault(series, [])
        if series.kind == "timer":
            pending.append(value)
            del pending[:-_MOST_TIMES]  # the oldest, if there are too many
        else:
            pending[:] = [value + (pending[0] if pending and series.kind == "counter" else 0.0)]
        self._totals[series] = (value if series.kind == "store" else total + value, count + 1)
        self.version += 1

    def totals(self) -> list[Total]:
        """Return the values since the start, a consistent snapshot, in the order of names."""
        with self._lock:
            totals = [Total(series, *value) for series, value in self._totals.items()]
        return sorted(totals, key=lambda one: (one.series.name, one.series.tags))

    def take(self) -> list[Change]:
        """Return what was emitted since the last call."""
        with self._lock:
            pending, self._pending = self._pending, {}
        return [Change(series, values) for series, values in pending.items()]


def _number(kind: Kind, value: object) -> float | None:
    """Return the value as a number; None if a series of this kind cannot take it."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if kind == "store":
        return number
    # A counter does not fall, and a sum has no NaN.
    return number if math.isfinite(number) and (kind == "timer" or number >= 0) else None
