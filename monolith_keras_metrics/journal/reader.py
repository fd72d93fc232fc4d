"""`Reader`: take portions from a log. Owned by the thread of one delivery."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import polars as pl
from absl import logging

from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.log import Log
from monolith_keras_metrics.journal.segment import PORTION_BYTES, Place, Portion


@dataclasses.dataclass(eq=False)
class Reader:
    """Take the entries of a log, in order, for one consumer.

    The consumer's thread calls all methods except `give_up`, which any thread may call.

    Attributes:
        log: The log.
        consumer: The number of the consumer.
        gathers: Whether the consumer takes complete segments only.
        read: Reads an entry from its journal file.
    """

    log: Log
    consumer: int
    gathers: bool
    read: Callable[[Place], pl.DataFrame] = journal.read

    def __post_init__(self) -> None:
        self._segment = self._entry = 0  # the next one; under the log's lock

    def portion(self) -> Portion | None:
        """Return the next portion; None if there is none now."""
        with self.log.changed:
            while (segment := self.log.segment(self._segment)) is not None:
                if segment.number > self._segment:
                    self._segment, self._entry = segment.number, 0
                count = len(segment.entries)
                if self._entry < count:
                    if self.gathers and not segment.closed:
                        return None
                    return Portion(segment, self._entry, count if self.gathers else self._entry + 1)
                if not segment.closed:
                    return None
                self._segment, self._entry = segment.number + 1, 0
            return None

    def frames(self, portion: Portion) -> list[pl.DataFrame]:
        """Return the records of a portion, joined where their schemas are equal.

        Unreadable entries are left out and counted as failed. If the records need more memory than
        a portion should, the portion becomes smaller.

        Raises:
            OSError: If a journal file cannot be read now.
        """
        by_schema: dict[object, list[pl.DataFrame]] = {}
        size = 0
        for number, entry in enumerate(portion.entries, portion.start):
            frame = entry.frame
            if frame is None and entry.place is not None:
                try:
                    frame = self.read(entry.place)
                except (journal.UnreadableError, FileNotFoundError) as error:
                    logging.warning(
                        "Deep insight: %d examples in %s are lost: %s",
                        entry.rows,
                        entry.place.file.path.name,
                        error,
                    )
                    entry.failed = entry.rows
            if frame is None:
                continue
            size += int(frame.estimated_size())
            if size > 2 * PORTION_BYTES and number > portion.start:
                portion.stop = number
                break
            by_schema.setdefault(tuple(frame.schema.items()), []).append(frame)
        return [pl.concat(frames) for frames in by_schema.values()]

    def is_pending(self, portion: Portion) -> bool:
        """Return True unless the portion was given up meanwhile."""
        return (self._segment, self._entry) == (portion.segment.number, portion.start)

    def done(self, portion: Portion, failed: int = 0) -> None:
        """Note that the consumer has a portion, except for `failed` of its records.

        Ignored if the portion was given up meanwhile, since it is counted already.
        """
        with self.log.changed:
            if not self.is_pending(portion):
                return
            self._entry = portion.stop
        self.log.take(portion, failed)

    def give_up(self) -> int:
        """Count the next portion as failed, if that may make room; return its number of records.

        Only the oldest entries make room. If this consumer is ahead of others, it keeps its own.
        """
        with self.log.changed:
            portion = self.portion()
            if portion is None or portion.segment is not self.log.segment(0):
                return 0
            self._entry = portion.stop
        self.log.take(portion, portion.rows)
        return portion.rows

    def leave(self) -> None:
        """Declare that the consumer takes nothing more."""
        self.log.leave(self.consumer)
