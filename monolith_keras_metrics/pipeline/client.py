"""`DeepInsightClient`: accept batches from training and write them in the background.

Guarantees:

- `write` queues the batch and returns. Threads do the rest, in the order of the calls.
- A batch is *accepted* once `write` has returned. Accepted batches are written exactly once if the
  client is closed. The client closes itself when the process exits, also on a signal that
  `exit_hook` handles. On SIGKILL, the examples accepted in the last `flush_seconds` are lost; the
  others wait in the journal for the next process.
- Memory is bounded: by `queue_rows` examples and `memory_bytes`, and by the records of a few
  files. Disk space is bounded by `spool_bytes`.
- A failing sink is retried while its records can wait. When the journal is full and the sink has
  failed for `retry_seconds`, its next records are given up and counted as failed. Training then
  goes on (`on_error="warn"`), or the next `write` raises the sink's error (`on_error="raise"`).
- If the first batch of a layout cannot become records, `write` raises, whatever `on_error` is. A
  later such batch is left out and counted as failed.
- `close` returns within its timeout, whatever the sinks do. What was not delivered by then waits
  in the journal, or is counted.
"""

from __future__ import annotations

import enum
import pathlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from absl import logging

from monolith_keras_metrics import cli, counters, exit_hook, task_context
from monolith_keras_metrics.pipeline import lifecycle
from monolith_keras_metrics.pipeline.journal_home import claim_home
from monolith_keras_metrics.pipeline.ledger import Stats
from monolith_keras_metrics.pipeline.options import (
    Options,
    OptionValues,
    make_options,
    signature_with_options,
)
from monolith_keras_metrics.pipeline.pipeline import Pipeline
from monolith_keras_metrics.pipeline.queue import Accepted, ClosedError
from monolith_keras_metrics.records import sampling
from monolith_keras_metrics.records.batch import Batch, Layout
from monolith_keras_metrics.records.frame import json_messages, uids_of
from monolith_keras_metrics.sinks import Sinks, open_all, parse_all
from monolith_keras_metrics.threads import BackgroundThread, bounded

if TYPE_CHECKING:
    from inspect import Signature

    import polars as pl
    from typing_extensions import Unpack

_MOST_LAYOUTS = 1_000  # bounds the memory for checked layouts


class State(enum.Enum):
    """The state of a client. The value completes the sentence "This client …"."""

    OPEN = "is open"
    CLOSING = "is being closed"
    CLOSED = "is closed"
    DETACHED = "belongs to the process that this one was forked from"


