"""`LedgerKeeper`: keep a process's counts beside its records, where a reader finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.coverage import COUNTS, Coverage
from monolith_keras_metrics.sinks.destination import Destination
from monolith_keras_metrics.threads import WarnOnce


class LedgerKeeper:
    """Keep the ledger in each destination that has a place for it.

    The thread of a sink calls `keep` after each file of records, and the last thread that ends
    calls `end`. Both write to disk, so no lock may be held. They never raise: the counts must not
    cost records. A failure is logged once.

    Args:
        destinations: The destinations of the records.
        origin: The process that writes.
        ledger: The counts.
        warn_once: Logs warnings.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        destinations: Sequence[Destination],
        origin: Origin,
        ledger: Ledger,
        warn_once: WarnOnce,
        clock: Callable[[], float],
    ) -> None:
        self._destinations = destinations
        self._origin = origin
        self._ledger = ledger
        self._warn_once = warn_once
        self._clock = clock

    def keep(self, number: int, *, ended: bool = False) -> None:
        """Keep the present counts in one destination.

        Args:
            number: The destination's number.
            ended: Whether the counts are final.
        """
        as_of, stats = self._clock(), self._ledger.stats()
        if not stats.accepted:  # a process that recorded nothing leaves nothing
            return
        counts = {name: getattr(stats, name) for name in COUNTS}
        coverage = Coverage(run=self._origin.run, as_of=as_of, ended=ended, **counts)
        try:
            self._destinations[number].keep(self._origin, coverage)
        except Exception as error:
            self._warn_once(
                "ledger",
                "the counts of examples cannot be kept in %s, so `insight.coverage` does not have "
                "the latest. Records are not affected. %s: %s",
                self._destinations[number],
                type(error).__name__,
                error,
            )

    def end(self) -> None:
        """Keep the final counts in all destinations."""
        for number in range(len(self._destinations)):
            self.keep(number, ended=True)
