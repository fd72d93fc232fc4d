"""Background threads, and what they share: a clock, warnings that are logged once, an exit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from absl import logging


class BackgroundThread:
    """A daemon thread that runs a function.

    A signal handler's exception may interrupt `Thread.join`, which up to Python 3.12 then considers
    the thread ended. So an event marks the end here.

    Args:
        target: The function to run. It should not raise.
        name: The thread's name.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self._target = target
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Request the end of the thread. Does not wait."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end. Return True if it came."""
        return self._ended.wait(bounded(timeout))

    def is_alive(self) -> bool:
        """Return True unless the thread has ended."""
        return not self._ended.is_set()

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended.set()


def bounded(timeout: float) -> float:
    """Return a timeout in seconds, limited to what a lock accepts."""
    return min(max(0.0, timeout), threading.TIMEOUT_MAX)


class RunningClock:
    """A clock of the seconds that this process has been running.

    While a process is stopped (SIGSTOP, a sleeping machine), no sink or thread can respond, so a
    pause does not mean that one hangs: it counts as 2 seconds at most. The clock must be read more
    often than that, which the background threads do.

    Args:
        clock: Monotonic seconds, with or without pauses.
    """

    _LONGEST_STEP = 2.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._seen_at = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        with self._lock:
            now = self._clock()
            self._seconds += min(now - self._seen_at, self._LONGEST_STEP)
            self._seen_at = now
            return self._seconds


class WarnOnce:
    """Log a warning once for each subject, until the subject is forgotten."""

    def __init__(self) -> None:
        self._subjects: set[object] = set()

    def __call__(self, subject: object, message: str, *args: object) -> bool:
        """Log a warning, unless that was done for the subject before.

        Args:
            subject: What the warning is about. Must be hashable.
            message: The message without its prefix, with places for `args` as in `logging`.
            *args: The values for the message.

        Returns:
            True if it was logged.
        """
        if subject in self._subjects:
            return False
        self._subjects.add(subject)
        logging.warning("Deep insight: " + message, *args)
        return True

    def __contains__(self, subject: object) -> bool:
        return subject in self._subjects

    def forget(self, subject: object) -> bool:
        """Have the next warning about a subject logged again; return True if one was logged."""
        known = subject in self._subjects
        self._subjects.discard(subject)
        return known
