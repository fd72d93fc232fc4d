"""A thread for each publisher, which gives it what it does not have yet, in order."""

from __future__ import annotations

import threading

from absl import logging

from monolith_keras_metrics.insight.publish.publisher import Publisher
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce

_AT_ONCE = 50  # items that are noted at a time
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds after a failure


class Delivery:
    """The thread of one publisher.

    A publisher that hangs or fails delays nobody else. What it lacks stays in the store.

    Args:
        publisher: The publisher.
        store: Where the items are.
    """

    def __init__(self, publisher: Publisher, store: Store) -> None:
        self.publisher = publisher
        self._store = store
        self._warn_once = WarnOnce()
        self._changed = threading.Condition()
        self._woken = 0
        self._idle_since = -1  # which waking found nothing left
        self._restored = False
        self._failures = 0  # since it last had everything
        self._stopping = False
        self._thread = BackgroundThread(self._run, f"deep-insight publish {publisher.identity:.40}")

    def start(self) -> None:
        """Start to deliver what is there."""
        self._store.register(self.publisher.identity)
        self.wake()
        self._thread.start()

    def wake(self) -> None:
        """Deliver what is new."""
        with self._changed:
            self._woken += 1
            self._changed.notify_all()

    def drain(self, timeout: float | None, tries: int) -> bool:
        """Wait until everything is delivered.

        Args:
            timeout: How long to wait; None for as long as it succeeds.
            tries: After how many failures one after the other not to wait any longer.

        Returns:
            True if everything was delivered.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_woken or self._failures >= tries, timeout)
            return not self._is_woken

    def has_failed(self, tries: int) -> bool:
        """Return True if it has failed so often, one time after the other."""
        with self._changed:
            return self._failures >= tries

    def stop(self, timeout: float) -> None:
        """End the thread. Does not wait longer for a publisher that hangs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)

    @property
    def _is_woken(self) -> bool:
        return self._woken > self._idle_since

    def _run(self) -> None:
        while True:
            with self._changed:
                woken = self._woken
                if self._stopping:
                    break
            if self._is_delivered():
                with self._changed:
                    self._failures = 0
                    self._idle_since = woken
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping or self._is_woken)
            else:
                with self._changed:
                    wait = min(_FIRST_WAIT * 2**self._failures, _LONGEST_WAIT)
                    self._failures = min(self._failures + 1, 10)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping, wait)
        try:
            self.publisher.close()
        except Exception as error:
            logging.warning("deep-insight watch: %s: %s", self.publisher.identity, error)

    def _is_delivered(self) -> bool:
        """Return True if the publisher has everything now."""
        identity = self.publisher.identity
        try:
            if not self._restored:
                if shown := self._store.shown(identity):
                    self.publisher.restore(shown)
                self._restored = True
            while True:
                items, attempted = self._store.waiting(identity, _AT_ONCE)
                for item in items:
                    if self._stopping:
                        return False
                    self.publisher.publish(item, maybe_there=item.number <= attempted)
                    self._store.delivered(identity, item.number)
                if not items:
                    self._warn_once.forget("failed")
                    return True
        except Exception as error:
            self._warn_once(
                "failed",
                "%s cannot be reached, and is tried again; nothing is lost. %s: %s",
                *(identity, type(error).__name__, error),
            )
            return False
