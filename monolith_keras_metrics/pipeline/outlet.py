"""`Outlet`: the sinks, a thread for each, and what crashed processes left for them."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.journal.files import SpoolFiles
from monolith_keras_metrics.journal.regular import probe
from monolith_keras_metrics.journal.spool import RECOVERY, Spool
from monolith_keras_metrics.pipeline.adoption import Adoption
from monolith_keras_metrics.pipeline.delivery import Delivery
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.sinks import Sink
from monolith_keras_metrics.threads import BackgroundThread


class Outlet:
    """Delivers from journals to sinks. A pipeline ends in one; `recover` is one without an encoder.

    Args:
        sinks: The open sinks.
        folder: The folder of the journals; None if there is none.
        identities: The names by which journals know the sinks. What is for others is left alone.
        spool: This process's own journal; None if it only delivers what others left.
        changed: What those who wait for anything in a journal wait on.
        retry_seconds: As of `Options`.
        clock: Returns the seconds for which this process has run.
        redirect: Whether the sinks get what was for others, too.

    Attributes:
        hurry: Once set, what fails is not tried again: the process wants to end.
        deliveries: A thread a sink.
        recovered: What becomes of records that crashed processes left.
        adoption: The thread that adopts these; None without a folder.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        folder: pathlib.Path | None,
        identities: tuple[str, ...],
        *,
        spool: Spool | None = None,
        changed: threading.Condition | None = None,
        retry_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        redirect: bool = False,
    ) -> None:
        self.hurry = threading.Event()
        self.recovered = Ledger()
        self._decoder = Decoder(frozenset() if folder is None else probe(folder).uids)
        self._left = Spool(
            [bool(getattr(sink, "gathers", False)) for sink in sinks],
            SpoolFiles(None),
            changed or threading.Condition(),
            self.recovered,
            threads=[RECOVERY],
            read=self._decoder.read,
        )
        self.adoption = (
            None
            if folder is None
            else Adoption(
                self._left,
                folder,
                identities,
                idle=self._decoder.close,
                redirect=redirect,
                again=spool is not None,
                hurry=self.hurry,
            )
        )
        spools = [self._left] if self.adoption is not None else []
        spools += [spool] if spool is not None else []
        self.deliveries = [
            Delivery(sink, number, spools, retry_seconds, self.hurry, clock)
            for number, sink in enumerate(sinks)
        ]
        adopting = [] if self.adoption is None else [self.adoption]
        self.threads: list[BackgroundThread] = [*adopting, *self.deliveries]

    @property
    def journal_bytes(self) -> int:
        """The size of what crashed processes left, in bytes."""
        return self._left.bytes

    def stop(self) -> None:
        """Adopt nothing more; let others have what is not delivered. Does not wait."""
        if self.adoption is not None:
            self.adoption.stop()
        self._left.release()

    def close(self) -> None:
        """End the helper process, when all threads have ended."""
        self._decoder.close()

    def detach(self, changed: threading.Condition) -> None:
        """In a forked process: release what belongs to the process that it came from."""
        self.recovered.detach()
        self._left.detach(changed)
        self._decoder.detach()

    def is_down(self, *, on_any_error: bool) -> bool:
        """Return True if a sink keeps failing, so that nobody should wait for it.

        Args:
            on_any_error: Whether one error is enough.
        """
        return any(
            delivery.is_down() or (on_any_error and delivery.error is not None)
            for delivery in self.deliveries
        )

    def first_error(self) -> BaseException | None:
        """Return what a sink raised first; None if none did."""
        errors = (delivery.first_error for delivery in self.deliveries)
        return next((error for error in errors if error is not None), None)
