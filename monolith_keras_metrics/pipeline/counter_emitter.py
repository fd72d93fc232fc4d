"""Emit the counts of examples to the metrics client at regular intervals."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from monolith_keras_metrics import cli
from monolith_keras_metrics.pipeline.ledger import Stats
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

_COUNTERS = ("accepted", "sampled", "unsampled", "written", "dropped", "failed")
_STORES = ("waiting", "lag_seconds", "spooled_bytes")
_LONGEST_SECONDS = 5.0  # so that a training that is stuck can be told from a quiet one


class CounterEmitter(BackgroundThread):
    """Emit the growth of each count since it was last emitted, and how things stand.

    Runs in a separate thread, because a back end that hangs must not stop anything else. The thread
    starts once a back end is set.

    Args:
        stats: Returns the counts.
        steps: Returns the number of batches.
        tags: Tags of the counters; None for no counters.
        worker: The worker's number, another tag.
        seconds: Interval between emissions. It is 5 seconds at most.
    """

    def __init__(
        self,
        stats: Callable[[], Stats],
        steps: Callable[[], int],
        tags: Mapping[str, str] | None,
        *,
        worker: int,
        seconds: float,
    ) -> None:
        super().__init__(self._emit_until_stopped, "deep-insight-counters")
        self._stats = stats
        self._steps = steps
        self._tags = None if tags is None else {"worker": str(worker), **tags}
        self._seconds = min(seconds, _LONGEST_SECONDS)
        self._emitted: dict[str, int] = {}
        self._emitted_at = time.monotonic()
        self._starting = threading.Lock()
        self._started = False
        self._warn_once = WarnOnce()

    def start_if_wanted(self) -> None:
        """Start the thread if a back end is set and the thread is not running yet."""
        is_over = self._started or self._stopping.is_set()
        if is_over or self._tags is None or not cli.has_backend():
            return
        with self._starting, contextlib.suppress(RuntimeError):  # too many threads
            if not self._started:
                self.start()
                self._started = True

    def finish(self, timeout: float) -> None:
        """Emit once more and end the thread. Waits at most `timeout` seconds."""
        self.start_if_wanted()
        self.stop()
        if self._started:
            self.join(timeout)

    def _emit_until_stopped(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._emit()
        self._emit(ending=True)

    def _emit(self, *, ending: bool = False) -> None:
        try:
            self._emit_counts(cli.get_cli(), ending=ending)
        except Exception as error:  # a failing back end must cost counters only, not records
            self._warn_once("failed", "cannot emit counters. %s: %s", type(error).__name__, error)

    def _emit_counts(self, client: cli.MetricsClient, *, ending: bool) -> None:
        stats, tags = self._stats(), self._tags or {}
        now = time.monotonic()
        counts = {name: getattr(stats, name) for name in _COUNTERS} | {"steps": self._steps()}
        growth = {name: value - self._emitted.get(name, 0) for name, value in counts.items()}
        for name, delta in growth.items():
            if delta or name not in self._emitted:  # each is there from the start, to alarm on
                client.emit_counter(f"deep_insight.{name}", delta, dict(tags))
            self._emitted[name] = counts[name]
        stores = {name: float(getattr(stats, name)) for name in _STORES}
        if growth["accepted"]:
            stores["last_record_timestamp_seconds"] = time.time()
        seconds, self._emitted_at = now - self._emitted_at, now
        for name, count in (("steps", "steps"), ("examples", "accepted")):
            # A training that has ended does no more steps.
            rate = 0.0 if ending or seconds <= 0 else growth[count] / seconds
            stores[f"{name}_per_second"] = rate
        for name, value in stores.items():
            client.emit_store(f"deep_insight.{name}", value, dict(tags))
