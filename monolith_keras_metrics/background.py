"""A thread whose end can be awaited, whatever interrupts the wait."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundThread:
    """Runs a function in a daemon thread.

    An exception that a signal handler raises may come out of `Thread.join`, which up to Python 3.12
    then takes the thread for ended; so the end is told by an event here.

    Args:
        target: What to run; it should raise nothing.
        name: The thread's name.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to run it."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Waits for the end, at most `timeout` seconds; returns whether it came."""
        return self._ended.wait(bounded(timeout))

    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended.set()


def bounded(timeout: float) -> float:
    """Returns a number of seconds that a lock can be waited for."""
    return min(max(0.0, timeout), threading.TIMEOUT_MAX)
