"""Gets records from spools into one sink: a thread a sink, so that none waits for another.

A sink that fails is tried again, with longer and longer pauses; it is logged once, and once more
when it works again. An error that may pass (no room, no permission, no connection; see
`sinks.errors.may_pass`) is the place's trouble: it is tried for as long as records can wait in the
spool. Any other error may be these records' own: they are given up after `retry_seconds`, so that
they do not hold up all others.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.segment import Portion
from monolith_keras_metrics.journal.spool import Spool
from monolith_keras_metrics.sinks import RejectedError, Sink
from monolith_keras_metrics.sinks.errors import may_pass
from monolith_keras_metrics.threads import BackgroundThread

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# A sink that is at work, and has not failed, is not taken to hang before.
_HANG_SECONDS = 1.0

_Result = TypeVar("_Result")


class _GivenUpError(Exception):
    """These records were tried for long enough."""


class _LeftError(Exception):
    """The portion is nothing to this sink any more: it was given up, or the process ends."""


class Delivery(BackgroundThread):
    """Hands portions of spools to a sink, in order, until the spools have ended.

    Args:
        sink: Where to.
        number: The sink's number in the spools.
        spools: Where from: its own last, and before it that of crashed processes, which has
            precedence until the own one gets crowded.
        retry_seconds: For how long records are tried that fail with an error of their own; and
            how long a sink must have failed, or not come back, to be down.
        hurry: Once set, what fails is not tried again: the process wants to end.
        clock: Seconds for which this process has run.

    Attributes:
        sink: The sink.
        error: What it raised last, until it worked again.
        first_error: What it raised first.
    """

    def __init__(
        self,
        sink: Sink,
        number: int,
        spools: Sequence[Spool],
        retry_seconds: float,
        hurry: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(self._deliver_all, f"deep-insight-sink-{number}")
        self.sink = sink
        self.error: BaseException | None = None
        self.first_error: BaseException | None = None
        self._number = number
        self._spools = spools
        self._spool = spools[-1]  # which has what is at work
        self._journal: str | None = None
        self._read_at = 0.0  # when what crashed processes left is read again, after an error
        self._retry_seconds = retry_seconds
        self._hurry = hurry
        self._clock = clock
        self._at_work = threading.Lock()
        self._busy_since: float | None = None
        self._failing_since: float | None = None
        self._told: set[type[BaseException]] = set()

    def is_down(self) -> bool:
        """Whether the sink has failed, or not come back, for `retry_seconds`."""
        failing = self._failing_since
        if not self.alive():
            return True
        if failing is not None:
            return self._clock() - failing >= self._retry_seconds
        return self._hangs()

    def give_up(self) -> int:
        """Gives up what waits next, if the sink is down; returns how many records.

        What the sink is at work on is not given up, since it may yet take it; unless it hangs.
        """
        if not self.is_down():
            return 0
        idle = self._at_work.acquire(blocking=False)
        try:
            return self._spools[-1].give_up(self._number) if idle or self._hangs() else 0
        finally:
            if idle:
                self._at_work.release()

    def _hangs(self) -> bool:
        busy, hanging = self._busy_since, max(self._retry_seconds, _HANG_SECONDS)
        return busy is not None and self._clock() - busy >= hanging

    def _deliver_all(self) -> None:
        try:
            while portion := self._next():
                if not self._deliver(portion):
                    return  # to be delivered by the next process
        except BaseException as error:  # a defect here, or what no sink should raise
            self._note(error)
            logging.exception("Deep insight: delivery to %r has ended", self.sink)
        finally:
            try:
                self._close()
            finally:
                for spool in self._spools:
                    spool.leave(self._number)

    def _next(self) -> Portion | None:
        """Wait for what the sink is to take next; None when there is and will be none."""
        own = self._spools[-1]
        with own.changed:
            while not self._hurried():
                ended = all(spool.has_ended() for spool in self._spools)
                in_turn = reversed(self._spools) if own.is_crowded() else self._spools
                for spool in in_turn:
                    can_be_read = spool is own or self._clock() >= self._read_at
                    if can_be_read and (portion := spool.portion(self._number)):
                        self._spool = spool
                        return portion
                if ended:
                    return None
                own.changed.wait(1.0)
        return None

    def _hurried(self) -> bool:
        return self._hurry.is_set() and self.error is not None

    def _deliver(self, portion: Portion) -> bool:
        """Returns False where the process is to end and the sink did not take the portion."""
        try:
            frames = self._read(portion)
            if frames is None:
                return True
            self._tell_journal(portion.segment.journal)
            failed = sum(self._hand_over(frame, portion) for frame in frames)
        except _GivenUpError:  # by reading them
            failed = portion.rows
        except _LeftError:
            return not self._spool.is_pending(self._number, portion)
        self._spool.done(self._number, portion, failed)
        return True

    def _read(self, portion: Portion) -> list[pl.DataFrame] | None:
        """Return a portion's records; None if they are to be read later.

        What crashed processes left, and cannot be read now, holds up nothing else.
        """
        read = functools.partial(portion.frames, self._spool.read)
        if self._spool is self._spools[-1]:
            return self._tried(read, portion)
        try:
            return read()
        except (Exception, pl.exceptions.PanicException) as error:
            self._read_at = self._clock() + _LONGEST_PAUSE_SECONDS
            self._tell_once(
                error, "what a crashed process left cannot be read now, and waits: %r", error
            )
            return None

    def _tell_journal(self, journal: str | None) -> None:
        """Tell a sink that keeps a ledger which journal the records to come stand in."""
        resume = getattr(self.sink, "resume", None)
        if resume is not None and journal is not None and journal != self._journal:
            resume(journal)
            self._journal = journal

    def _hand_over(self, frame: pl.DataFrame, portion: Portion) -> int:
        """Has the sink take a frame; returns how many of its records it does not take."""
        try:
            self._tried(functools.partial(self._write, frame), portion)
        except RejectedError as error:
            self._works()
            self.first_error = self.first_error or error
            self._tell_once(error, "%s", error)
            return error.rows
        except _GivenUpError as error:
            self._tell_once(
                error,
                "%d examples are given up after %g s, and so are others that fail like them (see "
                "`stats`). %r",
                frame.height,
                self._retry_seconds,
                self.error,
            )
            return frame.height
        return 0

    def _tried(self, action: Callable[[], _Result], portion: Portion) -> _Result:
        """Does it until it works.

        Raises:
            RejectedError: What the sink says.
            _GivenUpError: If it failed for long enough.
            _LeftError: If it need not be done any more.
        """
        refused_since, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            with self._at_work:
                if not self._spool.is_pending(self._number, portion):
                    raise _LeftError
                self._busy_since = self._clock()
                try:
                    return action()
                except RejectedError:
                    raise
                except (Exception, pl.exceptions.PanicException) as error:
                    self._note(error)  # whatever a sink raises, training goes on
                finally:
                    self._busy_since = None
            if self._hurry.is_set():
                raise _LeftError
            now = self._clock()
            if self.error is not None and may_pass(self.error):
                refused_since = None
            elif refused_since is None:
                refused_since = now
            if refused_since is not None and now - refused_since >= self._retry_seconds:
                raise _GivenUpError
            self._hurry.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _write(self, frame: pl.DataFrame) -> None:
        self.sink.write(frame)
        self.sink.flush()
        self._works()

    def _close(self) -> None:
        try:
            self.sink.close()
        except (Exception, pl.exceptions.PanicException) as error:  # the others' ends matter too
            self.first_error = self.first_error or error
            self._tell_once(error, "it could not be closed: %r", error)

    def _note(self, error: BaseException) -> None:
        if self.error is None:
            logging.warning(
                "Deep insight: %r failed and is tried again. %s: %s",
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

    def _tell_once(self, error: BaseException, message: str, *args: object) -> None:
        """Logs a warning, once for each kind of error."""
        if type(error) not in self._told:
            self._told.add(type(error))
            logging.warning("Deep insight: %r: " + message, self.sink, *args)
