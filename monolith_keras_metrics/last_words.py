"""Threads that a signal handler can use to end the process after a few last calls.

A signal handler must not wait, and Python starts no new thread once it is shutting down. So the
threads exist beforehand and wait; the handler only releases a lock. They are raw threads without
`threading`'s locks, because the interrupted main thread may hold any of those.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import time
from collections.abc import Callable, Iterable

Words = Callable[[], object]


class LastWords:
    """Threads that call functions in turn and then end the process, within a time limit.

    Args:
        words: Returns the functions to call.
        seconds: Time limit for all calls together. A call that hangs ends with the process.
    """

    def __init__(self, words: Callable[[], Iterable[Words]], seconds: float) -> None:
        self._words = words
        self._seconds = seconds
        self._status = 0
        self._ready_in: int | None = None  # the process that has the threads

    def prepare(self) -> None:
        """Start the waiting threads, unless this process already has them."""
        if self._ready_in == os.getpid():
            return
        self._asked, self._begun, self._spoken = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._asked, self._begun, self._spoken):
            lock.acquire()
        try:
            _thread.start_new_thread(self._speak, ())
            _thread.start_new_thread(self._end, ())
        except RuntimeError:  # no more threads can be started: `speak` returns False
            return
        self._ready_in = os.getpid()

    def speak(self, status: int) -> bool:
        """Make the threads call the functions and end the process. Return without waiting.

        Takes no lock, so that a signal handler can call it. Call it once.

        Args:
            status: The exit status.

        Returns:
            True if the process is going to end; False if it has no such threads.
        """
        if self._ready_in != os.getpid():
            return False
        self._status = status
        self._asked.release()
        return True

    def _end(self) -> None:
        self._asked.acquire()
        self._begun.release()
        self._spoken.acquire(timeout=self._seconds)
        os._exit(self._status)

    def _speak(self) -> None:
        self._begun.acquire()
        deadline = time.monotonic() + self._seconds
        for words in self._words():
            if time.monotonic() < deadline:
                with contextlib.suppress(BaseException):  # the other functions are called even so
                    words()
        self._spoken.release()
