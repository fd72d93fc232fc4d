"""Emit the counts of examples to the metrics client at regular intervals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

from monolith_keras_metrics import cli
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

_COUNTERS = ("accepted", "sampled", "unsampled", "written", "dropped", "failed")


class CounterEmitter(BackgroundThread):
    """Emit the growth of each count since it was last emitted.

    Runs in a separate thread, because a back end that hangs must not stop anything else. The thread
    starts once a back end is set.

    Args:
        ledger: The counts.
        tags: Tags of the counters; None for no counters.
        seconds: Interval between emissions.
    """

    def __init__(self, ledger: Ledger, tags: Mapping[str, str] | None, seconds: float) -> None:
        super().__init__(self._emit_until_stopped, "deep-insight-counters")
        self._ledger = ledger
        self._tags = None if tags is None else dict(tags)
        self._seconds = seconds
        self._emitted: dict[str, int] = {}
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
        self._emit()

    def _emit(self) -> None:
        try:
            client, stats = cli.get_cli(), self._ledger.stats()
            for name in _COUNTERS:
                value = getattr(stats, name)
                if delta := value - self._emitted.get(name, 0):
                    client.emit_counter(f"deep_insight.{name}", delta, dict(self._tags or {}))
                self._emitted[name] = value
        except Exception as error:  # a failing back end must cost counters only, not records
            self._warn_once("failed", "cannot emit counters. %s: %s", type(error).__name__, error)
