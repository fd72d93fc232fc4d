"""What became of the examples that a client was given: the `Ledger`, and `Stats` of it."""

from __future__ import annotations

import threading
from typing import NamedTuple


class Stats(NamedTuple):
    """Counts of examples since the client was made.

    `accepted == unsampled + written + dropped + failed + waiting`, always.

    Attributes:
        accepted: Handed over, dropped ones too.
        sampled: Of these, known to be of a sampled user.
        unsampled: Of these, known to be of no sampled user: there is nothing to write.
        written: In every sink, durably.
        dropped: Handed over when there was no room, with `overflow="drop"`; or, with either, when
            the disk under the journal hung.
        failed: Given up: a sink did not take them, or they could not be turned into records. What
            a sink takes after all, since it hung or sends on its own, is counted here, too.
        waiting: Not yet dealt with: those in the queue, and those in the spool.
        queued: Of these, in the queue, in memory.
        spooled: Of these, in journal files, from where they are delivered even after a kill.
        spooled_bytes: Size of the journal files, in bytes.
        recovered: Records of earlier processes, which were killed, that were delivered now.
        recovered_failed: Those that were not: what they stood in is set aside.
        lag_seconds: For how long the oldest of those that wait has waited.
        at_risk_seconds: What a kill would lose now: the age of the oldest example that is in
            memory alone.
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
    spooled_bytes: int
    recovered: int
    recovered_failed: int
    lag_seconds: float
    at_risk_seconds: float


class Fates(NamedTuple):
    """How many examples have which fate, all read in one moment.

    `accepted == unsampled + written + dropped + failed + waiting`, and
    `waiting == queued + pending`.

    Attributes:
        accepted, sampled, unsampled, written, dropped, failed, waiting, queued: As of `Stats`.
        journaled: Of those that wait, how many are in journal files.
    """

    accepted: int
    sampled: int
    unsampled: int
    written: int
    dropped: int
    failed: int
    waiting: int
    queued: int
    journaled: int


class Ledger:
    """Keeps account of each example from its acceptance on.

    An example is *queued*, then *pending*, then settled: each change is one call of one method,
    which moves it from one account to another. Any thread may call any method, at any moment, a
    signal's handler too: the lock is held for a few additions, and nothing is called under it.
    """

    def __init__(self) -> None:
        self.detach()
        self._queued = self._pending = self._journaled = 0
        self._sampled = self._unsampled = self._written = self._dropped = self._failed = 0

    def detach(self) -> None:
        """Make a new lock: in a forked process, nobody releases what another thread held."""
        self._lock = threading.RLock()

    def accept(self, rows: int) -> None:
        """Note that examples came, and wait in the queue."""
        with self._lock:
            self._queued += rows

    def refuse(self, rows: int) -> None:
        """Note that examples came and found no room: they are dropped."""
        with self._lock:
            self._dropped += rows

    def convert(self, sampled: int, unsampled: int, failed: int = 0) -> None:
        """Note what queued examples have become.

        Args:
            sampled: Became records, which are pending.
            unsampled: Are of no sampled user.
            failed: Could not become records.
        """
        with self._lock:
            self._queued -= sampled + unsampled + failed
            self._pending += sampled
            self._sampled += sampled
            self._unsampled += unsampled
            self._failed += failed

    def adopt(self, rows: int) -> None:
        """Note that there are pending records of a crashed process."""
        with self._lock:
            self._pending += rows

    def journal(self, rows: int) -> None:
        """Note that pending records are now in journal files; a negative number: no longer."""
        with self._lock:
            self._journaled += rows

    def drop(self, rows: int) -> None:
        """Note that pending records found no room in the journal."""
        with self._lock:
            self._pending -= rows
            self._dropped += rows

    def settle(self, written: int, failed: int, *, journaled: bool = False) -> None:
        """Note that nobody waits for pending records any more.

        Args:
            written: How many every sink has.
            failed: How many were given up.
            journaled: Whether they were in journal files.
        """
        with self._lock:
            self._pending -= written + failed
            self._written += written
            self._failed += failed
            if journaled:
                self._journaled -= written + failed

    def fates(self) -> Fates:
        """Return all counts of one moment."""
        with self._lock:
            waiting = self._queued + self._pending
            settled = self._unsampled + self._written + self._dropped + self._failed
            return Fates(
                accepted=waiting + settled,
                sampled=self._sampled,
                unsampled=self._unsampled,
                written=self._written,
                dropped=self._dropped,
                failed=self._failed,
                waiting=waiting,
                queued=self._queued,
                journaled=self._journaled,
            )
