"""`Session`: the client that is open while a call of `fit` or `evaluate` is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monolith_keras_metrics.capture.fit_scope import FitScope
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.pipeline.options import Options
from monolith_keras_metrics.sinks import Destination


class Session:
    """An open client, for the length of one Keras call.

    Args:
        model: The model.
        mode: `"train"` for `fit`, `"test"` for `evaluate`.
        destinations: Where to write.
        options: How records are written.

    Raises:
        OSError: If a sink is not writable.
    """

    def __init__(
        self, model: Any, mode: str, destinations: Sequence[Destination], options: Options
    ) -> None:
        self.mode = mode
        self.client = DeepInsightClient(destinations, options)
        self._destinations = destinations
        # Keras does not notify callbacks if `fit` raises outside a step.
        self._scope = FitScope(model)
        self.client.handle_signals(self._scope.is_over)
        self.client.close_when(self._scope.is_over)

    def is_over(self) -> bool:
        """Return True if the call has ended."""
        return self._scope.is_over()

    def close(self, *, raising: bool) -> None:
        """Write pending records.

        Args:
            raising: Whether to raise the error of a sink; see `DeepInsightClient.close`.
        """
        try:
            self.client.close(raising=raising)
        finally:
            self._scope.end()

    def summary(self) -> str:
        """Return what was written, and what was lost, as a sentence."""
        stats, spool = self.client.stats(), self.client.spool_folder
        text = f"Deep insight: {stats.written:,} of {stats.accepted:,} examples written"
        if self._destinations:
            text += f" to {', '.join(map(str, self._destinations))}"
        if stats.recovered:
            text += f", and {stats.recovered:,} recovered from earlier runs"
        if stats.spooled:
            text += f"; {stats.spooled:,} in {spool} for the next run to deliver"
        late = stats.waiting - stats.spooled
        if lost := stats.failed + stats.dropped + late:
            text += (
                f"; {lost:,} LOST ({stats.failed:,} failed, {stats.dropped:,} dropped, {late:,} "
                "not delivered in time)"
            )
        if stats.recovered_failed:
            text += f"; {stats.recovered_failed:,} from earlier runs LOST"
        return text
