"""What a place for records must do: the `Sink` protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import polars as pl


@runtime_checkable
class Sink(Protocol):
    """What a place for records must do. It is used from one thread only.

    A sink that raises has not taken the frame: the same frame is handed over again later, so a
    sink that can take half of one must be able to take it twice. Records wait for as long as an
    error may pass (see `sinks.errors.may_pass`): a place that is full, away or forbidden. Raise an
    `OSError`, such as `ConnectionError`, for these; what Polars and TensorFlow raise for a full
    disk counts as well. With any other error the same records are tried for `retry_seconds`, then
    they are given up.

    A sink with an attribute `gathers` that is true gets records in few large frames, since each
    becomes a file: 131,072 at a time, or what there is after `file_seconds`. Others get what there
    is, a few times each `flush_seconds`.

    A sink may have an attribute `identity`, a string that names the place that it writes to, the
    same in every process: `"clickhouse://db-1/records"`. What a crashed process has left in its
    journal for a sink object is delivered to one with an equal `identity`, and to no other; without
    one it stays, and `deep-insight recover --redirect` delivers it. The journal and logs tell an
    identity, so it must not hold a password.

    A sink may have a method `resume(journal: str)`. It is called before the first record of another
    journal, that of a crashed process or this process's own, with a name that only this journal
    has. A sink that keeps an account of what it has delivered switches to that journal's. The call
    is made in the thread that calls `write`; it must not wait, and must cost nothing if the journal
    is the same as before. All records until the next call belong to that journal, in ascending
    order of `position`.
    """

    def write(self, frame: pl.DataFrame) -> None:
        """Takes records, with the columns of `records.schema`; may hold them until `flush`."""

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
