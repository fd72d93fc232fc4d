"""The `Sink` protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import polars as pl


@runtime_checkable
class Sink(Protocol):
    """The interface of a sink, which is used from one thread only.

    A sink that raises has not accepted the frame: the same frame is submitted again later. So a
    sink that can accept part of a frame must be able to accept it twice. Records wait as long as an
    error may pass (see `sinks.errors.may_pass`): the destination is full, unavailable or forbidden.
    Raise an `OSError`, such as `ConnectionError`, for these. Polars' and TensorFlow's errors for a
    full disk count as well. After any other error, the same records are tried for `retry_seconds`
    and then given up.

    A sink whose attribute `gathers` is true gets records in few large frames, since each becomes a
    file: 131,072 at a time, or all that there are after `file_seconds`. Other sinks get what is
    available, a few times per `flush_seconds`.

    A sink may have an attribute `identity`: a string that names its destination, the same in every
    process, such as `"clickhouse://db-1/records"`. Records that a crashed process left in its
    journal for a sink object are delivered only to a sink with an equal `identity`. Without one,
    they stay until `deep-insight recover --redirect` delivers them. The journal and logs show the
    identity, so it must not contain a password.

    A sink may have a method `resume(journal: str)`. It is called before the first record of another
    journal, whether a crashed process's or this process's own, with a name that is unique to that
    journal. A sink that keeps an account of its deliveries switches to that journal's. The call
    comes from the thread that calls `write`. It must not wait, and must cost nothing if the journal
    is the same as before. All records until the next call belong to that journal, in ascending
    order of `position`.
    """

    def write(self, frame: pl.DataFrame) -> None:
        """Accept records, with the columns of `records.schema`; may hold them until `flush`."""

    def flush(self) -> None:
        """Return once everything written before is durable: on disk, or acknowledged."""

    def close(self) -> None:
        """Flush, and release files and connections. A second call does nothing."""


class UnfinishedError(ConnectionError):
    """A sink has got further, but has not accepted the frame yet. It is called again at once.

    For work that takes longer than a call should, such as reading what a topic holds already.
    """


class RejectedError(Exception):
    """A sink has accepted a frame except for some records, which it will never accept.

    Args:
        rows: The number of those records.
        why: The reason, and what to do.
    """

    def __init__(self, rows: int, why: str) -> None:
        super().__init__(f"{rows} records were rejected: {why}")
        self.rows = rows
