"""What a place for records must do: the `Sink` protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import polars as pl


@runtime_checkable
class Sink(Protocol):
    """What a place for records must do. It is used from one thread only.

    A sink that raises has not taken the frame: the same frame is handed over again later, so a
    sink that can take half of one must be able to take it twice. Raise an `OSError`, such as
    `ConnectionError`, for what may pass, a place that is full or away: records wait for it. With
    any other error the same records are tried for `retry_seconds`, then they are given up.

    A sink with an attribute `gathers` that is true gets records in few large frames, since each
    becomes a file: 131,072 at a time, or what there is after `file_seconds`. Others get what there
    is, a few times each `flush_seconds`.
    """

    def write(self, frame: pl.DataFrame) -> None:
        """Takes records, with the schema of `record.to_frame`; may hold them until `flush`."""

    def flush(self) -> None:
        """Returns once everything written before is durable: on disk, or acknowledged."""

    def close(self) -> None:
        """Flushes and lets go of files and connections. A second call does nothing."""


class RejectedError(Exception):
    """A sink has all of a frame but some records, which it will never take.

    Args:
        rows: How many.
        why: The reason, and what to do.
    """

    def __init__(self, rows: int, why: str) -> None:
        super().__init__(f"{rows} records are left out: {why}")
        self.rows = rows
