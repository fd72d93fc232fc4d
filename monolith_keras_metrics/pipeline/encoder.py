"""Turn queued batches into records, in a background thread, and append these to the journal.

Every failure of a batch is counted and logged here; only a defect of this file ends the thread.
`answers` returns False after that, or while the journal's disk hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.writer import ENCODER, Writer
from monolith_keras_metrics.pipeline.converter import Converter
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.pipeline.outlet import Outlet
from monolith_keras_metrics.pipeline.queue import Accepted, RowQueue
from monolith_keras_metrics.records.batch import Layout
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce, bounded

# Most examples that become records in one step.
_CHUNK_ROWS = 65_536
_CHUNK_BYTES = 64 << 20
_PIECE_BYTES = 64 << 20  # most bytes of records appended to the journal at once
_OTHER_COLUMNS_BYTES = 128  # size of a record's names, origin and ratio
_LONGEST_POLL_SECONDS = 0.5
# Minimum time before a busy thread counts as hung.
_HANG_SECONDS = 5.0


class Encoder(BackgroundThread):
    """Take batches from a queue and append their sampled records to the journal.

    Args:
        queue: The queue of batches.
        converter: Turns batches into records.
        writer: Appends records to the journal.
        outlet: The sinks. Records of those that are down are given up while the journal is full.
        ledger: Counts what becomes of examples.
        options: How records are written.
        warn_once: Logs warnings.
        clock: Returns the seconds for which this process has run.
        ended: Called once nothing more is appended.
        now_and_then: Called a few times a second. Must not wait.

    Attributes:
        died: The exception that ended the thread; None if there was none.
        steps: Number of batches taken from the queue.
    """

    def __init__(
        self,
        queue: RowQueue,
        converter: Converter,
        writer: Writer,
        outlet: Outlet,
        ledger: Ledger,
        options: Options,
        warn_once: WarnOnce,
        *,
        clock: Callable[[], float],
        ended: Callable[[], None],
        now_and_then: Callable[[], None],
    ) -> None:
        super().__init__(self._write_all, "deep-insight")
        self.died: BaseException | None = None
        self.steps = 0
        self._queue = queue
        self._converter = converter
        self._writer = writer
        self._outlet = outlet
        self._ledger = ledger
        self._options = options
        self._warn_once = warn_once
        # A quarter, since making and writing the records takes time too, on a busy machine.
        self._poll_seconds = min(_LONGEST_POLL_SECONDS, options.flush_seconds / 4)
        self._clock = clock
        self._at_end = ended
        self._now_and_then = now_and_then
        self._seen_at = clock()
        self._absorbed = 0  # total rows taken from the queue
        self._absorbing_since: float | None = None
        self._observer: Callable[[pl.DataFrame], None] | None = None
        self._changed = threading.Condition()  # of the next four
        self._converted = 0  # total rows
        self._asked = self._flushed = 0  # total rows
        self._has_ended = False

    def answers(self) -> bool:
        """Return True if the thread is alive and not hanging, so that the queue will be read."""
        hanging = max(self._options.retry_seconds, _HANG_SECONDS)
        return self.is_alive() and self._clock() - self._seen_at < hanging

    def oldest(self) -> float | None:
        """Return the time, by the queue's clock, of the oldest example that is not in the log.

        Returns None if there is no such example.
        """
        return self._absorbing_since or self._queue.oldest()

    def flush(self, timeout: float | None) -> bool:
        """Wait until everything now in the queue is in the journal, ready for every sink.

        Args:
            timeout: Longest wait in seconds; None for no limit.

        Returns:
            True if that happened before the timeout.
        """
        target = self._queue.entered()
        with self._changed:
            self._asked = max(self._asked, target)
        self._queue.hurry()
        with self._changed:
            self._changed.wait_for(
                lambda: self._flushed >= target or self._has_ended,
                None if timeout is None else bounded(timeout),
            )
            return self._flushed >= target

    def observe(self, observer: Callable[[pl.DataFrame], None]) -> None:
        """Call a function with each frame of records, in this thread.

        Args:
            observer: The function. Must not raise, and must not wait.
        """
        self._observer = observer

    def wait_until_observed(self, timeout: float) -> bool:
        """Wait until the observer has seen everything that is now in the queue.

        Does not wait for the journal.

        Args:
            timeout: Longest wait in seconds.

        Returns:
            True if that happened before the timeout.
        """
        target = self._queue.entered()
        self._queue.hurry()
        with self._changed:
            self._changed.wait_for(
                lambda: self._converted >= target or self._has_ended, bounded(timeout)
            )
            return self._converted >= target

    def stop(self) -> None:
        """Request that the thread empty the queue and end. Does not wait."""
        super().stop()
        self._queue.hurry()

    def _write_all(self) -> None:
        try:
            while not self._step():
                pass
        except BaseException as error:  # else training would wait indefinitely on a full queue
            self.died = error
            logging.exception(
                "Deep insight: the writing thread has failed. No further examples are written"
            )
        finally:
            try:
                self._writer.end()
            finally:
                with self._changed:
                    self._has_ended = True
                    self._changed.notify_all()
            try:
                while self._writer.is_untended() and not self._outlet.hurry.is_set():
                    self._writer.wait(0.2)
                    self._writer.tend()
                self._writer.tend(at_once=True)
            finally:
                self._writer.log.leave(ENCODER)
                self._at_end()

    def _step(self) -> bool:
        """Process the queued batches and do what is due; return True if the thread is done."""
        stopping = self._stopping.is_set()
        taken = self._queue.take(_CHUNK_ROWS, 0.0 if stopping else self._poll_seconds, _CHUNK_BYTES)
        self._seen_at = self._clock()
        self._now_and_then()
        if taken:
            self._absorbing_since = taken[0].accepted_at
            self._absorb(taken)
            self._absorbing_since = None
        ending = stopping and not taken
        with self._changed:
            flushing = ending or self._flushed < self._asked <= self._absorbed
        self._writer.tend(at_once=flushing)
        if flushing:
            with self._changed:
                self._flushed = self._absorbed
                self._changed.notify_all()
        return ending

    def _absorb(self, taken: Sequence[Accepted]) -> None:
        """Turn batches into frames and put these into the journal."""
        rows = sum(one.batch.rows for one in taken)
        frames = self._converted_frames(taken)
        with self._changed:
            self._converted += rows
            self._changed.notify_all()
        for frame, first in frames:
            self._seen_at = self._clock()
            self._learn_text(frame, first.batch.layout)
            self._append(frame, first.accepted_at)
        self._absorbed += rows
        self.steps += len(taken)
        self._queue.done(rows)

    def _converted_frames(self, taken: Sequence[Accepted]) -> list[tuple[pl.DataFrame, Accepted]]:
        """Return the frames of batches, each with its first batch, after the observer saw them."""
        frames = []
        for frame, first in self._converter.convert(taken):
            self._seen_at = self._clock()
            if self._observer is not None:
                self._observer(frame)
            frames.append((frame, first))
        return frames

    def _append(self, frame: pl.DataFrame, accepted_at: float) -> None:
        """Put a frame into the journal, in pieces of bounded size."""
        size = int(frame.estimated_size())
        rows = max(1, frame.height * _PIECE_BYTES // max(size, 1))
        for piece in frame.iter_slices(rows):
            self._append_piece(piece, accepted_at, size * piece.height // frame.height)

    def _append_piece(self, frame: pl.DataFrame, accepted_at: float, size: int) -> None:
        """Put records into the journal; if it is full, act as the option `overflow` requires."""
        encoded = self._writer.encode(frame)
        while not self._writer.append(frame, encoded, accepted_at, size):
            self._seen_at = self._clock()
            if self._options.overflow == "drop":
                self._ledger.drop(frame.height)
                self._warn_once("full", "the journal is full: examples are dropped (see `stats`)")
                return
            if self._outlet.hurry.is_set():
                self._ledger.settle(0, frame.height)
                self._warn_once(
                    "full",
                    "the journal is full and the process is exiting: examples are counted as "
                    "failed (see `stats`)",
                )
                return
            self._warn_once("full", "the journal is full: training may wait for the sinks")
            if not self._outlet.give_up():
                self._writer.wait(0.1)

    def _learn_text(self, frame: pl.DataFrame, layout: Layout) -> None:
        """Update the queue's estimate of the size of an example's text."""
        known = layout.row_bytes + _OTHER_COLUMNS_BYTES
        text = max(0.0, frame.estimated_size() / frame.height - known)
        self._queue.text_bytes = max(text, 0.9 * self._queue.text_bytes)
