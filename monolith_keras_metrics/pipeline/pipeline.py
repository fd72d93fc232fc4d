"""`Pipeline`: connect queue, encoder, journal and sinks, and end them in order."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence

from monolith_keras_metrics.journal.keeper import JournalKeeper
from monolith_keras_metrics.journal.log import RELEASE, Room
from monolith_keras_metrics.journal.writer import KEEPER, Writer
from monolith_keras_metrics.pipeline.converter import Converter
from monolith_keras_metrics.pipeline.counter_emitter import CounterEmitter
from monolith_keras_metrics.pipeline.encoder import Encoder
from monolith_keras_metrics.pipeline.journal_home import JournalHome
from monolith_keras_metrics.pipeline.ledger import Ledger, Stats
from monolith_keras_metrics.pipeline.ledger_keeper import LedgerKeeper
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.pipeline.outlet import Outlet, gathering
from monolith_keras_metrics.pipeline.queue import RowQueue
from monolith_keras_metrics.sinks import Destination, Sink
from monolith_keras_metrics.threads import BackgroundThread, RunningClock, WarnOnce

_COUNTERS_SECONDS = 0.5  # for the last counters, in case the sinks used up the timeout


class Pipeline:
    """Carry batches from a queue to every sink.

    Args:
        destinations: The destinations of the records.
        sinks: Their open sinks.
        home: The journal.
        options: How records are written.
        clock: Returns Unix seconds, for the time of the counts that are kept.

    Attributes:
        ledger: The counts of examples.
        queue: The queue of accepted batches.
        converter: Turns batches into records.
        encoder: The thread that reads the queue.
        outlet: The sinks and their threads.
        warn_once: Logs warnings.
        journal_folder: The folder of the journal; None if records wait in memory only.
    """

    def __init__(
        self,
        destinations: Sequence[Destination],
        sinks: Sequence[Sink],
        home: JournalHome,
        options: Options,
        clock: Callable[[], float] = time.time,
    ) -> None:
        running = RunningClock()
        self.warn_once = WarnOnce()
        self.journal_folder = home.folder
        self.ledger = Ledger()
        self._kept = LedgerKeeper(destinations, home.origin, self.ledger, self.warn_once, clock)
        self.queue = RowQueue(self.ledger, options.queue_rows, options.memory_bytes)
        self._files = home.files
        writer = Writer(
            [gathering(sink) for sink in sinks],
            self._files,
            self.ledger,
            Room(options.queue_rows, options.memory_bytes, options.spool_bytes),
            options.file_seconds,
            self._release,
        )
        self._log = writer.log
        self.outlet = Outlet(
            sinks,
            home.folder,
            home.sinks,
            log=self._log,
            retry_seconds=options.retry_seconds,
            clock=running,
            keep=self._kept.keep,
        )
        leave = functools.partial(self._log.leave, KEEPER)
        # Without a journal, it is not started.
        keeper = JournalKeeper(self._files, options.flush_seconds, self.at_risk_seconds, leave)
        origin = home.origin if home.is_named else None
        self.converter = Converter(origin, options.uid_hash_key, self.ledger, self.warn_once)
        self._counters = CounterEmitter(
            self.stats,
            lambda: self.encoder.steps,
            options.counter_tags,
            worker=home.origin.worker,
            seconds=options.flush_seconds,
        )
        self.encoder = Encoder(
            self.queue,
            self.converter,
            writer,
            self.outlet,
            self.ledger,
            options,
            self.warn_once,
            clock=running,
            ended=keeper.stop,
            now_and_then=self._counters.start_if_wanted,
        )
        keeping = [] if home.folder is None else [keeper]
        self._threads: list[BackgroundThread] = [self.encoder, *keeping, *self.outlet.threads]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def flush(self, timeout: float | None, *, on_any_error: bool) -> bool:
        """Wait until everything accepted so far has been delivered or given up.

        Args:
            timeout: Longest wait in seconds; None for no limit.
            on_any_error: Whether to stop waiting after a single error of a sink.

        Returns:
            True if that happened before the timeout.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        in_journal = self.encoder.flush(timeout)
        left = None if deadline is None else deadline - time.monotonic()
        is_down = functools.partial(self.outlet.is_down, on_any_error=on_any_error)
        return in_journal and self._log.wait_until_settled(left, is_down)

    def end(self, timeout: float, *, patient: bool) -> None:
        """Drain the pipeline and end all threads.

        What cannot be delivered before the timeout stays in the journal.

        Args:
            timeout: Longest wait in seconds.
            patient: Whether failing sinks are retried for most of that time.
        """
        deadline = time.monotonic() + timeout
        self.queue.close()
        self._log.leave(RELEASE)  # first, so that the last one to leave is a thread
        self.encoder.stop()
        self.outlet.stop()
        # The last quarter is for one last attempt at each failing sink.
        if not patient or not self._join(deadline - 0.25 * timeout):
            self.outlet.hurry.set()
        if self._join(deadline):
            self.outlet.close()
        self._counters.finish(max(_COUNTERS_SECONDS, deadline - time.monotonic()))

    def detach(self) -> None:
        """Leave all work to the parent process. Called in a forked process."""
        changed = threading.Condition()
        self.ledger.detach()
        self.queue.detach()
        self._log.changed = changed
        self._files.detach()
        self.outlet.detach(changed)

    def stats(self) -> Stats:
        """Return the counts so far."""
        recovered = self.outlet.recovered.stats()
        return self.ledger.stats()._replace(
            spooled_bytes=self._log.room.journal_bytes + self.outlet.journal_bytes,
            recovered=recovered.written,
            recovered_failed=recovered.failed,
            lag_seconds=self._age(),
            at_risk_seconds=self.at_risk_seconds(),
        )

    def at_risk_seconds(self) -> float:
        """Return the age in seconds of the oldest example that a SIGKILL would lose."""
        return self._age(in_memory=True)

    def _age(self, *, in_memory: bool = False) -> float:
        """Return the age in seconds of the oldest waiting example; `in_memory`: as in `Log`."""
        oldest = (self._log.oldest(in_memory=in_memory), self.encoder.oldest())
        now = time.monotonic()
        return now - min((at for at in oldest if at is not None), default=now)

    def error(self) -> BaseException | None:
        """Return the error that ended the encoder's thread, else the first error of a sink."""
        return self.encoder.died or self.outlet.first_error()

    def _release(self) -> None:
        """Release the journal and keep the final counts. Called by the last thread that ends."""
        self._files.release()
        self._kept.end()

    def _join(self, deadline: float) -> bool:
        """Wait for all threads until `deadline`; return True if all have ended."""
        return all(thread.join(deadline - time.monotonic()) for thread in self._threads)
