"""Deliver records from journals to one sink. Each sink has a thread, so none waits for another.

A failing sink is retried with growing pauses. The failure is logged once, and so is the recovery.
An error that may pass (no space, no permission, no connection; see `sinks.errors.may_pass`) is
retried for as long as records can wait in the journal. Any other error may be caused by the records
themselves: they are given up after `retry_seconds`, so that they do not block all others.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.reader import Reader
from monolith_keras_metrics.journal.segment import Portion
from monolith_keras_metrics.sinks import RejectedError, Sink
from monolith_keras_metrics.sinks.errors import may_pass
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# Minimum time before a busy sink counts as hung.
_HANG_SECONDS = 1.0

_Result = TypeVar("_Result")


class _GivenUpError(Exception):
    """The records have failed for `retry_seconds`."""


class _LeftError(Exception):
    """The portion no longer waits for this sink: it was given up, or the process is exiting."""


class Delivery(BackgroundThread):
    """Deliver the portions of logs to a sink, in order, until the logs have ended.

    Args:
        sink: The sink.
        number: The sink's number.
        readers: The readers of the logs: first that of crashed processes, if any, and last that of
            this process. The first has precedence until the last becomes crowded.
        retry_seconds: How long records are retried that fail with an error of their own. Also how
            long a sink must fail, or not return, to count as down.
        hurry: Event that stops retries, because the process is about to exit.
        clock: Returns the seconds for which this process has run.

    Attributes:
        sink: The sink.
        error: The sink's last error; None after a success.
        first_error: The sink's first error.
    """

    def __init__(
        self,
        sink: Sink,
        number: int,
        readers: Sequence[Reader],
        retry_seconds: float,
        hurry: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(self._deliver_all, f"deep-insight-sink-{number}")
        self.sink = sink
        self.error: BaseException | None = None
        self.first_error: BaseException | None = None
        self._readers = readers
        self._reader = readers[-1]  # of the current portion
        self._journal: str | None = None
        self._read_at = 0.0  # earliest time to read crashed processes' records again, on an error
        self._retry_seconds = retry_seconds
        self._hurry = hurry
        self._clock = clock
        self._busy = threading.Lock()
        self._busy_since: float | None = None
        self._failing_since: float | None = None
        self._warn_once = WarnOnce()  # its subjects are types of errors

    def is_down(self) -> bool:
        """Return True if the sink has been failing or hanging for `retry_seconds`."""
        failing = self._failing_since
        if not self.is_alive():
            return True
        if failing is not None:
            return self._clock() - failing >= self._retry_seconds
        return self._is_hanging()

    def give_up(self) -> int:
        """Give up the next portion if the sink is down; return its number of records.

        The portion that a sink is writing is only given up if the sink hangs, since it may succeed.
        """
        if not self.is_down():
            return 0
        idle = self._busy.acquire(blocking=False)
        try:
            return self._readers[-1].give_up() if idle or self._is_hanging() else 0
        finally:
            if idle:
                self._busy.release()

    def _is_hanging(self) -> bool:
        busy, hanging = self._busy_since, max(self._retry_seconds, _HANG_SECONDS)
        return busy is not None and self._clock() - busy >= hanging

    def _deliver_all(self) -> None:
        try:
            while portion := self._next():
                if not self._deliver(portion):
                    return  # the next process delivers it
        except BaseException as error:  # a defect of this file, or an error no sink should raise
            self._note(error)
            logging.exception("Deep insight: the thread that writes to %r has failed", self.sink)
        finally:
            try:
                self._close()
            finally:
                for reader in self._readers:
                    reader.leave()

    def _next(self) -> Portion | None:
        """Wait for the sink's next portion and return it; None once there will be no more."""
        own = self._readers[-1]
        with own.log.changed:
            while not self._is_hurried():
                ended = all(reader.log.ended for reader in self._readers)
                crowded = own.log.room.is_crowded()
                for reader in reversed(self._readers) if crowded else self._readers:
                    can_be_read = reader is own or self._clock() >= self._read_at
                    if can_be_read and (portion := reader.portion()):
                        self._reader = reader
                        return portion
                if ended:
                    return None
                own.log.changed.wait(1.0)
        return None

    def _is_hurried(self) -> bool:
        return self._hurry.is_set() and self.error is not None

    def _deliver(self, portion: Portion) -> bool:
        """Deliver a portion; return False if it must be left to the next process."""
        try:
            frames = self._read(portion)
            if frames is None:
                return True
            self._switch_journal(portion.segment.journal)
            failed = sum(self._submit(frame, portion) for frame in frames)
        except _GivenUpError:  # reading the records has failed for too long
            failed = portion.rows
        except _LeftError:
            return not self._reader.is_pending(portion)
        self._reader.done(portion, failed)
        return True

    def _read(self, portion: Portion) -> list[pl.DataFrame] | None:
        """Return a portion's records; None if they must be read later.

        Unreadable records of crashed processes do not block other records.
        """
        read = functools.partial(self._reader.frames, portion)
        if self._reader is self._readers[-1]:
            return self._retry(read, portion)
        try:
            return read()
        except (Exception, pl.exceptions.PanicException) as error:
            self._read_at = self._clock() + _LONGEST_PAUSE_SECONDS
            self._warn(
                error, "records of a crashed process cannot be read now. They wait: %r", error
            )
            return None

    def _switch_journal(self, journal: str | None) -> None:
        """Name the journal of the next records to a sink that keeps a ledger."""
        resume = getattr(self.sink, "resume", None)
        if resume is not None and journal is not None and journal != self._journal:
            resume(journal)
            self._journal = journal

    def _submit(self, frame: pl.DataFrame, portion: Portion) -> int:
        """Write a frame to the sink; return how many of its records were not written."""
        try:
            self._retry(functools.partial(self._write, frame), portion)
        except RejectedError as error:
            self._note_success()
            self.first_error = self.first_error or error
            self._warn(error, "%s", error)
            return error.rows
        except _GivenUpError as error:
            self._warn(
                error,
                "%d examples are given up after %g s. Later ones that fail in the same way are "
                "given up without a log line (see `stats`). %r",
                frame.height,
                self._retry_seconds,
                self.error,
            )
            return frame.height
        return 0

    def _retry(self, action: Callable[[], _Result], portion: Portion) -> _Result:
        """Call an action until it succeeds, and return its result.

        Raises:
            RejectedError: If the sink raises it.
            _GivenUpError: If the action has failed for `retry_seconds`.
            _LeftError: If the portion no longer waits for this sink.
        """
        refused_since, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            with self._busy:
                if not self._reader.is_pending(portion):
                    raise _LeftError
                self._busy_since = self._clock()
                try:
                    return action()
                except RejectedError:
                    raise
                except (Exception, pl.exceptions.PanicException) as error:
                    self._note(error)  # no error of a sink may stop training
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
        self._note_success()

    def _close(self) -> None:
        try:
            self.sink.close()
        except (Exception, pl.exceptions.PanicException) as error:  # other sinks must be closed too
            self.first_error = self.first_error or error
            self._warn(error, "the sink could not be closed: %r", error)

    def _note(self, error: BaseException) -> None:
        if self.error is None:
            logging.warning(
                "Deep insight: %r failed and is retried. %s: %s",
                self.sink,
                type(error).__name__,
                error,
            )
            self._failing_since = self._clock()
        self.error = error
        self.first_error = self.first_error or error

    def _note_success(self) -> None:
        if self.error is not None:
            logging.warning("Deep insight: %r works again", self.sink)
        self.error = self._failing_since = None

    def _warn(self, error: BaseException, message: str, *args: object) -> None:
        """Log a warning about the sink, once for each type of error."""
        self._warn_once(type(error), "%r: " + message, self.sink, *args)
