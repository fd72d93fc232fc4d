"""What became of the examples that a client was given."""

from __future__ import annotations

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
