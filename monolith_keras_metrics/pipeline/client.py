"""`DeepInsightClient`: takes batches from training and writes them in the background.

What is promised:

- `write` hands over and returns; threads do the rest, in the order of the calls.
- A batch is *accepted* once `write` has returned. Accepted batches are written exactly once if the
  client is closed, and it is closed when the process exits, by a signal that `exit_hook` handles
  too. A process that is killed loses what it accepted in the last `flush_seconds`; the rest waits
  in its journal for the next one.
- Memory is bounded: by `queue_rows` examples and `memory_bytes`, and by the records of a few
  files. Disk is bounded by `spool_bytes`.
- A sink that fails is tried again while its records can wait. When the spool is full and the sink
  has failed for `retry_seconds`, they are given up and counted as failed, and training goes on
  (`on_error="warn"`); or the next `write` raises the sink's error (`on_error="raise"`).
- The first batch of a layout that cannot be turned into records is an error, whatever `on_error`
  says; a later one is set aside and counted.
- `close` ends within its time, whatever the sinks do; what was not delivered by then waits in the
  journal, or is counted.
"""

from __future__ import annotations

import functools
import pathlib
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from absl import logging

from monolith_keras_metrics import exit_hook, task_context
from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.journal.files import SpoolFiles
from monolith_keras_metrics.journal.format import Header
from monolith_keras_metrics.journal.keeper import JournalKeeper
from monolith_keras_metrics.journal.regular import probe
from monolith_keras_metrics.journal.spool import ENCODER, KEEPER, Spool
from monolith_keras_metrics.pipeline import attempts, lifecycle, recovery
from monolith_keras_metrics.pipeline.counter_emitter import CounterEmitter
from monolith_keras_metrics.pipeline.delivery import Delivery
from monolith_keras_metrics.pipeline.encoder import BackgroundWriter
from monolith_keras_metrics.pipeline.ledger import Ledger, Stats
from monolith_keras_metrics.pipeline.options import (
    Options,
    OptionValues,
    make_options,
    signature_with_options,
)
from monolith_keras_metrics.pipeline.queue import Accepted, ClosedError, RowQueue
from monolith_keras_metrics.records import sampling
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import json_messages, uids_of
from monolith_keras_metrics.sinks import Sinks, open_all, parse_all
from monolith_keras_metrics.threads import BackgroundThread, RunningClock, bounded

if TYPE_CHECKING:
    from inspect import Signature

    from typing_extensions import Unpack

_MOST_LAYOUTS = 1_000  # that are kept in mind
_COUNTERS = ("accepted", "sampled", "unsampled", "written", "dropped", "failed")
_COUNTERS_SECONDS = 0.5  # for the last of them, where the sinks have taken all the time


