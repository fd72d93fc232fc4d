"""Turn queued batches into records, in a background thread, and put these into the spool.

Every failure of a batch is counted and logged here; only a defect of this file ends the thread.
`answers` returns False after that, or while the journal's disk hangs.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import polars as pl
from absl import logging

from monolith_keras_metrics.journal.spool import ENCODER, Spool
from monolith_keras_metrics.pipeline.delivery import Delivery
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.pipeline.queue import Accepted, RowQueue
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.threads import BackgroundThread, bounded

# Most examples that become records in one step.
_CHUNK_ROWS = 65_536
_CHUNK_BYTES = 64 << 20
# Records of each layout that are checked for logits. The check costs time, and logits show early.
LOOKED_AT_ROWS = 16_384
_MOST_LAYOUTS = 1_000  # bounds the memory for the layouts checked for logits
_PIECE_BYTES = 64 << 20  # most bytes of records appended to the spool at once
_OTHER_COLUMNS_BYTES = 128  # size of a record's names, origin and ratio
_LONGEST_POLL_SECONDS = 0.5
# Minimum time before a busy thread counts as hung.
_HANG_SECONDS = 5.0
# A panic in Polars is not an Exception, but must fail the batch only, not the thread.
_BAD_BATCH = (Exception, pl.exceptions.PanicException)


class Encoder(BackgroundThread):
    """Take batches from a queue and put their sampled records into the spool.

    Args:
        queue: The queue of batches.
        spool: The spool for the records.
        ledger: Counts what becomes of examples.
        deliveries: The threads that take records from the spool. Their records are given up if
            their sinks are down while the journal is full.
        origin: The run, attempt and worker of the records; None leaves these columns out.
        options: How records are written.
        hurry: Event that ends the wait for room in the spool, because the process is about to exit.
        clock: Returns the seconds for which this process has run.
        ended: Called once nothing more is put into the spool.
        now_and_then: Called a few times a second. Must not wait.

    Attributes:
        died: The exception that ended the thread; None if there was none.
    """

    def __init__(
        self,
        queue: RowQueue,
        spool: Spool,
        ledger: Ledger,
        deliveries: Sequence[Delivery],
        origin: Origin | None,
        options: Options,
        *,
        hurry: threading.Event,
        clock: Callable[[], float],
        ended: Callable[[], None],
        now_and_then: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(self._write_all, "deep-insight")
        self.died: BaseException | None = None
        self._queue = queue
        self._spool = spool
        self._ledger = ledger
        self._deliveries = deliveries
        self._origin = origin
        self._drop = options.overflow == "drop"
        self._retry_seconds = options.retry_seconds
        # A quarter, since making and writing the records takes time too, on a busy machine.
        self._poll_seconds = min(_LONGEST_POLL_SECONDS, options.flush_seconds / 4)
        self._hurry = hurry
        self._uid_hash_key = options.uid_hash_key
        self._clock = clock
        self._at_end = ended
        self._now_and_then = now_and_then
        self._seen_at = clock()
        self._absorbed = self._flushed_to = self._flush_at = 0  # total rows taken from the queue
        self._absorbing_since: float | None = None
        self._flushed = threading.Condition()
        self._stopping = self._stopped = False
        self._warned: set[str] = set()
        self._looked_at: dict[Layout, int] = {}  # rows

    def answers(self) -> bool:
        """Return True if the thread is alive and not hanging, so that the queue will be read."""
        hanging = max(self._retry_seconds, _HANG_SECONDS)
        return self.alive() and self._clock() - self._seen_at < hanging

    def oldest(self) -> float | None:
        """Return the time, by the queue's clock, of the oldest example that is not in the spool.

        Returns None if there is no such example.
        """
        return self._absorbing_since or self._queue.oldest()

    def flush(self, timeout: float | None) -> bool:
        """Wait until everything now in the queue is in the spool, ready for every sink.

        Args:
            timeout: Longest wait in seconds; None for no limit.

        Returns:
            True if that happened before the timeout.
        """
        target = self._ask_for_flush()
        with self._flushed:
            self._flushed.wait_for(
                lambda: self._flushed_to >= target or self._stopped,
                None if timeout is None else bounded(timeout),
            )
            return self._flushed_to >= target

    def stop(self) -> None:
        """Request that the thread empty the queue and end. Does not wait."""
        self._stopping = True
        self._queue.hurry()

    def records(self, accepted: Sequence[Accepted]) -> pl.DataFrame:
        """Return a frame with the sampled examples of batches that share a layout."""
        units: set[str] = set()
        frame = to_frame(
            [one.batch for one in accepted],
            self._origin,
            self._uid_hash_key,
            positions=[one.first_position for one in accepted],
            units=units,
        )
        for unit in units:
            self._warn_of_unit(unit, accepted[0].batch.layout)
        return frame

    def check(self, batch: Batch) -> None:
        """Raise if the first batch of a layout cannot become records.

        Raises:
            TypeError, ValueError: If the batch cannot become records.
        """
        try:
            to_frame([batch], self._origin, self._uid_hash_key)
        except _BAD_BATCH as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"The first batch of model {batch.layout.model_name!r} ({batch.rows:,} examples) "
                f"cannot become records. {error}"
            ) from error

    def warn_once(self, subject: str, message: str, *args: object) -> None:
        """Log a warning, once for each subject."""
        if subject not in self._warned:
            self._warned.add(subject)
            logging.warning("Deep insight: " + message, *args)

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
                self._spool.end()
            finally:
                with self._flushed:
                    self._stopped = True
                    self._flushed.notify_all()
            try:
                while self._spool.is_untended() and not self._hurry.is_set():
                    self._spool.wait_for_room(0.2)
                    self._spool.tend()
                self._spool.tend(at_once=True)
            finally:
                self._spool.leave(ENCODER)
                self._at_end()

    def _step(self) -> bool:
        """Process the queued batches and do what is due; return True if the thread is done."""
        stopping = self._stopping
        taken = self._queue.take(_CHUNK_ROWS, 0.0 if stopping else self._poll_seconds, _CHUNK_BYTES)
        self._seen_at = self._clock()
        self._now_and_then()
        if taken:
            self._absorbing_since = taken[0].accepted_at
            self._absorb(taken)
            self._absorbing_since = None
        absorbed, ending = self._absorbed, stopping and not taken
        with self._flushed:
            flushing = self._flushed_to < self._flush_at <= absorbed
        self._spool.tend(at_once=flushing or ending)
        if flushing or ending:
            with self._flushed:
                self._flushed_to = absorbed
                self._flushed.notify_all()
        return ending

    def _warn_of_unit(self, unit: str, layout: Layout) -> None:
        """Log a warning that the values of `req_time` are not Unix seconds."""
        if layout.any_time_unit:
            self.warn_once(
                "unit", "`req_time` has values in %s. They are converted to seconds", unit
            )
        else:
            self.warn_once(
                "unit",
                "`req_time` must be in Unix seconds. Received values that look like %s. They are "
                "recorded unchanged, so readers misinterpret them. Convert them to seconds",
                unit,
            )

    def _ask_for_flush(self) -> int:
        """Request a flush; return the total number of rows that must be processed for it."""
        entered = self._queue.entered()
        with self._flushed:
            self._flush_at = max(self._flush_at, entered)
        self._queue.hurry()
        return entered

    def _absorb(self, taken: Sequence[Accepted]) -> None:
        """Turn batches into frames and put these into the spool."""
        rows = _rows(taken)
        for _, group in itertools.groupby(taken, key=_same_columns):
            same_layout = list(group)
            try:
                frames = [self.records(same_layout)]
            except _BAD_BATCH:  # one by one, to leave out the bad batch only
                frames, candidates = [], same_layout
                for one in candidates:
                    try:
                        frames.append(self.records([one]))
                    except _BAD_BATCH as error:
                        same_layout = [other for other in same_layout if other is not one]
                        self._ledger.convert(0, 0, failed=one.batch.rows)
                        self.warn_once(
                            "bad batch",
                            "a batch of %d examples could not be turned into records. It is left "
                            "out and counted as failed; further ones are not logged. %s: %s",
                            one.batch.rows,
                            type(error).__name__,
                            error,
                        )
            sampled = sum(frame.height for frame in frames)
            self._ledger.convert(sampled, _rows(same_layout) - sampled)
            for frame in filter(len, frames):
                self._seen_at = self._clock()
                self._learn_text(frame, same_layout[0].batch.layout)
                self._look_at(frame, same_layout[0].batch.layout)
                self._append(frame, same_layout[0].accepted_at)
        self._absorbed += rows
        self._queue.done(rows)

    def _append(self, frame: pl.DataFrame, accepted_at: float) -> None:
        """Put a frame into the spool, in pieces of bounded size."""
        size = int(frame.estimated_size())
        rows = max(1, frame.height * _PIECE_BYTES // max(size, 1))
        for piece in frame.iter_slices(rows):
            self._append_piece(piece, accepted_at, size * piece.height // frame.height)

    def _append_piece(self, frame: pl.DataFrame, accepted_at: float, size: int) -> None:
        """Put records into the spool; if it is full, act as the option `overflow` requires."""
        encoded = self._spool.encode(frame)
        while not self._spool.append(frame, encoded, accepted_at, size):
            self._seen_at = self._clock()
            if self._drop:
                self._ledger.drop(frame.height)
                self.warn_once("spool", "the journal is full: examples are dropped (see `stats`)")
                return
            if self._hurry.is_set():
                self._ledger.settle(0, frame.height)
                self.warn_once(
                    "spool",
                    "the journal is full and the process is exiting: examples are counted as "
                    "failed (see `stats`)",
                )
                return
            self.warn_once("spool", "the journal is full: training may wait for the sinks")
            if not self._give_up():
                self._spool.wait_for_room(0.1)

    def _learn_text(self, frame: pl.DataFrame, layout: Layout) -> None:
        """Update the queue's estimate of the size of an example's text."""
        known = layout.row_bytes + _OTHER_COLUMNS_BYTES
        text = max(0.0, frame.estimated_size() / frame.height - known)
        self._queue.text_bytes = max(text, 0.9 * self._queue.text_bytes)

    def _give_up(self) -> int:
        """Give up the next records of sinks that are down; return their number."""
        rows = 0
        for number, delivery in enumerate(self._deliveries):
            if given_up := delivery.give_up():
                self.warn_once(
                    f"given up {number}",
                    "%r has been down for %g s and the journal is full: %d examples are given up. "
                    "More are given up as new ones arrive (see `stats`)",
                    delivery.sink,
                    self._retry_seconds,
                    given_up,
                )
                rows += given_up
        return rows

    def _look_at(self, frame: pl.DataFrame, layout: Layout) -> None:
        """Log a warning if the first predictions of a layout look like logits."""
        looked_at = self._looked_at.get(layout, 0)
        if "logits" in self._warned or looked_at >= LOOKED_AT_ROWS:
            return
        if len(self._looked_at) < _MOST_LAYOUTS:
            self._looked_at[layout] = looked_at + frame.height
        for target, label, predict in zip(
            frame["label"].struct.fields,
            map(pl.Series.drop_nans, frame["label"].struct.unnest()),
            map(pl.Series.drop_nans, frame["predict"].struct.unnest()),
            strict=True,
        ):
            if label.is_in([0.0, 1.0]).all() and not predict.is_between(0.0, 1.0).all():
                self.warn_once(
                    "logits",
                    "predictions of target %r of model %r are outside [0, 1] while its labels are "
                    "0 and 1: they look like logits. They are recorded unchanged. AUC is correct, "
                    "but calibration and log loss need probabilities: apply a sigmoid",
                    target,
                    layout.model_name,
                )


def _same_columns(accepted: Accepted) -> tuple[Layout, bool, bool]:
    """Return the key shared by batches that can form one frame."""
    batch = accepted.batch
    return batch.layout, batch.epoch is None, batch.example_id is None


def _rows(taken: Sequence[Accepted]) -> int:
    return sum(one.batch.rows for one in taken)
