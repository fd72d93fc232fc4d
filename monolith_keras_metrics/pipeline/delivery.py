"""Deliver records from journals to one sink. Each sink has a thread, so none waits for another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.reader import Reader
from monolith_keras_metrics.journal.segment import Portion
from monolith_keras_metrics.pipeline.retries import (
    LONGEST_PAUSE_SECONDS,
    GivenUpError,
    LeftError,
    Retries,
)
from monolith_keras_metrics.sinks import RejectedError
from monolith_keras_metrics.threads import BackgroundThread


class Delivery(BackgroundThread):
    """Deliver the portions of logs to a sink, in order, until the logs have ended.

    Args:
        number: The sink's number.
        retries: Calls the sink.
        readers: The readers of the logs: first that of crashed processes, if any, and last that of
            this process. The first has precedence until the last becomes crowded.
        keep: Keeps the counts of this process where the sink writes. Must not raise.

    Attributes:
        sink: The sink.
        retries: Calls the sink, and knows its errors.
    """

    def __init__(
        self, number: int, retries: Retries, readers: Sequence[Reader], keep: Callable[[], None]
    ) -> None:
        super().__init__(self._deliver_all, f"deep-insight-sink-{number}")
        self.sink = retries.sink
        self.retries = retries
        self._readers = readers
        self._keep = keep
        self._reader = readers[-1]  # of the current portion
        self._journal: str | None = None
        self._read_at = 0.0  # earliest time to read crashed processes' records again, on an error

    def is_down(self) -> bool:
        """Return True if the sink has been failing or hanging for `retry_seconds`."""
        return not self.is_alive() or self.retries.is_down()

    def give_up(self) -> int:
        """Give up the next portion if the sink is down; return its number of records.

        The portion that a sink is writing is only given up if the sink hangs, since it may succeed.
        """
        if not self.is_down():
            return 0
        idle = self.retries.busy.acquire(blocking=False)
        try:
            return self._readers[-1].give_up() if idle or self.retries.is_hanging() else 0
        finally:
            if idle:
                self.retries.busy.release()

    def _deliver_all(self) -> None:
        try:
            while portion := self._next():
                if not self._deliver(portion):
                    return  # the next process delivers it
        except BaseException as error:  # a defect of this file, or an error no sink should raise
            self.retries.note(error)
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
            while not (self.retries.hurry.is_set() and self.retries.error is not None):
                ended = all(reader.log.ended for reader in self._readers)
                crowded = own.log.room.is_crowded()
                for reader in reversed(self._readers) if crowded else self._readers:
                    can_be_read = reader is own or self.retries.clock() >= self._read_at
                    if can_be_read and (portion := reader.portion()):
                        self._reader = reader
                        return portion
                if ended:
                    return None
                own.log.changed.wait(1.0)
        return None

    def _deliver(self, portion: Portion) -> bool:
        """Deliver a portion; return False if it must be left to the next process."""
        is_wanted = functools.partial(self._reader.is_pending, portion)
        try:
            frames = self._read(portion, is_wanted)
            if frames is None:
                return True
            self._switch_journal(portion.segment.journal)
            failed = sum(self._submit(frame, is_wanted) for frame in frames)
        except GivenUpError:  # reading the records has failed for too long
            failed = portion.rows
        except LeftError:
            return not self._reader.is_pending(portion)
        self._reader.done(portion, failed)
        self.retries.call(self._keep, lambda: True)  # so that a disk that hangs is noticed
        return True

    def _read(self, portion: Portion, is_wanted: Callable[[], bool]) -> list[pl.DataFrame] | None:
        """Return a portion's records; None if they must be read later.

        Unreadable records of crashed processes do not block other records.
        """
        read = functools.partial(self._reader.frames, portion)
        if self._reader is self._readers[-1]:
            return self.retries.call(read, is_wanted)
        try:
            return read()
        except (Exception, pl.exceptions.PanicException) as error:
            self._read_at = self.retries.clock() + LONGEST_PAUSE_SECONDS
            self.retries.warn(
                error, "records of a crashed process cannot be read now. They wait: %r", error
            )
            return None

    def _switch_journal(self, journal: str | None) -> None:
        """Name the journal of the next records to a sink that keeps a ledger."""
        resume = getattr(self.sink, "resume", None)
        if resume is not None and journal is not None and journal != self._journal:
            resume(journal)
            self._journal = journal

    def _submit(self, frame: pl.DataFrame, is_wanted: Callable[[], bool]) -> int:
        """Write a frame to the sink; return how many of its records were not written."""
        try:
            self.retries.call(functools.partial(self._write, frame), is_wanted)
        except RejectedError as error:
            self.retries.note_success()
            self.retries.first_error = self.retries.first_error or error
            self.retries.warn(error, "%s", error)
            return error.rows
        except GivenUpError as error:
            self.retries.warn(
                error,
                "%d examples are given up after %g s. Later ones that fail in the same way are "
                "given up without a log line (see `stats`). %r",
                frame.height,
                self.retries.retry_seconds,
                self.retries.error,
            )
            return frame.height
        return 0

    def _write(self, frame: pl.DataFrame) -> None:
        self.sink.write(frame)
        self.sink.flush()
        self.retries.note_success()

    def _close(self) -> None:
        try:
            self.sink.close()
        except (Exception, pl.exceptions.PanicException) as error:  # other sinks must be closed too
            self.retries.first_error = self.retries.first_error or error
            self.retries.warn(error, "the sink could not be closed: %r", error)