class DeepInsightClient:
    """Accept batches of examples and write the sampled ones in background threads.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`,
            `"kafka://HOST:PORT/TOPIC"`, an object with the methods of `sinks.Sink`, or a list of
            these. An empty list writes nowhere. A relative folder is resolved when the client is
            created; a later `os.chdir` changes nothing.
        options: How records are written.
        clock: Returns Unix seconds, for the attempt's number (see `attempts`) and for the time of
            the counts that are kept.
        **changes: The options that differ from `options`, or from the defaults: see `Options`.

    Raises:
        TypeError, ValueError: If an argument is invalid.
        OSError: If a sink cannot be written to.
        RuntimeError: If this process was forked from one that had created a client.

    Example:
    >>> import tempfile, numpy as np
    >>> from monolith_keras_metrics import Batch, Layout
    >>> layout = Layout("ctr", ("click",), sample_ratio=0.01)
    >>> with DeepInsightClient(tempfile.mkdtemp()) as client:
    ...     client.write(Batch(layout, 3, np.array([0, 19, 1005]), np.zeros(3, int), 0,
    ...                        labels=[np.ones(3)], predictions=[np.ones(3)]))
    >>> client.stats().written  # uids 0 and 1005; 19 is in bucket 19, and 1% covers 0 to 9
    2
    """

    __signature__: ClassVar[Signature]

    def __init__(
        self,
        sink: Sinks,
        options: Options | None = None,
        *,
        clock: Callable[[], float] = time.time,
        **changes: Unpack[OptionValues],
    ) -> None:
        destinations = parse_all(sink)
        opts = make_options(options, ["clock"], **changes)
        if opts.worker is None:
            opts = make_options(opts, worker=task_context.get().worker_number)
        self._options = opts
        lifecycle.check_process()
        counters.use_environment()
        home = claim_home(destinations, opts, clock)
        self.origin = home.origin
        try:
            opened = open_all(destinations, home.origin, home.name)
        except BaseException:
            home.files.release()
            raise
        self._pipeline = Pipeline(destinations, opened, home, opts, clock)
        self._state = State.OPEN
        self._checked: set[Layout] = set()
        self._last_layout: Layout | None = None
        self._ending = threading.RLock()
        self._closing = threading.Event()
        self._signals_until: Callable[[], bool] | None = None
        self._raised: BaseException | None = None
        self._pipeline.start()
        self.number = lifecycle.add(self)

    def write(self, batch: Batch) -> None:
        """Accept a batch. Returns at once unless the queue is full and `overflow="block"`.

        Args:
            batch: The examples. Its arrays must not change afterwards.

        Raises:
            TypeError, ValueError: If the batch is the first of its layout and cannot become
                records. The examples of a later such batch are counted as failed.
            RuntimeError: If the client is closed.
            Exception: With `on_error="raise"`, the error that a sink raised earlier.
        """
        self.accept(batch)

    def accept(self, batch: Batch) -> Accepted:
        """Accept a batch as `write` does, and return it with its position, for `messages`."""
        self._raise_error()
        if batch.layout is not self._last_layout and self._state is State.OPEN:
            self._check_first(batch)
        try:
            block = self._options.overflow == "block"
            accepted = self._pipeline.queue.put(batch, block=block, answers=self._is_consumed)
        except ClosedError:
            raise RuntimeError(
                f"This DeepInsightClient {self._state.value}. Create a new one"
            ) from None
        if accepted.dropped:
            self._pipeline.warn_once(
                "dropped",
                "examples are dropped, because the queue is full or no longer read (see `stats`)",
            )
        return accepted

    def _check_first(self, batch: Batch) -> None:
        """Raise if the first batch of a layout cannot become records."""
        if batch.layout not in self._checked:
            self._pipeline.converter.check(batch)
            if not batch.rows:  # an empty batch proves nothing about the next ones
                return
            if len(self._checked) >= _MOST_LAYOUTS:
                self._checked.clear()
            self._checked.add(batch.layout)
        self._last_layout = batch.layout

    def flush(
        self, timeout: float | None = None, *, to: Literal["sinks", "journal"] = "sinks"
    ) -> bool:
        """Wait until everything accepted so far has been delivered or given up.

        Does not wait for sinks that have been failing or hanging for longer than `retry_seconds`.

        Args:
            timeout: Longest wait in seconds; None for no limit.
            to: `"journal"` only waits until the examples are in the journal, where they survive a
                SIGKILL. Without a journal, or while it cannot be written (see
                `stats().at_risk_seconds`), they are in memory only.

        Returns:
            True if everything was delivered or given up before the timeout.

        Raises:
            Exception: With `on_error="raise"`, the error that a sink raised.
        """
        if self._state is not State.OPEN:
            return True
        if to == "journal":
            return self._pipeline.encoder.flush(timeout)
        raising = self._options.on_error == "raise"
        delivered = self._pipeline.flush(timeout, on_any_error=raising)
        self._raise_error()
        return delivered

    def observe(self, observer: Callable[[pl.DataFrame], None]) -> None:
        """Call a function with the sampled records of all further batches.

        Args:
            observer: Called with frames of records, in order, in the thread that makes them, before
                they are written. Must not raise, and must not wait.
        """
        self._pipeline.encoder.observe(observer)

    def wait_until_observed(self, timeout: float) -> bool:
        """Wait until the observer has seen what was accepted so far. Does not wait for the disk.

        Args:
            timeout: Longest wait in seconds.

        Returns:
            True if that happened before the timeout.
        """
        return self._pipeline.encoder.wait_until_observed(timeout)

    def close_when(self, is_over: Callable[[], bool]) -> None:
        """Close the client in the background as soon as `is_over` returns True.

        Args:
            is_over: Returns True once training has ended. Called twice a second, in another thread.
        """

        def wait_and_close() -> None:
            while not self._closing.wait(0.5):
                if is_over():
                    self.close(raising=False)

        BackgroundThread(wait_and_close, "deep-insight-end").start()

    def close(self, timeout: float | None = None, *, raising: bool = True) -> None:
        """Write what was accepted and close the sinks. A second call does nothing.

        If a signal or Ctrl-C interrupts a call, the next call continues it. The exit of the
        process makes such a call.

        Args:
            timeout: Longest wait in seconds. Default: `exit_timeout`.
            raising: Whether to raise the error of a sink. Pass False while another exception
                propagates.

        Raises:
            Exception: With `on_error="raise"`, the error of a sink that `write` has not raised.
        """
        timeout = bounded(self._options.exit_timeout if timeout is None else timeout)
        if not self._has_ended() and self._ending.acquire(timeout=timeout):
            try:
                if not self._has_ended():
                    self._close(timeout)
            finally:
                self._ending.release()
        if raising:
            self._raise_error()

    def _close(self, timeout: float) -> None:
        self._state = State.CLOSING
        self._closing.set()
        cli.exit_by(time.monotonic() + timeout)
        self._pipeline.end(timeout, patient=self._raised is None)
        self._state = State.CLOSED
        lifecycle.remove(self.number)
        if self._signals_until is not None:
            exit_hook.uninstall(self._signals_until)
            self._signals_until = None
        self._warn_of_losses(timeout)

    def _has_ended(self) -> bool:
        return self._state in (State.CLOSED, State.DETACHED)

    def detach(self) -> None:
        """Leave all work to the parent process. Called in a forked process."""
        self._state = State.DETACHED
        self._pipeline.detach()

    def _is_consumed(self) -> bool:
        """Return True if the queue is still read; raise a sink's error if `on_error="raise"`."""
        self._raise_error()
        return self._pipeline.encoder.answers()

    def messages(self, accepted: Accepted) -> npt.NDArray[np.object_]:
        """Return the messages of a batch.

        Args:
            accepted: The batch, as returned by `accept`.

        Returns:
            Strings, shape `(rows,)`: the message of each sampled example, `""` for the others.
        """
        batch = accepted.batch
        texts = np.full(batch.rows, "", object)
        kept = sampling.sampled(uids_of(batch), batch.layout.sample_ratio)
        texts[kept] = json_messages(self._pipeline.converter.records([accepted])).to_list()
        return texts

    @property
    def handle(self) -> Any:
        """The scalar int64 tensor that the write operations take."""
        import tensorflow as tf

        return tf.constant(self.number, tf.int64)

    def stats(self) -> Stats:
        """Return the counts so far."""
        return self._pipeline.stats()

    @property
    def spool_folder(self) -> pathlib.Path | None:
        """The folder of the journal; None where records wait in memory alone."""
        return self._pipeline.journal_folder

    def handle_signals(self, over: Callable[[], bool] | None = None) -> None:
        """Make SIGTERM, SIGINT and SIGHUP unwind the stack until the client is closed.

        Accepted examples are then written before the process exits (see `exit_hook`). The `with`
        statement and the callback call this method.

        Args:
            over: Returns True once training has ended. May be called from any thread.
        """
        if self._signals_until is not None:
            return

        def closed() -> bool:
            """Return True if training has ended and the accepted examples are written."""
            return self._has_ended() and (over is None or over())

        def last_words() -> None:
            """Wait until the journal has what was accepted. Does not wait for sinks."""
            self._pipeline.encoder.flush(exit_hook.LAST_WORDS_SECONDS)

        if exit_hook.install(closed, last_words):
            self._signals_until = closed

    def __enter__(self) -> DeepInsightClient:
        self.handle_signals()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self.close(raising=exc_type is None)

    def __repr__(self) -> str:
        sinks = ", ".join(repr(delivery.sink) for delivery in self._pipeline.outlet.deliveries)
        return f"DeepInsightClient([{sinks}], run={self.origin.run!r})"

    def _raise_error(self) -> None:
        """Raise the first error, once, if `on_error="raise"`."""
        if self._options.on_error != "raise" or self._raised is not None:
            return
        self._raised = self._pipeline.error()
        if self._raised is not None:
            raise self._raised

    def _warn_of_losses(self, timeout: float) -> None:
        stats = self.stats()
        if left := stats.spooled + self._pipeline.outlet.recovered.stats().spooled:
            logging.warning(
                "Deep insight: %s examples were not delivered within %g s. They wait in %r: the "
                "next run with the same sinks delivers them, or `deep-insight recover`",
                f"{left:,}",
                timeout,
                str(self.spool_folder),
            )
        if stats.waiting > stats.spooled:
            logging.warning(
                "Deep insight: %d examples were not processed within %g s and may be lost",
                stats.waiting - stats.spooled,
                timeout,
            )
        if stats.failed or stats.dropped:
            logging.warning(
                "Deep insight: %d examples were not written (%d failed, %d dropped)",
                stats.failed + stats.dropped,
                stats.failed,
                stats.dropped,
            )
        if stats.recovered_failed:
            logging.warning(
                "Deep insight: %d examples of an earlier run that crashed were not written. Their "
                "journal files are set aside in %r",
                stats.recovered_failed,
                str(self.spool_folder),
            )


DeepInsightClient.__signature__ = signature_with_options(DeepInsightClient)


def open_client(number: int) -> DeepInsightClient:
    """Return the open client with this number.

    Raises:
        ValueError: If this process has no such client, or has closed it.
    """
    client = lifecycle.find(number)
    if not isinstance(client, DeepInsightClient):
        raise ValueError(
            "`deep_insight_client_tensor` must come from deep_insight_client() or "
            "DeepInsightClient.handle in this process, and the client must not be closed. "
            f"Received: {number}. Open clients: {lifecycle.numbers()}"
        )
    return client
