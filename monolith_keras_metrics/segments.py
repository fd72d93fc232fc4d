"""What the spool is made of: entries, the segments that they stand in, and portions of these."""

from __future__ import annotations

import dataclasses
import pathlib

import polars as pl
from absl import logging

from monolith_keras_metrics import journal
from monolith_keras_metrics.claims import Claim


class Entry:
    """Some records: in memory, in a journal file, or both.

    Attributes:
        rows: How many.
        accepted_at: When the oldest of them was accepted, by the spool's clock.
        frame: The records, while they are kept in memory.
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
        place: journal.Place | None = None,
    ) -> None:
        self.rows = rows
        self.accepted_at = accepted_at
        self.frame = frame
        self.place = place
        self.sinks_left = sinks
        self.failed = 0


class Segment:
    """Entries that share a journal file.

    Attributes:
        claim: Who owns the file; None where there is no journal.
        recovered: Whether another process wrote it, which was killed.
        path: The file, once there is one.
        file: The file, until it is whole and durable.
        entries: In order.
        rows: Of all entries.
        bytes: Of all entries in the file.
        begun: When it was begun, by the spool's clock.
        closed: Whether nothing is added any more.
        entries_left: How many entries some sink has not dealt with.
    """

    def __init__(self, claim: Claim | None, begun: float, *, recovered: bool = False) -> None:
        self.claim = claim
        self.recovered = recovered
        self.path: pathlib.Path | None = None
        self.file: journal.JournalFile | None = None
        self.entries: list[Entry] = []
        self.rows = 0
        self.bytes = 0
        self.begun = begun
        self.closed = recovered
        self.entries_left = 0


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

    def frames(self) -> list[pl.DataFrame]:
        """The records, joined where their schemas are equal; what no longer reads is left out.

        Raises:
            OSError: If a journal file cannot be read.
        """
        by_schema: dict[object, list[pl.DataFrame]] = {}
        for entry in self.segment.entries[self.start : self.stop]:
            frame = entry.frame
            if frame is None and entry.place is not None:
                try:
                    frame = journal.read(entry.place)
                except (journal.CorruptEntryError, FileNotFoundError) as error:
                    logging.warning(
                        "Deep insight: %d examples in %s are lost: %s",
                        entry.rows,
                        entry.place.path.name,
                        error,
                    )
                    entry.failed = entry.rows
            if frame is not None:
                by_schema.setdefault(tuple(frame.schema.items()), []).append(frame)
        return [pl.concat(frames) for frames in by_schema.values()]
