"""Gets frames into one sink: retries what fails, says so once, and counts what is given up.

A failed write is tried again, with longer and longer pauses, for `retry_seconds`. Then its
records are counted as failed and the sink is taken to be down: what follows is tried once each,
without pauses, so that a sink that stays down costs training no time; the first success ends that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks import Sink

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class Delivery:
    """Hands frames to a sink until it takes them or the time for it is over.

    Args:
        sink: Where to.
        retry_seconds: How long one frame is tried.
        hurry: Once set, nothing is tried again: the process wants to end.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        sink: Sink,
        retry_seconds: float,
        hurry: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = sink
        self.failed_rows = 0
        self.error: Exception | None = None
        self._retry_seconds = retry_seconds
        self._hurry = hurry
        self._clock = clock

    def deliver(self, frame: pl.DataFrame) -> bool:
        """Writes the frame, durably.

        Returns:
            Whether the sink has it. If not, its rows are in `failed_rows` and the sink's own
            exception in `error`.
        """
        if self._try(lambda: self._write(frame)):
            return True
        self.failed_rows += frame.height
        return False

    def close(self) -> None:
        """Closes the sink; what it raises is kept in `error` and logged."""
        self._try(self.sink.close)

    def _write(self, frame: pl.DataFrame) -> None:
        self.sink.write(frame)
        self.sink.flush()

    def _try(self, action: Callable[[], None]) -> bool:
        was_down = self.error is not None
        deadline = self._clock() + self._retry_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                action()
            except Exception as error:  # whatever a sink raises, training goes on
                if self.error is None:
                    logging.warning(
                        "Deep insight: %r failed and is tried again for up to %g s; training goes "
                        "on. %s: %s",
                        self.sink,
                        self._retry_seconds,
                        type(error).__name__,
                        error,
                    )
                self.error = error
            else:
                if self.error is not None:
                    logging.warning("Deep insight: %r works again.", self.sink)
                self.error = None
                return True
            if was_down or self._hurry.is_set() or self._clock() + pause > deadline:
                return False
            self._hurry.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
