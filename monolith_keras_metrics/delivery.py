"""Gets records from the spool into one sink: a thread a sink, so that none waits for another.

A sink that fails is tried again, with longer and longer pauses; it is logged once, and once more
when it works again. An `OSError` (no room, no permission, no connection) is the place's trouble and
may pass: it is tried for as long as records can wait in the spool. Any other error may be these
records' own: they are given up after `retry_seconds`, so that they do not hold up all others.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import polars as pl
from absl import logging

from monolith_keras_metrics.segments import Portion
from monolith_keras_metrics.sinks import RejectedError, Sink
from monolith_keras_metrics.spool import Spool

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

_Result = TypeVar("_Result")


class Delivery:
    """Hands portions of the spool to a sink, in order, until the spool has ended.

    Args:
        sink: Where to.
        number: The sink's number in the spool.
        spool: Where from.
        retry_seconds: For how long records are tried that fail with another error than `OSError`.
        hurry: Once set, what fails is not tried again: the process wants to end.
        clock: Seconds that only grow.

    Attributes:
        sink: The sink.
        error: What it raised last, until it worked again.
        first_error: What it raised first.
    """

    def __init__(
        self,
        sink: Sink,
        number: int,
        spool: Spool,
        retry_seconds: float,
        hurry: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = sink
        self.error: BaseException | None = None
        self.first_error: BaseException | None = None
        self._number = number
        self._spool = spool
        self._retry_seconds = retry_seconds
        self._hurry = hurry
        self._clock = clock
        self._busy_since: float | None = None
        self._failing_since: float | None = None
        self._told_rejected = False
        self._thread = threading.Thread(
            target=self._run, name=f"deep-insight-sink-{number}", daemon=True
        )

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Waits for the end, at most `timeout` seconds; returns whether it came."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stuck_for(self) -> float:
        """For how many seconds the sink has failed, or not come back."""
        if not self.alive():
            return float("inf")
        since = self._failing_since or self._busy_since
        return 0.0 if since is None else self._clock() - since

    def _run(self) -> None:
        try:
            while portion := self._spool.next(self._number, self._hurried):
                if not self._deliver(portion):
                    return  # to be delivered by the next process
        except BaseException as error:  # a defect here, or what no sink should raise
            self._note(error)
            logging.exception("Deep insight: delivery to %r has ended", self.sink)
        finally:
            self._close()
            self._spool.leave(self._number)

    def _hurried(self) -> bool:
        return self._hurry.is_set() and self.error is not None

    def _deliver(self, portion: Portion) -> bool:
        """Returns False where the process is to end and the sink did not take the portion."""
        self._busy_since = self._clock()
        rejected = 0
        frames = self._attempt(portion.frames, portion)
        for frame in frames or ():
            try:
                if self._attempt(functools.partial(self._write, frame), portion) is None:
                    break
            except RejectedError as error:
                rejected += error.rows
                if not self._told_rejected:
                    self._told_rejected = True
                    logging.warning("Deep insight: %r: %s", self.sink, error)
        pending = self._spool.is_pending(self._number, portion)
        if frames is not None and pending and self.error is None:
            self._spool.done(self._number, portion, rejected)
        self._busy_since = None
        return self.error is None or not pending

    def _attempt(self, action: Callable[[], _Result], portion: Portion) -> _Result | None:
        """Does it until it works; None where the portion was given up or the process is to end."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = action()
            except RejectedError:
                self._works()
                raise
            except (Exception, pl.exceptions.PanicException) as error:
                self._note(error)  # whatever a sink raises, training goes on
            else:
                self._works()
                return result
            if self._hurry.is_set() or not self._spool.is_pending(self._number, portion):
                return None
            if not isinstance(self.error, OSError) and self.stuck_for() >= self._retry_seconds:
                self._spool.done(self._number, portion, portion.rows)
                return None
            self._hurry.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _write(self, frame: pl.DataFrame) -> bool:
        self.sink.write(frame)
        self.sink.flush()
        return True

    def _close(self) -> None:
        try:
            self.sink.close()
        except Exception as error:  # the other sinks' ends matter too
            self._note(error)

    def _note(self, error: BaseException) -> None:
        if self.error is None:
            logging.warning(
                "Deep insight: %r failed and is tried again; training goes on. %s: %s",
                self.sink,
                type(error).__name__,
                error,
            )
            self._failing_since = self._clock()
        self.error = error
        self.first_error = self.first_error or error

    def _works(self) -> None:
        if self.error is not None:
            logging.warning("Deep insight: %r works again", self.sink)
        self.error = self._failing_since = None
