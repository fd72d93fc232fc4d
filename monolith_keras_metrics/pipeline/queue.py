"""The queue between training and the background thread: bounded, and cheap to put into.

`put` is what a training step pays for: a lock, an append and two additions. The thread is not
woken by each batch, since every switch of threads costs the step more than the `put` itself: it
wakes by itself a few times a second, or at once when the queue is half full.
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
    """The queue takes nothing any more."""


class Accepted(NamedTuple):
    """A batch that was handed over, and where its examples stand among all others.

    Attributes:
        batch: The batch.
        first_position: The position of its first example. A dropped batch has one, too.
        accepted_at: When it was accepted, by the queue's clock.
        dropped: Whether it found no room, so that nobody will take it.
    """

    batch: Batch
    first_position: int
    accepted_at: float
    dropped: bool = False


class RowQueue:
    """A first-in first-out queue of batches that holds at most so many rows, and bytes.

    A batch that alone is larger is taken when the queue is empty: nothing is refused indefinitely.

    Args:
        ledger: Where it is noted what comes.
        capacity: Rows that may wait.
        most_bytes: Bytes that may wait.
        clock: Seconds that only grow.

    Attributes:
        text_bytes: What an example's text takes, on average, in bytes. Whoever turns batches into
            records learns it; training has no time to look at each text.
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
        """Take nothing more, in a forked process: nobody releases what another thread held."""
        self._make_locks()
        self._closed = True

    def _make_locks(self) -> None:
        # A signal's handler may ask for counts in the middle of a `put`.
        self._lock = threading.RLock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)

    def put(self, batch: Batch, *, block: bool, answers: Callable[[], bool]) -> Accepted:
        """Adds a batch, and gives it its position.

        Args:
            batch: The batch.
            block: Whether to wait for room; else a batch that finds none is dropped.
            answers: Tells whether anybody still takes; asked every second of waiting.

        Returns:
            The batch with its position; `dropped` tells that it found no room.

        Raises:
            ClosedError: If nothing is taken any more.
        """
        rows = batch.rows
        size = int(rows * (batch.layout.row_bytes + self.text_bytes))
        with self._lock:
            while not self._fits(rows, size) and not self._closed:
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
            self._urgent |= not self._next_position  # the first tells how large the others are
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
        """Waits up to `timeout` seconds, less if the queue fills up or `hurry` was called.

        Args:
            at_most: Rows to take, though always one batch if there is any.
            timeout: Seconds.
            most_bytes: Bytes to take, though always one batch if there is any.

        Returns:
            Batches in order, perhaps none. They count as waiting until `done` is called.
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
        """Says that all rows which `take` gave have been dealt with: there is room for more."""
        with self._lock:
            self._rows -= rows
            self._bytes -= self._taken_bytes
            self._taken_bytes = 0
            self._not_full.notify_all()

    def close(self) -> None:
        """Has every `put` from now on raise; what is there already can be taken."""
        with self._lock:
            self._closed = self._urgent = True
            self._not_empty.notify()
            self._not_full.notify_all()

    def hurry(self) -> None:
        """Has `take` return at once until the queue is empty."""
        with self._lock:
            self._urgent = True
            self._not_empty.notify()

    def oldest(self) -> float | None:
        """When the oldest batch that nobody took was accepted, by the clock; None without one."""
        with self._lock:
            return self._batches[0][0].accepted_at if self._batches else None

    def entered(self) -> int:
        """Return how many rows have found room, since the beginning."""
        with self._lock:
            return self._entered

    def _fits(self, rows: int, size: int) -> bool:
        return not self._rows or (
            self._rows + rows <= self._capacity and self._bytes + size <= self._most_bytes
        )

    def _is_urgent(self) -> bool:
        return self._urgent or self._rows >= self._wake_at or 2 * self._bytes >= self._most_bytes
