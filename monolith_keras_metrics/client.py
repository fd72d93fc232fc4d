"""`DeepInsightClient`: takes batches from training and writes them in the background.

What is promised:

- `write` hands over and returns; one thread does the rest, in the order of the calls.
- A batch is *accepted* once `write` has returned. Accepted batches are written exactly once if the
  client is closed, and it is closed when the process exits, by a signal that `exit_hook` handles
  too. A process that is killed loses what it accepted in the last `flush_seconds`.
- Memory is bounded: by `queue_rows` examples, and by the records of one file.
- A sink that fails is retried, then its records are counted as failed (`on_error="warn"`), or
  the next `write` raises its error (`on_error="raise"`). A batch that cannot be turned into
  records is set aside and counted. Neither stops the thread.
- `close` ends within its time, whatever the sinks do; what was not written by then is counted.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from absl import logging

from monolith_keras_metrics import record, sampling, sinks, task_context
from monolith_keras_metrics.delivery import Delivery
from monolith_keras_metrics.record import Batch, Origin
from monolith_keras_metrics.row_queue import RowQueue
from monolith_keras_metrics.writer import BackgroundWriter

_numbers = itertools.count(1)
_last_attempt = 0
_open_clients: dict[int, DeepInsightClient] = {}


class Stats(NamedTuple):
    """Counts of examples since the client was made.

    `accepted == unsampled + written + dropped + failed + waiting`, always.

    Attributes:
        accepted: Handed over, dropped ones too.
        sampled: Of these, known to be of a sampled user.
        unsampled: Of these, known to be of no sampled user.
        written: In every sink, durably.
        dropped: Handed over when the queue was full, with `overflow="drop"`.
        failed: Not written: a sink gave up, or the batch could not be turned into records.
        waiting: Not yet dealt with.
    """

    accepted: int
    sampled: int
    unsampled: int
    written: int
    dropped: int
    failed: int
    waiting: int


class DeepInsightClient:
    """Takes batches of examples and writes the sampled ones in a background thread.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`, an object with
            the methods of `sinks.Sink`, or a list of these. An empty list writes nowhere.
        run: Name of the training that all its workers and restarts belong to. Default: the last
            part of the first sink's path.
        worker: This process's number among those that write to the same place. Default: what
            `task_context` says.
        overflow: When `queue_rows` examples wait: `"block"` waits, so that nothing is lost;
            `"drop"` never waits, and counts what it drops.
        queue_rows: How many examples may wait.
        flush_seconds: The longest that a record waits to be durable, in seconds.
        on_error: `"warn"` logs and counts what a sink fails to take; `"raise"` raises the sink's
            error from the next `write`, or from `close`.
        retry_seconds: How long a sink that fails is tried again with one and the same records.
            With `on_error="raise"` nothing is tried again.
        exit_timeout: The longest that `close` takes, in seconds.
        uid_hash_key: With a key of 1 to 64 bytes, records carry a keyed hash of the uid.
        counter_tags: Tags for the counters that go to the metrics client (`cli.get_cli`); None for
            no counters.
        clock: Unix seconds; makes the attempt's number.

    Raises:
        TypeError, ValueError: If an argument makes no sense.
        OSError: If a sink cannot be written to.

    Example:
    >>> import tempfile, numpy as np
    >>> from monolith_keras_metrics.record import Batch, Layout
    >>> layout = Layout("ctr", ("click",), sample_ratio=0.01)
    >>> with DeepInsightClient(tempfile.mkdtemp()) as client:
    ...     client.write(Batch(layout, 3, np.array([0, 19, 1005]), np.zeros(3, int), 0,
    ...                        labels=[np.ones(3)], predictions=[np.ones(3)]))
    >>> client.stats().written  # uids 0 and 1005; 19 is in bucket 19, and 1% reaches to 9
    2
    """

    def __init__(
        self,
        sink: sinks.SinkLike | Sequence[sinks.SinkLike],
        *,
        run: str | None = None,
        worker: int | None = None,
        overflow: Literal["block", "drop"] = "block",
        queue_rows: int = 262_144,
        flush_seconds: float = 30.0,
        on_error: Literal["warn", "raise"] = "warn",
        retry_seconds: float = 30.0,
        exit_timeout: float = 10.0,
        uid_hash_key: bytes | None = None,
        counter_tags: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_options(
            sink,
            overflow=overflow,
            queue_rows=queue_rows,
            flush_seconds=flush_seconds,
            on_error=on_error,
            retry_seconds=retry_seconds,
            exit_timeout=exit_timeout,
            uid_hash_key=uid_hash_key,
        )
        places = sink_list(sink)
        run_names = [name for name in map(sinks.run_name, places) if name]
        self.origin = Origin(
            run or next(iter(run_names), "run"),
            _new_attempt(clock),
            task_context.get().worker_number if worker is None else worker,
        )
        self._overflow = overflow
        self._on_error = on_error
        self._exit_timeout = exit_timeout
        self._hurry = threading.Event()
        self._deliveries = [
            Delivery(
                sinks.open_sink(place, self.origin),
                retry_seconds if on_error == "warn" else 0.0,
                self._hurry,
            )
            for place in places
        ]
        self._queue = RowQueue(queue_rows)
        self._writer = BackgroundWriter(
            self._queue,
            self._deliveries,
            self.origin if run or run_names else None,
            flush_seconds=flush_seconds,
            uid_hash_key=uid_hash_key,
            counter_tags=counter_tags,
        )
        self._ended: str | None = None
        self._raised: BaseException | None = None
        self.number = next(_numbers)
        _open_clients[self.number] = self

    def write(self, batch: Batch) -> None:
        """Accepts a batch; returns at once unless the queue is full and `overflow="block"`.

        Args:
            batch: The examples. Its arrays must not change any more.

        Raises:
            RuntimeError: If the client is closed.
            Exception: With `on_error="raise"`, what a sink raised earlier.
        """
        if self._ended is not None:
            raise RuntimeError(f"This DeepInsightClient {self._ended}: make a new one")
        if self._writer.error is not None:
            self._raise_error()
        taken = self._queue.put(batch, block=self._overflow == "block", alive=self._writer.alive)
        if not taken:
            self._writer.warn_once(
                "dropped", "the queue is full: examples are dropped (see stats().dropped)"
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was accepted before is durable, or was given up.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Whether that was so in time.

        Raises:
            Exception: With `on_error="raise"`, what a sink raised.
        """
        if self._ended is not None:
            return True
        in_time = self._writer.flush(timeout)
        self._raise_error()
        return in_time

    def close(self, timeout: float | None = None) -> None:
        """Writes what was accepted and closes the sinks. A second call does nothing.

        Args:
            timeout: Seconds, at most; default `exit_timeout`.

        Raises:
            Exception: With `on_error="raise"`, what a sink raised, if `write` did not.
        """
        if self._ended is not None:
            return
        self._ended = "is closed"
        _open_clients.pop(self.number, None)
        timeout = self._exit_timeout if timeout is None else timeout
        self._writer.stop()
        # Failing sinks are tried again for most of the time, then once more in the rest.
        if not self._writer.join(0.75 * timeout):
            self._hurry.set()
            self._writer.join(0.25 * timeout)
        self._warn_of_losses(timeout)
        self._raise_error()

    def messages(self, batch: Batch) -> npt.NDArray[np.object_]:
        """Returns the messages of a batch that `write` accepted.

        Args:
            batch: The batch.

        Returns:
            Strings, shape `(rows,)`: the message where the example is sampled, `""` elsewhere.
        """
        texts = np.full(batch.rows, "", object)
        kept = sampling.sampled(np.asarray(batch.uid), batch.layout.sample_ratio)
        texts[kept] = record.messages(self._writer.records([batch])).to_list()
        return texts

    @property
    def handle(self) -> Any:
        """The scalar int64 tensor that the write operations take."""
        import tensorflow as tf

        return tf.constant(self.number, tf.int64)

    def stats(self) -> Stats:
        """Returns the counts so far."""
        # In this order a row that moves on meanwhile is seen as waiting, never twice.
        counts = dict(self._writer.counts)
        accepted, dropped, _ = self._queue.counts()
        settled = counts["unsampled"] + counts["written"] + counts["failed"] + dropped
        return Stats(accepted=accepted, dropped=dropped, waiting=accepted - settled, **counts)

    def __enter__(self) -> DeepInsightClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        places = ", ".join(repr(delivery.sink) for delivery in self._deliveries)
        return f"DeepInsightClient([{places}], run={self.origin.run!r})"

    def _raise_error(self) -> None:
        error = self._writer.error
        if self._on_error == "raise" and error is not None and error is not self._raised:
            self._raised = error
            raise error

    def _warn_of_losses(self, timeout: float) -> None:
        stats = self.stats()
        if stats.waiting:
            logging.warning(
                "Deep insight: %d examples were not dealt with within %g s and may be lost",
                stats.waiting,
                timeout,
            )
        if stats.failed or stats.dropped:
            logging.warning(
                "Deep insight: %d examples were not written (%d failed, %d dropped)",
                stats.failed + stats.dropped,
                stats.failed,
                stats.dropped,
            )


def _new_attempt(clock: Callable[[], float]) -> int:
    """Microseconds since 1970; another number for each client of this process."""
    global _last_attempt
    _last_attempt = max(int(clock() * 1e6), _last_attempt + 1)
    return _last_attempt


def open_client(number: int) -> DeepInsightClient:
    """Returns the open client with this number.

    Raises:
        ValueError: If this process has no such client, or closed it.
    """
    try:
        return _open_clients[number]
    except KeyError:
        raise ValueError(
            "`deep_insight_client_tensor` must come from deep_insight_client() or "
            "DeepInsightClient.handle in this process, of a client that is not closed. "
            f"Received: {number}, open here: {sorted(_open_clients)}"
        ) from None


def sink_list(sink: sinks.SinkLike | Sequence[sinks.SinkLike]) -> list[sinks.SinkLike]:
    """Returns one sink or several as a list."""
    return list(sink) if isinstance(sink, (list, tuple)) else [sink]  # type: ignore[list-item]


def check_options(sink: sinks.SinkLike | Sequence[sinks.SinkLike], **options: Any) -> None:
    """Raises for arguments of `DeepInsightClient` that make no sense; opens nothing.

    Raises:
        TypeError, ValueError: With the argument's name, what came and what was expected.
    """
    known = [name for name in inspect.signature(DeepInsightClient).parameters if name != "sink"]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"There is no argument {unknown[0]!r}. The arguments are: {known}")
    for place in sink_list(sink):
        sinks.check_sink(place)
    for name, choices in (("overflow", ("block", "drop")), ("on_error", ("warn", "raise"))):
        if name in options and options[name] not in choices:
            raise ValueError(
                f"`{name}` must be one of {choices}. Received: {name}={options[name]!r}"
            )
    for name, positive in (
        ("queue_rows", True),
        ("flush_seconds", True),
        ("exit_timeout", True),
        ("retry_seconds", False),
    ):
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
        if not (value > 0 or (value == 0 and not positive)):
            wanted = "more than 0" if positive else "0 or more"
            raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
    key = options.get("uid_hash_key")
    if key is not None and not (isinstance(key, bytes) and 1 <= len(key) <= 64):
        # The key itself is a secret, and stays out of the message.
        raise ValueError(
            f"`uid_hash_key` must be 1 to 64 bytes. Received: {type(key).__name__}"
            + (f" of {len(key)}" if isinstance(key, (bytes, str)) else "")
        )


def _close_all() -> None:
    for client in list(_open_clients.values()):
        try:
            client.close()
        except Exception as error:  # the next client's records matter too
            logging.error("Deep insight: %s at exit: %s", type(error).__name__, error)


def _forget_in_child() -> None:
    # The thread stayed with the parent, which writes what both have in their queues.
    for client in _open_clients.values():
        client._ended = "belongs to the process that this one was forked from"
    _open_clients.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
