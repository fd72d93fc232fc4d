"""`Backend`: what the back ends share. Emitting adds a number in memory; a thread sends.

Guarantees:

- `emit_*` never waits for a disk or a network, and never raises.
- A receiver that hangs or is away costs its numbers at most. It is tried again, at longer and
  longer intervals, and one warning says so.
- A process that forked has no back end: it emits nothing, sends nothing, and does not keep the
  parent's port.
"""

from __future__ import annotations

import abc
import os
import threading
from typing import Any

from monolith_keras_metrics import cli
from monolith_keras_metrics.counters.series import MOST_SERIES, Kind, Values
from monolith_keras_metrics.threads import BackgroundThread, WarnOnce, bounded

SEND_SECONDS = 5.0
"""Default interval between sends, in seconds."""

THREAD = "deep-insight-metrics"
"""Name of the threads that send."""

_MOST_DOUBLINGS = 4  # of the interval, after failures


class Backend(abc.ABC):
    """A back end for `cli.set_backend`.

    Call it with a prefix for a metrics client. All its clients share the values.

    Args:
        receiver: The receiver's name for warnings, without secrets.
        seconds: Interval between sends.
        most_series: Most series in memory.
    """

    def __init__(
        self, receiver: str, seconds: float = SEND_SECONDS, most_series: int = MOST_SERIES
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive. Received: seconds={seconds!r}")
        self.values = Values(most_series)
        self._receiver = receiver
        self._seconds = seconds
        self._pid = os.getpid()
        self._warn_once = WarnOnce()
        self._changed = threading.Condition()  # of the next four
        self._asked = self._tried = 0  # flushes
        self._sent = 0  # version of the values
        self._closing = False
        self._thread = BackgroundThread(self._send_until_closed, THREAD)

    def __call__(self, prefix: str = "", *_: object, **__: object) -> cli.MetricsClient:
        """Return a metrics client whose names begin with `prefix` and a dot."""
        return _Client(self, f"{prefix}." if prefix else "")

    def emit(self, kind: Kind, name: str, value: float, tags: dict[str, str]) -> None:
        """Add a value in memory. Does nothing in a forked process."""
        if self._pid == os.getpid():  # before any lock, which another thread may have had
            self.values.add(kind, name, value, tags)

    def flush(self, timeout: float) -> bool:
        """Send what was emitted so far.

        Args:
            timeout: Longest wait in seconds.

        Returns:
            True if the receiver got it before the timeout, or there is nothing to send.
        """
        if self._pid != os.getpid():
            return True
        with self._changed:
            version = self.values.version
            if self._sent >= version:
                return True
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._tried >= asked, bounded(timeout))
            return self._sent >= version

    def close(self, timeout: float = 2.0) -> None:
        """Send what was emitted, then end the thread. Waits at most `timeout` seconds.

        A back end at which nothing is emitted any more need not be closed, except to free its port.
        """
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    @abc.abstractmethod
    def _send(self) -> None:
        """Send the values. Called in the back end's thread. Raises if that fails."""

    def _release(self) -> None:
        """Release what is held open. Called in the back end's thread, at its end."""

    def _send_until_closed(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._asked > self._tried or self._closing,
                    self._seconds * 2 ** min(failures, _MOST_DOUBLINGS),
                )
                asked, closing, sent = self._asked, self._closing, self._sent
            version = self.values.version
            if version > sent:
                failures = 0 if self._is_sent() else failures + 1
            with self._changed:
                self._tried = asked
                if not failures:
                    self._sent = version
                self._changed.notify_all()
            if closing:
                self._release()
                return

    def _is_sent(self) -> bool:
        try:
            self._send()
        except Exception as error:
            self._warn_once(
                "failed",
                "counters do not reach %s. It is tried again. %s: %s",
                self._receiver,
                type(error).__name__,
                error,
            )
            return False
        self._warn_once.forget("failed")
        return True


class _Client:
    """A metrics client of a `Backend`."""

    def __init__(self, backend: Backend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix

    def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
        self._backend.emit("counter", self._prefix + name, value, tags)

    def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:
        self._backend.emit("store", self._prefix + name, value, tags)

    def emit_timer(self, name: str, value: float, tags: dict[str, str]) -> None:
        self._backend.emit("timer", self._prefix + name, value, tags)


def missing(package: str, extra: str, error: ImportError) -> ImportError:
    """Return the error for a package that is not installed, or not in a version that is needed."""
    return ImportError(
        f"This back end needs {package}: pip install 'monolith-keras-metrics[{extra}]'. {error}"
    )


def check_port(port: Any) -> int:
    """Return a port after a check.

    Raises:
        ValueError: If it is not an integer from 0 to 65535.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"`port` must be an integer from 0 to 65535. Received: port={port!r}")
    return port
