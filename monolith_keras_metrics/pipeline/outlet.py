"""`Outlet`: the sinks, one thread for each, and the recovery of crashed processes' records."""

from __future__ import annotations

import functools
import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.journal.leftovers import Leftovers
from monolith_keras_metrics.journal.log import RELEASE, Log
from monolith_keras_metrics.journal.reader import Reader
from monolith_keras_metrics.pipeline.adoption import Adoption
from monolith_keras_metrics.pipeline.delivery import Delivery
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.pipeline.retries import Retries
from monolith_keras_metrics.sinks import Sink
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce


class Outlet:
    """Deliver records from journals to sinks.

    A pipeline ends in an outlet. `recover` uses an outlet without an encoder.

    Args:
        sinks: The open sinks.
        folder: The folder of the journals; None if there is none.
        identities: The identities of the sinks in journals. Records for others are left alone.
        log: The log of this process; None to only deliver records of crashed processes.
        retry_seconds: As in `Options`.
        clock: Returns the seconds for which this process has run.
        redirect: Whether to deliver records for other sinks to these sinks, too.
        keep: Keeps the counts of this process where the sink with a number writes.

    Attributes:
        hurry: Event that stops retries, because the process is about to exit.
        deliveries: The threads of the sinks, one for each.
        recovered: Counts of what becomes of crashed processes' records.
        adoption: The thread that adopts crashed processes' journals; None without a folder.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        folder: pathlib.Path | None,
        identities: tuple[str, ...],
        *,
        log: Log | None = None,
        retry_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        redirect: bool = False,
        keep: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.hurry = threading.Event()
        self.recovered = Ledger()
        self._decoder = Decoder()
        changed = threading.Condition() if log is None else log.changed
        self._leftovers = Leftovers(len(sinks), changed, self.recovered)
        self.adoption: Adoption | None = None
        if folder is not None:
            self.adoption = Adoption(
                self._leftovers,
                folder,
                None if redirect else identities,
                idle=self._decoder.close,
                again=log is not None,
                hurry=self.hurry,
            )
        self._warn_once = WarnOnce()
        self.deliveries: list[Delivery] = []
        for number, sink in enumerate(sinks):
            gathers = gathering(sink)
            readers = []
            if folder is not None:
                readers.append(Reader(self._leftovers.log, number, gathers, self._decoder.read))
            if log is not None:
                readers.append(Reader(log, number, gathers))
            retries = Retries(sink, retry_seconds, self.hurry, clock)
            self.deliveries.append(
                Delivery(number, retries, readers, functools.partial(keep, number))
            )
        adopting = [] if self.adoption is None else [self.adoption]
        self.threads: list[BackgroundThread] = [*adopting, *self.deliveries]

    @property
    def journal_bytes(self) -> int:
        """The size of crashed processes' journals, in bytes."""
        return self._leftovers.log.room.journal_bytes

    def progress(self) -> tuple[int, int]:
        """Return what changes whenever crashed processes' records get further: two counts."""
        advances = sum(delivery.retries.advances for delivery in self.deliveries)
        return self.recovered.stats().spooled, advances

    def stop(self) -> None:
        """Adopt no more journals, and release those that are not delivered. Does not wait."""
        if self.adoption is not None:
            self.adoption.stop()
        self._leftovers.log.leave(RELEASE)

    def close(self) -> None:
        """End the child process that decodes journals. All threads must have ended."""
        self._decoder.close()

    def detach(self, changed: threading.Condition) -> None:
        """Release what belongs to the parent process. Called in a forked process."""
        self.recovered.detach()
        self._leftovers.log.changed = changed
        self._leftovers.detach()
        self._decoder.detach()

    def give_up(self) -> int:
        """Give up the next records of sinks that are down; return their number."""
        rows = 0
        for delivery in self.deliveries:
            if given_up := delivery.give_up():
                self._warn_once(
                    delivery,
                    "%r has been down for %g s and the journal is full: %d examples are given up. "
                    "More are given up as new ones arrive (see `stats`)",
                    delivery.sink,
                    delivery.retries.retry_seconds,
                    given_up,
                )
                rows += given_up
        return rows

    def is_down(self, *, on_any_error: bool) -> bool:
        """Return True if a sink is failing, so that nobody should wait for it.

        Args:
            on_any_error: Whether a single error is enough.
        """
        return any(
            delivery.is_down() or (on_any_error and delivery.retries.error is not None)
            for delivery in self.deliveries
        )

    def first_error(self) -> BaseException | None:
        """Return the first error of the first sink that has one; None if there is none."""
        errors = (delivery.retries.first_error for delivery in self.deliveries)
        return next((error for error in errors if error is not None), None)


def gathering(sink: Sink) -> bool:
    """Return True if a sink takes complete segments only."""
    return bool(getattr(sink, "gathers", False))
