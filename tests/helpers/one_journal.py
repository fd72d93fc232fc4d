"""A journal with all that its threads do with it, for tests that are every thread in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import polars as pl

from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.journal.leftovers import Leftovers
from monolith_keras_metrics.journal.log import RELEASE, Log, Room
from monolith_keras_metrics.journal.reader import Reader
from monolith_keras_metrics.journal.segment import Place, Portion
from monolith_keras_metrics.journal.writer import Writer
from monolith_keras_metrics.pipeline.ledger import Ledger


class Consumed:
    """A log with a reader for each consumer."""

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        gathers: Sequence[bool],
        read: Callable[[Place], pl.DataFrame] | None = None,
    ) -> None:
        self.log = log
        self.ledger = ledger
        options = {} if read is None else {"read": read}
        self.readers = [Reader(log, n, one, **options) for n, one in enumerate(gathers)]

    @property
    def room(self) -> Room:
        return self.log.room

    def portion(self, consumer: int) -> Portion | None:
        return self.readers[consumer].portion()

    def done(self, consumer: int, portion: Portion, failed: int = 0) -> None:
        self.readers[consumer].done(portion, failed)

    def leave(self, user: object) -> None:
        self.log.leave(user)

    def release(self) -> None:
        self.leave(RELEASE)

    def is_settled(self) -> bool:
        return self.log.wait_until_settled(0.0, lambda: False)

    def journaled(self) -> int:
        return self.ledger.stats().spooled

    def settled(self) -> tuple[int, int]:
        """How many records were written, and how many failed."""
        stats = self.ledger.stats()
        return stats.written, stats.failed


class OneJournal(Consumed):
    """A process's own journal.

    Args:
        gathers: For each consumer, whether it gathers.
        files: The journal files.
        room: The bounds.
        segment_seconds: As in `Writer`.
        clock: As in `Writer`.
    """

    def __init__(
        self,
        gathers: Sequence[bool],
        files: Files,
        room: Room,
        segment_seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        ledger = Ledger()
        self.files = files
        self.writer = Writer([*gathers], files, ledger, room, segment_seconds, files.release, clock)
        super().__init__(self.writer.log, ledger, gathers)


class OneLeft(Consumed):
    """What crashed processes left.

    Args:
        gathers: For each consumer, whether it gathers.
        read: Reads an entry from its file.
    """

    def __init__(self, gathers: Sequence[bool], read: Callable[[Place], pl.DataFrame]) -> None:
        ledger = Ledger()
        self.leftovers = Leftovers(len(gathers), threading.Condition(), ledger)
        super().__init__(self.leftovers.log, ledger, gathers, read)
