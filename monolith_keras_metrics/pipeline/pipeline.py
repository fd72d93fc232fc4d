"""`Pipeline`: queue, encoder, journal and sinks, wired together and ended in order."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from monolith_keras_metrics.journal.files import SpoolFiles
from monolith_keras_metrics.journal.keeper import JournalKeeper
from monolith_keras_metrics.journal.spool import ENCODER, KEEPER, Spool
from monolith_keras_metrics.pipeline.encoder import Encoder
from monolith_keras_metrics.pipeline.journal_home import JournalHome
from monolith_keras_metrics.pipeline.ledger import Ledger, Stats
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.pipeline.outlet import Outlet
from monolith_keras_metrics.pipeline.queue import RowQueue
from monolith_keras_metrics.sinks import Sink
from monolith_keras_metrics.threads import BackgroundThread, RunningClock


class Pipeline:
    """Gets batches from a queue to every sink.

    Args:
        sinks: The open sinks.
        home: The journal.
        options: How records are written.
        now_and_then: Called a few times a second by a thread; it must not wait.

    Attributes:
        ledger: What becomes of examples.
        queue: Where batches are put.
        encoder: The thread that takes them from there.
        outlet: The sinks and their threads.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        home: JournalHome,
        options: Options,
        *,
        now_and_then: Callable[[], None] = lambda: None,
    ) -> None:
        changed = threading.Condition()
        running = RunningClock()
        self.ledger = Ledger()
        self.queue = RowQueue(self.ledger, options.queue_rows, options.memory_bytes)
        self._spool = Spool(
            [bool(getattr(sink, "gathers", False)) for sink in sinks],
            SpoolFiles(home.claim, home.header),
            changed,
            self.ledger,
            memory_rows=options.queue_rows,
            memory_bytes=options.memory_bytes,
            spool_bytes=options.spool_bytes,
            segment_seconds=options.file_seconds,
            threads=[ENCODER] if home.claim is None else [ENCODER, KEEPER],
        )
        self.outlet = Outlet(
            sinks,
            home.folder,
            () if home.header is None else home.header.sinks,
            spool=self._spool,
            changed=changed,
            retry_seconds=options.retry_seconds,
            clock=running,
        )
        self._keeper = (
            None
            if home.claim is None
            else JournalKeeper(self._spool, home.claim, options.flush_seconds, self.at_risk_seconds)
        )
        self.encoder = Encoder(
            self.queue,
            self._spool,
            self.ledger,
            self.outlet.deliveries,
            home.origin if home.is_named else None,
            options,
            hurry=self.outlet.hurry,
            clock=running,
            ended=self._encoder_ended,
            now_and_then=now_and_then,
        )
        keeping = [] if self._keeper is None else [self._keeper]
        self._threads: list[BackgroundThread] = [self.encoder, *keeping, *self.outlet.threads]

    @property
    def journal_folder(self) -> pathlib.Path | None:
        """The folder of the journal; None where records wait in memory alone."""
        return self._spool.folder

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def flush(self, timeout: float | None, *, on_any_error: bool) -> bool:
        """Wait until all that was accepted before is in the sinks, or was given up.

        Args:
            timeout: Seconds; None for no bound.
            on_any_error: Whether a sink that failed once is not waited for.

        Returns:
            True if that was so in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        in_journal = self.encoder.flush(timeout)
        left = None if deadline is None else deadline - time.monotonic()

        def is_down() -> bool:
            return self.outlet.is_down(on_any_error=on_any_error)

        return in_journal and self._spool.wait_until_settled(left, is_down)

    def sync(self) -> None:
        """Make what the journal holds safe from a machine that stops."""
        self._spool.sync()

    def end(self, timeout: float, *, patient: bool) -> None:
        """Drain, and end all threads; what cannot be delivered in time stays in the journal.

        Args:
            timeout: Seconds, at most.
            patient: Whether sinks that fail are tried again for most of the time.
        """
        deadline = time.monotonic() + timeout
        self.queue.close()
        self.encoder.stop()
        self._spool.release()
        self.outlet.stop()
        # Failing sinks are tried again for most of the time, then once more in the rest.
        if not patient or not self._join(deadline - 0.25 * timeout):
            self.outlet.hurry.set()
        if self._join(deadline):
            self.outlet.close()

    def detach(self) -> None:
        """In a forked process: leave everything to the process that it came from."""
        changed = threading.Condition()
        self.ledger.detach()
        self.queue.detach()
        self._spool.detach(changed)
        self.outlet.detach(changed)

    def stats(self) -> Stats:
        """Return the counts so far."""
        fates = self.ledger.fates()._asdict()
        recovered = self.outlet.recovered.fates()
        oldest = [at for at in (self._spool.oldest(), self.encoder.oldest()) if at is not None]
        return Stats(
            spooled=fates.pop("journaled"),
            **fates,
            spooled_bytes=self._spool.bytes + self.outlet.journal_bytes,
            recovered=recovered.written,
            recovered_failed=recovered.failed,
            lag_seconds=time.monotonic() - min(oldest) if oldest else 0.0,
            at_risk_seconds=self.at_risk_seconds(),
        )

    def at_risk_seconds(self) -> float:
        """Return the age of the oldest example that a kill would lose."""
        oldest = (self._spool.oldest(in_memory=True), self.encoder.oldest())
        now = time.monotonic()
        return now - min((at for at in oldest if at is not None), default=now)

    def error(self) -> BaseException | None:
        """Return what ended the encoder's thread, or what a sink raised first."""
        return self.encoder.died or self.outlet.first_error()

    def _join(self, deadline: float) -> bool:
        """Wait for the end of all threads until `deadline`; return True if all have ended."""
        ended = [thread.join(deadline - time.monotonic()) for thread in self._threads]
        return all(ended)

    def _encoder_ended(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()
