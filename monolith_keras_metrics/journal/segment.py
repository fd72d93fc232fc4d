"""Entries of the journal, the files in which they stand, and the segments that they form."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import BinaryIO

import polars as pl

from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.regular import open_regular

# A segment becomes one file of a sink: large enough to compress and scan well, small enough for
# memory.
SEGMENT_ROWS = 131_072
PORTION_BYTES = 64 << 20


@dataclasses.dataclass(eq=False)
class KeptFile:
    """A journal file that is kept until all its entries are settled.

    Attributes:
        claim: The claim to the file.
        path: The path of the file.
        bytes: Size of the entries that are counted in the log.
        entries_left: Number of entries that are not settled.
        whole: Whether the file is finished, so that nothing is appended any more.
        has_failed: Whether some of its records could not be read or delivered.
        done: Whether the file has been removed or is about to be.
    """

    claim: Claim
    path: pathlib.Path
    bytes: int = 0
    entries_left: int = 0
    whole: bool = False
    has_failed: bool = False
    done: bool = False

    def open(self) -> BinaryIO:
        """Open the file to read it.

        Raises:
            OSError: As in `open_regular`, for the users of the claim.
        """
        return open(open_regular(self.path, uids=self.claim.uids), "rb")


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of an entry: a file and an offset, with the values of the entry's header."""

    file: KeptFile
    offset: int
    length: int
    rows: int
    position: int
    checksum: int


@dataclasses.dataclass(eq=False)
class Entry:
    """Some records: in memory, in a journal file, or both.

    Attributes:
        rows: Number of records.
        accepted_at: When the oldest of them was accepted, by the log's clock.
        frame: The records, while they are kept in memory.
        bytes: Size of the frame in memory; 0 if it is not known.
        place: The entry's place in a journal file; None if it is in none.
        consumers_left: Number of consumers that have neither taken the entry nor given it up.
        failed: Number of records that were given up, by the consumer that gave up most.
    """

    rows: int
    accepted_at: float
    frame: pl.DataFrame | None = None
    bytes: int = 0
    place: Place | None = None
    consumers_left: int = 0
    failed: int = 0


@dataclasses.dataclass(eq=False)
class Segment:
    """Entries that a consumer which gathers takes together.

    Attributes:
        number: The segment's number in the log.
        journal: The name of the journal of the entries; None if there is none.
        begun: When the segment was begun, by the log's clock.
        entries: The entries, in order.
        rows: Number of records of all entries.
        bytes: Size of all entries, in memory or in files.
        closed: Whether no entry is added any more.
        entries_left: Number of entries that are not settled.
    """

    number: int
    journal: str | None
    begun: float
    entries: list[Entry] = dataclasses.field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    closed: bool = False
    entries_left: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the segment should be closed, because of its size."""
        return self.rows >= SEGMENT_ROWS or self.bytes >= PORTION_BYTES

    def add(self, entry: Entry) -> None:
        """Add an entry at the end."""
        self.entries.append(entry)
        self.rows += entry.rows
        self.bytes += entry.bytes or (entry.place.length if entry.place is not None else 0)
        self.entries_left += 1


@dataclasses.dataclass
class Portion:
    """What a consumer takes at once: entries of a segment, from `start` to before `stop`."""

    segment: Segment
    start: int
    stop: int

    @property
    def entries(self) -> list[Entry]:
        """The entries."""
        return self.segment.entries[self.start : self.stop]

    @property
    def rows(self) -> int:
        """Number of records, as far as it is known before they are read."""
        return sum(entry.rows for entry in self.entries)
