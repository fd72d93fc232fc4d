"""Threads in the background: how their end, and their silence, can be told."""

from __future__ import annotations

import threading
import time
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


class RunningClock:
    """Seconds for which this process has run, since some moment.

    While a process is stopped (SIGSTOP, a machine that sleeps) nobody can answer anybody, so that
    a pause is no sign of a sink or a thread that hangs: it counts as 2 seconds at most. Somebody
    must ask more often than that: the threads here do.

    Args:
        clock: Seconds that only grow, pauses or not.
    """

    _LONGEST_STEP = 2.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._seen_at = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Returns the seconds so far."""
        with self._lock:
            now = self._clock()
            self._seconds += min(now - self._seen_at, self._LONGEST_STEP)
            self._seen_at = now
            return self._seconds
