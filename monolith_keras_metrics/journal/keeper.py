"""The journal's own thread: has the disk keep what was written, and shows that its owner lives.

It is apart from the thread that writes, so that a disk that takes seconds to sync does not add to
what a kill loses: what is written outlives the process, synced or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from absl import logging

from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.spool import KEEPER, Spool
from monolith_keras_metrics.threads import BackgroundThread

_BEAT_SECONDS = 5.0
_AT_RISK_SECONDS = 5.0  # beyond what `flush_seconds` promises
_IN_TURN = 4  # looks


class JournalKeeper(BackgroundThread):
    """Syncs a spool's journal a few times each `flush_seconds`.

    Args:
        spool: The spool.
        claim: The right to its files.
        flush_seconds: The longest until what was written is to be safe from a machine that stops.
        at_risk_seconds: Returns the age of the oldest example that a kill would lose.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        spool: Spool,
        claim: Claim,
        flush_seconds: float,
        at_risk_seconds: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._keep, "deep-insight-journal")
        self._spool = spool
        self._claim = claim
        self._promised_seconds = flush_seconds
        self._at_risk_seconds = at_risk_seconds
        self._clock = clock
        self._beaten_at = clock()
        self._stopping = threading.Event()
        self._more_in_turn = 0
        self._told = False

    def stop(self) -> None:
        """Have it sync once more, and end; does not wait."""
        self._stopping.set()

    def _keep(self) -> None:
        try:
            while not self._stopping.wait(min(0.5, self._promised_seconds / 2)):
                self._step()
            self._spool.sync()
        finally:
            self._spool.leave(KEEPER)

    def _step(self) -> None:
        try:
            self._spool.sync()
            if self._clock() - self._beaten_at >= _BEAT_SECONDS:
                self._claim.beat()
                self._spool.look_after()
                self._beaten_at = self._clock()
            self._tell()
        except Exception:  # of a defect here: what is written is there all the same
            logging.exception("Deep insight: the journal could not be synced")

    def _tell(self) -> None:
        at_risk = self._at_risk_seconds()
        more = at_risk > self._promised_seconds + _AT_RISK_SECONDS
        self._more_in_turn = self._more_in_turn + 1 if more else 0
        # Once says nothing: the process may have been stopped for a while.
        if self._more_in_turn == _IN_TURN and not self._told:
            self._told = True
            logging.warning(
                "Deep insight: a kill would now lose what was accepted in the last %.0f s, and not "
                "%g s: records cannot be made, or written to the journal, as fast as they come "
                "(see `stats().at_risk_seconds`)",
                at_risk,
                self._promised_seconds,
            )
