"""Test doubles for programs that record: sinks, a clock, an example batch.

Example:
>>> from monolith_keras_metrics import DeepInsightClient
>>> sink = CollectingSink()
>>> with DeepInsightClient(sink) as client:
...     client.write(example_batch(3))
>>> sink.records()["uid"].to_list()
[0, 1, 2]
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import polars as pl

from monolith_keras_metrics.records.batch import Batch, Layout

__all__ = ["Clock", "CollectingSink", "FailingSink", "example_batch"]


class CollectingSink:
    """A sink that keeps all records in memory.

    Args:
        identity: Name of the place, as of a real sink; see `sinks.Sink`.

    Attributes:
        frames: What `write` was given, in order. Of shape `(records, columns)` each.
        flushed: How many of these frames are durable.
        closed: Whether `close` was called.

    Example:
    >>> sink = CollectingSink()
    >>> sink.write(pl.DataFrame({"uid": [1]}))
    >>> sink.flush()
    >>> sink.flushed
    1
    """

    def __init__(self, identity: str | None = None) -> None:
        self.frames: list[pl.DataFrame] = []
        self.flushed = 0
        self.closed = False
        if identity is not None:
            self.identity = identity

    def write(self, frame: pl.DataFrame) -> None:
        """Keep a frame."""
        self.frames.append(frame)

    def flush(self) -> None:
        """Note that everything so far is durable."""
        self.flushed = len(self.frames)

    def close(self) -> None:
        """Note the end."""
        self.closed = True

    def records(self) -> pl.DataFrame:
        """Return all records; columns that some frames lack are null there.

        Returns:
            A frame with the columns of `records.schema`; without rows or columns if none came.
        """
        return pl.concat(self.frames, how="diagonal") if self.frames else pl.DataFrame()


class FailingSink(CollectingSink):
    """A sink that fails until it is repaired.

    Args:
        error: What `write` raises. Default: `ConnectionError`, which is retried for as long as
            records can wait. Other errors than `OSError` are retried for `retry_seconds`.
        failures: How many calls fail. None: all, until `repair`.
        identity: As of `CollectingSink`.

    Attributes:
        calls: How many times `write` was called.
        failed: An event that is set by the first failure.

    Example:
    >>> sink = FailingSink(failures=1)
    >>> sink.write(pl.DataFrame({"uid": [1]}))
    Traceback (most recent call last):
    ...
    ConnectionError: the sink is down
    >>> sink.write(pl.DataFrame({"uid": [1]}))
    >>> len(sink.frames)
    1
    """

    def __init__(
        self,
        error: Exception | None = None,
        *,
        failures: int | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__(identity)
        self.calls = 0
        self.failed = threading.Event()
        self._error = ConnectionError("the sink is down") if error is None else error
        self._failures = failures

    def repair(self) -> None:
        """Take everything from now on."""
        self._failures = 0

    def write(self, frame: pl.DataFrame) -> None:
        """Fail, or keep the frame."""
        self.calls += 1
        if self._failures is None or self.calls <= self._failures:
            self.failed.set()
            raise self._error
        super().write(frame)


class Clock:
    """A clock that stands still until it is moved. Call it for the time.

    Args:
        seconds: Where it stands; Unix seconds, or seconds since any moment.

    Example:
    >>> clock = Clock(1_700_000_000.0)
    >>> clock.advance(1.5)
    >>> clock()
    1700000001.5
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self._seconds += seconds


def example_batch(rows: int = 8, **changes: Any) -> Batch:
    """Return a batch of one target, `"ctr"`, in which every user is sampled.

    The uids are 0, 1, …; every second label is 1; predictions rise from 0 to below 1; request
    times are a second apart.

    Args:
        rows: How many examples.
        **changes: Other values for the arguments of `Batch`; arrays of shape `(rows,)`.

    Example:
    >>> example_batch(4).predictions
    [array([0.  , 0.25, 0.5 , 0.75], dtype=float32)]
    """
    number = np.arange(rows)
    columns = {
        "layout": Layout("model", ("ctr",), sample_ratio=1.0),
        "rows": rows,
        "uid": number,
        "req_time": 1_700_000_000 + number,
        "train_time": 1_700_000_100,
        "labels": [(number % 2 == 1).astype(np.float32)],
        "predictions": [(number / max(rows, 1)).astype(np.float32)],
    }
    return Batch(**{**columns, **changes})
