"""What the spool is made of: entries, the segments that they stand in, and portions of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.format import Place, UnreadableError

# What a sink gets at once, when it is in memory.
PORTION_BYTES = 64 << 20


class Entry:
    """Some records: in memory, in a journal file, or both.

    Attributes:
        rows: How many.
        accepted_at: When the oldest of them was accepted, by the spool's clock.
        frame: The records, while they are kept in memory.
        bytes: What they take there; 0 where that is not known.
        place: Where they stand in a journal file, if they do.
        sinks_left: How many sinks have neither taken them nor given them up.
        failed: How many were given up, by the sink that gave up most.
    """

    def __init__(
        self,
        rows: int,
        sinks: int,
        accepted_at: float,
        frame: pl.DataFrame | None = None,
        size: int = 0,
    ) -> None:
        self.rows = rows
        self.accepted_at = accepted_at
        self.frame = frame
        self.bytes = size
        self.place: Place | None = None
        self.sinks_left = sinks
        self.failed = 0


class Segment:
    """Entries that a sink which gathers takes together.

    Attributes:
        journal: The name of the journal that they belong to; None where there is none.
        entries: In order.
        rows: Of all entries.
        bytes: Of all entries, in memory or in files.
        begun: When it was begun, by the spool's clock.
        closed: Whether nothing is added any more.
        entries_left: How many entries some sink has not dealt with.
    """

    def __init__(self, journal: str | None, begun: float) -> None:
        self.journal = journal
        self.entries: list[Entry] = []
        self.rows = 0
        self.bytes = 0
        self.begun = begun
        self.closed = False
        self.entries_left = 0

    def add(self, entry: Entry) -> None:
        """Add an entry at the end."""
        self.entries.append(entry)
        self.rows += entry.rows
        self.bytes += entry.bytes or (entry.place.length if entry.place is not None else 0)
        self.entries_left += 1


@dataclasses.dataclass
class Portion:
    """What a sink is to take at once: the entries of a segment from `start` to before `stop`."""

    segment: Segment
    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many records, as far as is known before they are read."""
        return sum(entry.rows for entry in self.segment.entries[self.start : self.stop])

    def frames(self, read: Callable[[Place], pl.DataFrame]) -> list[pl.DataFrame]:
        """Return the records, joined where their schemas are equal.

        What no longer reads is left out, and counted as failed. Where the records turn out to be
        more than memory should hold, the portion becomes smaller.

        Args:
            read: Reads an entry from its journal file.

        Raises:
            OSError: If a journal file cannot be read.
        """
        by_schema: dict[object, list[pl.DataFrame]] = {}
        size = 0
        for number in range(self.start, self.stop):
            entry = self.segment.entries[number]
            frame = entry.frame
            if frame is None and entry.place is not None:
                try:
                    frame = read(entry.place)
                except (UnreadableError, FileNotFoundError) as error:
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
            if size > 2 * PORTION_BYTES and number > self.start:
                self.stop = number
                break
            by_schema.setdefault(tuple(frame.schema.items()), []).append(frame)
        return [pl.concat(frames) for frames in by_schema.values()]
