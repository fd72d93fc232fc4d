"""`JournalKeeper`: sync the journal to disk, and show that its owner is alive.

The thread is separate from the one that writes. So a disk that takes seconds to sync does not
increase what a SIGKILL loses: what is written survives the process, synced or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from absl import logging

from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

_BEAT_SECONDS = 5.0
_AT_RISK_SECONDS = 5.0  # beyond `flush_seconds`
_LOOKS_IN_TURN = 4


class JournalKeeper(BackgroundThread):
    """Sync journal files several times per `flush_seconds`, and once more at the end.

    Args:
        files: The files.
        flush_seconds: As in `Options`.
        at_risk_seconds: Returns the age in seconds of the oldest example that a SIGKILL would lose.
        ended: Called when the thread ends.
    """

    def __init__(
        self,
        files: Files,
        flush_seconds: float,
        at_risk_seconds: Callable[[], float],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(self._keep, "deep-insight-journal")
        self._files = files
        self._flush_seconds = flush_seconds
        self._at_risk_seconds = at_risk_seconds
        self._at_end = ended
        self._beaten_at = time.monotonic()
        self._looks_at_risk = 0
        self._warn_once = WarnOnce()

    def _keep(self) -> None:
        try:
            while not self._stopping.wait(min(0.5, self._flush_seconds / 2)):
                self._step()
            self._files.sync()
        finally:
            self._at_end()

    def _step(self) -> None:
        try:
            self._files.sync()
            if time.monotonic() - self._beaten_at >= _BEAT_SECONDS:
                self._files.look_after()
                self._beaten_at = time.monotonic()
            self._check_risk()
        except Exception:  # a defect of this file: what is written is on disk nevertheless
            logging.exception("Deep insight: the journal could not be synced")

    def _check_risk(self) -> None:
        """Log a warning if records reach the journal much later than promised."""
        at_risk = self._at_risk_seconds()
        is_late = at_risk > self._flush_seconds + _AT_RISK_SECONDS
        self._looks_at_risk = self._looks_at_risk + 1 if is_late else 0
        # One look is not enough, since the process may have been stopped for a while.
        if self._looks_at_risk == _LOOKS_IN_TURN:
            self._warn_once(
                "risk",
                "a kill would now lose what was accepted in the last %.0f s, and not %g s: records "
                "cannot be made, or written to the journal, as fast as they come (see "
                "`stats().at_risk_seconds`)",
                at_risk,
                self._flush_seconds,
            )
