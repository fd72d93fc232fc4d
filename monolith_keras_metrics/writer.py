"""The background thread: batches from the queue become records, records go to the sinks.

Sampled records are gathered until they fill a file or the oldest has waited for
`flush_seconds`; then each sink gets them as one frame. Everything that can go wrong with a batch
or a sink is counted and logged here; only a defect of this file itself ends the thread, and
`alive` tells so.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics import cli, record
from monolith_keras_metrics.delivery import Delivery
from monolith_keras_metrics.record import Batch, Origin
from monolith_keras_metrics.row_queue import RowQueue

# Records of one file: large enough to compress and scan well, small enough for memory.
_PART_ROWS = 131_072
# Examples turned into records at once.
_CHUNK_ROWS = 65_536
_POLL_SECONDS = 0.25


class BackgroundWriter:
    """Takes batches from a queue and delivers their sampled records to sinks.

    Args:
        queue: Where batches come from.
        deliveries: One for each sink.
        origin: Who writes; None leaves its columns out of the records.
        flush_seconds: The longest that a record waits to be delivered.
        uid_hash_key: With a key, records carry a keyed hash of the uid.
        counter_tags: Tags of the counters that go to the metrics client; None for no counters.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        queue: RowQueue,
        deliveries: Sequence[Delivery],
        origin: Origin | None,
        *,
        flush_seconds: float,
        uid_hash_key: bytes | None,
        counter_tags: Mapping[str, str] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = {"sampled": 0, "unsampled": 0, "written": 0, "failed": 0}
        self.error: BaseException | None = None
        self._queue = queue
        self._deliveries = deliveries
        self._origin = origin
        self._flush_seconds = flush_seconds
        self._uid_hash_key = uid_hash_key
        self._counter_tags = counter_tags
        self._emitted: dict[str, int] = {}
        self._clock = clock
        self._pending: dict[Any, list[pl.DataFrame]] = {}
        self._pending_rows = 0
        self._pending_since = clock()
        self._absorbed = 0
        self._flush_at: int | None = None
        self._flushed = threading.Condition()
        self._stopping = False
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="deep-insight", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def flush(self, timeout: float | None) -> bool:
        """Waits until all that is in the queue now was delivered or given up.

        Args:
            timeout: Seconds, or None for no bound.

        Returns:
            Whether it was in time.
        """
        positions, dropped, _ = self._queue.counts()
        with self._flushed:
            self._flush_at = max(self._flush_at or 0, positions - dropped)
            self._queue.hurry()
            return self._flushed.wait_for(
                lambda: self._flush_at is None or not self.alive(), timeout
            )

    def stop(self) -> None:
        """Has the thread deliver what there is, close the sinks and end; does not wait."""
        self._stopping = True
        self._queue.hurry()

    def join(self, timeout: float) -> bool:
        """Waits for the thread's end, at most `timeout` seconds; returns whether it came."""
        self._thread.join(timeout)
        return not self.alive()

    def records(self, batches: Sequence[Batch]) -> pl.DataFrame:
        """Turns batches of one layout into the frame of their sampled examples."""
        return record.to_frame(batches, self._origin, self._uid_hash_key)

    def warn_once(self, subject: str, message: str, *args: object) -> None:
        """Logs a warning, once for each subject."""
        if subject not in self._warned:
            self._warned.add(subject)
            logging.warning("Deep insight: " + message, *args)

    def _run(self) -> None:
        try:
            while True:
                stopping = self._stopping
                batches = self._queue.take(_CHUNK_ROWS, 0.0 if stopping else _POLL_SECONDS)
                if batches:
                    self._absorb(batches)
                with self._flushed:
                    flushing = self._flush_at is not None and self._absorbed >= self._flush_at
                if flushing or (stopping and not batches) or self._due():
                    self._deliver()
                if flushing:
                    with self._flushed:
                        self._flush_at = None
                        self._flushed.notify_all()
                if stopping and not batches:
                    break
            for delivery in self._deliveries:
                delivery.close()
                self.error = self.error or delivery.error
        except BaseException as error:  # else training would wait for ever on a full queue
            self.error = error
            logging.exception("Deep insight: the writing thread has ended; nothing more is written")
        finally:
            with self._flushed:
                self._flushed.notify_all()

    def _due(self) -> bool:
        return self._pending_rows >= _PART_ROWS or (
            self._pending_rows > 0 and self._clock() - self._pending_since >= self._flush_seconds
        )

    def _absorb(self, batches: Sequence[Batch]) -> None:
        """Turns batches into frames that wait to be delivered."""
        rows = sum(batch.rows for batch in batches)
        for _, group in itertools.groupby(batches, key=lambda batch: batch.layout):
            same_layout = list(group)
            try:
                self._add(same_layout)
            except Exception:  # one of them is bad: find it, keep the others
                for batch in same_layout:
                    try:
                        self._add([batch])
                    except Exception as error:
                        self.counts["failed"] += batch.rows
                        self.warn_once(
                            "bad batch",
                            "a batch of %d examples could not be turned into records and is left "
                            "out (counted as failed; further ones are not logged). %s: %s",
                            batch.rows,
                            type(error).__name__,
                            error,
                        )
        self._absorbed += rows
        self._queue.done(rows)

    def _add(self, batches: Sequence[Batch]) -> None:
        frame = self.records(batches)
        self.counts["sampled"] += frame.height
        self.counts["unsampled"] += sum(batch.rows for batch in batches) - frame.height
        if frame.is_empty():
            return
        self._look_at(frame)
        if not self._pending_rows:
            self._pending_since = self._clock()
        self._pending.setdefault(tuple(frame.schema.items()), []).append(frame)
        self._pending_rows += frame.height

    def _deliver(self) -> None:
        """Hands what waits to every sink; counts it as written where all of them took it."""
        for key in list(self._pending):
            frame = pl.concat(self._pending[key])
            delivered = [delivery.deliver(frame) for delivery in self._deliveries]
            self.counts["written" if all(delivered) else "failed"] += frame.height
            del self._pending[key]
            self._pending_rows -= frame.height
        for delivery in self._deliveries:
            self.error = self.error or delivery.error
        self._emit_counters()

    def _look_at(self, frame: pl.DataFrame) -> None:
        """Warns where predictions are logits, by the look of the first records."""
        if "logits" in self._warned:
            return
        for target in frame["label"].struct.fields:
            label = frame["label"].struct.field(target).drop_nans()
            predict = frame["predict"].struct.field(target).drop_nans()
            if label.is_in([0.0, 1.0]).all() and not predict.is_between(0.0, 1.0).all():
                self.warn_once(
                    "logits",
                    "predictions of target %r are outside [0, 1] while its labels are 0 and 1: "
                    "they look like logits. They are recorded as they are; AUC is right, "
                    "calibration and log loss need probabilities (a sigmoid)",
                    target,
                )

    def _emit_counters(self) -> None:
        if self._counter_tags is None:
            return
        positions, dropped, _ = self._queue.counts()
        try:
            client = cli.get_cli()
            for name, value in {"accepted": positions, "dropped": dropped, **self.counts}.items():
                if delta := value - self._emitted.get(name, 0):
                    client.emit_counter(f"deep_insight.{name}", delta, dict(self._counter_tags))
                self._emitted[name] = value
        except Exception as error:  # a metrics back end that fails costs counters, not records
            self.warn_once(
                "counters", "counters were not emitted. %s: %s", type(error).__name__, error
            )
