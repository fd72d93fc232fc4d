"""The bounded queue between training and the background thread.

`put` is the only cost of a training step: a lock, an append and a few additions. A batch does not
wake the thread, because a switch of threads would cost the step more than `put` itself. The thread
wakes a few times a second, or at once when the queue is half full.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.records.batch import Batch


class ClosedError(Exception):
    """The queue is closed and accepts no more batches."""


class Accepted(NamedTuple):
    """An accepted batch and the position of its examples among all others.

    Attributes:
        batch: The batch.
        first_position: The position of its first example. A dropped batch has one, too.
        accepted_at: Time of its acceptance, by the queue's clock.
        dropped: Whether the batch was dropped because the queue was full.
    """

    batch: Batch
    first_position: int
    accepted_at: float
    dropped: bool = False


class RowQueue:
    """A first-in first-out queue of batches, bounded in rows and bytes.

    A batch that exceeds a bound by itself is accepted when the queue is empty. So no batch is
    refused indefinitely.

    Args:
        ledger: Counts the accepted and dropped examples.
        capacity: Most rows in the queue.
        most_bytes: Most bytes in the queue.
        clock: Returns monotonic seconds.

    Attributes:
        text_bytes: Average size of an example's text, in bytes. The encoder updates this estimate,
            because training has no time to measure texts.
    """

    def __init__(
        self,
        ledger: Ledger,
        capacity: int,
        most_bytes: int = 1 << 40,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.text_bytes = 0.0
        self._ledger = ledger
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._clock = clock
        self._wake_at = max(1, capacity // 2)
        self._batches: collections.deque[tuple[Accepted, int]] = collections.deque()
        self._make_locks()
        self._rows = self._bytes = 0
        self._taken_bytes = 0
        self._next_position = 0
        self._entered = 0
        self._urgent = False
        self._closed = False

    def detach(self) -> None:
        """Close the queue and replace its locks. Called in a forked process."""
        self._make_locks()
        self._closed = True

    def _make_locks(self) -> None:
        # Re-entrant, since a signal handler may ask for counts during a `put`.
        self._lock = threading.RLock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)

    def put(self, batch: Batch, *, block: bool, answers: Callable[[], bool]) -> Accepted:
        """Add a batch and return it with its position.

        Args:
            batch: The batch.
            block: Whether to wait for room. If False, a batch that does not fit is dropped.
            answers: Returns True if the queue is still read. Called every second while waiting.

        Returns:
            The batch with its position. Its `dropped` is True if there was no room.

        Raises:
            ClosedError: If the queue is closed.
        """
        rows = batch.rows
        size = int(rows * (batch.layout.row_bytes + self.text_bytes))
        with self._lock:
            while not self._has_room(rows, size) and not self._closed:
                self._not_empty.notify()
                if not block or not answers():
                    refused = Accepted(batch, self._next_position, self._clock(), dropped=True)
                    self._next_position += rows
                    self._ledger.refuse(rows)
                    return refused
                self._not_full.wait(1.0)
            if self._closed:
                raise ClosedError
            accepted = Accepted(batch, self._next_position, self._clock())
            self._urgent |= not self._next_position  # to estimate the size of texts early
            self._next_position += rows
            self._entered += rows
            self._ledger.accept(rows)
            self._batches.append((accepted, size))
            self._rows += rows
            self._bytes += size
            if self._is_urgent():
                self._not_empty.notify()
        return accepted

    def take(self, at_most: int, timeout: float, most_bytes: int = 1 << 40) -> list[Accepted]:
        """Wait, then take batches from the queue and return them in order.

        The wait is cut short when the queue is half full or `hurry` was called. The rows occupy
        the queue's capacity until `done` is called.

        Args:
            at_most: Most rows to take; at least one batch is taken if there is any.
            timeout: Longest wait in seconds.
            most_bytes: Most bytes to take; at least one batch is taken if there is any.

        Returns:
            The batches; empty if there are none.
        """
        taken: list[Accepted] = []
        rows = size = 0
        with self._lock:
            if not self._is_urgent():
                self._not_empty.wait(timeout)
            while self._batches:
                accepted, more = self._batches[0]
                more_rows = accepted.batch.rows
                if taken and (rows + more_rows > at_most or size + more > most_bytes):
                    break
                self._batches.popleft()
                taken.append(accepted)
                rows += more_rows
                size += more
            self._taken_bytes += size
            if not self._batches:
                self._urgent = False
        return taken

    def done(self, rows: int) -> None:
        """Release the capacity of all rows that `take` has returned."""
        with self._lock:
            self._rows -= rows
            self._bytes -= self._taken_bytes
            self._taken_bytes = 0
            self._not_full.notify_all()

    def close(self) -> None:
        """Make every later `put` raise. Batches in the queue can still be taken."""
        with self._lock:
            self._closed = self._urgent = True
            self._not_empty.notify()
            self._not_full.notify_all()

    def hurry(self) -> None:
        """Make `take` return at once until the queue is empty."""
        with self._lock:
            self._urgent = True
            self._not_empty.notify()

    def oldest(self) -> float | None:
        """Return the time of acceptance of the oldest batch in the queue; None if it is empty."""
        with self._lock:
            return self._batches[0][0].accepted_at if self._batches else None

    def entered(self) -> int:
        """Return the total number of rows that have entered the queue."""
        with self._lock:
            return self._entered

    def _has_room(self, rows: int, size: int) -> bool:
        return not self._rows or (
            self._rows + rows <= self._capacity and self._bytes + size <= self._most_bytes
        )

    def _is_urgent(self) -> bool:
        return self._urgent or self._rows >= self._wake_at or 2 * self._bytes >= self._most_bytes