class DeepInsightClient:
    """Takes batches of examples and writes the sampled ones in a background thread.

    Args:
        sink: Where to write: a folder (Parquet), `"jsonl:PATH"`, `"tfrecord:PATH"`,
            `"kafka://HOST:PORT/TOPIC"`, an object with the methods of `sinks.Sink`, or a list of
            these. An empty list writes nowhere. A relative folder is resolved when the client is
            made; a later `os.chdir` changes nothing.
        options: How records are written.
        clock: Returns Unix seconds; makes the attempt's number (see `attempts`).
        **changes: The options that differ from `options`, or from the defaults: see `Options`.

    Raises:
        TypeError, ValueError: If an argument makes no sense.
        OSError: If a sink cannot be written to.
        RuntimeError: In a process that was forked from one which had made a client.

    Example:
    >>> import tempfile, numpy as np
    >>> from monolith_keras_metrics import Batch, Layout
    >>> layout = Layout("ctr", ("click",), sample_ratio=0.01)
    >>> with DeepInsightClient(tempfile.mkdtemp()) as client:
    ...     client.write(Batch(layout, 3, np.array([0, 19, 1005]), np.zeros(3, int), 0,
    ...                        labels=[np.ones(3)], predictions=[np.ones(3)]))
    >>> client.stats().written  # uids 0 and 1005; 19 is in bucket 19, and 1% reaches to 9
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
        run_names = [name for one in destinations if (name := one.run_name)]
        place = recovery.place_of(destinations, opts.spool)
        self.origin = Origin(
            opts.run or next(iter(run_names), "run"),
            attempts.new_attempt(clock, attempts.largest_seen(destinations, place)),
            int(opts.worker or 0),
        )
        self._ended: str | None = None
        self._hurry = threading.Event()
        claim = header = None
        journal = secrets.token_hex(8)
        if place is not None:
            claim, self.origin = recovery.new_claim(
                place, self.origin, journal, functools.partial(attempts.new_attempt, clock)
            )
            attempts.remember(self.origin.attempt, destinations, place)
            sinks_of_journal = recovery.identities(destinations, place)
            header = Header(journal, self.origin.worker, self.origin.attempt, sinks_of_journal)
        try:
            opened = open_all(destinations, self.origin, journal)
        except BaseException:
            if claim is not None:
                claim.release()
            raise
        changed = threading.Condition()
        self._ledger, self._recovered = Ledger(), Ledger()
        self._spool = Spool(
            [bool(getattr(sink, "gathers", False)) for sink in opened],
            SpoolFiles(claim, header),
            changed,
            self._ledger,
            memory_rows=opts.queue_rows,
            memory_bytes=opts.memory_bytes,
            spool_bytes=opts.spool_bytes,
            segment_seconds=opts.file_seconds,
            threads=[ENCODER] if claim is None else [ENCODER, KEEPER],
        )
        self._decoder = Decoder(frozenset() if place is None else probe(place).uids)
        self._left = recovery.spool_of_others(opened, changed, self._recovered, self._decoder)
        spools = [self._spool] if header is None else [self._left, self._spool]
        running = RunningClock()
        self._deliveries = [
            Delivery(sink, number, spools, opts.retry_seconds, self._hurry, running)
            for number, sink in enumerate(opened)
        ]
        self._checked: set[Layout] = set()
        self._last_layout: Layout | None = None
        self._queue = RowQueue(self._ledger, opts.queue_rows, opts.memory_bytes)
        self._keeper = (
            None
            if claim is None
            else JournalKeeper(self._spool, claim, opts.flush_seconds, self._at_risk_seconds)
        )
        self._writer = BackgroundWriter(
            self._queue,
            self._spool,
            self._ledger,
            self._deliveries,
            self.origin if opts.run or run_names or claim is not None else None,
            overflow=opts.overflow,
            retry_seconds=opts.retry_seconds,
            flush_seconds=opts.flush_seconds,
            hurry=self._hurry,
            uid_hash_key=opts.uid_hash_key,
            clock=running,
            ended=self._writer_ended,
            now_and_then=self._start_counters,
        )
        self._recovery = (
            None
            if place is None or header is None
            else recovery.Recovery(
                self._left, place, header.sinks, idle=self._decoder.close, hurry=self._hurry
            )
        )
        self._counters = (
            None
            if opts.counter_tags is None
            else CounterEmitter(self._counts, opts.counter_tags, opts.flush_seconds)
        )
        self._finishing = threading.RLock()
        self._closing = threading.Event()
        self._signals_until: Callable[[], bool] | None = None
        self._raised: BaseException | None = None
        for thread in self._threads():
            thread.start()
        self.number = lifecycle.add(self)

    def write(self, batch: Batch) -> None:
        """Accepts a batch; returns at once unless the queue is full and `overflow="block"`.

        Args:
            batch: The examples. Its arrays must not change any more.

        Raises:
            TypeError, ValueError: If it is the first of its layout, and cannot become records.
                What such a later one holds is counted as failed.
            RuntimeError: If the client is closed.
            Exception: With `on_error="raise"`, what a sink raised earlier.
        """
        self.accept(batch)

    def accept(self, batch: Batch) -> Accepted:
        """Do as `write`, and return the batch with its position, which `messages` takes."""
        self._raise_error()
        if batch.layout is not self._last_layout and self._ended is None:
            self._check_first(batch)
        try:
            block = self._options.overflow == "block"
            accepted = self._queue.put(batch, block=block, answers=self._answers)
        except ClosedError:
            raise RuntimeError(f"This DeepInsightClient {self._ended}: make a new one") from None
        if accepted.dropped:
            self._writer.warn_once(
                "dropped",
                "the queue is full, or nobody takes from it: examples are dropped (see `stats`)",
            )
        return accepted

    def _check_first(self, batch: Batch) -> None:
        """Raise if the first batch of a layout cannot become records: no other might."""
        if batch.layout not in self._checked:
            self._writer.check(batch)
            if not batch.rows:  # which tell nothing of the next ones
                return
            if len(self._checked) >= _MOST_LAYOUTS:
                self._checked.clear()
            self._checked.add(batch.layout)
        self._last_layout = batch.layout

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was accepted before is in the sinks, or was given up.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Whether that was so in time. It is not waited for a sink that has failed, or not come
            back, for `retry_seconds`.

        Raises:
            Exception: With `on_error="raise"`, what a sink raised.
        """
        if self._ended is not None:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        in_spool = self._writer.flush(timeout)
        left = None if deadline is None else deadline - time.monotonic()
        delivered = in_spool and self._spool.wait_until_settled(left, self._is_down)
        self._raise_error()
        return delivered

    def close_when(self, over: Callable[[], bool] | None) -> None:
        """Has the client closed, in the background, when `over` says that training has ended.

        Args:
            over: Asked a few times a second, in another thread; None for nothing to ask.
        """

        def wait_and_finish(over: Callable[[], bool]) -> None:
            while not self._closing.wait(0.5):
                if over():
                    self.finish()

        if over is not None:
            waiting = functools.partial(wait_and_finish, over)
            BackgroundThread(waiting, "deep-insight-end").start()

    def close(self, timeout: float | None = None) -> None:
        """Writes what was accepted and closes the sinks. A second call does nothing.

        Where a signal or Ctrl-C interrupts it, the next call goes on; the exit of the process is
        one.

        Args:
            timeout: Seconds, at most; default `exit_timeout`.

        Raises:
            Exception: With `on_error="raise"`, what a sink raised, if `write` did not.
        """
        self.finish(timeout)
        self._raise_error()

    def finish(self, timeout: float | None = None) -> None:
        """Does what `close` does, and raises nothing: another exception is on its way."""
        timeout = bounded(self._options.exit_timeout if timeout is None else timeout)
        if lifecycle.find(self.number) is None or not self._finishing.acquire(timeout=timeout):
            return
        try:
            if lifecycle.find(self.number) is not None:
                self._finish(timeout)
        finally:
            self._finishing.release()

    def _finish(self, timeout: float) -> None:
        self._ended = "is closed"
        self._closing.set()
        self._queue.close()
        deadline = time.monotonic() + timeout
        self._writer.stop()
        if self._recovery is not None:
            self._recovery.stop()
        self._spool.release()
        self._left.release()
        # Failing sinks are tried again for most of the time, then once more in the rest.
        if self._raised is not None or not self._join(deadline - 0.25 * timeout):
            self._hurry.set()
        if self._join(deadline):
            self._decoder.close()
        if self._counters is not None:
            self._counters.finish(max(_COUNTERS_SECONDS, deadline - time.monotonic()))
        lifecycle.remove(self.number)
        if self._signals_until is not None:
            exit_hook.uninstall(self._signals_until)
            self._signals_until = None
        self._warn_of_losses(timeout)

    def forget(self) -> None:
        """In a forked process: leaves everything to the process that it came from."""
        self._ended = "belongs to the process that this one was forked from"
        for ledger in (self._ledger, self._recovered):
            ledger.detach()
        self._queue.make_locks()
        self._queue.close()
        changed = threading.Condition()
        for spool in (self._spool, self._left):
            spool.detach(changed)
        self._decoder.detach()

    def _join(self, deadline: float) -> bool:
        """Wait until `deadline` for the end of all threads but that of the counters.

        Returns:
            True if all have ended.
        """
        ended = [thread.join(deadline - time.monotonic()) for thread in self._threads()]
        return all(ended)

    def _threads(self) -> list[BackgroundThread]:
        others = (self._keeper, self._recovery)
        return [self._writer, *self._deliveries, *(one for one in others if one is not None)]

    def _start_counters(self) -> None:
        if self._counters is not None and self._ended is None:
            self._counters.start_if_wanted()

    def _answers(self) -> bool:
        """Whether it makes sense to wait for room; raises what a sink raised, if it is to."""
        self._raise_error()
        return self._writer.answers()

    def _counts(self) -> dict[str, int]:
        """The counters."""
        fates = self._ledger.fates()
        return {name: getattr(fates, name) for name in _COUNTERS}

    def messages(self, accepted: Accepted) -> npt.NDArray[np.object_]:
        """Returns the messages of a batch.

        Args:
            accepted: What `accept` returned.

        Returns:
            Strings, shape `(rows,)`: the message where the example is sampled, `""` elsewhere.
        """
        batch = accepted.batch
        texts = np.full(batch.rows, "", object)
        kept = sampling.sampled(uids_of(batch), batch.layout.sample_ratio)
        texts[kept] = json_messages(self._writer.records([accepted])).to_list()
        return texts

    @property
    def handle(self) -> Any:
        """The scalar int64 tensor that the write operations take."""
        import tensorflow as tf

        return tf.constant(self.number, tf.int64)

    def stats(self) -> Stats:
        """Returns the counts so far."""
        fates = self._ledger.fates()._asdict()
        recovered = self._recovered.fates()
        oldest = [at for at in (self._spool.oldest(), self._writer.oldest()) if at is not None]
        return Stats(
            spooled=fates.pop("journaled"),
            **fates,
            spooled_bytes=self._spool.bytes + self._left.bytes,
            recovered=recovered.written,
            recovered_failed=recovered.failed,
            lag_seconds=time.monotonic() - min(oldest) if oldest else 0.0,
            at_risk_seconds=self._at_risk_seconds(),
        )

    def _writer_ended(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def _at_risk_seconds(self) -> float:
        """Return the age of the oldest example that a kill would lose."""
        oldest = (self._spool.oldest(in_memory=True), self._writer.oldest())
        now = time.monotonic()
        return now - min((at for at in oldest if at is not None), default=now)

    @property
    def spool_folder(self) -> pathlib.Path | None:
        """The folder of the journal; None where records wait in memory alone."""
        return self._spool.folder

    def handle_signals(self, over: Callable[[], bool] | None = None) -> None:
        """Until the client is closed, SIGTERM, SIGINT and SIGHUP unwind the stack (`exit_hook`).

        What was accepted is then written on the way out. `with` does this, and the callback.

        Args:
            over: Tells, from any thread, whether what is recorded has ended.
        """
        if self._signals_until is not None:
            return

        def closed() -> bool:
            """Not before what was accepted is written, whatever is over."""
            return lifecycle.find(self.number) is None and (over is None or over())

        def last_words() -> None:
            """Wait until the journal has what was accepted. Sinks are not waited for."""
            self._writer.flush(exit_hook.LAST_WORDS_SECONDS)

        if exit_hook.install(closed, last_words):
            self._signals_until = closed

    def __enter__(self) -> DeepInsightClient:
        self.handle_signals()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.finish()

    def __repr__(self) -> str:
        places = ", ".join(repr(delivery.sink) for delivery in self._deliveries)
        return f"DeepInsightClient([{places}], run={self.origin.run!r})"

    def _is_down(self) -> bool:
        """Whether a sink keeps failing, so that nobody should wait for it."""
        return any(
            delivery.is_down() or (self._options.on_error == "raise" and delivery.error is not None)
            for delivery in self._deliveries
        )

    def _raise_error(self) -> None:
        if self._options.on_error != "raise" or self._raised is not None:
            return
        errors = (self._writer.died, *(delivery.first_error for delivery in self._deliveries))
        self._raised = next((error for error in errors if error is not None), None)
        if self._raised is not None:
            raise self._raised

    def _warn_of_losses(self, timeout: float) -> None:
        stats = self.stats()
        if left := stats.spooled + self._recovered.fates().journaled:
            logging.warning(
                "Deep insight: %s examples were not delivered within %g s. They wait in %r: the "
                "next run with the same sinks delivers them, and so does `deep-insight recover`",
                f"{left:,}",
                timeout,
                str(self._spool.folder),
            )
        if stats.waiting > stats.spooled:
            logging.warning(
                "Deep insight: %d examples were not dealt with within %g s and may be lost",
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
                "Deep insight: %d examples of an earlier run that crashed were not written; what "
                "they stood in is set aside in %r",
                stats.recovered_failed,
                str(self._spool.folder),
            )


DeepInsightClient.__signature__ = signature_with_options(DeepInsightClient)


def open_client(number: int) -> DeepInsightClient:
    """Returns the open client with this number.

    Raises:
        ValueError: If this process has no such client, or closed it.
    """
    client = lifecycle.find(number)
    if not isinstance(client, DeepInsightClient):
        raise ValueError(
            "`deep_insight_client_tensor` must come from deep_insight_client() or "
            "DeepInsightClient.handle in this process, of a client that is not closed. "
            f"Received: {number}, open here: {lifecycle.numbers()}"
        )
    return client
