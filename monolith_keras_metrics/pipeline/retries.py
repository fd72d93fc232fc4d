"""Call a sink until it succeeds, and tell whether it is down.

A failing sink is retried with growing pauses. The failure is logged once, and so is the recovery.
An error that may pass (no space, no permission, no connection; see `sinks.errors.may_pass`) is
retried for as long as records can wait in the journal. Any other error may be caused by the records
themselves: they are given up after `retry_seconds`, so that they do not block all others. A sink
that has got further (`UnfinishedError`) is not failing: it is called again at once.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TypeVar

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks import RejectedError, Sink, UnfinishedError
from monolith_keras_metrics.sinks.errors import may_pass
from monolith_keras_metrics.threads import WarnOnce

_FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Minimum time before a busy sink counts as hung.
_HANG_SECONDS = 1.0

_Result = TypeVar("_Result")


class GivenUpError(Exception):
    """The records have failed for `retry_seconds`."""


class LeftError(Exception):
    """The records no longer wait for this sink: they were given up, or the process is exiting."""


@dataclasses.dataclass(eq=False)
class Retries:
    """Call a sink with retries.

    The sink's thread makes the calls. Any thread may ask whether the sink is down.

    Attributes:
        sink: The sink.
        retry_seconds: How long records are retried that fail with an error of their own. Also how
            long a sink must fail, or not return, to count as down.
        hurry: Event that stops retries, because the process is about to exit.
        clock: Returns the seconds for which this process has run.
        busy: Lock that is held while the sink is called.
        error: The sink's last error; None after a success.
        first_error: The sink's first error.
        advances: Number of calls that have got further without a success.
    """

    sink: Sink
    retry_seconds: float
    hurry: threading.Event
    clock: Callable[[], float]
    busy: threading.Lock = dataclasses.field(default_factory=threading.Lock, init=False)
    error: BaseException | None = dataclasses.field(default=None, init=False)
    first_error: BaseException | None = dataclasses.field(default=None, init=False)
    advances: int = dataclasses.field(default=0, init=False)
    _busy_since: float | None = dataclasses.field(default=None, init=False)
    _failing_since: float | None = dataclasses.field(default=None, init=False)
    # Its subjects are types of errors.
    _warn_once: WarnOnce = dataclasses.field(default_factory=WarnOnce, init=False)

    def is_down(self) -> bool:
        """Return True if the sink has been failing or hanging for `retry_seconds`."""
        failing = self._failing_since
        if failing is not None:
            return self.clock() - failing >= self.retry_seconds
        return self.is_hanging()

    def is_hanging(self) -> bool:
        """Return True if a call of the sink has not returned for `retry_seconds`."""
        busy, hanging = self._busy_since, max(self.retry_seconds, _HANG_SECONDS)
        return busy is not None and self.clock() - busy >= hanging

    def call(self, action: Callable[[], _Result], is_wanted: Callable[[], bool]) -> _Result:
        """Call an action until it succeeds, and return its result.

        Args:
            action: The action.
            is_wanted: Returns False if the action has become pointless.

        Raises:
            RejectedError: If the sink raises it.
            GivenUpError: If the action has failed for `retry_seconds`.
            LeftError: If the action is not wanted, or the process is exiting.
        """
        refused_since, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            with self.busy:
                if not is_wanted():
                    raise LeftError
                self._busy_since = self.clock()
                try:
                    return action()
                except RejectedError:
                    raise
                except (Exception, pl.exceptions.PanicException) as error:
                    self.note(error)  # no error of a sink may stop training
                finally:
                    self._busy_since = None
            if self.hurry.is_set():
                raise LeftError
            now = self.clock()
            if isinstance(self.error, UnfinishedError):
                self.advances += 1
                self._failing_since, refused_since, pause = now, None, _FIRST_PAUSE_SECONDS
                continue
            if self.error is not None and may_pass(self.error):
                refused_since = None
            elif refused_since is None:
                refused_since = now
            if refused_since is not None and now - refused_since >= self.retry_seconds:
                raise GivenUpError
            self.hurry.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def note(self, error: BaseException) -> None:
        """Note a failure."""
        if self.error is None:
            logging.warning(
                "Deep insight: %r failed and is retried. %s: %s",
                self.sink,
                type(error).__name__,
                error,
            )
            self._failing_since = self.clock()
        self.error = error
        self.first_error = self.first_error or error

    def note_success(self) -> None:
        """Note that the sink works."""
        if self.error is not None:
            logging.warning("Deep insight: %r works again", self.sink)
        self.error = self._failing_since = None

    def warn(self, error: BaseException, message: str, *args: object) -> None:
        """Log a warning about the sink, once for each type of error."""
        self._warn_once(type(error), "%r: " + message, self.sink, *args)
