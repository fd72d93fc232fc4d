"""Count what becomes of a client's examples: the `Ledger`, and its `Stats`."""

from __future__ import annotations

import threading
from typing import NamedTuple

_COUNTS = ("queued", "pending", "spooled", "sampled", "unsampled", "written", "dropped", "failed")


class Stats(NamedTuple):
    """Counts of examples since the client was created.

    `accepted == unsampled + written + dropped + failed + waiting` always holds.

    Attributes:
        accepted: Passed to `write`, including dropped ones.
        sampled: Of the accepted ones, those of a sampled user.
        unsampled: Of the accepted ones, those of a user who is not sampled. They are not written.
        written: Durably written to every sink.
        dropped: Dropped for lack of room, with `overflow="drop"`, or because the journal's disk
            hung, with any `overflow`.
        failed: Given up, because a sink did not write them or they could not become records. Stays
            counted here if a sink that hung writes them after all.
        waiting: Neither written nor given up yet: those in the queue and those in the journal.
        queued: Of the waiting ones, those in the queue, in memory.
        spooled: Of the waiting ones, those in journal files. They survive a SIGKILL.
        spooled_bytes: Size of the journal files, in bytes.
        recovered: Records of crashed processes that this client delivered.
        recovered_failed: Records of crashed processes that could not be delivered. Their journal
            files are set aside.
        lag_seconds: Age of the oldest waiting example, in seconds.
        at_risk_seconds: Age of the oldest example that is only in memory, in seconds: what a
            SIGKILL would lose now.
    """

    accepted: int
    sampled: int
    unsampled: int
    written: int
    dropped: int
    failed: int
    waiting: int
    queued: int
    spooled: int
    spooled_bytes: int = 0
    recovered: int = 0
    recovered_failed: int = 0
    lag_seconds: float = 0.0
    at_risk_seconds: float = 0.0


class Ledger:
    """Count each example from its acceptance on.

    An example is *queued*, then *pending*, then *settled*. Each change is one method call, which
    moves the example from one count to another. Any thread may call any method at any time, and so
    may a signal handler: the lock is held for a few additions only, and nothing is called under it.
    """

    def __init__(self) -> None:
        self.detach()
        self._counts = dict.fromkeys(_COUNTS, 0)

    def detach(self) -> None:
        """Replace the lock. In a forked process, nobody would release the old one."""
        self._lock = threading.RLock()

    def accept(self, rows: int) -> None:
        """Count examples that enter the queue."""
        with self._lock:  # not `_add`, which costs each training step more
            self._counts["queued"] += rows

    def refuse(self, rows: int) -> None:
        """Count examples that are dropped because the queue is full."""
        self._add(dropped=rows)

    def convert(self, sampled: int, unsampled: int, failed: int = 0) -> None:
        """Move examples from the queue to the next counts.

        Args:
            sampled: Examples that became records, which are pending.
            unsampled: Examples of users who are not sampled.
            failed: Examples that could not become records.
        """
        taken = sampled + unsampled + failed
        self._add(
            queued=-taken, pending=sampled, sampled=sampled, unsampled=unsampled, failed=failed
        )

    def adopt(self, rows: int) -> None:
        """Count records of a crashed process as pending."""
        self._add(pending=rows)

    def journal(self, rows: int) -> None:
        """Count pending records as in journal files; for a negative number, as no longer there."""
        self._add(spooled=rows)

    def drop(self, rows: int) -> None:
        """Count pending records as dropped because the journal is full."""
        self._add(pending=-rows, dropped=rows)

    def settle(self, written: int, failed: int, *, journaled: bool = False) -> None:
        """Count pending records as written or failed.

        Args:
            written: Number of records that every sink has.
            failed: Number of records that were given up.
            journaled: Whether they were in journal files.
        """
        rows = written + failed
        self._add(pending=-rows, spooled=-rows if journaled else 0, written=written, failed=failed)

    def stats(self) -> Stats:
        """Return a consistent snapshot of all counts. The later fields are not known here."""
        with self._lock:
            counts = self._counts.copy()
        waiting = counts["queued"] + counts.pop("pending")
        settled = sum(counts[name] for name in ("unsampled", "written", "dropped", "failed"))
        return Stats(accepted=waiting + settled, waiting=waiting, **counts)

    def _add(self, **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                self._counts[name] += change
