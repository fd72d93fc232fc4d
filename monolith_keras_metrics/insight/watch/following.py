"""A topic, of which each message is read once.

The offsets of the next messages are kept with what came of those before, and not with the brokers:
so both are committed at once. Only committed messages are read.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Collection, Iterator
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics.insight.formats import of_lines
from monolith_keras_metrics.insight.topic import Topic, as_line
from monolith_keras_metrics.insight.watch.source import Portion
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.threads import WarnOnce

_AT_ONCE = 10_000  # messages
_MESSAGES = 200_000  # that are read before what came of them may be committed
_BYTES = 1 << 27
_WAIT_SECONDS = 0.5
_REFRESH_SECONDS = 30.0  # of the list of partitions
_OFFSETS = "offsets"


class Following:
    """A topic that is followed.

    Args:
        rest: Its URI after `kafka:`.
        column: The column of times, by which the newest records are chosen.

    Raises:
        ImportError: If confluent-kafka is not installed.
        ValueError: If the URI is invalid.
    """

    def __init__(self, rest: str, column: str) -> None:
        self._topic = Topic(rest)
        self._column = column
        self.identity = f"topic:{self._topic.name}"  # brokers may be replaced
        self._next: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._consumer: Any = None
        self._refreshed_at = 0.0
        self._at_end: set[int] = set()
        self._lines: dict[int, list[bytes]] = collections.defaultdict(list)
        self._ends: dict[int, int] = {}  # of what is in `_lines`
        self._heard: dict[int, float] = {}
        self._newest: float | None = None
        self._warn_once = WarnOnce()

    def load(self, store: Store) -> None:
        """Take up the offsets."""
        if (known := store.value(_OFFSETS)) is not None:
            self._next = {int(id_): offset for id_, offset in known["next"].items()}
            self._newest = known["newest"]

    def save(self, store: Store) -> None:
        """Write the offsets."""
        store.set(_OFFSETS, {"next": self._next, "newest": self._newest})

    def look(self) -> None:
        """Wait for messages, for half a second at most.

        Raises:
            ConnectionError: If the brokers do not answer.
            PermissionError: If the brokers refuse the credentials, or the user lacks a right.
            FileNotFoundError: If there is no such topic.
        """
        if self._consumer is None or time.monotonic() > self._refreshed_at + _REFRESH_SECONDS:
            self._refresh()
        size = number = 0
        while number < _MESSAGES and size < _BYTES:
            messages = self._consumer.consume(_AT_ONCE, timeout=0 if number else _WAIT_SECONDS)
            for message in messages:
                size += self._note(message)
            number += len(messages)
            if len(messages) < _AT_ONCE:
                break

    def read(self) -> Iterator[Portion]:
        """Yield the records of each partition."""
        for id_, end in sorted(self._ends.items()):
            lines = self._lines.pop(id_, [])
            frames = [*self._frames(lines)]
            self._next[id_] = end
            del self._ends[id_]
            for records in frames:
                yield Portion(str(id_), records, self._heard[id_])

    def _frames(self, lines: list[bytes]) -> Iterator[pl.DataFrame]:
        """Yield the records of messages; leave out those that do not go together with others."""
        if not lines:
            return
        try:
            frame = of_lines(str(self._topic), b"\n".join(lines)).frame
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            if len(lines) > 1:
                middle = len(lines) // 2
                yield from self._frames(lines[:middle])
                yield from self._frames(lines[middle:])
                return
            self._warn_once("odd", "%s: a message is no record: %s", self._topic, error)
            return
        if frame is not None:
            yield frame

    def behind(self) -> Collection[str]:
        """Return the partitions whose end was not reached yet."""
        return {str(id_) for id_ in self._known if id_ not in self._at_end}

    def newest(self) -> float | None:
        """Return when the newest message was written."""
        return self._newest

    def recent(self, since: int, until: int, most: int) -> pl.LazyFrame | None:
        """Return the newest records before the offsets, read once more."""
        consumer = self._topic.consumer()
        ends = {id_: end for id_, end in self._next.items() if end > 0}
        each = most // max(1, len(ends)) + 1
        lines: list[bytes] = []
        try:
            consumer.assign(
                [self._topic.partition(id_, max(0, end - each)) for id_, end in ends.items()]
            )
            deadline = time.monotonic() + 30.0
            while ends and time.monotonic() < deadline:
                for message in consumer.consume(_AT_ONCE, timeout=_WAIT_SECONDS):
                    id_, is_end = message.partition(), self._topic.is_end(message)
                    if message.error() and not is_end:
                        continue
                    if is_end or message.offset() + 1 >= ends.get(id_, 0):
                        ends.pop(id_, None)
                    if not is_end and self._topic.is_record(message):
                        lines.append(as_line(message))
        finally:
            consumer.close()
        frames = [*self._frames(lines)]
        if not frames:
            return None
        return (
            pl.concat(frames, how="diagonal_relaxed")
            .lazy()
            .filter(pl.col(self._column).is_between(since, until, closed="left"))
        )

    def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            self._consumer.close()

    def _refresh(self) -> None:
        """Read all partitions that there are."""
        if self._consumer is None:
            self._topic.check()
        known = self._topic.ends()
        self._refreshed_at = time.monotonic()
        new = [id_ for id_ in known if self._consumer is None or id_ not in self._known]
        self._known = known
        if self._consumer is None:
            self._consumer = self._topic.consumer()
        if new:
            starts = {id_: self._ends.get(id_, self._next.get(id_, 0)) for id_ in known}
            self._consumer.assign([self._topic.partition(*one) for one in starts.items()])
            for id_ in new:
                self._warn_of_lost(id_, starts[id_])

    def _warn_of_lost(self, id_: int, start: int) -> None:
        """Warn if messages were deleted before they were read."""
        partition = self._topic.partition(id_, start)
        try:
            first, _ = self._consumer.get_watermark_offsets(partition, timeout=10.0)
        except Exception as error:  # Kafka's own; the next look tells if it lasts
            logging.info("deep-insight watch: %s: %s", self._topic, error)
            return
        if 0 < start < first:
            logging.warning(
                "deep-insight watch: %s: the topic's retention has deleted offsets %d to %d of "
                "partition %d before they were read",
                *(self._topic, start, first - 1, id_),
            )

    def _note(self, message: Any) -> int:
        """Note a message, and return its size."""
        id_ = message.partition()
        if message.error() is not None:
            if self._topic.is_end(message):
                self._at_end.add(id_)
            return 0
        self._at_end.discard(id_)
        self._ends[id_] = message.offset() + 1
        if not self._topic.is_record(message):
            return 1
        kind, milliseconds = message.timestamp()
        heard = milliseconds / 1000 if kind else time.time()
        self._heard[id_] = heard
        self._newest = max(self._newest or heard, heard)
        line = as_line(message)
        self._lines[id_].append(line)
        return len(line)
